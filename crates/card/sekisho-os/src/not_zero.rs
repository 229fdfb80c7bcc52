//! What tells an empty place from a full one by zeros.

/// A number that is never 0. The compiler tells an empty place for a value that has one by this number, 0, where a `bool` would make it 2: empty places are zeros, and a chip's
/// flash has no copy of an SE that is off (`docs/decisions/0018-firmware.md`; the budget's row "data at the start" sees where one is not).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum NotZero {
    /// There is a value.
    Value = 1,
}
