//! The second engine, `wasmi`, behind the same trait. It has limits and floats of its own, and its fuel counts something else.

use sekisho_wasm::{
    Budget, Engine, Exhausted, Host, Image, Limits, Memory, OutOfBounds, Refusal, Trap, Value, ValueType, Why,
};
use wasmi::errors::ErrorKind;
use wasmi::{
    AsContext, Caller, Config, Extern, Func, FuncType, Linker, Store, StoreLimits, StoreLimitsBuilder,
    TrapCode, Val, ValType,
};

struct State<H> {
    host: H,
    limits: StoreLimits,
    trap: Option<Trap>,
}

pub(crate) struct Peer<H> {
    store: Store<State<H>>,
    instance: wasmi::Instance,
}

/// The memory while the module stands still, or while it waits for the host.
pub(crate) struct View<'m>(&'m mut [u8]);

impl Memory for View<'_> {
    fn read(&self, at: u32, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let bytes = self.0.get(at as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(OutOfBounds)?);
        Ok(())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let place = self
            .0
            .get_mut(at as usize..)
            .and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or(OutOfBounds)?.copy_from_slice(bytes);
        Ok(())
    }
}

fn engine() -> wasmi::Engine {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        .set_max_recursion_depth(100_000)
        .set_max_stack_height(1 << 22)
        .ignore_custom_sections(true)
        .wasm_custom_page_sizes(true)
        .wasm_bulk_memory(false)
        .wasm_extended_const(false)
        .wasm_multi_memory(false)
        .wasm_multi_value(false)
        .wasm_reference_types(false)
        .wasm_saturating_float_to_int(false)
        .wasm_sign_extension(false)
        .wasm_tail_call(false)
        .wasm_wide_arithmetic(false);
    wasmi::Engine::new(&config)
}

fn linker<H: Host>(engine: &wasmi::Engine) -> Linker<State<H>> {
    let mut linker = Linker::new(engine);
    for (index, import) in H::FUNCTIONS.iter().enumerate() {
        let ty = FuncType::new(vec![ValType::I32; import.params], [ValType::I32]);
        let call = move |mut caller: Caller<'_, State<H>>, params: &[Val], results: &mut [Val]| {
            let mut args = [0; 4];
            for (arg, value) in args.iter_mut().zip(params) {
                *arg = value.i32().unwrap_or(0);
            }
            let memory = caller.get_export("memory").and_then(Extern::into_memory);
            let answer = match memory {
                Some(memory) => {
                    let (bytes, state) = memory.data_and_store_mut(&mut caller);
                    state.host.call(index, &args, &mut View(bytes))
                }
                None => caller.data_mut().host.call(index, &args, &mut View(&mut [])),
            };
            match answer {
                Ok(value) => results[0] = Val::I32(value),
                Err(trap) => {
                    caller.data_mut().trap = Some(trap);
                    return Err(wasmi::Error::new("host"));
                }
            }
            Ok(())
        };
        linker.func_new(H::MODULE, import.name, ty, call).unwrap();
    }
    linker
}

impl<H> Peer<H> {
    fn trap(&mut self, error: &wasmi::Error) -> Trap {
        match error.as_trap_code() {
            Some(TrapCode::UnreachableCodeReached) => Trap::Unreachable,
            Some(TrapCode::MemoryOutOfBounds) => Trap::Memory,
            Some(TrapCode::IntegerDivisionByZero | TrapCode::IntegerOverflow) => Trap::Arithmetic,
            Some(TrapCode::TableOutOfBounds | TrapCode::IndirectCallToNull | TrapCode::BadSignature) => {
                Trap::IndirectCall
            }
            Some(TrapCode::StackOverflow) => Trap::Stack,
            Some(TrapCode::OutOfFuel) => Trap::Fuel,
            _ => self.store.data_mut().trap.take().unwrap_or(Trap::Host),
        }
    }

    fn function(&self, name: &str) -> Option<Func> {
        self.instance.get_func(self.store.as_context(), name)
    }
}

impl<'b, H: Host> Engine<'b, H> for Peer<H> {
    type Memory<'m>
        = View<'m>
    where
        Self: 'm;

    fn load(_: &'b Budget, image: &mut Image<'_>, limits: &Limits, host: H) -> Result<Self, Refusal> {
        let refused = |why| Refusal { at: 0, why };
        let bytes = image.as_mapped().unwrap();
        let engine = engine();
        let module = wasmi::Module::new(&engine, bytes).map_err(|_| refused(Why::Start))?;
        let build = |memory| StoreLimitsBuilder::new().memory_size(memory).build();
        let state = State {
            host,
            limits: build(limits.memory),
            trap: None,
        };
        let mut store = Store::new(&engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_fuel(u64::MAX).unwrap();
        let instance = linker(&engine)
            .instantiate_and_start(&mut store, &module)
            .map_err(|error| {
                refused(match error.kind() {
                    ErrorKind::Memory(_) => Why::Heap,
                    _ => Why::Start,
                })
            })?;
        // From here on a memory does not grow.
        let size = instance
            .get_memory(&store, "memory")
            .map_or(0, |memory| memory.data_size(&store));
        store.data_mut().limits = build(size);
        Ok(Self { store, instance })
    }

    fn has(&self, name: &str, _: &[ValueType], _: Option<ValueType>) -> bool {
        self.function(name).is_some()
    }

    fn call(&mut self, name: &str, args: &[Value], fuel: u32) -> Result<Option<Value>, Trap> {
        let function = self.function(name).ok_or(Trap::NoFunction)?;
        let ty = function.ty(&self.store);
        let args: Vec<Val> = args
            .iter()
            .map(|value| match value {
                Value::I32(number) => Val::I32(*number),
                Value::I64(number) => Val::I64(*number),
            })
            .collect();
        let types: Vec<ValType> = args.iter().map(Val::ty).collect();
        if ty.params() != types.as_slice() {
            return Err(Trap::NoFunction);
        }
        self.store.set_fuel(u64::from(fuel)).unwrap();
        let mut results = vec![Val::I32(0); ty.results().len()];
        match function.call(&mut self.store, &args, &mut results) {
            Ok(()) => Ok(results.first().map(|value| match value {
                Val::I64(number) => Value::I64(*number),
                value => Value::I32(value.i32().unwrap_or(0)),
            })),
            Err(error) => Err(self.trap(&error)),
        }
    }

    fn memory(&mut self) -> Option<View<'_>> {
        let memory = self.instance.get_memory(&self.store, "memory")?;
        Some(View(memory.data_mut(&mut self.store)))
    }

    /// It has as much as it was made with.
    fn set_stack(&mut self, _: u32) -> Result<(), Exhausted> {
        Ok(())
    }

    fn host<T>(&mut self, look: impl FnOnce(&mut H) -> T) -> T {
        look(&mut self.store.data_mut().host)
    }
}
