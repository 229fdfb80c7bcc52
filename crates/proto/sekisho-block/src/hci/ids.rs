//! Identifiers of HCI (ETSI TS 102 622), each with where it was read. The standard's text was not at hand; "two" means that two independent open sources agree: the Linux kernel (LK), Android's NFA with NXP's additions (NFX), Microsoft's class extension (MS, which quotes tables of v12.1).

/// Hosts: controller, terminal, UICC (LK, NFA, MS).
pub const HOST_CONTROLLER: u8 = 0x00;
/// The terminal host.
pub const HOST_TERMINAL: u8 = 0x01;
/// The UICC host.
pub const HOST_UICC: u8 = 0x02;

/// Gates: administration, loopback, identity management, link management (LK, NFA, MS).
pub const GATE_ADMIN: u8 = 0x00;
/// Loopback.
pub const GATE_LOOPBACK: u8 = 0x04;
/// Identity management.
pub const GATE_IDENTITY: u8 = 0x05;
/// Link management.
pub const GATE_LINK: u8 = 0x06;
/// The APDU gate of a secure element's host (NFX, MS table 54).
pub const GATE_APDU: u8 = 0x30;
/// Its peer, the APDU application gate of the terminal host. Uncertain as a number: it is dynamic, and NFX's alone; none is insisted on.
pub const GATE_APDU_APPLICATION: u8 = 0x11;

/// Card gates of the controller: type B and type A (LK st21nfca, NFX 23, NL).
pub const GATE_CARD_B: u8 = 0x21;
/// The card gate of type A.
pub const GATE_CARD_A: u8 = 0x23;
/// The connectivity gate of the terminal (LK, NFA).
pub const GATE_CONNECTIVITY: u8 = 0x41;

/// Static pipes: link management and administration (LK, NFA, MS).
pub const PIPE_LINK: u8 = 0x00;
/// Administration.
pub const PIPE_ADMIN: u8 = 0x01;
/// The first and the last dynamic pipe (LK, NFA).
pub const PIPE_FIRST: u8 = 0x02;
/// The last dynamic pipe.
pub const PIPE_LAST: u8 = 0x6F;

/// Commands of all gates (LK, NFA, MS).
pub const SET_PARAMETER: u8 = 0x01;
/// Reads a parameter.
pub const GET_PARAMETER: u8 = 0x02;
/// Opens a pipe.
pub const OPEN_PIPE: u8 = 0x03;
/// Closes a pipe.
pub const CLOSE_PIPE: u8 = 0x04;
/// Commands of the administration gate (LK, NFA, MS).
pub const CREATE_PIPE: u8 = 0x10;
/// Deletes a pipe.
pub const DELETE_PIPE: u8 = 0x11;
/// A pipe was created to a gate of this host.
pub const NOTIFY_PIPE_CREATED: u8 = 0x12;
/// A pipe was deleted.
pub const NOTIFY_PIPE_DELETED: u8 = 0x13;
/// Deletes all dynamic pipes of a host.
pub const CLEAR_ALL_PIPE: u8 = 0x14;
/// A host has done so.
pub const NOTIFY_ALL_PIPE_CLEARED: u8 = 0x15;

/// Responses (LK, NFA, MS).
pub const OK: u8 = 0x00;
/// Another error.
pub const NOK: u8 = 0x03;
/// There is no room for a pipe.
pub const PIPES_FULL: u8 = 0x04;
/// No such parameter.
pub const REG_PAR_UNKNOWN: u8 = 0x05;
/// The pipe is not open.
pub const PIPE_NOT_OPENED: u8 = 0x06;
/// No such command.
pub const CMD_NOT_SUPPORTED: u8 = 0x07;
/// The parameter cannot be written.
pub const REG_ACCESS_DENIED: u8 = 0x0A;

/// Event of the loopback gate, which comes back (LK, NFA).
pub const POST_DATA: u8 = 0x02;
/// Events to the APDU gate (NFX, MS): a command.
pub const EVT_C_APDU: u8 = 0x10;
/// The application layer is to be reset.
pub const EVT_ABORT: u8 = 0x11;
/// No more commands for now.
pub const EVT_END_OF_APDU_TRANSACTION: u8 = 0x21;
/// Events from the APDU gate (NFX, MS): an answer.
pub const EVT_R_APDU: u8 = 0x10;
/// The waiting time begins again.
pub const EVT_WTX: u8 = 0x11;
/// The ATR, after EVT_ABORT.
pub const EVT_ATR: u8 = 0x12;

/// Events of a card gate (LK, NFA): an APDU. Behind a command stands one byte, [`RF_GOOD`] where the field has carried it whole; that it stands there is certain, of its place on card gates one source tells.
pub const EVT_SEND_DATA: u8 = 0x10;
/// There is a field.
pub const EVT_FIELD_ON: u8 = 0x11;
/// The reader has let the card go.
pub const EVT_CARD_DEACTIVATED: u8 = 0x12;
/// The reader has chosen the card by this gate's type.
pub const EVT_CARD_ACTIVATED: u8 = 0x13;
/// The field is gone.
pub const EVT_FIELD_OFF: u8 = 0x14;
/// The last byte of a command that the field has carried whole.
pub const RF_GOOD: u8 = 0x00;
/// Events to the connectivity gate (LK, NFA): a contactless transaction, `81 L AID`, then perhaps `82 L parameters`.
pub const EVT_TRANSACTION: u8 = 0x12;
/// The AID in EVT_TRANSACTION.
pub const TAG_AID: u8 = 0x81;
/// The parameters in EVT_TRANSACTION.
pub const TAG_PARAMETERS: u8 = 0x82;

/// Registry of card gates (NL; of NFC HALs the lengths): whether the controller answers readers by this type. The value for on is uncertain.
pub const MODE: u8 = 0x01;
/// It does.
pub const MODE_ON: u8 = 0x02;
/// Type A alone: SAK.
pub const SAK: u8 = 0x03;
/// ATQA.
pub const ATQA: u8 = 0x04;
/// Historical bytes of the ATS.
pub const APPLICATION_DATA: u8 = 0x05;

/// Registry of the administration gate (LK, NFA, MS).
pub const SESSION_IDENTITY: u8 = 0x01;
/// With which hosts pipes may be.
pub const WHITELIST: u8 = 0x03;
/// Registry of the identity gate: HCI_VERSION (02 is v12; LK, MS) and GATES_LIST.
pub const HCI_VERSION: u8 = 0x02;
/// The gates of this host.
pub const GATES_LIST: u8 = 0x06;
/// Registry of the link management gate: errors so far. Uncertain: LK has 01, NFA 02; both are answered.
pub const REC_ERROR: [u8; 2] = [0x01, 0x02];
/// Registry of the APDU gate, read only (NFX, MS). The coding is uncertain: two bytes, high byte first, of bytes and of milliseconds.
pub const MAX_C_APDU_SIZE: u8 = 0x01;
/// The longest time to an answer or EVT_WTX.
pub const MAX_WAIT_TIME: u8 = 0x02;
