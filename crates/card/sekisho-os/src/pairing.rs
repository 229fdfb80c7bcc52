//! Pairing data: which container a protocol is paired with, and for what (seed 2; `docs/spec/routing.md`, 1).

use sekisho_apdu::{DecodeError, Reader, Writer};

use crate::interface::{ContainerId, Protocol};
use crate::refusal::Refusal;

/// Rows for protocols that a product adds, at most.
pub const PROPRIETARY_ROWS_MAX: usize = 8;

/// Longest pairing data as bytes: three for each row.
pub(crate) const PAIRING_MAX: usize = 3 * (Protocol::STANDARD.len() + PROPRIETARY_ROWS_MAX);

/// What the row of a protocol decides (seed 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Claim 3: where a common identifier is meant, and where nothing has been selected yet. Any other name may reach an application elsewhere.
    Common,
    /// Claim 1: everything. The protocol has its container alone.
    All,
}

/// A row of pairing data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The container.
    pub container: ContainerId,
    /// What it is paired for.
    pub rule: Rule,
}

impl Row {
    /// Paired for common identifiers, and for what is not selected yet.
    pub const fn common(container: ContainerId) -> Self {
        let rule = Rule::Common;
        Self { container, rule }
    }

    /// Paired for all.
    pub const fn all(container: ContainerId) -> Self {
        let rule = Rule::All;
        Self { container, rule }
    }

    /// Whether it has a container: 0 is none.
    const fn is_there(self) -> bool {
        self.container.number() != 0
    }
}

/// Pairing data: one row, so exactly one container, for each protocol (seed 2, step a). A container may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairing {
    standard: [Row; Protocol::STANDARD.len()],
    /// By the product's number; in container 0 where there is none.
    proprietary: [(u8, Row); PROPRIETARY_ROWS_MAX],
}

impl Pairing {
    /// Of an SE that has not started: no protocol is paired with anything.
    pub(crate) const NONE: Self = Self::all_to(ContainerId(0));

    /// One container on every protocol but proprietary ones, which have no row.
    pub const fn all_to(container: ContainerId) -> Self {
        Self {
            standard: [Row::common(container); Protocol::STANDARD.len()],
            proprietary: [(0, Row::common(ContainerId(0))); PROPRIETARY_ROWS_MAX],
        }
    }

    /// Seed 2's default: ISO/IEC 7816-3 to one container, everything else to the eSE.
    #[must_use]
    pub fn contacts_to(container: ContainerId) -> Self {
        let row = Row::common(container);
        Self::all_to(ContainerId::ESE)
            .with(Protocol::T0, row)
            .with(Protocol::T1, row)
    }

    /// The same, but for one protocol. A proprietary one above 7F, or one more than [`PROPRIETARY_ROWS_MAX`], gets no row: an interface cannot be reset to it.
    #[must_use]
    pub fn with(mut self, protocol: Protocol, row: Row) -> Self {
        if let Protocol::Proprietary(number) = protocol {
            let all = || self.proprietary.iter();
            let known = all().position(|(of, row)| row.is_there() && *of == number);
            let at = known.or_else(|| all().position(|(_, row)| !row.is_there()));
            let at = at.filter(|_| protocol.code().is_some());
            if let Some(slot) = at.and_then(|at| self.proprietary.get_mut(at)) {
                *slot = (number, row);
            }
        } else if let Some(slot) = standard_index(protocol).and_then(|at| self.standard.get_mut(at)) {
            *slot = row;
        }
        self
    }

    /// The row of a protocol; `None` for a proprietary one that the product has not.
    pub fn row(&self, protocol: Protocol) -> Option<Row> {
        self.rows().find(|(of, _)| *of == protocol).map(|(_, row)| row)
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (Protocol, Row)> {
        let standard = Protocol::STANDARD.into_iter().zip(self.standard);
        let own = self.proprietary.into_iter();
        let own = own.filter(|(_, row)| row.is_there());
        standard.chain(own.map(|(number, row)| (Protocol::Proprietary(number), row)))
    }

    /// Writes the rows: protocol, container, rule, a byte each.
    pub(crate) fn encode(&self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        for (protocol, row) in self.rows() {
            let rule = match row.rule {
                Rule::Common => 0,
                Rule::All => 1,
            };
            if let Some(code) = protocol.code() {
                out.bytes(&[code, row.container.number(), rule])?;
            }
        }
        Ok(())
    }

    /// Reads rows of containers up to number `made`: each protocol that `self` has a row for, once, and no other.
    pub(crate) fn decode(&self, bytes: &[u8], made: u8) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut read = *self;
        let mut seen = [None; PAIRING_MAX / 3];
        for slot in seen.iter_mut().take(self.rows().count()) {
            let [code, container, rule] = reader.array()?;
            let known = self.rows().find(|(protocol, _)| protocol.code() == Some(code));
            let (protocol, _) = known.ok_or(DecodeError::Value)?;
            *slot = Some(code);
            let rule = match rule {
                0 => Rule::Common,
                1 => Rule::All,
                _ => return Err(DecodeError::Value),
            };
            let container = ContainerId::new(container).filter(|id| id.number() <= made);
            let container = container.ok_or(DecodeError::Value)?;
            read = read.with(protocol, Row { container, rule });
        }
        reader.finish()?;
        let once = |code: u8| seen.iter().filter(|of| **of == Some(code)).count() == 1;
        let is_whole = self.rows().all(|(protocol, _)| protocol.code().is_some_and(once));
        is_whole.then_some(read).ok_or(DecodeError::Value)
    }
}

fn standard_index(protocol: Protocol) -> Option<usize> {
    Protocol::STANDARD.into_iter().position(|of| of == protocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn id(number: u8) -> ContainerId {
        ContainerId::new(number).unwrap()
    }

    fn bytes(pairing: &Pairing) -> Vec<u8> {
        let mut bytes = [0; PAIRING_MAX];
        let mut w = Writer::new(&mut bytes);
        pairing.encode(&mut w).unwrap();
        w.written().to_vec()
    }

    #[test]
    fn rows_come_back_as_they_were_and_nothing_else_is_read() {
        let profile = Pairing::contacts_to(id(2)).with(Protocol::Proprietary(9), Row::all(id(3)));
        let others = profile
            .with(Protocol::SpiEuicc, Row::all(id(2)))
            .with(Protocol::Proprietary(9), Row::common(id(1)));
        let written = bytes(&others);
        assert_eq!((written.len(), &written[21..]), (24, &[0x89, 1, 0][..]));
        assert_eq!(profile.decode(&written, 3), Ok(others));
        // In whatever order.
        let reversed: Vec<u8> = written.chunks(3).rev().flatten().copied().collect();
        assert_eq!(profile.decode(&reversed, 3), Ok(others));
        // Cut anywhere, longer, a row twice in the place of another, other containers, another rule, another product's rows.
        for cut in 0..written.len() {
            assert!(profile.decode(&written[..cut], 3).is_err());
        }
        let with = |at: usize, byte: u8| {
            let mut changed = written.clone();
            changed[at] = byte;
            changed
        };
        for wrong in [
            [&written[..], &[0, 1, 0]].concat(),
            with(3, 0),
            with(21, 0x8A),
            with(21, 7),
            with(1, 0),
            with(1, 4),
            with(1, 0x81),
            with(2, 2),
        ] {
            assert!(profile.decode(&wrong, 3).is_err(), "{wrong:02X?}");
        }
        assert!(profile.decode(&written, 1).is_err());
        assert!(Pairing::all_to(id(1)).decode(&written, 3).is_err());
    }

    #[test]
    fn a_product_adds_eight_rows_and_no_more() {
        let row = Row::common(id(1));
        let mut pairing = Pairing::all_to(id(2));
        for number in 0..20 {
            pairing = pairing.with(Protocol::Proprietary(number), row);
        }
        assert_eq!(pairing.rows().count(), 7 + PROPRIETARY_ROWS_MAX);
        assert_eq!(pairing.row(Protocol::Proprietary(7)), Some(row));
        assert_eq!(pairing.row(Protocol::Proprietary(8)), None);
        assert_eq!(bytes(&pairing).len(), PAIRING_MAX);
        // No row has a number that has no code.
        let pairing = Pairing::all_to(id(2)).with(Protocol::Proprietary(0x80), row);
        assert_eq!(pairing.row(Protocol::Proprietary(0x80)), None);
    }
}
