//! The paging server's engine: UDP polls in, answers out, on one pinned thread for each core, without a database in the path of a poll.
//!
//! ```text
//!  socket (SO_REUSEPORT, one per worker)      shared
//!   recvmmsg, 64 at once                       ring of ticket keys   (arc-swap)
//!   for each: Ring::open -> slot -> receive    table of devices      (a lock of one byte each)
//!             intents -> answer                intents               (arc-swap)
//!   [scheme random: journal, fdatasync]        index of identities   (scheme random)
//!   sendmmsg
//! ```
//!
//! * [`Engine`]: starts, is told what changes, is asked what it has seen, stops.
//! * [`Registration`], [`Intent`]: what it is told of devices and messages.
//! * [`signals`]: what it counts; [`alarms`]: what it finds wrong.
//! * A snapshot, written behind, lets it start again in seconds; scheme `random` also has a journal that is written before each answer.
//!
//! Protocol: `docs/spec/paging.md`. What a poll costs beside a bare echo: `sekisho bench paging`.

#![forbid(unsafe_code)]

mod ahead;
pub mod alarms;
mod engine;
mod intents;
mod journal;
mod settings;
pub mod signals;
mod snapshot;
pub mod socket;
mod table;
mod worker;

pub use ahead::Ahead;
pub use engine::{DeviceView, Engine, Quality, RecoverError, StartError};
pub use intents::{Intent, Target};
pub use settings::{Registration, RootKeys, Scheme, Settings};
pub use snapshot::SnapshotError;
