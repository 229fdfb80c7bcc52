//! The agent beside the secure element (SE): downloads the bulk, asks for permission, plays the commands, reports.
//!
//! It holds no key and is trusted with nothing: what it can do wrong, the SE refuses and the server notices. One call of [`Agent::turn`] goes
//! as far as it can; a loss of power, network or process at any point costs the work since the last step at most, since the state is where it
//! cannot get lost: the bulk in the [`Spool`], how far it has been written and what became of it in the SE itself.
//!
//! ```text
//! offer --> Preloaded --EQU--> Performance --play--> Status --ST--> verdict
//!             spool    P_AUT                receipt of the SE
//! ```
//!
//! * [`update`]: the update's states and what leads from one to the next. No IO.
//! * [`Facts`]: what the SE says of itself.
//! * [`Backend`]: the server, by [`HttpsBackend`] or in process.
//! * [`Spool`]: what survives, on disk ([`DiskSpool`]) or for a run ([`MemorySpool`]).
//! * [`Backoff`]: when to try again.
//! * [`tls`]: the device's part of a TLS session that ends in the SE.
//! * [`sensor`]: what the device's sensor says, kept in the SE.
//! * [`SharedCard`]: the SE for several of these at once.
//! * [`paging`]: the datagrams and timers of SecApp, by which a device hears that there is an update.
//!
//! Protocol: `docs/spec/broadcast-update.md`, sections 4.3 to 5.

#![forbid(unsafe_code)]

mod agent;
mod backend;
mod backoff;
mod disk;
mod error;
mod facts;
mod https;
pub mod paging;
pub mod sensor;
mod shared;
mod spool;
pub mod tls;
pub mod update;

pub use agent::{Agent, Event, HandOver, Turn};
pub use backend::{Backend, BackendError, Part, Permission};
pub use backoff::Backoff;
pub use disk::{DiskSpool, hand_over};
pub use error::AgentError;
pub use facts::Facts;
pub use https::{Certified, HttpsBackend, HttpsConfig, LinkToken};
pub use shared::SharedCard;
pub use spool::{MemorySpool, Spool};
pub use update::Pace;
