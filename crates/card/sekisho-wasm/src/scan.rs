//! What is looked at before the engine sees a byte: every size that the module names, floats, and what is not WebAssembly 1.0.
//!
//! It reads the whole image once, with the engine's reader, and judges nothing that the engine judges: types, indices and the order of the sections are
//! its. Section and instruction numbers are those of the WebAssembly Core Specification 1.0, 5.4 and 5.5.

use spacewasm::{Reader, ValidationError};

use crate::image::{Image, Stream};
use crate::limits::{Limits, NAME, NESTING};
use crate::refusal::{Refusal, Why};

type Step<T = ()> = Result<T, Why>;

/// Refuses a module that the engine is not to see. `imported` is told the name of each import.
pub(crate) fn scan(
    image: &mut Image<'_>,
    limits: &Limits,
    imported: &mut dyn FnMut(&[u8]),
) -> Result<(), Refusal> {
    let len = image.len();
    let limit = usize::try_from(limits.image).unwrap_or(usize::MAX);
    if len > limit {
        return Err(Refusal {
            at: 0,
            why: Why::Limit("bytes of the image", limits.image),
        });
    }
    let mut stream = Stream::new(image);
    let mut reader = Reader::new(&mut stream);
    sections(&mut reader, limits, len, imported).map_err(|why| Refusal {
        at: reader.offset(),
        why,
    })
}

fn malformed() -> Why {
    Why::from_engine(ValidationError::MalformedSectionSize)
}

fn sections(reader: &mut Reader<'_>, limits: &Limits, len: usize, imported: &mut dyn FnMut(&[u8])) -> Step {
    if reader.strip_bytes::<4>()? != *b"\0asm" {
        return Err(Why::from_engine(ValidationError::MalformedMagic));
    }
    if reader.strip_bytes::<4>()? != [1, 0, 0, 0] {
        return Err(Why::from_engine(ValidationError::MalformedVersion));
    }
    while reader.offset() < len {
        let id = reader.read_u8()?;
        let size = length(reader)?;
        if size > len - reader.offset() {
            return Err(malformed());
        }
        let end = reader.offset() + size;
        reader.with_limit(size, |reader| -> Result<(), Stop> {
            match id {
                2 => each(reader, "imports", limits.imports, |reader| {
                    import(reader, imported)
                }),
                id => section(reader, limits, id, end),
            }
            .map_err(Stop)
        })?;
        if reader.offset() != end {
            return Err(malformed());
        }
    }
    Ok(())
}

/// What the reader's closures return: they want a type that the reader's own errors turn into.
struct Stop(Why);

impl From<ValidationError> for Stop {
    fn from(error: ValidationError) -> Self {
        Self(Why::from_engine(error))
    }
}

impl From<Stop> for Why {
    fn from(stop: Stop) -> Self {
        stop.0
    }
}

fn section(reader: &mut Reader<'_>, limits: &Limits, id: u8, end: usize) -> Step {
    match id {
        0 => {
            name(reader)?;
            let rest = end.checked_sub(reader.offset()).ok_or_else(malformed)?;
            Ok(reader.skip(rest)?)
        }
        1 => each(reader, "function types", limits.types, |reader| {
            function_type(reader, limits)
        }),
        3 => each(reader, "functions", limits.functions, index),
        4 => each(reader, "tables", 1, |reader| table(reader, limits)),
        5 => each(reader, "memories", 1, |reader| memory(reader, limits)),
        6 => each(reader, "globals", limits.globals, |reader| {
            value_type(reader)?;
            reader.read_u8()?;
            constant(reader)
        }),
        7 => each(reader, "exports", limits.exports, |reader| {
            name(reader)?;
            reader.read_u8()?;
            index(reader)
        }),
        8 => Err(Why::Start),
        9 => each(reader, "element segments", limits.segments, |reader| {
            index(reader)?;
            constant(reader)?;
            each(reader, "elements of a segment", limits.table, index)
        }),
        10 => each(reader, "functions", limits.functions, |reader| {
            function(reader, limits, end)
        }),
        11 => each(reader, "data segments", limits.segments, |reader| {
            index(reader)?;
            constant(reader)?;
            let size = length(reader)?;
            Ok(reader.skip(size)?)
        }),
        id => Err(Why::Level(id)),
    }
}

/// A vector of at most `limit` elements, each read by `element`.
fn each<'w>(
    reader: &mut Reader<'w>,
    what: &'static str,
    limit: u32,
    mut element: impl FnMut(&mut Reader<'w>) -> Step,
) -> Step {
    let count = reader.read_u32()?;
    if count > limit {
        return Err(Why::Limit(what, limit));
    }
    for _ in 0..count {
        element(reader)?;
    }
    Ok(())
}

fn length(reader: &mut Reader<'_>) -> Step<usize> {
    usize::try_from(reader.read_u32()?).map_err(|_| malformed())
}

fn index(reader: &mut Reader<'_>) -> Step {
    reader.read_u32()?;
    Ok(())
}

fn name(reader: &mut Reader<'_>) -> Step {
    let len = length(reader)?;
    if len > NAME {
        return Err(Why::Limit("bytes of a name", 32));
    }
    Ok(reader.skip(len)?)
}

/// i32 or i64.
fn value_type(reader: &mut Reader<'_>) -> Step {
    value_type_byte(reader.read_u8()?)
}

fn value_type_byte(byte: u8) -> Step {
    match byte {
        0x7F | 0x7E => Ok(()),
        0x7D | 0x7C => Err(Why::Float),
        byte => Err(Why::Level(byte)),
    }
}

fn function_type(reader: &mut Reader<'_>, limits: &Limits) -> Step {
    match reader.read_u8()? {
        0x60 => {
            each(reader, "parameters of a function", limits.params, value_type)?;
            each(reader, "results of a function", 1, value_type)
        }
        byte => Err(Why::Level(byte)),
    }
}

fn import(reader: &mut Reader<'_>, imported: &mut dyn FnMut(&[u8])) -> Step {
    name(reader)?;
    let mut bytes = [0; NAME];
    let len = length(reader)?;
    let own = bytes.get_mut(..len).ok_or(Why::Limit("bytes of a name", 32))?;
    for byte in own.iter_mut() {
        *byte = reader.read_u8()?;
    }
    imported(own);
    match reader.read_u8()? {
        0 => index(reader),
        _ => Err(Why::Import),
    }
}

/// Both bounds of a table count: the second too is what it may become.
fn table(reader: &mut Reader<'_>, limits: &Limits) -> Step {
    let over = |size: u32| {
        if size > limits.table {
            Err(Why::Limit("elements of the table", limits.table))
        } else {
            Ok(())
        }
    };
    reader.read_u8()?;
    match reader.read_u8()? {
        0 => over(reader.read_u32()?),
        1 => {
            over(reader.read_u32()?)?;
            over(reader.read_u32()?)
        }
        flags => Err(Why::Level(flags)),
    }
}

/// The size with which the memory begins; it has no other.
fn memory(reader: &mut Reader<'_>, limits: &Limits) -> Step {
    let flags = reader.read_u8()?;
    if flags & !0x09 != 0 {
        return Err(Why::Level(flags));
    }
    let pages = u64::from(reader.read_u32()?);
    if flags & 1 != 0 {
        index(reader)?;
    }
    // Custom page sizes: the logarithm, 0 or 16; 64 KiB without.
    let page: u64 = match flags & 8 {
        0 => 0x1_0000,
        _ => match reader.read_u32()? {
            0 => 1,
            16 => 0x1_0000,
            _ => return Err(Why::Level(flags)),
        },
    };
    let limit = u32::try_from(limits.memory).unwrap_or(u32::MAX);
    if pages * page > u64::from(limit) {
        return Err(Why::Limit("bytes of memory", limit));
    }
    Ok(())
}

/// A constant: without imported globals there are no others than numbers.
fn constant(reader: &mut Reader<'_>) -> Step {
    match reader.read_u8()? {
        0x41 => {
            reader.read_i32()?;
        }
        0x42 => {
            reader.read_i64()?;
        }
        0x43 | 0x44 => return Err(Why::Float),
        byte => return Err(Why::Level(byte)),
    }
    match reader.read_u8()? {
        0x0B => Ok(()),
        byte => Err(Why::Level(byte)),
    }
}

fn function(reader: &mut Reader<'_>, limits: &Limits, end: usize) -> Step {
    let size = length(reader)?;
    let body_end = reader.offset().checked_add(size).filter(|at| *at <= end);
    let body_end = body_end.ok_or_else(malformed)?;
    let mut words = 0_u64;
    each(reader, "groups of locals", limits.local_groups, |reader| {
        let count = u64::from(reader.read_u32()?);
        let byte = reader.read_u8()?;
        value_type_byte(byte)?;
        words += if byte == 0x7E { 2 * count } else { count };
        if words > u64::from(limits.locals) {
            return Err(Why::Limit("words of a function's locals", limits.locals));
        }
        Ok(())
    })?;
    instructions(reader, limits)?;
    if reader.offset() == body_end {
        Ok(())
    } else {
        Err(Why::from_engine(ValidationError::MalformedCodeSize))
    }
}

/// A function's instructions, its last `end` included.
fn instructions(reader: &mut Reader<'_>, limits: &Limits) -> Step {
    let mut depth = 0_usize;
    loop {
        match reader.read_u8()? {
            // unreachable, nop, else, return, drop, select
            0x00 | 0x01 | 0x05 | 0x0F | 0x1A | 0x1B => {}
            // block, loop, if
            0x02..=0x04 => {
                depth += 1;
                if depth > NESTING {
                    return Err(Why::Limit("blocks inside each other", 64));
                }
                match reader.read_u8()? {
                    0x40 => {}
                    byte => value_type_byte(byte)?,
                }
            }
            // end
            0x0B if depth == 0 => return Ok(()),
            0x0B => depth -= 1,
            // br, br_if, call, variables
            0x0C | 0x0D | 0x10 | 0x20..=0x24 => index(reader)?,
            // br_table
            0x0E => {
                each(reader, "targets of a br_table", limits.targets, index)?;
                index(reader)?;
            }
            // call_indirect, with its table
            0x11 => {
                index(reader)?;
                zero(reader)?;
            }
            // float loads, stores, constants, comparisons, arithmetic, conversions
            0x2A | 0x2B | 0x38 | 0x39 | 0x43 | 0x44 | 0x5B..=0x66 | 0x8B..=0xA6 => return Err(Why::Float),
            0xA8..=0xAB | 0xAE..=0xBF => return Err(Why::Float),
            // loads and stores
            0x28..=0x3E => {
                index(reader)?;
                index(reader)?;
            }
            // memory.size, memory.grow
            0x3F | 0x40 => zero(reader)?,
            0x41 => {
                reader.read_i32()?;
            }
            0x42 => {
                reader.read_i64()?;
            }
            // integer comparisons, arithmetic, wrap, extend
            0x45..=0x5A | 0x67..=0x8A | 0xA7 | 0xAC | 0xAD => {}
            opcode => return Err(Why::Level(opcode)),
        }
    }
}

/// A byte that is reserved in 1.0.
fn zero(reader: &mut Reader<'_>) -> Step {
    match reader.read_u8()? {
        0 => Ok(()),
        byte => Err(Why::Level(byte)),
    }
}
