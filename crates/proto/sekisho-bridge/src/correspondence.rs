//! Which instruction stands for which handshake message.

use crate::ins;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// `HandshakeType` (RFC 5246, 7.4; RFC 8446, 4).
    pub handshake_type: u8,
    /// INS, 00 to 1F.
    pub ins: u8,
}

/// The seed's data type correspondence information: what a device keeps of handshake messages. SE and device have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correspondence<'t>(Kind<'t>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'t> {
    Identity,
    Table(&'t [Row]),
}

impl<'t> Correspondence<'t> {
    /// INS is the type: 01 to 1F. A device holds no table then. `HelloRequest`, 00, has no instruction.
    pub const IDENTITY: Self = Self(Kind::Identity);

    /// A table; a type without a row has no instruction. `None` when an instruction is not below 20, or a type or an instruction stands there twice.
    pub fn table(rows: &'t [Row]) -> Option<Self> {
        let fits = |row: &Row| {
            let same = |other: &&Row| other.ins == row.ins || other.handshake_type == row.handshake_type;
            row.ins < ins::APPLICATION_DATA && rows.iter().filter(same).count() == 1
        };
        rows.iter().all(fits).then_some(Self(Kind::Table(rows)))
    }

    /// The instruction for messages of a type.
    pub fn ins(&self, handshake_type: u8) -> Option<u8> {
        match self.0 {
            Kind::Identity => identity(handshake_type),
            Kind::Table(rows) => {
                let mut rows = rows.iter();
                rows.find(|row| row.handshake_type == handshake_type)
                    .map(|row| row.ins)
            }
        }
    }

    /// The type that an instruction stands for.
    pub fn handshake_type(&self, ins: u8) -> Option<u8> {
        match self.0 {
            Kind::Identity => identity(ins),
            Kind::Table(rows) => rows
                .iter()
                .find(|row| row.ins == ins)
                .map(|row| row.handshake_type),
        }
    }
}

const fn identity(value: u8) -> Option<u8> {
    match value {
        0x01..ins::APPLICATION_DATA => Some(value),
        _ => None,
    }
}

/// The name of a handshake message that may be seen in the clear, for traces.
pub const fn handshake_name(handshake_type: u8) -> &'static str {
    match handshake_type {
        0 => "HelloRequest",
        1 => "ClientHello",
        2 => "ServerHello",
        4 => "NewSessionTicket",
        11 => "Certificate",
        12 => "ServerKeyExchange",
        13 => "CertificateRequest",
        14 => "ServerHelloDone",
        15 => "CertificateVerify",
        16 => "ClientKeyExchange",
        20 => "Finished",
        22 => "CertificateStatus",
        _ => "unknown",
    }
}
