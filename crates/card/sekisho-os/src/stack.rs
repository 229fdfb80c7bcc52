//! Wiping the stack. Rust moves values by copying them, and what a value leaves where it was is not wiped when it is dropped: a key that has been
//! on the stack stays there until something else is written over it. A ratchet's old keys must not stay.

use core::hint::black_box;

use zeroize::Zeroize;

/// Bytes of one piece.
const PIECE: usize = 1024;

/// A piece in words, which are written one by one: bytes would take eight times as long.
type Piece = [u64; PIECE / 8];

/// Writes zeros over the `bytes` of stack below its caller, rounded up to pieces. Whoever calls it must have called what used keys as a function
/// of its own that was not inlined, or they were on the caller's part of the stack.
#[inline(never)]
pub(crate) fn wipe(bytes: usize) {
    let mut piece: Piece = [0; PIECE / 8];
    piece.zeroize();
    if let Some(rest) = bytes.checked_sub(PIECE) {
        wipe(rest);
    }
    // Behind the call, so that it is no tail call and each piece is on a stack frame of its own.
    black_box(&piece);
}
