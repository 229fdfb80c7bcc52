//! The secure element at the readers' disposal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sekisho_nvm::Flash;
use sekisho_os::Interface;
use sekisho_transport::CardSide;

use super::element::VirtualSe;

/// One SE behind several sockets, one command at a time.
pub(crate) struct SharedSe<F: Flash>(Arc<Mutex<Box<VirtualSe<F>>>>);

impl<F: Flash> Clone for SharedSe<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: Flash> SharedSe<F> {
    pub(crate) fn new(se: VirtualSe<F>) -> Self {
        Self(Arc::new(Mutex::new(Box::new(se))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Box<VirtualSe<F>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The SE as seen on one of its interfaces.
pub(crate) struct OnInterface<F: Flash> {
    pub(crate) se: SharedSe<F>,
    pub(crate) interface: Interface,
}

impl<F: Flash> CardSide for OnInterface<F> {
    fn atr(&mut self) -> Vec<u8> {
        self.se.lock().atr().to_vec()
    }

    fn reset(&mut self) {
        self.se.lock().reset(self.interface);
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        self.se.lock().transmit(self.interface, capdu, out)
    }
}
