//! Format 2: records belong to owners, pages are of equal rank, and one page is compacted at a time.

mod key;

pub use key::{Key, Op, Prefix};
