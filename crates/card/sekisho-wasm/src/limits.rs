//! What a module may name, and what it may cost. One type for validation and for running.

/// Blocks inside each other in a function: the engine's own stack for them is of this size.
pub const NESTING: usize = 64;
/// Values on the operand stack of a function. A branch drops at most 254 words of it, which is what the engine can encode.
pub const OPERANDS: usize = 127;
/// Bytes of a name: of an import, an export or a custom section.
pub const NAME: usize = 32;

/// Every size that a module can name.
///
/// [`NESTING`], [`OPERANDS`] and [`NAME`] belong to them; they are constants, because arrays are made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the image.
    pub image: u32,
    /// Function types.
    pub types: u32,
    /// Parameters of a function.
    pub params: u32,
    /// Imports.
    pub imports: u32,
    /// Functions that the module defines.
    pub functions: u32,
    /// Elements of the table, also of its maximum.
    pub table: u32,
    /// Bytes of the memory with which the module begins, which is all it has.
    pub memory: usize,
    /// Globals.
    pub globals: u32,
    /// Exports.
    pub exports: u32,
    /// Element segments, and as many data segments.
    pub segments: u32,
    /// Words (of 4 bytes) of a function's locals without its parameters.
    pub locals: u32,
    /// Groups of locals of one type in a function.
    pub local_groups: u32,
    /// Targets of a `br_table`, without the default.
    pub targets: u32,
    /// Words of the stack on which all functions run.
    pub stack: u32,
    /// Bytes that the engine may allocate for all of this.
    pub heap: usize,
}

impl Limits {
    /// The limits of `docs/spec/os-part.md`, for an SE that gives `ram` bytes.
    pub const fn os_part(ram: usize) -> Self {
        Self {
            image: 768 * 1024,
            types: 256,
            params: 64,
            imports: 16,
            functions: 4096,
            table: 1024,
            memory: ram,
            globals: 256,
            exports: 64,
            segments: 256,
            locals: 1024,
            local_groups: 128,
            targets: 256,
            stack: 2048,
            heap: ram,
        }
    }
}
