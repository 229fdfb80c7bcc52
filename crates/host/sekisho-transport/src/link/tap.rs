//! For whoever reads along.

use std::sync::Arc;

use sekisho_block::lr1::{From, Record};

/// What a link has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A record, and which end said it.
    Record(From, Record<'a>),
    /// A whole command, before its frames or behind them.
    Command(&'a [u8]),
    /// Its answer.
    Answer(&'a [u8]),
}

/// Whoever reads along, at either end. What it is shown has secrets in it, as whatever is sent in the clear.
pub type Tap = Arc<dyn Fn(Seen<'_>) + Send + Sync>;
