//! One command, answer or piece in a fresh instance of a module.

use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_nvm::Op;
use sekisho_wasm::{Budget, Engine, Memory, Trap, Value, Why};
use zeroize::Zeroize;

use super::host::{Part, RECORDS};
use super::{
    ABI_TRANSIENT, BUFFER, FUEL, Instance, PartFailure, Placed, Unmet, Whose, block_len, limits, make_room,
    number, part_data,
};
use crate::announcement::Said;
use crate::call::{CallCommand, Resume};
use crate::nvm::Records;
use crate::transient::Kept;

/// What a module is called for.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    Command(&'a CApdu<'a>),
    Resume(Resume<'a>),
}

/// What a module works with.
pub(crate) struct Around<'a, 'r> {
    pub(crate) records: &'a mut Records<'r>,
    pub(crate) rng: &'a mut dyn Rng,
    /// What lasts for the session.
    pub(crate) kept: &'a mut Kept,
    /// Room for a command to another application; none where it may not call one.
    pub(crate) call: Option<&'a mut CallCommand>,
    /// Which application calls it, if one does.
    pub(crate) caller: Option<Aid>,
    /// Whether its answer may come in pieces.
    pub(crate) pieces: bool,
    pub(crate) writes: Writes,
    /// Whether the device can be told something, and what it is to be told if the answer is no error.
    pub(crate) announces: bool,
    pub(crate) announced: Option<Said>,
}

/// When what a module has written is written to NVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// At its end, in one transaction: up to 4 KB, which stand on its heap and nowhere else.
    Now,
    /// With what other applications write in this command, within what one command may write.
    Together,
    /// Not at all: a piece of an answer writes no records.
    Never,
}

/// What a module has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Its answer is whole: a status word of success or warning.
    Word(StatusWord),
    /// Its answer goes on.
    More,
    /// The command in the room is for this application.
    Forward(Aid),
}

/// Why a module has not come to anything: a status word, or why it has none of its own.
enum End {
    Word(StatusWord),
    Failed(PartFailure),
}

impl From<StatusWord> for End {
    fn from(sw: StatusWord) -> Self {
        Self::Word(sw)
    }
}

impl From<crate::Refusal> for End {
    fn from(refusal: crate::Refusal) -> Self {
        Self::Word(refusal.0)
    }
}

impl From<Trap> for End {
    fn from(trap: Trap) -> Self {
        Self::Failed(PartFailure::Trap(trap))
    }
}

/// Calls a fresh instance of a module, to which the session's block is lent. One that traps, runs out of fuel or answers with less than a status word: 6F00, nothing is
/// written, the block is zeros, and the failure says why.
pub(crate) fn process(
    around: &mut Around<'_, '_>,
    placed: &Placed,
    asked: Asked<'_>,
    out: &mut Writer<'_>,
) -> (Result<Came, StatusWord>, Option<PartFailure>) {
    match run(around, placed, asked, out) {
        Ok(came) => (Ok(came), None),
        Err(End::Word(sw)) => (Err(sw), None),
        Err(End::Failed(failure)) => {
            around.kept.block.zeroize();
            (Err(StatusWord::UNKNOWN), Some(failure))
        }
    }
}

fn run(
    around: &mut Around<'_, '_>,
    placed: &Placed,
    asked: Asked<'_>,
    out: &mut Writer<'_>,
) -> Result<Came, End> {
    let mut buffer = [0; BUFFER];
    let given = write(asked, &mut buffer)?;
    let no_memory = |_| StatusWord::NOT_ENOUGH_MEMORY;
    let budget = Budget::new(placed.ram).map_err(no_memory)?;
    let mut part = Part::new(placed.version);
    around.rng.fill(&mut part.random);
    part.caller = around.caller;
    part.may = (around.call.is_some(), around.pieces);
    part.may_announce = around.announces;
    let mut module = load(around, placed, &budget, part)?;
    let result = call(&mut module, &mut buffer, given, asked)?;
    if !module.host(|part| around.kept.can_be(part.block())) {
        return Err(StatusWord::NOT_ENOUGH_MEMORY.into());
    }
    let came = end(around, placed, &mut module, result, &buffer, out)?;
    // It lasts with whatever word of the module's own.
    module.host(|part| around.kept.block = *part.block());
    Ok(came?)
}

/// Puts what a module is called for into its buffer: its length.
fn write(asked: Asked<'_>, buffer: &mut [u8; BUFFER]) -> Result<usize, StatusWord> {
    let mut writer = Writer::new(buffer);
    let written = match asked {
        Asked::Command(capdu) => capdu.encode(&mut writer).map_err(|_| ()),
        Asked::Resume(Resume::Answer { data, sw }) => {
            let word = sw.bytes();
            [data, &word]
                .iter()
                .try_for_each(|part| writer.bytes(part).map_err(|_| ()))
        }
        Asked::Resume(Resume::Piece) => Ok(()),
    };
    written.map_err(|()| StatusWord::WRONG_LENGTH)?;
    Ok(writer.len())
}

/// Loads the module, and lends it what it has asked for.
fn load<'b>(
    around: &mut Around<'_, '_>,
    placed: &Placed,
    budget: &'b Budget,
    part: Part,
) -> Result<Instance<'b>, End> {
    let limits = limits(placed.ram);
    let loaded = placed.with_image(&around.records.nvm.flash, |image| {
        Instance::load(budget, image, &limits, part)
    });
    let mut module = loaded.map_err(|refusal| match refusal.why {
        Why::Heap | Why::Limit("bytes of memory", _) => StatusWord::NOT_ENOUGH_MEMORY,
        Why::Read => StatusWord::MEMORY_FAILURE,
        // Only an image that has been checked becomes an application.
        _ => StatusWord::UNKNOWN,
    })?;
    make_room(budget, &mut module, placed.abi).map_err(|unmet| match unmet {
        Unmet::Trap(_, trap) => End::from(trap),
        Unmet::Heap => StatusWord::NOT_ENOUGH_MEMORY.into(),
        Unmet::Records(_) | Unmet::Stack(_) => Trap::Host.into(),
    })?;
    for index in 0..RECORDS {
        module.host(|part| {
            part.load(index, |room| {
                around.records.get_key(placed.whose.key(index), room)
            })
        })?;
    }
    if placed.abi >= ABI_TRANSIENT {
        let said = number(&mut module, "transient")?;
        let len = block_len(said).ok_or(Trap::Host)?;
        module.host(|part| part.lend(&around.kept.block, len));
    }
    Ok(module)
}

/// Calls the module with what stands in the first `given` bytes of `buffer`, and leaves there what it has made; gives the length of that.
fn call(
    module: &mut Instance<'_>,
    buffer: &mut [u8; BUFFER],
    given: usize,
    asked: Asked<'_>,
) -> Result<i32, Trap> {
    let at = number(module, "buffer")?.cast_unsigned();
    let bytes = buffer.get(..given).ok_or(Trap::Memory)?;
    let mut memory = module.memory().ok_or(Trap::Memory)?;
    memory.write(at, bytes).map_err(|_| Trap::Memory)?;
    let given = Value::I32(i32::try_from(given).map_err(|_| Trap::Memory)?);
    let result = match asked {
        Asked::Command(_) => module.call("process", &[given], FUEL)?,
        Asked::Resume(why) => module.call("resume", &[Value::I32(number_of(why)), given], FUEL)?,
    };
    let Some(Value::I32(len)) = result else {
        return Err(Trap::NoFunction);
    };
    if let Some(answer) = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len)) {
        let memory = module.memory().ok_or(Trap::Memory)?;
        memory.read(at, answer).map_err(|_| Trap::Memory)?;
    }
    Ok(len)
}

/// First parameter of `resume`.
const fn number_of(why: Resume<'_>) -> i32 {
    match why {
        Resume::Answer { .. } => 0,
        Resume::Piece => 1,
    }
}

/// Judges what a module has made, and keeps what it has written if it is to be kept: what it has come to, or an error of its own.
fn end(
    around: &mut Around<'_, '_>,
    placed: &Placed,
    module: &mut Instance<'_>,
    len: i32,
    buffer: &[u8; BUFFER],
    out: &mut Writer<'_>,
) -> Result<Result<Came, StatusWord>, End> {
    if len == 0
        && let Some(command) = &mut around.call
        && let Some(to) = module.host(|part| part.forwarded(command))
    {
        let writes = match around.writes {
            Writes::Now => Writes::Together,
            writes => writes,
        };
        module.host(|part| keep(around.records, writes, placed.whose, part))?;
        return Ok(Ok(Came::Forward(to)));
    }
    let answer = usize::try_from(len).ok().and_then(|len| buffer.get(..len));
    let Some((data, [sw1, sw2])) = answer.and_then(|answer| answer.split_last_chunk::<2>()) else {
        return Err(End::Failed(PartFailure::Length(len)));
    };
    let sw = StatusWord(u16::from_be_bytes([*sw1, *sw2]));
    // A module must not look as if the flash had failed, or as if there were more to fetch.
    if matches!(sw.sw1(), 0x61 | 0x65 | 0x6C) || sw.sw1() < 0x60 {
        return Err(End::Failed(PartFailure::StatusWord(sw.0)));
    }
    if !sw.is_success_or_warning() {
        return Ok(Err(sw));
    }
    module.host(|part| keep(around.records, around.writes, placed.whose, part))?;
    out.bytes(data).map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)?;
    around.announced = module.host(|part| part.announced);
    let goes_on = module.host(|part| part.more) && sw == StatusWord::NO_ERROR && !data.is_empty();
    Ok(Ok(if goes_on { Came::More } else { Came::Word(sw) }))
}

/// Writes what the module has changed, or stages it.
fn keep(records: &mut Records<'_>, writes: Writes, whose: Whose, part: &Part) -> Result<(), crate::Refusal> {
    match writes {
        Writes::Never => return Ok(()),
        Writes::Together => {
            let mut changes = part.changes();
            return changes.try_for_each(|(index, value)| records.staged.stage(whose.key(index), value));
        }
        Writes::Now => {}
    }
    let mut ops = [const { Op::Remove(part_data(0).key()) }; RECORDS];
    let mut count = 0;
    for (op, (index, value)) in ops.iter_mut().zip(part.changes()) {
        *op = match value {
            Some(value) => Op::Put(whose.key(index), value),
            None => Op::Remove(whose.key(index)),
        };
        count += 1;
    }
    records.nvm.commit_more(ops.get(..count).unwrap_or_default())
}
