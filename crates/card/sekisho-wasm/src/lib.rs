//! WebAssembly for the secure element (`docs/spec/os-part.md`): what a module is, what it may name, what running it may cost.
//!
//! [`Engine`] is what the operating system asks for: load a module, see what it exports, call it, read and write its memory. [`Space`] is the engine,
//! the crate `spacewasm` behind it (`docs/decisions/0006-wasm-engine.md`). The tests run the same modules in a second one.
//!
//! # What a module cannot do
//!
//! * **Name a size that is not bounded.** A scan over the whole image (`scan`) comes before the engine sees a byte: floats, levels above 1.0, start
//!   functions and every size above [`Limits`] are refused there. It is ours, so that the limits are the specification's and no engine's.
//! * **Take more memory than its budget.** All that the engine allocates for a module, its memory and its stack included, comes from one
//!   [`Budget`]; when it is used up, loading is refused with [`Why::Heap`]. While code runs, nothing is allocated.
//! * **Run longer than its fuel**, counted by instruction, exactly.
//! * **Reach anything but its imports**, which are the [`Host`]'s functions.
//!
//! # Unsafe code
//!
//! Only `heap` and `image` have any: the two allocation functions that the engine links to, and a view of the image as the engine's chunk.
#![no_std]
#![warn(clippy::indexing_slicing)]

extern crate alloc;
#[cfg(any(test, not(target_os = "none")))]
#[macro_use]
extern crate std;

mod heap;
mod image;
mod limits;
mod refusal;
mod scan;
mod space;
#[cfg(test)]
mod tests;

pub use heap::{Budget, Bytes, Exhausted};
pub use image::{CHUNK, Image, ReadAt, ReadFailed};
pub use limits::{Limits, NAME, NESTING, OPERANDS};
pub use refusal::{Cause, Refusal, Why};
pub use space::{Module, Space};

use core::fmt;

/// A value of a module: there are no others without floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// i32.
    I32(i32),
    /// i64.
    I64(i64),
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// i32.
    I32,
    /// i64.
    I64,
}

/// Why a call ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// There is no such function, or it is of another type.
    NoFunction,
    /// More instructions than the call was given.
    Fuel,
    /// The stack is used up.
    Stack,
    /// `unreachable`.
    Unreachable,
    /// An address outside the memory.
    Memory,
    /// Division by zero, or a quotient that does not fit.
    Arithmetic,
    /// An indirect call of no function, or of one of another type.
    IndirectCall,
    /// The host ended it.
    Host,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFunction => "no such function is exported",
            Self::Fuel => "it used up its fuel",
            Self::Stack => "it used up its stack",
            Self::Unreachable => "it reached `unreachable` (in Rust: a panic)",
            Self::Memory => "an address outside its memory",
            Self::Arithmetic => "division by zero, or a quotient that does not fit",
            Self::IndirectCall => "an indirect call of no function, or of one of another type",
            Self::Host => "a host function ended it",
        })
    }
}

/// A range of a module's memory lies outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

/// A module's memory.
pub trait Memory {
    /// Fills `out` from address `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    fn read(&self, at: u32, out: &mut [u8]) -> Result<(), OutOfBounds>;

    /// Writes `bytes` to address `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`]; nothing is written.
    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), OutOfBounds>;
}

/// A function that a module may import: all its parameters and its result are i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its name, up to 31 bytes.
    pub name: &'static str,
    /// Number of parameters, up to 4.
    pub params: usize,
}

/// What a module may import.
pub trait Host: 'static {
    /// The imports' module name, up to 31 bytes.
    const MODULE: &'static str;
    /// The functions, 32 at most.
    const FUNCTIONS: &'static [Import];

    /// Does function `index` of [`FUNCTIONS`](Self::FUNCTIONS); as many of `args` count as it has parameters.
    ///
    /// # Errors
    /// The trap that ends the module's call.
    fn call(&mut self, index: usize, args: &[i32; 4], memory: &mut dyn Memory) -> Result<i32, Trap>;
}

/// A module, loaded and ready to be called. Its heap is the budget's, as long as it lives.
pub trait Engine<'b, H: Host>: Sized {
    /// Its view of the memory.
    type Memory<'m>: Memory
    where
        Self: 'm;

    /// Checks the whole image and makes an instance of it.
    ///
    /// # Errors
    /// [`Refusal`]: where in the image, and why.
    fn load(budget: &'b Budget, image: &mut Image<'_>, limits: &Limits, host: H) -> Result<Self, Refusal>;

    /// Whether a function of this name and type is exported.
    fn has(&self, name: &str, params: &[ValueType], result: Option<ValueType>) -> bool;

    /// Calls an exported function, with `fuel` instructions at most.
    ///
    /// # Errors
    /// [`Trap`].
    fn call(&mut self, name: &str, args: &[Value], fuel: u32) -> Result<Option<Value>, Trap>;

    /// The memory, if it is exported as `memory`.
    fn memory(&mut self) -> Option<Self::Memory<'_>>;

    /// Gives the module a stack of so many words in the place of the one of [`Limits::stack`] words with which it has been loaded; never while a call runs.
    ///
    /// # Errors
    /// [`Exhausted`]: it has none then, and every call is [`Trap::Stack`].
    fn set_stack(&mut self, words: u32) -> Result<(), Exhausted>;

    /// Looks at the host, or changes it; never while a call runs.
    fn host<T>(&mut self, look: impl FnOnce(&mut H) -> T) -> T;
}
