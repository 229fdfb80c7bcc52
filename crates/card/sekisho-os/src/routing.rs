//! The routing agent (seed 2; `docs/spec/routing.md`): pairing data, and which container answers to a name on a protocol.

use sekisho_apdu::gp::{CardLifeCycle, Privileges};
use sekisho_apdu::{Aid, DecodeError, PartialAid, Reader, StatusWord, Writer};
use sekisho_keys::{AesKey, cmac, ct_eq};

use crate::channels::{Channels, Selected};
use crate::container::{Container, ContainerMemory, ContainerParts, ISD_INDEX};
use crate::interface::{ContainerId, Interface, Place, Protocol};
use crate::loader::status;
use crate::names::{RecordKey, RecordKind};
use crate::nvm::Records;
use crate::refusal::Refusal;
use crate::registry::Entry;

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
}

/// Pairing data: one row, so exactly one container, for each protocol (seed 2, step a). A container may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairing {
    standard: [Row; Protocol::STANDARD.len()],
    /// By the product's number.
    proprietary: [Option<(u8, Row)>; PROPRIETARY_ROWS_MAX],
}

impl Pairing {
    /// One container on every protocol but proprietary ones, which have no row.
    pub const fn all_to(container: ContainerId) -> Self {
        Self {
            standard: [Row::common(container); Protocol::STANDARD.len()],
            proprietary: [None; PROPRIETARY_ROWS_MAX],
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
            let known = |slot: &&mut Option<(u8, Row)>| slot.is_some_and(|(of, _)| of == number);
            let at = match self.proprietary.iter_mut().find(known) {
                Some(slot) => Some(slot),
                None => self.proprietary.iter_mut().find(|slot| slot.is_none()),
            };
            if let Some(slot) = at.filter(|_| protocol.code().is_some()) {
                *slot = Some((number, row));
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
        let own = self.proprietary.into_iter().flatten();
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

/// Where the pairing data come from that an SE works with (seed 2: inside the operating system, or outside).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The profile.
    Profile,
    /// The platform's record.
    Record,
    /// The profile, because the record cannot be read or does not fit this SE.
    Damaged,
}

/// The pairing data that an SE works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairingState {
    pub(crate) rows: Pairing,
    pub(crate) source: Source,
    /// The number of the pairing data that were taken last; 0: none ever.
    pub(crate) number: u32,
}

/// Format of the record, and of what is signed.
const FORMAT: u8 = 1;
const RECORD: RecordKey = RecordKey::platform(RecordKind::Pairing, 0);
const NUMBER: RecordKey = RecordKey::platform(RecordKind::PairingNumber, 0);
/// What the code of SET PAIRING is made over begins with this.
const CODE_LABEL: &[u8] = b"SKPD";
const CODE_LEN: usize = 16;

impl PairingState {
    /// Of a profile, and nothing else.
    pub(crate) const fn of(profile: Pairing) -> Self {
        Self {
            rows: profile,
            source: Source::Profile,
            number: 0,
        }
    }

    /// Reads the platform's record, if there is one; one that is damaged stops no start.
    pub(crate) fn load(records: &mut Records<'_>, profile: &Pairing, made: u8) -> Self {
        let mut number = [0; 4];
        let known = matches!(records.get(NUMBER, &mut number), Ok(Some(4)));
        let number = if known { u32::from_be_bytes(number) } else { 0 };
        let mut bytes = [0; 1 + PAIRING_MAX];
        let (rows, source) = match records.get(RECORD, &mut bytes) {
            Ok(None) if number == 0 => (*profile, Source::Profile),
            Ok(Some(len)) => match bytes.get(..len) {
                Some([FORMAT, rows @ ..]) => match profile.decode(rows, made) {
                    Ok(rows) => (rows, Source::Record),
                    Err(_) => (*profile, Source::Damaged),
                },
                _ => (*profile, Source::Damaged),
            },
            // Pairing data have been taken, and are gone.
            Ok(None) | Err(_) => (*profile, Source::Damaged),
        };
        Self { rows, source, number }
    }

    /// The value of GET DATA DF24.
    pub(crate) fn object(&self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        out.u8(match self.source {
            Source::Profile => 0,
            Source::Record => 1,
            Source::Damaged => 2,
        })?;
        out.bytes(&self.number.to_be_bytes())?;
        self.rows.encode(out)
    }

    /// SET PAIRING: checks what came against the platform's key, and puts it into the records of the command. What is there from its commit on.
    ///
    /// # Errors
    /// 6700, 9503, 9502, 6A80, in this order (`docs/spec/routing.md`, 5).
    pub(crate) fn change(
        &self,
        data: &[u8],
        (key, se_id): (&AesKey, [u8; 10]),
        records: &mut Records<'_>,
        made: u8,
    ) -> Result<Self, Refusal> {
        let wrong_length = Refusal(StatusWord::WRONG_LENGTH);
        let (signed, code) = data.split_last_chunk::<CODE_LEN>().ok_or(wrong_length)?;
        let (number, rows) = signed.split_first_chunk::<4>().ok_or(wrong_length)?;
        if rows.len() > PAIRING_MAX {
            return Err(wrong_length);
        }
        let expected = cmac(key, &[CODE_LABEL, &[FORMAT], &se_id, signed]);
        if !ct_eq(&expected, code) {
            return Err(Refusal(status::INTEGRITY));
        }
        let next = u32::from_be_bytes(*number);
        if next <= self.number {
            return Err(Refusal(status::ROLLBACK));
        }
        let read = self.rows.decode(rows, made);
        let read = read.map_err(|_| Refusal(StatusWord::INCORRECT_DATA))?;
        let mut bytes = [0; 1 + PAIRING_MAX];
        let mut record = Writer::new(&mut bytes);
        record.u8(FORMAT)?;
        record.bytes(rows)?;
        records.put(RECORD, record.written())?;
        records.put(NUMBER, number)?;
        Ok(Self {
            rows: read,
            source: Source::Record,
            number: next,
        })
    }
}

fn standard_index(protocol: Protocol) -> Option<usize> {
    Protocol::STANDARD.into_iter().position(|of| of == protocol)
}

/// Whether a name is a common identifier: one of the common AIDs or the beginning of one. What names nothing means the root of whichever container is
/// paired.
fn is_common(common: &[Aid], name: &PartialAid) -> bool {
    name.as_bytes().is_empty() || common.iter().any(|aid| aid.matches_partial(name))
}

impl Container {
    /// What is selected where nothing has been yet: the application with the privilege Card Reset, else the issuer security domain (GPC 6.4.1.1).
    pub(crate) fn default_application(&self) -> Selected {
        let its = |(index, entry): &(u8, &Entry)| {
            *index != ISD_INDEX && entry.privileges.contains(Privileges::CARD_RESET)
        };
        let chosen = self.registry.applications().find(its);
        let usable = chosen.and_then(|(_, entry)| self.usable(entry.id));
        Selected {
            container: self.id,
            entry: usable.map(|entry| entry.id).or(self.root()),
        }
    }

    /// The entry under the name that it goes by on a protocol: a root that has another AID than the common one has that where another root is paired.
    pub(crate) fn named(&self, entry: &Entry, row: Row) -> Entry {
        let own = self
            .registry
            .root_name()
            .filter(|_| self.root() == Some(entry.id));
        let own = own.filter(|_| row.container != self.id);
        Entry {
            aid: own.unwrap_or(entry.aid),
            ..*entry
        }
    }
}

/// How many containers of a table have been made: they have the numbers from 1 on.
pub(crate) fn made(table: &impl ContainerMemory) -> u8 {
    let made = (1..).zip(table.all());
    let made = made.filter(|(number, container)| container.id.number() == *number);
    made.map(|(number, _)| number).last().unwrap_or(0)
}

impl<C: ContainerMemory> ContainerParts<C> {
    /// What is selected on an interface that has just been switched on.
    pub(crate) fn first(&self, interface: Interface) -> Selected {
        let row = self.pairing.rows.row(interface.default_protocol());
        let paired = row.map_or(ContainerId::ESE, |row| row.container);
        self.get(paired).default_application()
    }

    /// The row of what an interface speaks.
    pub(crate) fn row(&self, channels: &Channels, interface: Interface) -> Row {
        let spoken = self.pairing.rows.row(channels.protocol(interface));
        // An interface speaks nothing without a row.
        spoken.unwrap_or(Row::all(ContainerId(0)))
    }

    /// How many containers have been made: they have the numbers from 1 on.
    pub(crate) fn made(&self) -> u8 {
        made(&self.table)
    }

    /// The container that answers where nothing has been selected yet.
    pub(crate) fn paired(&self, channels: &Channels, interface: Interface) -> &Container {
        self.get(self.row(channels, interface).container)
    }

    /// The container of what is selected on a logical channel.
    pub(crate) fn at(&self, channels: &Channels, place: Place) -> &Container {
        self.get(channels.container(place))
    }

    /// What a name means: in the paired container first; elsewhere only where the row and the name allow it, and if exactly one application that can be selected
    /// has that name. Nothing but RAM is read, whatever is found.
    pub(crate) fn find(&self, row: Row, common: &[Aid], name: &PartialAid) -> Option<(ContainerId, Entry)> {
        let paired = self.get(row.container);
        let found = match name.as_bytes() {
            [] => paired.registry.get(ISD_INDEX),
            _ => paired.registry.find(name, None),
        };
        if let Some(entry) = found {
            return Some((paired.id, *entry));
        }
        if row.rule == Rule::All || is_common(common, name) {
            return None;
        }
        let is_open =
            |other: &&Container| other.id != paired.id && other.card.life_cycle < CardLifeCycle::CardLocked;
        let elsewhere = self.table.all().iter().filter(is_open);
        let mut all = elsewhere.flat_map(|other| {
            let its = other.registry.matching(name);
            its.map(move |entry| (other.id, *entry))
        });
        let only = all.next();
        only.filter(|_| all.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvm::tests::Bench;
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

    /// Whatever stands in the record: the SE starts, with what is right or with the default, and says which.
    #[test]
    fn a_damaged_record_falls_back_to_the_default_and_says_so() {
        let profile = Pairing::contacts_to(id(2));
        let others = Pairing::all_to(id(1));
        let good = [&[FORMAT][..], &bytes(&others)].concat();
        let load = |record: Option<&[u8]>, number: Option<&[u8]>| {
            let mut bench = Bench::new();
            for (name, value) in [(RECORD, record), (NUMBER, number)] {
                if let Some(value) = value {
                    bench.records().put(name, value).unwrap();
                    bench.commit();
                }
            }
            let state = PairingState::load(&mut bench.records(), &profile, 2);
            (state.rows, state.source, state.number)
        };
        let seven = Some(&[0, 0, 0, 7][..]);
        assert_eq!(load(None, None), (profile, Source::Profile, 0));
        assert_eq!(load(Some(&good), seven), (others, Source::Record, 7));
        let damaged = (profile, Source::Damaged, 7);
        for at in 0..good.len() {
            assert_eq!(load(Some(&good[..at]), seven), damaged);
            let mut changed = good.clone();
            changed[at] ^= 0x80;
            assert_eq!(load(Some(&changed), seven), damaged, "{at}");
        }
        let longer = [&good[..], &[0; 30]].concat();
        assert_eq!(load(Some(&longer), seven), damaged);
        assert_eq!(load(None, seven), damaged);
        // A number that is none is none taken: the record has its say all the same.
        assert_eq!(load(Some(&good), Some(&[1])), (others, Source::Record, 0));
    }
}
