//! The secure element at the readers' disposal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sekisho_os::{Interface, Profile};
use sekisho_transport::CardSide;

use super::element::{SystemRng, VirtualSe};
use super::file_flash::FileFlash;

/// One SE behind several sockets, one command at a time.
#[derive(Clone)]
pub(crate) struct SharedSe {
    se: Arc<Mutex<Box<VirtualSe<FileFlash>>>>,
    /// What it was started with.
    profile: Profile,
}

impl SharedSe {
    pub(crate) fn new(se: VirtualSe<FileFlash>, profile: Profile) -> Self {
        let se = Arc::new(Mutex::new(Box::new(se)));
        Self { se, profile }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Box<VirtualSe<FileFlash>>> {
        self.se.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets an interface. An SE whose flash has failed starts anew from what the file holds, with all its interfaces, as a chip does that gets its power
    /// again; where that fails it stays as it is, until the next time.
    fn reset(&self, interface: Interface) {
        let mut se = self.lock();
        se.reset(interface);
        if se.has_failed()
            && let Ok(flash) = se.flash().opened_anew()
        {
            let mut anew = VirtualSe::new(flash, SystemRng);
            if anew.boot(&self.profile).is_ok() {
                **se = anew;
            }
        }
    }
}

/// The SE as seen on one of its interfaces.
pub(crate) struct OnInterface {
    pub(crate) se: SharedSe,
    pub(crate) interface: Interface,
}

impl CardSide for OnInterface {
    fn atr(&mut self) -> Vec<u8> {
        self.se.lock().atr().to_vec()
    }

    fn reset(&mut self) {
        self.se.reset(self.interface);
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        self.se.lock().transmit(self.interface, capdu, out)
    }
}
