//! The devices, by index: under 100 bytes each, with a lock of one byte, reachable from every worker.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sekisho_paging::keys::Keyspace;
use sekisho_paging::server::{Checkpoint, RandomRecord, TicketRecord};

/// Devices in a chunk of the table.
pub(crate) const CHUNK: usize = 16_384;

/// What is known of a device's identity and keys.
pub(crate) enum State {
    /// No such device.
    Empty,
    /// Known, but nothing of it has been needed yet: its keys are derived at its first poll.
    Cold { keyspace: Keyspace, counter: u32 },
    /// Scheme `ticket`.
    Ticket(TicketRecord),
    /// Scheme `random`.
    Random(RandomRecord),
}

/// A device.
pub(crate) struct Slot {
    pub(crate) state: State,
    /// Order of the last message that it is done with, by its own word.
    pub(crate) order: u32,
    /// Seconds since 1970 of its last authentic poll; 0 for never.
    pub(crate) seen: u32,
    pub(crate) lost_polls: u16,
    pub(crate) lost_answers: u16,
    pub(crate) group: u16,
    pub(crate) flags: u8,
    /// How often the last datagram was repeated.
    pub(crate) repeats: u8,
}

pub(crate) const ROLLING: u8 = 0x01;
pub(crate) const BLOCKED: u8 = 0x02;

impl Slot {
    const EMPTY: Self = Self {
        state: State::Empty,
        order: 0,
        seen: 0,
        lost_polls: 0,
        lost_answers: 0,
        group: 0,
        flags: 0,
        repeats: 0,
    };

    /// Where it stands, if it is a device of scheme `ticket`.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        match &self.state {
            State::Ticket(record) => Some(record.checkpoint()),
            State::Cold { keyspace, counter } => Some(Checkpoint {
                keyspace: *keyspace,
                counter: *counter,
                rolling: None,
            }),
            _ => None,
        }
    }
}

/// A piece of the table. Chunks are never moved.
pub(crate) struct Chunk {
    slots: Box<[Mutex<Slot>]>,
    se_ids: Mutex<Box<[[u8; 10]]>>,
}

impl Chunk {
    fn new() -> Self {
        Self {
            slots: (0..CHUNK).map(|_| Mutex::new(Slot::EMPTY)).collect(),
            se_ids: Mutex::new(vec![[0; 10]; CHUNK].into()),
        }
    }
}

/// A view of the table that stays good while chunks are added.
pub(crate) type Chunks = Vec<Arc<Chunk>>;

#[derive(Default)]
pub(crate) struct Table {
    chunks: ArcSwap<Chunks>,
    grow: Mutex<()>,
}

const fn split(index: u32) -> (usize, usize) {
    (index as usize / CHUNK, index as usize % CHUNK)
}

impl Table {
    /// The chunks as they are now, for a batch of polls.
    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<Chunks>> {
        self.chunks.load()
    }

    /// Sets a device, with room made for it.
    pub(crate) fn set(&self, index: u32, se_id: [u8; 10], set: impl FnOnce(&mut Slot)) {
        let (chunk, _) = split(index);
        if self.view().len() <= chunk {
            let _alone = self.grow.lock();
            let mut chunks = Chunks::clone(&self.view());
            while chunks.len() <= chunk {
                chunks.push(Arc::new(Chunk::new()));
            }
            self.chunks.store(Arc::new(chunks));
        }
        let view = self.view();
        if let Some(slot) = slot(&view, index) {
            let (chunk, at) = split(index);
            view[chunk].se_ids.lock()[at] = se_id;
            set(&mut slot.lock());
        }
    }

    /// Calls `each` for every device: index, SE-id and slot.
    pub(crate) fn each(&self, mut each: impl FnMut(u32, &[u8; 10], &Slot)) {
        for (number, chunk) in self.view().iter().enumerate() {
            let se_ids = chunk.se_ids.lock().clone();
            for (at, slot) in chunk.slots.iter().enumerate() {
                let slot = slot.lock();
                if !matches!(slot.state, State::Empty) {
                    let index = u32::try_from(number * CHUNK + at).unwrap_or(u32::MAX);
                    each(index, &se_ids[at], &slot);
                }
            }
        }
    }
}

/// The slot of a device.
pub(crate) fn slot(chunks: &Chunks, index: u32) -> Option<&Mutex<Slot>> {
    let (chunk, at) = split(index);
    chunks.get(chunk)?.slots.get(at)
}

/// The SE-id of a device.
pub(crate) fn se_id(chunks: &Chunks, index: u32) -> Option<[u8; 10]> {
    let (chunk, at) = split(index);
    chunks.get(chunk)?.se_ids.lock().get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_takes_less_than_100_bytes() {
        assert!(size_of::<Mutex<Slot>>() + size_of::<[u8; 10]>() < 100);
    }
}
