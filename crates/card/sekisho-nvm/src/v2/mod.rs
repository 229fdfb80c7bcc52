//! Format 2: records belong to owners, pages are of equal rank, and one page is compacted at a time.

mod carry;
mod key;
mod open;
mod page;
mod ram;
mod record;
mod store;
mod write;

pub use key::{Key, Op, Prefix};
pub use ram::{Memory, Owned, Page, Ram, Tables};
pub use store::Store;
