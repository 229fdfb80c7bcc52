//! Why a module does not load.

use core::fmt;

use spacewasm::{AllocError, MemoryError, ParseError, ValidationError};

/// A module that does not load: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Byte of the image up to which it was read.
    pub at: usize,
    /// Why.
    pub why: Why,
}

/// Why a module does not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A float type or instruction.
    Float,
    /// An instruction, a section or a form that WebAssembly 1.0 has not; its byte.
    Level(u8),
    /// A size above its limit: which, and the limit.
    Limit(&'static str, u32),
    /// A start function.
    Start,
    /// An import that is no function.
    Import,
    /// The budget is used up.
    Heap,
    /// The image could not be read.
    Read,
    /// It is not valid.
    Invalid(Cause),
}

/// What the engine found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(ValidationError);

impl Why {
    /// The engine's error; a failed allocation is told from a wrong module.
    pub(crate) fn from_engine(error: ValidationError) -> Self {
        match error {
            ValidationError::AllocError(_)
            | ValidationError::GuestMemoryAllocationFailure
            | ValidationError::MemoryError(
                MemoryError::OutOfMemory | MemoryError::AllocationFailed | MemoryError::PageTooSmall,
            ) => Self::Heap,
            ValidationError::ReaderError(_) => Self::Read,
            ValidationError::InvalidOpcode(opcode) => Self::Level(opcode),
            error => Self::Invalid(Cause(error)),
        }
    }
}

impl From<ValidationError> for Why {
    fn from(error: ValidationError) -> Self {
        Self::from_engine(error)
    }
}

impl From<AllocError> for Why {
    fn from(_: AllocError) -> Self {
        Self::Heap
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self {
            at: usize::try_from(error.offset).unwrap_or(usize::MAX),
            why: Why::from_engine(error.err.err),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float => f.write_str("it uses floats, which a secure element does not have"),
            Self::Level(byte) => {
                write!(
                    f,
                    "{byte:02X} is not WebAssembly 1.0; for Rust build it for wasm32v1-none"
                )
            }
            Self::Limit(what, limit) => write!(f, "{what}: {limit} at most"),
            Self::Start => f.write_str("it has a start function"),
            Self::Import => f.write_str("it imports something that is no function"),
            Self::Heap => f.write_str(
                "it needs more memory than the secure element gives it, or more than 127 values on a function's operand stack",
            ),
            Self::Read => f.write_str("the image could not be read"),
            Self::Invalid(Cause(error)) => write!(f, "it is not valid: {error:?}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.why)
    }
}

impl core::error::Error for Refusal {}
