//! Tickets: identities that carry the device's number, encrypted under a key of the server (`docs/spec/paging.md`, 6).
//!
//! Whoever has the ticket key reads the device's number out of an identity with one AES block, and needs no index; an identity that nobody
//! issued fails its check there. A ticket is a permutation of what it carries: two are never the same.

use core::fmt;
use sekisho_apdu::Reader;
use sekisho_keys::BlockCipher;

use crate::datagram::{ALGORITHM, Uid};
use crate::keys::Keyspace;

/// The most ticket keys that are live at once, over all domains.
pub const RING_MAX: usize = 16;

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The device's number in the registry.
    pub index: u32,
    /// The device's keyspace.
    pub keyspace: Keyspace,
    /// How many polls it has had answered in this generation.
    pub counter: u32,
    /// The epoch of the ticket key.
    pub epoch: u32,
}

impl Ticket {
    /// Where it stands in the life of its device: generation first, then counter.
    pub const fn position(&self) -> u64 {
        (self.keyspace.generation as u64) << 32 | self.counter as u64
    }
}

/// A ticket key of a domain, in an epoch.
#[derive(Clone)]
pub struct TicketKey {
    domain: u8,
    epoch: u32,
    issues: bool,
    cipher: BlockCipher,
}

impl TicketKey {
    /// A key of a domain; epochs of a domain grow. A new key is `issues: false` until every server of the domain has it: accepted, but not
    /// used for new identities.
    pub fn new(domain: u8, epoch: u32, key: &[u8; 16], issues: bool) -> Self {
        Self {
            domain,
            epoch,
            issues,
            cipher: BlockCipher::new(key),
        }
    }

    /// Its domain.
    pub const fn domain(&self) -> u8 {
        self.domain
    }

    /// Its epoch.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The identity of device `index`.
    pub fn seal(&self, index: u32, generation: u32, counter: u32) -> Uid {
        let [i0, i1, i2, i3] = index.to_be_bytes();
        let [c0, c1, c2, c3] = counter.to_be_bytes();
        let [_, g0, g1, g2] = generation.to_be_bytes();
        let mut block = [0, 0, 0, 0, ALGORITHM, g0, g1, g2, i0, i1, i2, i3, c0, c1, c2, c3];
        self.cipher.encrypt(&mut block);
        Uid(block)
    }

    /// What the identity says, if this key made it.
    pub fn open(&self, uid: &Uid) -> Option<Ticket> {
        let mut block = uid.0;
        self.cipher.decrypt(&mut block);
        let mut r = Reader::new(&block);
        if r.array().ok()? != [0, 0, 0, 0, ALGORITHM] {
            return None;
        }
        let generation = r.u24().ok()?;
        Some(Ticket {
            index: r.u32().ok()?,
            keyspace: Keyspace {
                domain: self.domain,
                generation,
            },
            counter: r.u32().ok()?,
            epoch: self.epoch,
        })
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKey(domain {}, epoch {})", self.domain, self.epoch)
    }
}

/// The live ticket keys. Identities are issued under the newest of a domain that issues, and accepted under any that is still here: a key stays for as
/// long as the longest sleep of a device.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Newest first within a domain.
    keys: [Option<TicketKey>; RING_MAX],
}

/// There are [`RING_MAX`] keys already, or the epoch is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFull;

impl fmt::Display for RingFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring has no place for this ticket key")
    }
}

impl core::error::Error for RingFull {}

impl Ring {
    /// A ring without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    ///
    /// # Errors
    /// [`RingFull`].
    pub fn add(&mut self, key: TicketKey) -> Result<(), RingFull> {
        let known = |held: &TicketKey| held.domain == key.domain && held.epoch == key.epoch;
        if self.keys.iter().flatten().any(known) {
            return Err(RingFull);
        }
        let free = self.keys.iter_mut().find(|slot| slot.is_none()).ok_or(RingFull)?;
        *free = Some(key);
        self.sort();
        Ok(())
    }

    /// Drops a key: devices that still have its identities must come back over HTTPS.
    pub fn drop_key(&mut self, domain: u8, epoch: u32) {
        for slot in &mut self.keys {
            if slot
                .as_ref()
                .is_some_and(|key| key.domain == domain && key.epoch == epoch)
            {
                *slot = None;
            }
        }
        self.sort();
    }

    /// The global domain's newest key, which most polls come under, is tried first; empty places are last.
    fn sort(&mut self) {
        self.keys.sort_unstable_by_key(|slot| {
            let held = slot.as_ref();
            (held.is_none(), held.map(|key| (key.domain, u32::MAX - key.epoch)))
        });
    }

    /// What the identity says; `None` when no live key made it.
    pub fn open(&self, uid: &Uid) -> Option<Ticket> {
        self.keys
            .iter()
            .map_while(Option::as_ref)
            .find_map(|key| key.open(uid))
    }

    /// The newest key of a domain that issues identities.
    pub fn issuing(&self, domain: u8) -> Option<&TicketKey> {
        self.keys
            .iter()
            .map_while(Option::as_ref)
            .find(|key| key.domain == domain && key.issues)
    }

    /// The key of a domain in an epoch.
    pub fn epoch(&self, domain: u8, epoch: u32) -> Option<&TicketKey> {
        self.keys
            .iter()
            .flatten()
            .find(|key| key.domain == domain && key.epoch == epoch)
    }

    /// All of them.
    pub fn keys(&self) -> impl Iterator<Item = &TicketKey> {
        self.keys.iter().flatten()
    }
}
