//! The OS part: a WebAssembly module between fuel and walls (`docs/spec/os-part.md`).
//!
//! Every command runs in a fresh instance: what is to last is written through the host's `put`, and is committed with everything else the command
//! wrote if, and only if, the module answers with a status word of success or warning. Nothing that a module does can reach beyond its own records:
//! it has no other import, its memory is bounded by the SE's RAM budget, its running time by fuel.

mod host;
#[cfg(test)]
mod tests;

use alloc::vec;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_nvm::{Flash, Op};
use wasmi::{CompilationMode, Config, Engine, Linker, Module, Store, StoreLimitsBuilder};

use crate::loader::part_data;
use crate::nvm::Nvm;
use host::{Failure, Host, RECORD_MAX, RECORDS};

/// Version of the host ABI.
pub(crate) const ABI: u8 = 1;
/// Fuel of one command: about one unit for each instruction.
const FUEL: u64 = 2_000_000;
/// Bytes of the module's buffer that the SE uses at most: a C-APDU goes in, an R-APDU comes out.
const BUFFER: usize = 1024;

fn engine() -> Engine {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        .compilation_mode(CompilationMode::Lazy)
        .ignore_custom_sections(true)
        .allow_start_fn(false)
        .floats(false)
        .wasm_custom_page_sizes(true)
        .set_max_recursion_depth(128)
        .set_max_stack_height(16 * 1024)
        .set_max_cached_stacks(1);
    Engine::new(&config)
}

/// Whether `image` is a module that this SE can run: valid throughout, every import known, every export there, and it says the ABI.
pub(crate) fn validate(image: &[u8]) -> Result<(), Failure> {
    let mut config = Config::default();
    // Eager: every function is validated now, not when it is first called.
    config
        .consume_fuel(true)
        .compilation_mode(CompilationMode::Eager)
        .ignore_custom_sections(true)
        .allow_start_fn(false)
        .floats(false)
        .wasm_custom_page_sizes(true);
    let engine = Engine::new(&config);
    let module = Module::new(&engine, image).map_err(|_| Failure)?;
    let mut store = Store::new(&engine, Host::new(0, usize::MAX));
    store.set_fuel(FUEL).map_err(|_| Failure)?;
    let instance = linker(&engine)?
        .instantiate_and_start(&mut store, &module)
        .map_err(|_| Failure)?;
    instance.get_memory(&store, "memory").ok_or(Failure)?;
    instance
        .get_typed_func::<(), i32>(&store, "buffer")
        .map_err(|_| Failure)?;
    instance
        .get_typed_func::<i32, i32>(&store, "process")
        .map_err(|_| Failure)?;
    let abi = instance
        .get_typed_func::<(), i32>(&store, "abi")
        .map_err(|_| Failure)?;
    if abi.call(&mut store, ()).map_err(|_| Failure)? == i32::from(ABI) {
        Ok(())
    } else {
        Err(Failure)
    }
}

fn linker(engine: &Engine) -> Result<Linker<Host>, Failure> {
    let mut linker = Linker::new(engine);
    host::link(&mut linker).map_err(|_| Failure)?;
    Ok(linker)
}

/// Runs a command in a fresh instance of `image`; `ram` is the memory it may have, in bytes.
///
/// A module that traps, runs out of fuel or answers with less than a status word: 6F00, and nothing is written.
pub(crate) fn process<F: Flash>(
    nvm: &mut Nvm<'_, F>,
    rng: &mut dyn Rng,
    image: &[u8],
    version: u32,
    ram: usize,
    capdu: &CApdu<'_>,
    out: &mut Writer<'_>,
) -> StatusWord {
    let mut host = Host::new(version, ram);
    rng.fill(&mut host.random);
    if let Err(sw) = load_records(nvm, &mut host) {
        return sw;
    }
    let mut buffer = [0; BUFFER];
    let Ok((len, host)) = run(host, image, capdu, &mut buffer) else {
        return StatusWord::UNKNOWN;
    };
    let Some((data, [sw1, sw2])) = buffer
        .get(..len)
        .and_then(|answer| answer.split_last_chunk::<2>())
    else {
        return StatusWord::UNKNOWN;
    };
    let sw = StatusWord(u16::from_be_bytes([*sw1, *sw2]));
    // A module must not look as if the flash had failed, or as if there were more to fetch.
    if matches!(sw.sw1(), 0x61 | 0x65 | 0x6C) || sw.sw1() < 0x60 {
        return StatusWord::UNKNOWN;
    }
    if sw.is_success_or_warning()
        && let Err(sw) = commit_records(nvm, &host)
    {
        return sw;
    }
    if out.bytes(data).is_err() {
        StatusWord::NOT_ENOUGH_MEMORY
    } else {
        sw
    }
}

/// Gives the length of the answer in `buffer`, and the host with what the module wrote.
fn run(
    host: Host,
    image: &[u8],
    capdu: &CApdu<'_>,
    buffer: &mut [u8; BUFFER],
) -> Result<(usize, Host), Failure> {
    let engine = engine();
    let module = Module::new(&engine, image).map_err(|_| Failure)?;
    let limits = host.limits;
    let mut store = Store::new(&engine, host);
    store.limiter(|host| &mut host.limiter);
    store.data_mut().limiter = StoreLimitsBuilder::new()
        .memory_size(limits)
        .table_elements(1024)
        .instances(1)
        .tables(1)
        .memories(1)
        .build();
    store.set_fuel(FUEL).map_err(|_| Failure)?;
    let instance = linker(&engine)?
        .instantiate_and_start(&mut store, &module)
        .map_err(|_| Failure)?;
    let memory = instance.get_memory(&store, "memory").ok_or(Failure)?;
    let at = instance
        .get_typed_func::<(), i32>(&store, "buffer")
        .map_err(|_| Failure)?;
    let at = at.call(&mut store, ()).map_err(|_| Failure)?;
    let at = usize::try_from(at).map_err(|_| Failure)?;

    let mut command = Writer::new(buffer);
    capdu.encode(&mut command).map_err(|_| Failure)?;
    memory
        .write(&mut store, at, command.written())
        .map_err(|_| Failure)?;
    let len = i32::try_from(command.len()).map_err(|_| Failure)?;
    let process = instance
        .get_typed_func::<i32, i32>(&store, "process")
        .map_err(|_| Failure)?;
    let len = process.call(&mut store, len).map_err(|_| Failure)?;
    let len = usize::try_from(len).map_err(|_| Failure)?;
    memory
        .read(&store, at, buffer.get_mut(..len).ok_or(Failure)?)
        .map_err(|_| Failure)?;
    Ok((len, store.into_data()))
}

/// The part's records, as the host shows them to the module.
fn load_records<F: Flash>(nvm: &mut Nvm<'_, F>, host: &mut Host) -> Result<(), StatusWord> {
    let mut buf = [0; RECORD_MAX];
    for (index, record) in (0..RECORDS).zip(host.records.iter_mut()) {
        let len = nvm.get(part_data(index), &mut buf).map_err(|refusal| refusal.0)?;
        record.value = len.and_then(|len| buf.get(..len)).map(<[u8]>::to_vec);
    }
    Ok(())
}

/// Writes what the module has changed, in one transaction.
fn commit_records<F: Flash>(nvm: &mut Nvm<'_, F>, host: &Host) -> Result<(), StatusWord> {
    let mut ops = vec![];
    for (index, record) in (0..RECORDS).zip(&host.records) {
        if record.changed {
            ops.push(match &record.value {
                Some(value) => Op::Put(part_data(index), value),
                None => Op::Remove(part_data(index)),
            });
        }
    }
    Ok(nvm.commit_more(&ops)?)
}
