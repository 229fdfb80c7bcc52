//! How an engine is set up, and what it is told of a device.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sekisho_paging::keys::{Keyspace, PollKey, Root};
use zeroize::Zeroizing;

/// Where identities come from (`docs/spec/paging.md`, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Tickets: nothing is written before an answer.
    #[default]
    Ticket,
    /// Random identities: each is durable before its answer leaves.
    Random,
}

/// How an engine is set up.
#[derive(Clone)]
pub struct Settings {
    /// Address of the UDP socket; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Worker threads, each pinned to a core of its own as far as there are any.
    pub threads: usize,
    /// The first core to pin to; `None` pins to none.
    pub first_core: Option<usize>,
    /// Where identities come from.
    pub scheme: Scheme,
    /// Domain of the server: 0 is the global one.
    pub domain: u8,
    /// Where snapshot and journal are kept. Without it nothing outlives the process, which scheme `random` does not allow.
    pub directory: Option<PathBuf>,
    /// Seals the snapshot and the journal, which hold keys.
    pub seal_key: Zeroizing<[u8; 32]>,
    /// Time between two snapshots.
    pub snapshot_every: Duration,
    /// Failed polls a second, from one network prefix, from which on it is denial of service.
    pub alarm_rate: u32,
}

/// What the engine is told of a device.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its number: the ticket's.
    pub index: u32,
    /// Its SE-id.
    pub se_id: [u8; 10],
    /// Its group.
    pub group: u16,
    /// Whether its key rolls.
    pub rolling: bool,
    /// A keyspace in which it is known to be, or beyond.
    pub keyspace: Keyspace,
    /// Whether it gets no answers.
    pub blocked: bool,
    /// Its key in that keyspace, when the root is not to be asked: at a local server, and for a rolling device.
    pub start: Option<PollKey>,
    /// Its identity at the start, in scheme `random`.
    pub uid: Option<sekisho_paging::Uid>,
}

/// Who knows the roots of the devices. At a local server: nobody.
pub trait RootKeys: Send + Sync {
    /// The root of an SE.
    fn root(&self, se_id: &[u8; 10]) -> Option<Root>;
}
