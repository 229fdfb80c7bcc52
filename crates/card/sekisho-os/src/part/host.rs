//! What a module can ask of the SE: its own records, what it keeps for a session, random bytes, its version. Nothing else is there to be imported.

use sekisho_apdu::{Aid, CApdu};
use sekisho_wasm::{Budget, Bytes, Exhausted, Host, Import, Memory, OutOfBounds, Trap};
use zeroize::Zeroize;

use crate::announcement::{ANNOUNCEMENT_MAX, Said};
use crate::call::{CALL_COMMAND_MAX, CallCommand};
use crate::transient::{Block, TRANSIENT};

/// Records of the part.
pub(super) const RECORDS: usize = 16;
/// Bytes of a record at most.
pub(super) const RECORD_MAX: usize = 256;
/// Random bytes that one command may ask for.
const RANDOM: usize = 64;

/// Answers of the host's functions that are no lengths.
const ABSENT: i32 = -1;
const REFUSED: i32 = -2;

/// A record, as the module sees it.
#[derive(Clone, Copy, Default)]
struct Record {
    len: Option<usize>,
    is_changed: bool,
}

/// The state behind the host's functions. The room for all records is taken at once, so that a module's need does not depend on what it has written.
pub(super) struct Part {
    /// None of no records, and before it is known how many there are.
    bytes: Option<Bytes>,
    records: [Record; RECORDS],
    pub(super) random: [u8; RANDOM],
    random_used: usize,
    version: u32,
    /// What it keeps for the session; as much of it as it has asked for is there.
    transient: Block,
    transient_len: usize,
    /// Which application calls.
    pub(super) caller: Option<Aid>,
    /// Whether it may call another application, and whether its answer may come in pieces, if it can go on.
    pub(super) may: (bool, bool),
    /// Where a command to another application stands; there is none where the module cannot go on.
    room: Option<Bytes>,
    /// For whom it is, and its length.
    forward: Option<(Aid, usize)>,
    /// Whether the answer goes on behind this piece.
    pub(super) more: bool,
    /// Whether the device can be told something, and what it is to be told.
    pub(super) may_announce: bool,
    pub(super) announced: Option<Said>,
}

/// A change of a record: its index, and its value or that it is removed.
pub(super) type Change<'a> = (usize, Option<&'a [u8]>);

impl Part {
    pub(super) const fn new(version: u32) -> Self {
        Self {
            bytes: None,
            records: [Record {
                len: None,
                is_changed: false,
            }; RECORDS],
            random: [0; RANDOM],
            random_used: 0,
            version,
            transient: [0; TRANSIENT],
            transient_len: 0,
            caller: None,
            may: (false, false),
            room: None,
            forward: None,
            more: false,
            may_announce: false,
            announced: None,
        }
    }

    /// Makes room for so many records.
    pub(super) fn make_records(&mut self, budget: &Budget, count: usize) -> Result<(), Exhausted> {
        self.bytes = match count {
            0 => None,
            count => Some(Bytes::zeros(budget, count * RECORD_MAX)?),
        };
        Ok(())
    }

    fn rooms(&mut self) -> &mut [u8] {
        self.bytes.as_mut().map(Bytes::as_mut_slice).unwrap_or_default()
    }

    /// Makes room for a command to another application.
    pub(super) fn make_room(&mut self, budget: &Budget) -> Result<(), Exhausted> {
        self.room = Some(Bytes::zeros(budget, CALL_COMMAND_MAX)?);
        Ok(())
    }

    /// Gives out the command to another application, and for whom it is.
    pub(super) fn forwarded(&mut self, command: &mut CallCommand) -> Option<Aid> {
        let (to, len) = self.forward.take()?;
        let bytes = self.room.as_ref()?.as_slice().get(..len)?;
        let capdu = CApdu::parse(bytes).ok()?;
        command.set(&capdu).ok()?;
        Some(to)
    }

    /// Lends the module the session's block, of which it has asked for `len` bytes.
    pub(super) fn lend(&mut self, block: &Block, len: usize) {
        (self.transient, self.transient_len) = (*block, len);
    }

    /// The session's block, as the module has left it.
    pub(super) const fn block(&self) -> &Block {
        &self.transient
    }

    /// Puts a record that NVM holds, without changing it: `read` fills the room for it and gives its length.
    pub(super) fn load<E>(
        &mut self,
        index: usize,
        read: impl FnOnce(&mut [u8]) -> Result<Option<usize>, E>,
    ) -> Result<(), E> {
        if let Some(room) = self.rooms().chunks_exact_mut(RECORD_MAX).nth(index) {
            let len = read(room)?;
            if let Some(record) = self.records.get_mut(index) {
                record.len = len;
            }
        }
        Ok(())
    }

    /// What the module has changed.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let bytes = self.bytes.as_ref().map(Bytes::as_slice).unwrap_or_default();
        let bytes = bytes.chunks_exact(RECORD_MAX);
        let all = self.records.iter().zip(bytes).enumerate();
        all.filter(|(_, (record, _))| record.is_changed)
            .map(|(index, (record, bytes))| (index, record.len.and_then(|len| bytes.get(..len))))
    }

    /// A record's place: its state and its room. The index is any number at all.
    fn place(&mut self, index: i32) -> Option<(&mut Record, &mut [u8])> {
        let index = usize::try_from(index).ok()?;
        let rooms = self.bytes.as_mut().map(Bytes::as_mut_slice)?;
        let room = rooms.chunks_exact_mut(RECORD_MAX).nth(index)?;
        Some((self.records.get_mut(index)?, room))
    }

    fn get(&mut self, index: i32, at: i32, room: i32, memory: &mut dyn Memory) -> Result<i32, Trap> {
        let Some((record, bytes)) = self.place(index) else {
            return Ok(REFUSED);
        };
        let Some(value) = record.len.and_then(|len| bytes.get(..len)) else {
            return Ok(ABSENT);
        };
        if value.len() > unsigned(room) {
            return Ok(REFUSED);
        }
        memory.write(at.cast_unsigned(), value).map_err(outside)?;
        Ok(i32::try_from(value.len()).unwrap_or(REFUSED))
    }

    fn put(&mut self, index: i32, at: i32, len: i32, memory: &dyn Memory) -> Result<i32, Trap> {
        let Some((record, bytes)) = self.place(index) else {
            return Ok(REFUSED);
        };
        let len = unsigned(len);
        let Some(value) = bytes.get_mut(..len) else {
            return Ok(REFUSED);
        };
        memory.read(at.cast_unsigned(), value).map_err(outside)?;
        *record = Record {
            len: Some(len),
            is_changed: true,
        };
        Ok(0)
    }

    fn remove(&mut self, index: i32) -> i32 {
        let Some((record, _)) = self.place(index) else {
            return REFUSED;
        };
        *record = Record {
            len: None,
            is_changed: true,
        };
        0
    }

    /// A range of the block that the module has asked for. Both numbers are any at all.
    fn range(&mut self, offset: i32, len: i32) -> Option<&mut [u8]> {
        let (start, len) = (unsigned(offset), unsigned(len));
        let block = self.transient.get_mut(..self.transient_len)?;
        block.get_mut(start..start.checked_add(len)?)
    }

    fn transient_get(
        &mut self,
        offset: i32,
        at: i32,
        len: i32,
        memory: &mut dyn Memory,
    ) -> Result<i32, Trap> {
        let Some(bytes) = self.range(offset, len) else {
            return Ok(REFUSED);
        };
        memory.write(at.cast_unsigned(), bytes).map_err(outside)?;
        Ok(0)
    }

    fn transient_put(&mut self, offset: i32, at: i32, len: i32, memory: &dyn Memory) -> Result<i32, Trap> {
        let Some(bytes) = self.range(offset, len) else {
            return Ok(REFUSED);
        };
        memory.read(at.cast_unsigned(), bytes).map_err(outside)?;
        Ok(0)
    }

    /// Keeps a command for another application, in the place of one before.
    fn forward(&mut self, aid: (i32, i32), command: (i32, i32), memory: &dyn Memory) -> Result<i32, Trap> {
        self.forward = None;
        let (aid_len, len) = (unsigned(aid.1), unsigned(command.1));
        let mut bytes = [0; 16];
        let Some(own) = bytes.get_mut(..aid_len).filter(|own| own.len() >= 5) else {
            return Ok(REFUSED);
        };
        let room = self.room.as_mut().filter(|_| self.may.0);
        let Some(room) = room.and_then(|room| room.as_mut_slice().get_mut(..len)) else {
            return Ok(REFUSED);
        };
        memory.read(aid.0.cast_unsigned(), own).map_err(outside)?;
        memory.read(command.0.cast_unsigned(), room).map_err(outside)?;
        let (Ok(aid), Ok(_)) = (Aid::try_from(&*own), CApdu::parse(room)) else {
            return Ok(REFUSED);
        };
        self.forward = Some((aid, len));
        Ok(0)
    }

    fn more(&mut self) -> i32 {
        self.more = self.may.1 && self.room.is_some();
        if self.more { 0 } else { REFUSED }
    }

    /// Keeps what the device is to be told, in the place of what was said before.
    fn announce(&mut self, at: i32, len: i32, memory: &dyn Memory) -> Result<i32, Trap> {
        let len = unsigned(len);
        let mut bytes = [0; ANNOUNCEMENT_MAX];
        let Some(room) = bytes.get_mut(..len).filter(|_| self.may_announce) else {
            return Ok(REFUSED);
        };
        memory.read(at.cast_unsigned(), room).map_err(outside)?;
        self.announced = Some(Said { bytes, len });
        Ok(0)
    }

    fn caller(&self, at: i32, room: i32, memory: &mut dyn Memory) -> Result<i32, Trap> {
        let aid = self.caller.as_ref().map_or(&[][..], Aid::as_bytes);
        if aid.len() > unsigned(room) {
            return Ok(REFUSED);
        }
        memory.write(at.cast_unsigned(), aid).map_err(outside)?;
        Ok(i32::try_from(aid.len()).unwrap_or(REFUSED))
    }

    fn random(&mut self, at: i32, len: i32, memory: &mut dyn Memory) -> Result<i32, Trap> {
        let end = self.random_used.saturating_add(unsigned(len));
        let Some(bytes) = self.random.get(self.random_used..end) else {
            return Ok(REFUSED);
        };
        memory.write(at.cast_unsigned(), bytes).map_err(outside)?;
        self.random_used = end;
        Ok(0)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.random.zeroize();
        self.transient.zeroize();
    }
}

/// A length is any number at all; above two thousand million it is one that nothing has.
fn unsigned(len: i32) -> usize {
    usize::try_from(len.cast_unsigned()).unwrap_or(usize::MAX)
}

fn outside(_: OutOfBounds) -> Trap {
    Trap::Memory
}

impl Host for Part {
    const MODULE: &'static str = "sekisho";
    const FUNCTIONS: &'static [Import] = &[
        import("get", 3),
        import("put", 3),
        import("remove", 1),
        import("random", 2),
        import("version", 0),
        import("transient_get", 3),
        import("transient_put", 3),
        import("forward", 4),
        import("more", 0),
        import("caller", 2),
        import("announce", 2),
    ];

    fn call(&mut self, index: usize, args: &[i32; 4], memory: &mut dyn Memory) -> Result<i32, Trap> {
        let [a, b, c, d] = *args;
        match index {
            0 => self.get(a, b, c, memory),
            1 => self.put(a, b, c, memory),
            2 => Ok(self.remove(a)),
            3 => self.random(a, b, memory),
            4 => Ok(self.version.cast_signed()),
            5 => self.transient_get(a, b, c, memory),
            6 => self.transient_put(a, b, c, memory),
            7 => self.forward((a, b), (c, d), memory),
            8 => Ok(self.more()),
            9 => self.caller(a, b, memory),
            10 => self.announce(a, b, memory),
            _ => Err(Trap::Host),
        }
    }
}

const fn import(name: &'static str, params: usize) -> Import {
    Import { name, params }
}
