//! Resumption of TLS 1.3 sessions (RFC 8446, 2.2): one ticket of a session, in RAM, good for one handshake. The engine makes it and understands it (`docs/decisions/0032-resumption.md`).
//!
//! The engine takes a ticket for its own when verifier and certificates are the very objects that it was made with, so they are kept with it. The private key is not: it is lent to them for a handshake.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustls::client::{
    ClientConnectionData, ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{NamedGroup, SignatureScheme};
use sekisho_keys::p256sig::SigningKey;
use zeroize::Zeroizing;

use crate::provider::ClientKey;
use crate::verifier::Verifier;

/// The longest `NewSessionTicket` of which a ticket is made; longer ones are passed over.
pub const TICKET_MAX: usize = 1024;

/// What resumes a session, once.
pub struct Ticket {
    value: Tls13ClientSessionValue,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) own: Arc<Own>,
    until: u64,
}

/// It says nothing of what is in it.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

impl Ticket {
    /// Until when the server's certificate is valid that it was proved by, in seconds since 1970.
    pub const fn until(&self) -> u64 {
        self.until
    }
}

/// The SE's certificates, and its key while it is lent.
pub(crate) struct Own {
    chain: Vec<CertificateDer<'static>>,
    key: [AtomicU32; 8],
    /// To how many handshakes.
    lent: AtomicU32,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

impl Own {
    pub(crate) fn new(chain: &[&[u8]]) -> Self {
        Self {
            chain: chain
                .iter()
                .map(|der| CertificateDer::from(der.to_vec()))
                .collect(),
            key: Default::default(),
            lent: AtomicU32::new(0),
        }
    }

    fn set(&self, key: &[u8; 32]) {
        for (word, bytes) in self.key.iter().zip(key.as_chunks().0) {
            word.store(u32::from_be_bytes(*bytes), Relaxed);
        }
    }

    fn key(&self) -> Option<SigningKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        for (to, word) in bytes.chunks_exact_mut(4).zip(&self.key) {
            to.copy_from_slice(&word.load(Relaxed).to_be_bytes());
        }
        SigningKey::from_bytes(&bytes).ok()
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = Arc::new(ClientKey(self.key()?));
        Some(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The key, lent for a handshake; the last one that ends wipes it.
pub(crate) struct Loan(Arc<Own>);

impl Loan {
    pub(crate) fn new(own: &Arc<Own>, key: &SigningKey) -> Self {
        own.set(&key.to_bytes());
        own.lent.fetch_add(1, Relaxed);
        Self(Arc::clone(own))
    }

    pub(crate) const fn own(&self) -> &Arc<Own> {
        &self.0
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.0.lent.fetch_sub(1, Relaxed) == 1 {
            self.0.set(&[0; 32]);
        }
    }
}

/// One place for a ticket: what is offered is taken from it, what comes is put there if it is free.
#[derive(Debug, Default)]
pub(crate) struct Shelf(place::Place);

/// A chip's lock is that of the embedded crates: what it is there (interrupts are held back, on one core) the image says.
#[cfg(target_os = "none")]
mod place {
    use core::cell::RefCell;

    use critical_section::Mutex;

    use super::Tls13ClientSessionValue;

    #[derive(Debug)]
    pub(super) struct Place(Mutex<RefCell<Option<Tls13ClientSessionValue>>>);

    impl Default for Place {
        fn default() -> Self {
            Self(Mutex::new(RefCell::new(None)))
        }
    }

    impl Place {
        pub(super) fn put(&self, value: Tls13ClientSessionValue) {
            critical_section::with(|cs| {
                self.0.borrow_ref_mut(cs).get_or_insert(value);
            });
        }

        pub(super) fn take(&self) -> Option<Tls13ClientSessionValue> {
            critical_section::with(|cs| self.0.borrow_ref_mut(cs).take())
        }
    }
}

#[cfg(not(target_os = "none"))]
mod place {
    use std::sync::{Mutex, PoisonError};

    use super::Tls13ClientSessionValue;

    #[derive(Debug, Default)]
    pub(super) struct Place(Mutex<Option<Tls13ClientSessionValue>>);

    impl Place {
        pub(super) fn put(&self, value: Tls13ClientSessionValue) {
            let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            place.get_or_insert(value);
        }

        pub(super) fn take(&self) -> Option<Tls13ClientSessionValue> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
        }
    }
}

impl Shelf {
    /// With what is offered, beside whom it was made with.
    pub(crate) fn with(ticket: Ticket) -> (Self, Arc<Verifier>, Arc<Own>) {
        let shelf = Self::default();
        shelf.0.put(ticket.value);
        (shelf, ticket.verifier, ticket.own)
    }
}

impl ClientSessionStore for Shelf {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.put(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take()
    }
}

/// What an open session has until its first ticket has come, or its first command.
pub struct Later {
    pub(crate) connection: KernelConnection<ClientConnectionData>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) own: Arc<Own>,
    pub(crate) until: u64,
}

/// It says nothing of what is in it.
impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

impl Later {
    /// The ticket of a `NewSessionTicket`, this its body; `None` for what makes none.
    pub(crate) fn hear(mut self: Box<Self>, body: &[u8]) -> Option<Box<Ticket>> {
        self.connection.handle_new_session_ticket(body).ok()?;
        Some(Box::new(Ticket {
            value: self.shelf.0.take()?,
            verifier: self.verifier,
            own: self.own,
            until: self.until,
        }))
    }
}
