//! The stack of a command, seen from outside.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

/// Stack that is looked at.
pub const LOOKED_AT: usize = 512 * 1024;
pub const PAINT: u8 = 0xA5;
const PIECE: usize = 1024;

/// Paints so much of the stack below its caller.
#[inline(never)]
fn paint(bytes: usize) {
    let mut piece = [0u8; PIECE];
    piece.fill(PAINT);
    black_box(&mut piece);
    if let Some(rest) = bytes.checked_sub(PIECE) {
        paint(rest);
    }
    black_box(&piece);
}

/// The stack below this function's frame, painted, and what `work` has made of it; the last byte is the nearest.
#[inline(never)]
pub fn below(work: impl FnOnce()) -> (Vec<u8>, Vec<u8>) {
    let here = black_box(0u64);
    let top = std::ptr::from_ref(&here).addr() as u64;
    let memory = File::open("/proc/self/mem").unwrap();
    let (mut before, mut after) = (vec![0; LOOKED_AT], vec![0; LOOKED_AT]);
    let from = top - LOOKED_AT as u64;
    paint(LOOKED_AT);
    memory.read_exact_at(&mut before, from).unwrap();
    work();
    memory.read_exact_at(&mut after, from).unwrap();
    (before, after)
}

/// Bytes of stack that `work` used.
#[inline(never)]
pub fn depth(work: impl FnOnce()) -> usize {
    let (before, after) = below(work);
    let deepest = before
        .iter()
        .zip(&after)
        .position(|(before, after)| before != after);
    LOOKED_AT - deepest.unwrap()
}
