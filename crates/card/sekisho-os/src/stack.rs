//! Wiping the stack. Rust moves values by copying them, and what a value leaves where it was is not wiped when it is dropped: a key that has been
//! on the stack stays there until something else is written over it. A ratchet's old keys must not stay.

use zeroize::optimization_barrier;

/// Bytes of one piece.
const PIECE: usize = 1024;

/// Writes zeros over the `bytes` of stack below its caller, rounded up to pieces. Whoever calls it must have called what used keys as a function
/// of its own that was not inlined, or they were on the caller's part of the stack.
#[inline(never)]
pub(crate) fn wipe(bytes: usize) {
    let piece = [0u8; PIECE];
    // The zeros must have been written here, in whatever way is quickest.
    optimization_barrier(&piece);
    if let Some(rest) = bytes.checked_sub(PIECE) {
        wipe(rest);
    }
    // Behind the call, so that it is no tail call and each piece is on a stack frame of its own.
    optimization_barrier(&piece);
}
