//! The engine: `spacewasm` behind [`Engine`](crate::Engine).

use core::cell::RefCell;
use core::marker::PhantomData;
use core::ops::ControlFlow;

use spacewasm::{
    CodeBuilder, CompilerOptions, ExportDesc, FuncIdx, FuncType, HostFunction, HostFunctionBreak, HostModule,
    HostName, HostValList, Interpreter, InterpreterResult, InterpreterRunner, InvokeError, ModuleRef, Rc,
    Ref, TrapReason, ValType, ValidationError, Vec, WasmRef,
};

use crate::heap::LinearMemory;
use crate::image::Stream;
use crate::limits::{NESTING, OPERANDS};
use crate::scan::scan;
use crate::{
    Budget, Engine, Exhausted, Host, Image, Limits, Memory, OutOfBounds, Refusal, Trap, Value, ValueType, Why,
};

/// Control frames of a function: its blocks, and itself.
const FRAMES: usize = NESTING + 1;
/// Words of 16 bits that a byte of an image becomes at most (`i64.const -1`: 2 bytes, 5 words), in halves.
const WORDS_IN_TWO_BYTES: usize = 5;
/// Words of a page of the engine's code.
const PAGE_WORDS: usize = 256;

/// The engine that an SE uses.
pub type Module<'b, H> = Space<'b, H>;

/// A module in the engine `spacewasm`.
pub struct Space<'b, H> {
    engine: spacewasm::Engine,
    code: CodeBuilder,
    host: Rc<RefCell<H>>,
    trap: Rc<core::cell::Cell<Option<Trap>>>,
    _budget: PhantomData<&'b Budget>,
}

/// A module's memory.
#[derive(Clone, Copy)]
pub struct View<'m>(&'m spacewasm::Memory);

impl View<'_> {
    fn address(at: u32) -> Result<usize, OutOfBounds> {
        usize::try_from(at).map_err(|_| OutOfBounds)
    }
}

impl Memory for View<'_> {
    fn read(&self, at: u32, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let bytes = self.0.load(Self::address(at)?, out.len());
        out.copy_from_slice(bytes.map_err(|_| OutOfBounds)?);
        Ok(())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.0.store(Self::address(at)?, bytes).map_err(|_| OutOfBounds)
    }
}

/// The host's functions that a module imports, a bit for each, as the engine wants them: the others would take room of its budget.
fn functions<H: Host>(
    imported: u32,
    host: &Rc<RefCell<H>>,
    trap: &Rc<core::cell::Cell<Option<Trap>>>,
) -> Result<Vec<HostFunction>, Why> {
    let invalid = || Why::from_engine(ValidationError::FunctionImportTypeMismatch);
    let is_imported = |index: &usize| imported & bit(*index) != 0;
    let indices = 0..H::FUNCTIONS.len();
    let mut functions = match indices.clone().filter(is_imported).count() {
        0 => Vec::zero(),
        count => Vec::new(count)?,
    };
    for (index, import) in H::FUNCTIONS.iter().enumerate() {
        if !is_imported(&index) {
            continue;
        }
        let host = host.clone();
        let trap = trap.clone();
        let params = ["", "i", "ii", "iii", "iiii"]
            .get(import.params)
            .copied()
            .ok_or_else(invalid)?;
        let params = HostValList::try_new(params).map_err(|_| invalid())?;
        let result = HostValList::try_new("i").map_err(|_| invalid())?;
        let name = HostName::try_from_str(import.name).map_err(|_| invalid())?;
        let call = move |engine: &mut spacewasm::Engine, values: &[spacewasm::Value]| {
            let mut args = [0; 4];
            for (arg, value) in args.iter_mut().zip(values) {
                if let spacewasm::Value::I32(value) = value {
                    *arg = *value;
                }
            }
            // The host is borrowed while one of its functions runs, and they do not call the module.
            let result = match host.try_borrow_mut() {
                Ok(mut host) => host.call(index, &args, &mut View(&engine.memory)),
                Err(_) => Err(Trap::Host),
            };
            match result {
                Ok(value) => ControlFlow::Continue(Some(spacewasm::Value::I32(value))),
                Err(reason) => {
                    trap.set(Some(reason));
                    ControlFlow::Break(HostFunctionBreak::Trap)
                }
            }
        };
        let function = HostFunction::try_new(name, params, result, call).map_err(|_| Why::Heap)?;
        functions.try_push(function)?;
    }
    Ok(functions)
}

/// The bit of a host's function; none beyond the 32nd.
fn bit(index: usize) -> u32 {
    u32::try_from(index)
        .ok()
        .and_then(|index| 1_u32.checked_shl(index))
        .unwrap_or(0)
}

impl<H: Host> Space<'_, H> {
    fn new(image_len: usize, limits: &Limits, imported: u32, host: H) -> Result<Self, Why> {
        let host = Rc::new(RefCell::new(host))?;
        let trap = Rc::new(core::cell::Cell::new(None))?;
        let name = HostName::try_from_str(H::MODULE)
            .map_err(|_| Why::from_engine(ValidationError::FunctionImportNotFound))?;
        let mut modules = Vec::new(1)?;
        modules.try_push(HostModule {
            name,
            globals: Vec::zero(),
            functions: functions(imported, &host, &trap)?,
            memory: Vec::zero(),
            table: Vec::zero(),
        })?;
        let options = CompilerOptions {
            allow_memory_grow: true,
            max_backpatch_iterations: None,
            max_code_pages: image_len * WORDS_IN_TWO_BYTES / (2 * PAGE_WORDS) + 1,
        };
        let stack = usize::try_from(limits.stack).map_err(|_| Why::Heap)?;
        Ok(Self {
            engine: spacewasm::Engine::new(stack, 1, modules).map_err(|_| Why::Heap)?,
            code: CodeBuilder::new(options)?,
            host,
            trap,
            _budget: PhantomData,
        })
    }

    /// An exported function of the module, with its type.
    fn find(&self, name: &str) -> Option<(u16, &FuncType)> {
        let module = self.engine.store.modules().first()?;
        let export = module.exports.iter().find(|export| &*export.name == name)?;
        let ExportDesc::Func(FuncIdx(index)) = export.desc else {
            return None;
        };
        let Some(Ref::Module(index)) = module.get_func_ref(FuncIdx(index)) else {
            return None;
        };
        let function = module.functions.get(usize::from(index))?;
        let function_type = module.types.get(usize::try_from(function.ty.0).ok()?)?;
        Some((index, function_type))
    }

    fn trap(&self, reason: TrapReason) -> Trap {
        match reason {
            TrapReason::Unreachable => Trap::Unreachable,
            TrapReason::DivideByZero | TrapReason::IntegerOverflow => Trap::Arithmetic,
            TrapReason::InvalidTableIndex
            | TrapReason::InvalidTableFunctionType
            | TrapReason::UninitializedTableElement => Trap::IndirectCall,
            TrapReason::MemoryOutOfBounds | TrapReason::OutOfMemory => Trap::Memory,
            TrapReason::StackOverflow => Trap::Stack,
            _ => self.trap.take().unwrap_or(Trap::Host),
        }
    }
}

const fn value_type(ty: ValueType) -> ValType {
    match ty {
        ValueType::I32 => ValType::I32,
        ValueType::I64 => ValType::I64,
    }
}

impl<'b, H: Host> Engine<'b, H> for Space<'b, H> {
    type Memory<'m>
        = View<'m>
    where
        Self: 'm;

    fn load(_: &'b Budget, image: &mut Image<'_>, limits: &Limits, host: H) -> Result<Self, Refusal> {
        let mut imported = 0;
        scan(image, limits, &mut |name| {
            let mut names = H::FUNCTIONS.iter().map(|import| import.name.as_bytes());
            imported |= names.position(|own| own == name).map_or(0, bit);
        })?;
        let here = |why| Refusal { at: 0, why };
        let mut space = Self::new(image.len(), limits, imported, host).map_err(here)?;
        let no_memory = |_| here(Why::Heap);
        let linear = Rc::new(LinearMemory {
            is_sealed: core::cell::Cell::new(false),
        });
        let linear = linear.map_err(no_memory)?;
        let module = spacewasm::Module::new::<FRAMES, OPERANDS>(
            "",
            &mut Stream::new(image),
            &mut space.engine.store,
            &mut space.code,
            linear.clone().into_wasm_memory_allocator(),
        )?;
        linear.is_sealed.set(true);
        space.engine.push_module(module).map_err(no_memory)?;
        Ok(space)
    }

    fn has(&self, name: &str, params: &[ValueType], result: Option<ValueType>) -> bool {
        let Some((_, ty)) = self.find(name) else {
            return false;
        };
        let same = |have: &[ValType], want: &[ValueType]| {
            have.len() == want.len()
                && have
                    .iter()
                    .zip(want)
                    .all(|(have, want)| *have == value_type(*want))
        };
        same(&ty.params, params) && same(&ty.returns, result.as_slice())
    }

    fn call(&mut self, name: &str, args: &[Value], fuel: u32) -> Result<Option<Value>, Trap> {
        let (index, ty) = self.find(name).ok_or(Trap::NoFunction)?;
        let result = ty.returns.first().copied();
        let mut values = [spacewasm::Value::I32(0); 4];
        let values = values.get_mut(..args.len()).ok_or(Trap::NoFunction)?;
        for (value, arg) in values.iter_mut().zip(args) {
            *value = match arg {
                Value::I32(number) => spacewasm::Value::I32(*number),
                Value::I64(number) => spacewasm::Value::I64(*number),
            };
        }
        self.engine.reset();
        let function = WasmRef {
            module: ModuleRef(0),
            index,
        };
        self.engine
            .invoke(function, values)
            .map_err(|error| match error {
                InvokeError::StackOverflow => Trap::Stack,
                _ => Trap::NoFunction,
            })?;
        let fuel = usize::try_from(fuel).unwrap_or(usize::MAX);
        match Interpreter.run(self.code.pages(), &mut self.engine, fuel) {
            InterpreterResult::Finished => Ok(match (result, self.engine.result) {
                (Some(ValType::I32), Some(raw)) => Some(Value::I32(raw.read_32().cast_signed())),
                (Some(ValType::I64), Some(raw)) => Some(Value::I64(raw.read_64().cast_signed())),
                _ => None,
            }),
            InterpreterResult::Trap(reason) => Err(self.trap(reason)),
            InterpreterResult::OutOfFuel => Err(Trap::Fuel),
            InterpreterResult::Pause => Err(Trap::Host),
        }
    }

    fn memory(&mut self) -> Option<View<'_>> {
        let module = self.engine.store.modules().first()?;
        let is_exported = module
            .exports
            .iter()
            .any(|export| &*export.name == "memory" && matches!(export.desc, ExportDesc::Mem(_)));
        is_exported.then(|| View(self.engine.store.get_memory(ModuleRef(0))))
    }

    fn set_stack(&mut self, words: u32) -> Result<(), Exhausted> {
        let words = usize::try_from(words.max(1)).map_err(|_| Exhausted)?;
        let of = |words| spacewasm::Stack::new(words).map_err(|_| Exhausted);
        self.engine.reset();
        // The old one goes first, so that there are never two.
        self.engine.stack = of(1)?;
        self.engine.stack = of(words)?;
        Ok(())
    }

    fn host<T>(&mut self, look: impl FnOnce(&mut H) -> T) -> T {
        look(&mut self.host.borrow_mut())
    }
}
