//! The commands, as types (`docs/spec/file-system-applet.md`, 4).

use sekisho_apdu::{CApdu, SecureMessaging, StatusWord};
use sekisho_messaging::setup::{INS_REFRESH, INS_SESSION_KEY_DECRYPTION};
use sekisho_os::Refusal;

use super::{WRONG_DATA, WRONG_LENGTH, WRONG_P1P2};

/// Instruction bytes (ISO/IEC 7816-4, Table 4; 7816-9).
mod ins {
    pub(super) const VERIFY: u8 = 0x20;
    pub(super) const CHANGE_REFERENCE_DATA: u8 = 0x24;
    pub(super) const RESET_RETRY_COUNTER: u8 = 0x2C;
    pub(super) const EXTERNAL_AUTHENTICATE: u8 = 0x82;
    pub(super) const GET_CHALLENGE: u8 = 0x84;
    pub(super) const INTERNAL_AUTHENTICATE: u8 = 0x88;
    pub(super) const SELECT: u8 = 0xA4;
    pub(super) const READ_BINARY: u8 = 0xB0;
    pub(super) const READ_RECORD: u8 = 0xB2;
    pub(super) const WRITE_BINARY: u8 = 0xD0;
    pub(super) const WRITE_RECORD: u8 = 0xD2;
    pub(super) const UPDATE_BINARY: u8 = 0xD6;
    pub(super) const UPDATE_RECORD: u8 = 0xDC;
    pub(super) const CREATE_FILE: u8 = 0xE0;
    pub(super) const APPEND_RECORD: u8 = 0xE2;
    pub(super) const DELETE_FILE: u8 = 0xE4;
}

/// Ne when the command has no Le: what a short response holds.
const NE_DEFAULT: u32 = 256;

/// A command that is made as it should be.
pub(super) enum Command<'a> {
    SelectFile {
        how: How<'a>,
        answer: Answer,
    },
    ReadBinary {
        at: BinaryAt,
        ne: u32,
    },
    WriteBinary {
        at: BinaryAt,
        data: &'a [u8],
    },
    UpdateBinary {
        at: BinaryAt,
        data: &'a [u8],
    },
    ReadRecord {
        at: RecordAt,
        ne: u32,
    },
    WriteRecord {
        at: RecordAt,
        data: &'a [u8],
    },
    UpdateRecord {
        at: RecordAt,
        data: &'a [u8],
    },
    AppendRecord {
        sfi: Option<u8>,
        data: &'a [u8],
    },
    Verify {
        key: Reference,
        data: &'a [u8],
    },
    /// P1 00: the old PIN, then the new one.
    ChangePin {
        key: Reference,
        data: &'a [u8],
    },
    /// P1 01: a new value for a PIN, or without a number for the key file that is selected.
    SetKey {
        key: Option<Reference>,
        value: &'a [u8],
    },
    /// Of a PIN, or without a number of the key file that is selected.
    ResetRetryCounter(Option<Reference>),
    GetChallenge(usize),
    ExternalAuthenticate {
        key: Reference,
        data: &'a [u8],
    },
    InternalAuthenticate {
        key: Reference,
        data: &'a [u8],
    },
    SessionKeyDecryption(CApdu<'a>),
    RefreshKeys(&'a [u8]),
    CreateFile(&'a [u8]),
    DeleteFile(u16),
}

/// What SELECT FILE selects: its P1 (ISO/IEC 7816-4, Table 62).
pub(super) enum How<'a> {
    /// 00: any file near by; nothing means the MF.
    Any(Option<u16>),
    /// 01: a DF below.
    ChildDf(u16),
    /// 02: an EF of the current DF.
    Ef(u16),
    /// 03.
    Parent,
    /// 04: a DF by its name.
    Name(&'a [u8]),
    /// 08: path from the MF, without its identifier.
    PathFromMf(&'a [u8]),
    /// 09: path from the current DF.
    Path(&'a [u8]),
}

/// What SELECT FILE answers: its P2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// 00: FCI.
    Fci,
    /// 04: FCP.
    Fcp,
    /// 0C.
    Nothing,
}

/// Where a BINARY command works.
#[derive(Clone, Copy)]
pub(super) struct BinaryAt {
    pub(super) sfi: Option<u8>,
    pub(super) offset: usize,
}

/// Where a RECORD command works.
#[derive(Clone, Copy)]
pub(super) struct RecordAt {
    pub(super) sfi: Option<u8>,
    pub(super) which: Which,
}

/// Which record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// This number; 0 is the current record.
    Number(u8),
    First,
    Last,
    Next,
    Previous,
}

/// P2 of the commands with a key or a PIN: its number, and whether the search begins in the current DF or in the MF.
#[derive(Clone, Copy)]
pub(super) struct Reference {
    pub(super) number: u8,
    /// Bit 8: specific reference data.
    pub(super) specific: bool,
}

impl<'a> Command<'a> {
    /// Whether it reads and writes what stands in files, and no more ([`Context::shallow`](sekisho_os::Context::shallow)).
    pub(super) const fn is_shallow(&self) -> bool {
        matches!(
            self,
            Self::SelectFile { .. }
                | Self::ReadBinary { .. }
                | Self::WriteBinary { .. }
                | Self::UpdateBinary { .. }
                | Self::ReadRecord { .. }
                | Self::WriteRecord { .. }
                | Self::UpdateRecord { .. }
                | Self::AppendRecord { .. }
        )
    }

    pub(super) fn parse(capdu: &CApdu<'a>) -> Result<Self, Refusal> {
        if capdu.cla.secure_messaging() != SecureMessaging::None {
            return Err(Refusal(StatusWord::SECURE_MESSAGING_NOT_SUPPORTED));
        }
        if capdu.cla.proprietary() {
            return match capdu.ins {
                INS_SESSION_KEY_DECRYPTION => Ok(Self::SessionKeyDecryption(*capdu)),
                INS_REFRESH => no_parameters(capdu).map(|()| Self::RefreshKeys(capdu.data)),
                _ => Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
            };
        }
        match capdu.ins {
            ins::SELECT => select(capdu),
            ins::READ_BINARY | ins::WRITE_BINARY | ins::UPDATE_BINARY => binary(capdu),
            ins::READ_RECORD | ins::WRITE_RECORD | ins::UPDATE_RECORD | ins::APPEND_RECORD => record(capdu),
            ins::CREATE_FILE => no_parameters(capdu).map(|()| Self::CreateFile(capdu.data)),
            ins::DELETE_FILE => {
                no_parameters(capdu)?;
                Ok(Self::DeleteFile(identifier(capdu.data)?))
            }
            _ => key_command(capdu),
        }
    }
}

fn no_parameters(capdu: &CApdu<'_>) -> Result<(), Refusal> {
    if capdu.p1p2() == 0 {
        Ok(())
    } else {
        Err(WRONG_P1P2)
    }
}

fn identifier(data: &[u8]) -> Result<u16, Refusal> {
    let bytes: &[u8; 2] = data.try_into().map_err(|_| WRONG_LENGTH)?;
    Ok(u16::from_be_bytes(*bytes))
}

fn some(data: &[u8]) -> Result<&[u8], Refusal> {
    if data.is_empty() {
        Err(WRONG_LENGTH)
    } else {
        Ok(data)
    }
}

fn none(data: &[u8]) -> Result<(), Refusal> {
    if data.is_empty() {
        Ok(())
    } else {
        Err(WRONG_LENGTH)
    }
}

fn select<'a>(capdu: &CApdu<'a>) -> Result<Command<'a>, Refusal> {
    let data = capdu.data;
    let how = match capdu.p1 {
        0x00 if data.is_empty() => How::Any(None),
        0x00 => How::Any(Some(identifier(data)?)),
        0x01 => How::ChildDf(identifier(data)?),
        0x02 => How::Ef(identifier(data)?),
        0x03 => none(data).map(|()| How::Parent)?,
        0x04 => How::Name(some(data)?),
        0x08 => How::PathFromMf(path(data)?),
        0x09 => How::Path(path(data)?),
        _ => return Err(WRONG_P1P2),
    };
    let answer = match capdu.p2 {
        0x00 => Answer::Fci,
        0x04 => Answer::Fcp,
        0x0C => Answer::Nothing,
        _ => return Err(WRONG_P1P2),
    };
    Ok(Command::SelectFile { how, answer })
}

/// A path is one identifier or more.
fn path(data: &[u8]) -> Result<&[u8], Refusal> {
    if data.is_empty() || !data.len().is_multiple_of(2) {
        return Err(WRONG_LENGTH);
    }
    Ok(data)
}

fn binary<'a>(capdu: &CApdu<'a>) -> Result<Command<'a>, Refusal> {
    let at = match capdu.p1 {
        0x00..=0x7F => BinaryAt {
            sfi: None,
            offset: capdu.p1p2().into(),
        },
        // Bit 8: bits 7 and 6 are 0, bits 5 to 1 a short identifier (ISO/IEC 7816-4, 11.2.2).
        0x81..=0x9E => BinaryAt {
            sfi: Some(capdu.p1 & 0x1F),
            offset: capdu.p2.into(),
        },
        _ => return Err(WRONG_P1P2),
    };
    if capdu.ins == ins::READ_BINARY {
        none(capdu.data)?;
        let ne = capdu.ne.unwrap_or(NE_DEFAULT);
        return Ok(Command::ReadBinary { at, ne });
    }
    let data = some(capdu.data)?;
    Ok(match capdu.ins {
        ins::WRITE_BINARY => Command::WriteBinary { at, data },
        _ => Command::UpdateBinary { at, data },
    })
}

/// P2 of RECORD commands: bits 8 to 4 a short identifier, 0 for the current EF (ISO/IEC 7816-4, Table 73).
fn record<'a>(capdu: &CApdu<'a>) -> Result<Command<'a>, Refusal> {
    let sfi = match capdu.p2 >> 3 {
        0 => None,
        0x1F => return Err(WRONG_P1P2),
        sfi => Some(sfi),
    };
    if capdu.ins == ins::APPEND_RECORD {
        if capdu.p1 != 0 || capdu.p2 & 0x07 != 0 {
            return Err(WRONG_P1P2);
        }
        let data = some(capdu.data)?;
        return Ok(Command::AppendRecord { sfi, data });
    }
    let which = match (capdu.p2 & 0x07, capdu.p1) {
        (0x04, number @ 0x00..=0xFE) => Which::Number(number),
        (0x00, 0) => Which::First,
        (0x01, 0) => Which::Last,
        (0x02, 0) => Which::Next,
        (0x03, 0) => Which::Previous,
        _ => return Err(WRONG_P1P2),
    };
    let at = RecordAt { sfi, which };
    if capdu.ins == ins::READ_RECORD {
        none(capdu.data)?;
        let ne = capdu.ne.unwrap_or(NE_DEFAULT);
        return Ok(Command::ReadRecord { at, ne });
    }
    let data = some(capdu.data)?;
    Ok(match capdu.ins {
        ins::WRITE_RECORD => Command::WriteRecord { at, data },
        _ => Command::UpdateRecord { at, data },
    })
}

fn key_command<'a>(capdu: &CApdu<'a>) -> Result<Command<'a>, Refusal> {
    let data = capdu.data;
    let key = reference(capdu.p2);
    let p1_is = |p1: u8| if capdu.p1 == p1 { Ok(()) } else { Err(WRONG_P1P2) };
    Ok(match capdu.ins {
        ins::VERIFY => {
            p1_is(0x00)?;
            Command::Verify { key: key?, data }
        }
        ins::CHANGE_REFERENCE_DATA if capdu.p1 == 0x00 => Command::ChangePin {
            key: key?,
            data: some(data)?,
        },
        ins::CHANGE_REFERENCE_DATA => {
            p1_is(0x01)?;
            Command::SetKey {
                key: selected_or(key, capdu.p2)?,
                value: some(data)?,
            }
        }
        ins::RESET_RETRY_COUNTER => {
            p1_is(0x03)?;
            none(data)?;
            Command::ResetRetryCounter(selected_or(key, capdu.p2)?)
        }
        ins::GET_CHALLENGE => {
            p1_is(0x00)?;
            none(data)?;
            no_parameters(capdu)?;
            Command::GetChallenge(challenge_len(capdu.ne)?)
        }
        ins::EXTERNAL_AUTHENTICATE => {
            p1_is(0x00)?;
            Command::ExternalAuthenticate {
                key: key?,
                data: some(data)?,
            }
        }
        ins::INTERNAL_AUTHENTICATE => {
            p1_is(0x00)?;
            Command::InternalAuthenticate {
                key: key?,
                data: some(data)?,
            }
        }
        _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
    })
}

/// 8 or 16 bytes; "as many as there are" is 16.
fn challenge_len(ne: Option<u32>) -> Result<usize, Refusal> {
    match ne {
        None | Some(16 | 256 | 65536) => Ok(16),
        Some(8) => Ok(8),
        Some(_) => Err(WRONG_LENGTH),
    }
}

fn reference(p2: u8) -> Result<Reference, Refusal> {
    match p2 & 0x7F {
        number @ 1..=14 => Ok(Reference {
            number,
            specific: p2 & 0x80 != 0,
        }),
        _ => Err(WRONG_P1P2),
    }
}

/// P2 00: the key file that is selected.
fn selected_or(key: Result<Reference, Refusal>, p2: u8) -> Result<Option<Reference>, Refusal> {
    if p2 == 0 { Ok(None) } else { key.map(Some) }
}

/// The two halves of a path's first step.
pub(super) fn next_step(path: &[u8]) -> Result<Option<(u16, &[u8])>, Refusal> {
    match path {
        [] => Ok(None),
        [high, low, rest @ ..] => Ok(Some((u16::from_be_bytes([*high, *low]), rest))),
        _ => Err(WRONG_DATA),
    }
}
