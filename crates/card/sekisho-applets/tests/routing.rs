//! The routing agent: docs/spec/routing.md, whose worked SE this makes, whose exchanges it plays, and whose promises it tries.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

#[path = "routing/apart.rs"]
mod apart;
use sekisho_card_tests as common;
#[path = "routing/files.rs"]
mod files;
#[path = "routing/names.rs"]
mod names;
#[path = "routing/page.rs"]
mod page;
#[path = "routing/pairing.rs"]
mod pairing;
#[path = "routing/platform.rs"]
mod platform;
#[allow(unreachable_pub)] // as common
#[path = "routing/se.rs"]
mod se;
#[path = "routing/secure_only.rs"]
mod secure_only;
#[path = "routing/strangers.rs"]
mod strangers;
#[path = "routing/table.rs"]
mod table;
#[path = "routing/told.rs"]
mod told;
