//! The way back, for a device whose identity nobody knows any more: over HTTPS, where an observer of the network sees nothing of it
//! (`docs/spec/paging.md`, 8).
//!
//! ```text
//! request  VERSION ALGORITHM | SE-id (10) | KEYSPACE (4) | NONCE (16) | MAC (16)
//! grant    V (16) | C (40)       AD: request     plain: VERSION MODE 00 00 | KEYSPACE (4) | UID (16) | server's NONCE (16)
//! ```

use sekisho_apdu::{Reader, Writer};
use sekisho_keys::Siv;

use crate::datagram::{ALGORITHM, NotAuthentic, Uid, VERSION};
use crate::device::{DeviceKey, State};
use crate::keys::{Keyspace, PollKey, RecoveryKey};

/// Bytes of a request.
pub const REQUEST: usize = 48;
/// Bytes of a grant.
pub const GRANT: usize = 56;

/// Bytes of an uncompressed P-256 point.
pub const PUBLIC_KEY: usize = 65;
/// What is MACed when a device has made a key pair, and when its certificate has come.
const NEW_KEY: &[u8] = b"newkey1";
const CERTIFIED: &[u8] = b"certified1";

const BODY: usize = REQUEST - 16;

/// A device asks for a new identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// SE-id.
    pub se_id: [u8; 10],
    /// The device's keyspace: the new one is beyond it.
    pub keyspace: Keyspace,
    /// Random.
    pub nonce: [u8; 16],
}

/// A new identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its keyspace, a generation beyond that of the request.
    pub keyspace: Keyspace,
    /// The identity.
    pub uid: Uid,
    /// Random.
    pub nonce: [u8; 16],
}

impl Request {
    /// The request.
    pub fn seal(&self, key: &RecoveryKey) -> [u8; REQUEST] {
        let mut out = [0; REQUEST];
        let (body, tail) = out.split_at_mut(BODY);
        let mut w = Writer::new(body);
        // As long as what is written.
        let _ = w.bytes(&[VERSION, ALGORITHM]);
        let _ = w.bytes(&self.se_id);
        let _ = w.u32(self.keyspace.to_u32());
        let _ = w.bytes(&self.nonce);
        tail.copy_from_slice(&key.mac(&[body]));
        out
    }

    /// The SE-id that a request claims, to find its key.
    ///
    /// # Errors
    /// [`NotAuthentic`] when it is no request.
    pub fn se_id(request: &[u8]) -> Result<[u8; 10], NotAuthentic> {
        let request: &[u8; REQUEST] = request.try_into().map_err(|_| NotAuthentic)?;
        let mut r = Reader::new(request);
        if r.array()? != [VERSION, ALGORITHM] {
            return Err(NotAuthentic);
        }
        Ok(r.array()?)
    }

    /// What an authentic request says.
    ///
    /// # Errors
    /// [`NotAuthentic`] when it is not.
    pub fn open(key: &RecoveryKey, request: &[u8]) -> Result<Self, NotAuthentic> {
        let se_id = Self::se_id(request)?;
        let (body, mac) = request.split_at_checked(BODY).ok_or(NotAuthentic)?;
        if !sekisho_keys::ct_eq(mac, &key.mac(&[body])) {
            return Err(NotAuthentic);
        }
        let mut r = Reader::new(body);
        r.take(12)?;
        Ok(Self {
            se_id,
            keyspace: Keyspace::from_u32(r.u32()?),
            nonce: r.array()?,
        })
    }
}

impl Grant {
    /// The grant to a request.
    pub fn seal(&self, key: &RecoveryKey, request: &[u8; REQUEST]) -> [u8; GRANT] {
        let mut out = [0; GRANT];
        let (head, text) = out.split_at_mut(16);
        let mut w = Writer::new(text);
        // As long as what is written.
        let _ = w.bytes(&[VERSION, 0, 0, 0]);
        let _ = w.u32(self.keyspace.to_u32());
        let _ = w.bytes(&self.uid.0);
        let _ = w.bytes(&self.nonce);
        let tag = Siv::new(&key.siv()).seal(&[request], text);
        head.copy_from_slice(&tag);
        out
    }

    /// The grant to this request, if it is authentic and leads on.
    ///
    /// # Errors
    /// [`NotAuthentic`] otherwise.
    pub fn open(key: &RecoveryKey, request: &[u8; REQUEST], grant: &[u8]) -> Result<Self, NotAuthentic> {
        let asked = Request::open(key, request)?;
        let mut r = Reader::new(grant);
        let tag: [u8; 16] = r.array()?;
        let mut text: [u8; GRANT - 16] = r.array()?;
        r.finish()?;
        Siv::new(&key.siv()).open(&[request], &mut text, &tag)?;
        let mut r = Reader::new(&text);
        if r.array()? != [VERSION, 0, 0, 0] {
            return Err(NotAuthentic);
        }
        let grant = Self {
            keyspace: Keyspace::from_u32(r.u32()?),
            uid: Uid(r.array()?),
            nonce: r.array()?,
        };
        if grant.keyspace.generation <= asked.keyspace.generation {
            return Err(NotAuthentic);
        }
        Ok(grant)
    }

    /// The key with which a rolling device begins the grant's generation. The server stores it before the grant leaves, beside the one in
    /// use, and gives that up when the device has proved the new one.
    pub fn chain_key(&self, key: &RecoveryKey, request: &Request) -> PollKey {
        key.chain(&request.nonce, &self.nonce)
    }

    /// The device's state after the grant.
    pub fn state(&self, key: &RecoveryKey, request: &Request, before: &State) -> State {
        let mut state = before.clone();
        state.uid = self.uid;
        state.keyspace = self.keyspace;
        if let DeviceKey::Rolling(held) = &mut state.key {
            *held = self.chain_key(key, request);
        }
        state
    }
}

impl RecoveryKey {
    /// The SE's word that it made the key pair with this public key: CMAC(K_rec, "newkey1" || SE-id || public key).
    pub fn new_key_proof(&self, se_id: &[u8; 10], public_key: &[u8; PUBLIC_KEY]) -> [u8; 16] {
        self.mac(&[NEW_KEY, se_id, public_key])
    }

    /// The server's word that it has certified the public key, with the SHA-256 of the certificate: CMAC(K_rec, "certified1" || SE-id ||
    /// public key || digest).
    pub fn certified_proof(
        &self,
        se_id: &[u8; 10],
        public_key: &[u8; PUBLIC_KEY],
        certificate: &[u8; 32],
    ) -> [u8; 16] {
        self.mac(&[CERTIFIED, se_id, public_key, certificate])
    }
}
