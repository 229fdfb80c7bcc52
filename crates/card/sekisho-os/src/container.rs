//! Containers: cards of their own within the SE, each with a registry, a life cycle and an issuer security domain (seed 2).

use core::fmt;

use sekisho_apdu::gp::CardLifeCycle;
use sekisho_apdu::{Aid, DecodeError, Reader, StatusWord, Writer};
use sekisho_scp::ScpParameter;

use crate::interface::{ContainerId, Place};
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::{Quota, Records, Room};
use crate::pairing_record::PairingState;
use crate::refusal::Refusal;
use crate::registry::{
    ENTRIES_MAX, ENTRY_RECORD_MAX, Entry, FACTORY_INDEX, ISD_INDEX, Instance, Module, Registry, answers,
};

/// Length of the card record: format, life cycle, SE-id, parameter "i".
const CARD_RECORD_LEN: usize = 13;

/// Format of the card record.
const FORMAT: u8 = 2;
/// The format of version 0.1, which has no "i": every card of it has S8.
const FORMAT_S8: u8 = 1;

/// The name of a container's record.
pub(crate) const fn name(container: ContainerId, kind: RecordKind, index: u16) -> RecordKey {
    RecordKey::new(Owner::Container(container), kind, index)
}

/// What the card record holds. It is written last when an SE is made, so that an SE without it has not been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CardRecord {
    pub(crate) life_cycle: CardLifeCycle,
    /// SE-id: key diversification data and GET DATA 00CF.
    pub(crate) se_id: [u8; 10],
    /// SCP03 parameter "i" (Amd D Table 5-1), chosen at personalisation.
    pub(crate) scp: ScpParameter,
}

impl CardRecord {
    /// That of a container that has not been made: terminated. Zeros.
    const NONE: Self = Self {
        life_cycle: CardLifeCycle::Terminated,
        se_id: [0; 10],
        scp: ScpParameter::NONE,
    };

    pub(crate) fn load(records: &mut Records<'_>, container: ContainerId) -> Result<Option<Self>, Refusal> {
        let mut bytes = [0; CARD_RECORD_LEN];
        match records.get(name(container, RecordKind::Card, 0), &mut bytes)? {
            None => Ok(None),
            // What the store gives back it has checked: a record that does not decode is from an SE of another make.
            Some(len) => Self::decode(bytes.get(..len).unwrap_or_default())
                .map(Some)
                .map_err(|_| Refusal(StatusWord::MEMORY_FAILURE)),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let [format, life_cycle] = r.array()?;
        let life_cycle = CardLifeCycle::from_byte(life_cycle).ok_or(DecodeError::Value)?;
        let se_id = r.array()?;
        let scp = match format {
            FORMAT_S8 => Some(ScpParameter::FULL_S8),
            FORMAT => ScpParameter::new(r.u8()?),
            _ => None,
        };
        r.finish()?;
        Ok(Self {
            life_cycle,
            se_id,
            scp: scp.ok_or(DecodeError::Value)?,
        })
    }

    pub(crate) fn store(&self, records: &mut Records<'_>, container: ContainerId) -> Result<(), Refusal> {
        let mut bytes = [0; CARD_RECORD_LEN];
        let mut w = Writer::new(&mut bytes);
        w.bytes(&[FORMAT, self.life_cycle.to_byte()])?;
        w.bytes(&self.se_id)?;
        w.u8(self.scp.byte())?;
        records.put(name(container, RecordKind::Card, 0), w.written())
    }
}

/// A container's state, as far as it stands in RAM.
pub struct Container {
    pub(crate) id: ContainerId,
    pub(crate) card: CardRecord,
    pub(crate) registry: Registry,
}

impl Container {
    /// One that has not been made: terminated, with nothing in it.
    const BLANK: Self = Self {
        id: ContainerId(0),
        card: CardRecord::NONE,
        registry: Registry::empty(),
    };

    /// The registry's entry of an application that may process commands at a place: neither it nor the card is locked, and a secure-only one only inside a TLS session.
    pub(crate) fn usable(&self, id: EntryId, place: Place) -> Option<&Entry> {
        let (index, entry) = self.registry.entry(id)?;
        let card_is_open = self.card.life_cycle < CardLifeCycle::CardLocked;
        let is_usable = card_is_open && entry.is_selectable() && self.registry.shows(index, place);
        (index == ISD_INDEX || is_usable).then_some(entry)
    }

    /// The same, where it answers on the interface of the place.
    pub(crate) fn usable_on(&self, id: EntryId, place: Place) -> Option<&Entry> {
        let (index, _) = self.registry.entry(id)?;
        self.usable(id, place)
            .filter(|entry| answers(index, entry, place.interface))
    }

    /// Its issuer security domain.
    pub(crate) fn root(&self) -> Option<EntryId> {
        self.registry.get(ISD_INDEX).map(|entry| entry.id)
    }

    /// Nothing is known of it any more.
    pub(crate) fn forget(&mut self) {
        (self.id, self.card) = (ContainerId(0), CardRecord::NONE);
        for index in (0..).take(ENTRIES_MAX) {
            self.registry.set(index, None);
        }
        self.registry.set_root_name(None);
    }

    /// Reads a container from NVM, where it stands; false when it has not been made.
    ///
    /// # Errors
    /// 6581; what stands there is of no use then.
    pub(crate) fn load(&mut self, records: &mut Records<'_>, id: ContainerId) -> Result<bool, Refusal> {
        let Some(card) = CardRecord::load(records, id)? else {
            return Ok(false);
        };
        (self.id, self.card) = (id, card);
        let failed = Refusal(StatusWord::MEMORY_FAILURE);
        for index in (0..).take(ENTRIES_MAX) {
            let mut bytes = [0; ENTRY_RECORD_MAX];
            let name = name(id, RecordKind::Registry, index.into());
            let found = records.get(name, &mut bytes).map_err(|_| failed)?;
            let entry = found.map(|len| Entry::decode(index, bytes.get(..len).unwrap_or_default()));
            let entry = entry.transpose().map_err(|_| failed)?;
            let quota = quota_of(records, id, index).map_err(|_| failed)?;
            records
                .nvm
                .set_room(id, index, entry.map(|entry| (entry.id, quota)));
            self.registry.set(index, entry);
        }
        self.registry.settle_reset();
        let mut own = [0; 16];
        let found = records.get(name(id, RecordKind::RootName, 0), &mut own);
        let own = found
            .map_err(|_| failed)?
            .map(|len| Aid::try_from(own.get(..len).unwrap_or_default()));
        self.registry.set_root_name(own.transpose().map_err(|_| failed)?);
        Ok(true)
    }
}

/// It says nothing of what it holds.
impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").finish_non_exhaustive()
    }
}

/// The containers that a platform has RAM for: numbers 1 to N.
#[derive(Debug)]
pub struct Containers<const N: usize>([Container; N]);

/// RAM for the containers of a platform: [`Containers`].
pub trait ContainerMemory: Sized {
    /// None has been made.
    const NEW: Self;

    /// What is known of the [room](Room) of their records, by number from 1.
    type Rooms: AsMut<[Room]>;
    /// Nothing.
    const ROOMS: Self::Rooms;

    /// All of them, by number from 1.
    fn all(&self) -> &[Container];

    /// The same, to be written.
    fn all_mut(&mut self) -> &mut [Container];
}

impl<const N: usize> ContainerMemory for Containers<N> {
    const NEW: Self = Self([const { Container::BLANK }; N]);

    type Rooms = [Room; N];
    const ROOMS: Self::Rooms = [Room::NONE; N];

    fn all(&self) -> &[Container] {
        &self.0
    }

    fn all_mut(&mut self) -> &mut [Container] {
        &mut self.0
    }
}

/// The containers, and which of them answers on a protocol (routing agent).
pub(crate) struct ContainerParts<C> {
    pub(crate) pairing: PairingState,
    pub(crate) table: C,
}

/// In place of a container that the SE has not.
static NONE: Container = Container::BLANK;

impl<C: ContainerMemory> ContainerParts<C> {
    /// A container; one that has not been made is terminated and empty.
    pub(crate) fn get(&self, id: ContainerId) -> &Container {
        let at = usize::from(id.number()).wrapping_sub(1);
        self.table.all().get(at).unwrap_or(&NONE)
    }

    /// All applications that the code of this module runs, in whatever container.
    pub(crate) fn instances_of(&self, module: Module) -> impl Iterator<Item = Instance> {
        let all = self.table.all().iter();
        all.flat_map(move |container| {
            let its = container.registry.applications();
            its.filter(move |(_, entry)| entry.module == module)
                .map(|(_, entry)| Instance {
                    container: container.id,
                    entry: entry.id,
                })
        })
    }

    /// Whether a container may have one more instance of a module for which there is memory `in_all`. Each has its part of that, whatever the others have; what cannot be divided is whose comes first.
    pub(crate) fn has_place(&self, id: ContainerId, module: Module, in_all: usize) -> bool {
        // A product with one container has nobody to keep anything for.
        if self.table.all().len() < 2 {
            return true;
        }
        let made = || self.table.all().iter().filter(|one| one.id.number() > 0);
        let instances = |of| self.instances_of(module).filter(move |one| one.container == of);
        let part = in_all / made().count().max(1);
        if instances(id).count() < part {
            return true;
        }
        let with_new = |of| instances(of).count() + usize::from(of == id);
        made().map(|one| with_new(one.id).max(part)).sum::<usize>() <= in_all
    }

    /// Reads a container again, after a commit that touched it.
    pub(crate) fn reload(&mut self, records: &mut Records<'_>, id: ContainerId) -> Result<(), Refusal> {
        let failed = Refusal(StatusWord::MEMORY_FAILURE);
        let at = usize::from(id.number()).wrapping_sub(1);
        let container = self.table.all_mut().get_mut(at).ok_or(failed)?;
        let is_made = container.load(records, id).map_err(|_| failed)?;
        if is_made { Ok(()) } else { Err(failed) }
    }
}

/// Writes a registry entry.
pub(crate) fn store_entry(
    records: &mut Records<'_>,
    container: ContainerId,
    index: u8,
    entry: &Entry,
) -> Result<(), Refusal> {
    let mut bytes = [0; ENTRY_RECORD_MAX];
    let mut w = Writer::new(&mut bytes);
    entry.encode(&mut w)?;
    records.put(name(container, RecordKind::Registry, index.into()), w.written())
}

/// What room the application at a registry index has: all, if there is no record of it.
fn quota_of(records: &mut Records<'_>, container: ContainerId, index: u8) -> Result<Quota, Refusal> {
    let mut bytes = [0; Quota::LEN];
    // Nothing that came with the operating system has a quota.
    if index < FACTORY_INDEX {
        return Ok(Quota::NONE);
    }
    match records.get(name(container, RecordKind::Quota, index.into()), &mut bytes)? {
        None => Ok(Quota::NONE),
        Some(len) => Ok(Quota::decode(bytes.get(..len).unwrap_or_default())?),
    }
}

/// Writes what room an application has.
pub(crate) fn store_quota(
    records: &mut Records<'_>,
    container: ContainerId,
    index: u8,
    quota: Quota,
) -> Result<(), Refusal> {
    if quota == Quota::NONE {
        return Ok(());
    }
    records.put(name(container, RecordKind::Quota, index.into()), &quota.encode())
}

/// The name of the record of a container's identities.
pub(crate) const fn next_entry(container: ContainerId) -> RecordKey {
    match container {
        ContainerId::ESE => RecordKey::platform(RecordKind::NextEntry, 0),
        _ => name(container, RecordKind::NextEntry, 0),
    }
}

/// Gives out an identity to a container, with the writes of the command.
///
/// # Errors
/// 6A84 when all that it has are given out.
pub(crate) fn new_entry(records: &mut Records<'_>, container: ContainerId) -> Result<EntryId, Refusal> {
    let mut next = [0; 2];
    let id = match records.get(next_entry(container), &mut next)? {
        None => EntryId::first_of(container),
        Some(_) => EntryId::new(u16::from_be_bytes(next)),
    };
    let id = id.ok_or(Refusal(StatusWord::NOT_ENOUGH_MEMORY))?;
    // 0 is no identity: behind the last there is none.
    let next = id.next().map_or(0, EntryId::number);
    records.put(next_entry(container), &next.to_be_bytes())?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvm::tests::Bench;

    const SE_ID: [u8; 10] = *b"0123456789";
    const ESE: ContainerId = ContainerId::ESE;

    fn stored(bytes: &[u8]) -> Result<Option<CardRecord>, Refusal> {
        let mut bench = Bench::new();
        bench.records().put(name(ESE, RecordKind::Card, 0), bytes)?;
        bench.commit();
        CardRecord::load(&mut bench.records(), ESE)
    }

    /// The record of version 0.1, byte by byte.
    #[test]
    fn a_card_of_the_first_version_is_one_of_s8_and_stays_what_it_is() {
        let first = [&[1, 0x0F][..], &SE_ID].concat();
        let card = stored(&first).unwrap().unwrap();
        assert_eq!(
            (card.life_cycle, card.se_id, card.scp.byte()),
            (CardLifeCycle::Secured, SE_ID, 0x70)
        );
        // Written again, as SET STATUS does, it is of the second format and means the same.
        let mut bench = Bench::new();
        card.store(&mut bench.records(), ESE).unwrap();
        bench.commit();
        assert_eq!(CardRecord::load(&mut bench.records(), ESE), Ok(Some(card)));
        let mut bytes = [0; CARD_RECORD_LEN];
        bench
            .records()
            .get(name(ESE, RecordKind::Card, 0), &mut bytes)
            .unwrap();
        assert_eq!(bytes[..], [&[2, 0x0F][..], &SE_ID, &[0x70]].concat());
    }

    #[test]
    fn the_parameter_of_a_card_is_what_it_was_personalised_with() {
        for parameter in [ScpParameter::FULL_S8, ScpParameter::FULL_S16] {
            let second = [&[2, 0x01][..], &SE_ID, &[parameter.byte()]].concat();
            assert_eq!(stored(&second).unwrap().unwrap().scp, parameter);
        }
    }

    #[test]
    fn no_identity_is_given_out_twice_and_behind_the_last_there_is_none() {
        let mut bench = Bench::new();
        let mut new = |container| new_entry(&mut bench.records(), container);
        assert_eq!(new(ESE), Ok(EntryId::FIRST));
        let second = new(ESE);
        assert_eq!(second.ok(), EntryId::FIRST.next());
        bench.commit();
        assert_eq!(new_entry(&mut bench.records(), ESE).ok(), second.unwrap().next());
        let last = 0x1FFF_u16.to_be_bytes();
        bench.records().put(next_entry(ESE), &last).unwrap();
        assert_eq!(new_entry(&mut bench.records(), ESE).ok(), EntryId::new(0x1FFF));
        for _ in 0..2 {
            let full = Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
            assert_eq!(new_entry(&mut bench.records(), ESE), full);
        }
        // That is nothing to another container.
        for number in [0x2000, 0x2001] {
            let other = new_entry(&mut bench.records(), ContainerId(2));
            assert_eq!(other.ok(), EntryId::new(number));
        }
    }

    #[test]
    fn what_is_no_card_record_starts_no_card() {
        let refused = Err(Refusal(StatusWord::MEMORY_FAILURE));
        for wrong in [
            [&[3, 0x01][..], &SE_ID, &[0x70]].concat(),
            [&[2, 0x01][..], &SE_ID].concat(),
            [&[1, 0x01][..], &SE_ID, &[0x70]].concat(),
            [&[2, 0x02][..], &SE_ID, &[0x70]].concat(),
            // R-ENCRYPTION without R-MAC; a reserved bit.
            [&[2, 0x01][..], &SE_ID, &[0x50]].concat(),
            [&[2, 0x01][..], &SE_ID, &[0x72]].concat(),
        ] {
            assert_eq!(stored(&wrong), refused, "{wrong:02X?}");
        }
    }
}
