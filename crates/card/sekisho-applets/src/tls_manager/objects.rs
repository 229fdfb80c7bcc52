//! What the TLS Manager keeps in NVM: keys, certificate chain, rows of peers (`docs/spec/tls-manager.md`, 2).

use sekisho_apdu::{Aid, Reader};
use sekisho_keys::p256sig::SigningKey;
use sekisho_os::{KeyPair, REACH_MAX};

/// Number of the object that is the private key.
pub(super) const KEY: u8 = 1;
/// Of the certificate chain.
pub(super) const CHAIN: u8 = 2;
/// Of a peer's row; the number of the row stands behind it.
pub(super) const ROW: u8 = 3;
/// Of the time floor of all rows.
pub(super) const TIME: u8 = 4;
/// Of the subject of a request.
pub(super) const SUBJECT: u8 = 5;
/// Record of the private key.
pub const KEY_RECORD: u16 = 1;
/// Record of the certificate chain.
pub const CHAIN_RECORD: u16 = 2;
/// Record of the time floor that the root has written.
pub const TIME_RECORD: u16 = 4;
/// Record of the private key whose certificate has been requested.
pub const PENDING_RECORD: u16 = 5;
/// Record of the request for it.
pub const REQUEST_RECORD: u16 = 6;
/// Record of the times that the servers of the rows have proved, each in the part of its row's number.
pub const PROVED_RECORD: u16 = 7;
/// The two keys.
pub(super) const KEY_PAIR: KeyPair = KeyPair {
    live: KEY_RECORD,
    pending: PENDING_RECORD,
};
/// Records of rows begin behind this.
const ROWS: u16 = 0x0100;
/// Rows of the table: 0001 to 0010.
pub const ROWS_MAX: u16 = 0x10;

/// Longest record.
pub(super) const OBJECT_MAX: usize = 1000;
/// All blocks of an object together: its number, that of a row, its value.
pub(super) const INCOMING_MAX: usize = 1 + 2 + OBJECT_MAX;
/// Longest name of a subject in a command.
pub(super) const NAME_MAX: usize = 256;
/// Longest request: an answer inside a session has as much, and a command puts no more beside a key.
pub(super) const REQUEST_MAX: usize = 960;
/// Certificates in a chain.
pub(super) const CERTIFICATES_MAX: usize = 4;

/// Whether blocks together are longer than the object that they begin may be.
pub(super) fn is_too_long(blocks: &[u8]) -> bool {
    let head = if blocks.first() == Some(&ROW) { 3 } else { 1 };
    blocks.len() > head + OBJECT_MAX
}

/// An object as it is to be written.
pub(super) enum Object<'a> {
    Key(&'a [u8]),
    Chain(&'a [u8]),
    Row(u16, &'a [u8]),
    Time(&'a [u8]),
    /// The subject of a request, a `Name` in DER.
    Subject(&'a [u8]),
}

impl<'a> Object<'a> {
    /// What the blocks of a sequence say; `None` for what is none.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first()?;
        match *number {
            KEY => (rest.is_empty() || key(rest).is_some()).then_some(Self::Key(rest)),
            CHAIN => (rest.is_empty() || is_chain(rest)).then_some(Self::Chain(rest)),
            ROW => {
                let (row, value) = rest.split_first_chunk()?;
                let row = u16::from_be_bytes(*row);
                row_record(row)?;
                (value.is_empty() || is_row(value)).then_some(Self::Row(row, value))
            }
            TIME => (rest.is_empty() || rest.len() == 8).then_some(Self::Time(rest)),
            SUBJECT => (rest.is_empty() || is_name(rest)).then_some(Self::Subject(rest)),
            _ => None,
        }
    }

    /// Its record, and the value; an empty one removes it.
    pub(super) fn record(&self) -> (u16, &'a [u8]) {
        match self {
            Self::Key(value) => (KEY_RECORD, value),
            Self::Chain(value) => (CHAIN_RECORD, value),
            Self::Row(row, value) => (ROWS + row, value),
            Self::Time(value) => (TIME_RECORD, value),
            Self::Subject(value) => (REQUEST_RECORD, value),
        }
    }
}

/// The record of a row; `None` for a number that there is not.
pub const fn row_record(row: u16) -> Option<u16> {
    match row {
        1..=ROWS_MAX => Some(ROWS + row),
        _ => None,
    }
}

/// A private key.
pub(super) fn key(bytes: &[u8]) -> Option<SigningKey> {
    SigningKey::from_bytes(bytes.try_into().ok()?).ok()
}

/// The certificates of a chain, as many as there are; `None` for what is none.
pub(super) fn chain(bytes: &[u8]) -> Option<([&[u8]; CERTIFICATES_MAX], usize)> {
    let mut reader = Reader::new(bytes);
    let mut certificates: [&[u8]; CERTIFICATES_MAX] = [&[]; CERTIFICATES_MAX];
    let mut count = 0;
    while !reader.is_empty() {
        let len = reader.u16().ok()?;
        let certificate = reader.take(len.into()).ok().filter(|der| !der.is_empty())?;
        *certificates.get_mut(count)? = certificate;
        count += 1;
    }
    (count > 0).then_some((certificates, count))
}

/// Whether this is a certificate chain as the TLS Manager keeps it.
pub fn is_chain(bytes: &[u8]) -> bool {
    bytes.len() <= OBJECT_MAX && chain(bytes).is_some()
}

/// Whether this may be the subject of a request; the parser of the request has its own say.
pub(super) const fn is_name(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, ..]) && bytes.len() <= NAME_MAX
}

/// What the server of a row may do inside its sessions, beside what its applications let it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights(u8);

impl Rights {
    /// Have a key made and requested, and write the certificates that belong to a key of the SE.
    pub(super) const RENEW: Self = Self(1);
    /// Write the trust anchor of its own row.
    pub(super) const ANCHOR: Self = Self(2);
    const ALL: u8 = 3;

    pub(super) const fn have(self, right: Self) -> bool {
        self.0 & right.0 != 0
    }
}

/// In the place of a name's length: a row with rights, or of a version.
const MORE: u8 = 0;
/// Behind that: a row with rights, level and key pin. Bit 80 is no right.
const VERSION: u8 = 0x81;
/// Of a key pin, SHA-256.
const PIN_LEN: u8 = 32;

/// A peer's row.
pub(super) struct Row<'a> {
    pub(super) rights: Rights,
    pub(super) level: u8,
    /// SHA-256 of the key that its server has.
    pub(super) pin: Option<[u8; 32]>,
    /// Empty where the pin alone says who the server is.
    pub(super) name: &'a str,
    pub(super) reach: [Option<Aid>; REACH_MAX],
    pub(super) anchor: &'a [u8],
}

impl<'a> Row<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (mut rights, mut level, mut pin) = (0, 0, None);
        let mut len = reader.u8().ok()?;
        if len == MORE {
            rights = reader.u8().ok()?;
            if rights == VERSION {
                rights = reader.u8().ok()?;
                level = reader.u8().ok()?;
                pin = match reader.u8().ok()? {
                    0 => None,
                    PIN_LEN => Some(reader.array().ok()?),
                    _ => return None,
                };
            }
            len = reader.u8().ok()?;
        }
        let rights = Rights(rights);
        let name = core::str::from_utf8(reader.take(len.into()).ok()?).ok()?;
        let mut reach = [None; REACH_MAX];
        let count = usize::from(reader.u8().ok()?);
        for aid in reach.get_mut(..count)? {
            let len = reader.u8().ok()?;
            *aid = Some(Aid::new(reader.take(len.into()).ok()?)?);
        }
        let anchor = reader.rest();
        let is_somebody = !name.is_empty() || pin.is_some();
        let is_row = is_somebody && !anchor.is_empty() && rights.0 & !Rights::ALL == 0;
        is_row.then_some(Self {
            rights,
            level,
            pin,
            name,
            reach,
            anchor,
        })
    }

    /// What of a row stands before its anchor.
    pub(super) fn head<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let len = bytes.len().saturating_sub(self.anchor.len());
        bytes.get(..len).unwrap_or_default()
    }
}

/// Whether this is a peer's row as the TLS Manager keeps it.
pub fn is_row(bytes: &[u8]) -> bool {
    bytes.len() <= OBJECT_MAX && Row::parse(bytes).is_some()
}
