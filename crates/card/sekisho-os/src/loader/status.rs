//! The loader's own status words (broadcast update, 2.5).

use sekisho_apdu::StatusWord;

/// The designer's signature is wrong.
pub const SIGNATURE: StatusWord = StatusWord(0x9501);
/// Rollback: the version is not above the active one, or the active one is below the least that may be replaced.
pub const ROLLBACK: StatusWord = StatusWord(0x9502);
/// The digest or a code is wrong.
pub const INTEGRITY: StatusWord = StatusWord(0x9503);
/// A block out of sequence, or the return before the image is whole.
pub const SEQUENCE: StatusWord = StatusWord(0x9504);
/// Code format or ABI unknown, or the module does not load.
pub const CODE: StatusWord = StatusWord(0x9505);
/// Another campaign is staged.
pub const CAMPAIGN: StatusWord = StatusWord(0x9506);
