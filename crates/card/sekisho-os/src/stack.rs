//! Wiping the stack. Rust moves values by copying them, and what a value leaves where it was is not wiped when it is dropped: a key that has been
//! on the stack stays there until something else is written over it. A ratchet's old keys must not stay.

use zeroize::optimization_barrier;

use crate::profile::Profile;

/// Bytes of one piece.
const PIECE: usize = 1024;
/// Bytes above the lowest address that are left alone: a piece, and the frame that writes it.
const LEFT: usize = 2 * PIECE;

/// How deep a command has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Nobody has said: as deep as any.
    Unknown,
    /// Not beyond [`Profile::shallow`]: an application has said so of its command.
    Shallow,
    /// As deep as any, whatever an application says.
    Whole,
}

/// The stack below whoever wipes it.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    /// How much of it is wiped.
    bytes: usize,
    /// Its lowest address.
    low: usize,
}

impl Stack {
    /// As much as a command of this depth uses; `low` is the lowest address ([`Platform::stack_low`](crate::Platform::stack_low)).
    pub(crate) fn of(profile: &Profile, depth: Depth, low: usize) -> Self {
        Self {
            bytes: match depth {
                Depth::Shallow => profile.shallow.min(profile.stack),
                Depth::Unknown | Depth::Whole => profile.stack,
            },
            low,
        }
    }

    /// Whether there is so much below the caller.
    pub(crate) fn is_there(self) -> bool {
        self.bytes <= here().saturating_sub(self.low)
    }

    /// Writes zeros over it, rounded up to pieces, and not beyond its end. Whoever calls this must have called what used keys as a function
    /// of its own that was not inlined, or they were on the caller's part of the stack.
    #[inline(always)]
    pub(crate) fn wipe(self) {
        let there = here().saturating_sub(self.low).saturating_sub(LEFT);
        wipe(self.bytes.min(there));
    }
}

/// Nothing but the piece stands in its frame: what is not written would keep what was there.
#[inline(never)]
fn wipe(bytes: usize) {
    let piece = [0u8; PIECE];
    // The zeros must have been written here, in whatever way is quickest.
    optimization_barrier(&piece);
    if let Some(rest) = bytes.checked_sub(PIECE) {
        wipe(rest);
    }
    // Behind the call, so that it is no tail call and each piece is on a stack frame of its own.
    optimization_barrier(&piece);
}

/// Where on the stack its caller's frame ends. A variable, since a constant would stand elsewhere.
#[inline(never)]
fn here() -> usize {
    let local = 0u8;
    optimization_barrier(&local);
    core::ptr::from_ref(&local).addr()
}
