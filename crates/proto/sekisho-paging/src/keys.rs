//! Keys: what a device shares with the server, and what is derived from it (`docs/spec/paging.md`, 3).

use core::fmt;
use sekisho_keys::{AesKey, cmac, ecb_block, kdf_label};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::datagram::Uid;

/// Labels of the derivations (SP 800-108). The digit is the protocol's version: another version has other keys.
const POLL: &[u8] = b"poll1";
const SUBKEYS: &[u8] = b"keys1";
const ROLL: &[u8] = b"roll1";
const RECOVERY: &[u8] = b"recover1";
const CHAIN: &[u8] = b"chain1";
const FIRST_UID: &[u8] = b"uid1";

/// Bytes of an AES-128 key.
pub(crate) const KEY: usize = 16;
/// Bytes of [`PollKeys`].
pub const POLL_KEYS: usize = 3 * KEY;

/// Which keys of a device are meant: those for a server domain, in a generation. Domain 0 is the global server; others are local servers,
/// which get the keys of their own domain and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Keyspace {
    /// The domain.
    pub domain: u8,
    /// Grows by one whenever the device is moved or comes back by recovery, so that a domain that lost a device cannot follow it.
    /// Twenty-four bits.
    pub generation: u32,
}

/// The last generation.
pub const GENERATION_MAX: u32 = 0x00FF_FFFF;

impl Keyspace {
    /// Domain and generation in four bytes.
    pub const fn to_u32(self) -> u32 {
        (self.domain as u32) << 24 | self.generation & GENERATION_MAX
    }

    /// The keyspace of these four bytes.
    pub const fn from_u32(value: u32) -> Self {
        let [domain, ..] = value.to_be_bytes();
        Self {
            domain,
            generation: value & GENERATION_MAX,
        }
    }

    /// The same device's next generation, in a domain; `None` after the last.
    pub const fn next(self, domain: u8) -> Option<Self> {
        if self.generation < GENERATION_MAX {
            Some(Self {
                domain,
                generation: self.generation + 1,
            })
        } else {
            None
        }
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name(pub(crate) [u8; $len]);

        impl $name {
            /// A key of these bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The key itself: only to store it.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                sekisho_keys::ct_eq(&self.0, &other.0)
            }
        }

        impl Eq for $name {}
    };
}

secret! {
    /// What an SE and the server's registry share. Nothing is ever encrypted under it.
    Root, KEY
}
secret! {
    /// K1 (and K2) of the seed: the key of a poll, from which [`PollKeys`] come. Nothing is encrypted under it either.
    PollKey, KEY
}
secret! {
    /// The keys that do the work of a poll: AES-SIV (MAC half, then encryption half) and the identity's.
    PollKeys, POLL_KEYS
}
secret! {
    /// For the way back over HTTPS ([`crate::recovery`]).
    RecoveryKey, KEY
}

impl Root {
    /// K1 in a keyspace.
    pub fn poll_key(&self, keyspace: Keyspace) -> PollKey {
        let mut key = [0; KEY];
        kdf_label(
            &AesKey::aes128(self.0),
            POLL,
            &keyspace.to_u32().to_be_bytes(),
            &mut key,
        );
        PollKey(key)
    }

    /// The first identity of a device in scheme `random`, which has no ticket to begin with.
    pub fn first_uid(&self) -> Uid {
        let mut uid = Uid::default();
        kdf_label(&AesKey::aes128(self.0), FIRST_UID, &[], &mut uid.0);
        uid
    }

    /// The recovery key, which outlives every poll key.
    pub fn recovery_key(&self) -> RecoveryKey {
        let mut key = [0; KEY];
        kdf_label(&AesKey::aes128(self.0), RECOVERY, &[], &mut key);
        RecoveryKey(key)
    }
}

impl PollKey {
    /// The working keys: 48 bytes in one derivation.
    pub fn poll_keys(&self) -> PollKeys {
        let mut keys = [0; POLL_KEYS];
        kdf_label(&AesKey::aes128(self.0), SUBKEYS, &[], &mut keys);
        PollKeys(keys)
    }

    /// K2 from K1, UID1 and `UID_Rand`: one way, so that who learns K2 does not learn K1.
    pub fn roll(&self, uid1: &Uid, uid_rand: &[u8; 16]) -> Self {
        let mut key = [0; KEY];
        let mut context = [0; 32];
        for (to, from) in context.iter_mut().zip(uid1.0.iter().chain(uid_rand)) {
            *to = *from;
        }
        kdf_label(&AesKey::aes128(self.0), ROLL, &context, &mut key);
        Self(key)
    }
}

impl PollKeys {
    pub(crate) fn siv(&self) -> &[u8; 32] {
        self.0.first_chunk().unwrap_or(&[0; 32])
    }

    fn identity_mask(&self, uid1: &Uid) -> [u8; 16] {
        let key: &[u8; KEY] = self.0.last_chunk().unwrap_or(&[0; KEY]);
        let mut block = uid1.0;
        ecb_block(&AesKey::aes128(*key), &mut block);
        block
    }

    /// UID2 = `UID_Rand` xor AES(K_uid, UID1).
    pub fn next_uid(&self, uid1: &Uid, uid_rand: &[u8; 16]) -> Uid {
        Uid(xor(uid_rand, &self.identity_mask(uid1)))
    }

    /// The `UID_Rand` that makes UID2 of UID1.
    pub fn uid_rand(&self, uid1: &Uid, uid2: &Uid) -> [u8; 16] {
        xor(&uid2.0, &self.identity_mask(uid1))
    }
}

fn xor(a: &[u8; 16], b: &[u8; 16]) -> [u8; 16] {
    let mut out = *a;
    for (to, from) in out.iter_mut().zip(b) {
        *to ^= from;
    }
    out
}

impl RecoveryKey {
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 16] {
        cmac(&AesKey::aes128(self.0), parts)
    }

    /// The AES-SIV key of the recovery answer.
    pub(crate) fn siv(&self) -> zeroize::Zeroizing<[u8; 32]> {
        let mut keys = zeroize::Zeroizing::new([0; 32]);
        kdf_label(&AesKey::aes128(self.0), b"siv", &[], keys.as_mut());
        keys
    }

    /// The key with which a rolling device begins anew, from random numbers of both sides that only TLS has carried.
    pub(crate) fn chain(&self, device: &[u8; 16], server: &[u8; 16]) -> PollKey {
        let mut key = [0; KEY];
        let mut context = [0; 32];
        for (to, from) in context.iter_mut().zip(device.iter().chain(server)) {
            *to = *from;
        }
        kdf_label(&AesKey::aes128(self.0), CHAIN, &context, &mut key);
        PollKey(key)
    }
}
