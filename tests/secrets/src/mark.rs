//! Bytes that must decide nothing. Outside valgrind nothing happens here.

unsafe extern "C" {
    fn sekisho_mark(bytes: *const u8, len: usize);
    fn sekisho_unmark(bytes: *const u8, len: usize);
}

/// These bytes are secret: a branch or an address that depends on them, or on what is computed from them, is reported.
pub(crate) fn mark(bytes: &[u8]) {
    // SAFETY: memcheck notes it beside the bytes; the bytes stay as they are.
    unsafe { sekisho_mark(bytes.as_ptr(), bytes.len()) }
}

/// These bytes have gone to somebody else, and are no secret any more.
pub(crate) fn unmark(bytes: &[u8]) {
    // SAFETY: as above.
    unsafe { sekisho_unmark(bytes.as_ptr(), bytes.len()) }
}
