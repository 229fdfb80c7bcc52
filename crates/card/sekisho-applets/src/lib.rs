//! The native applications of the SE.
//!
//! The [card manager](CardManager) is the issuer security domain; [SecApp] polls the paging server. The operating system's dispatcher
//! calls them through [`Standard`]; none knows another, and each instance of one has memory of its own. [`FileSystem`] keeps files and opens secure messaging.
//!
//! Feature `tls`: the TLS Manager, which `WithTls` puts beside them, and which allocates; nothing else here does.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

#[cfg(feature = "tls")]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod card_manager;
pub mod file_system;
pub mod sec_app;
#[cfg(feature = "tls")]
pub mod tls_manager;
#[cfg(feature = "tls")]
mod with_tls;

pub use card_manager::CardManager;
pub use file_system::FileSystem;
pub use sec_app::SecApp;
#[cfg(feature = "tls")]
pub use tls_manager::TlsManager;
#[cfg(feature = "tls")]
pub use with_tls::WithTls;

use sekisho_os::{
    Application, Applications, ContainerId, Instance, Loaded, Loading, Module, OsPart, Pool, State,
};

/// File systems that it has memory for.
pub const FILE_SYSTEMS: usize = 2;
/// Sessions, of each container, in which the OS part can keep something at once.
pub const PART_SESSIONS: usize = if cfg!(feature = "os-part") { 8 } else { 0 };
/// Sessions in which one application whose code is loaded can keep something at once.
pub const LOADED_SESSIONS: usize = if cfg!(feature = "os-part") { 4 } else { 0 };
/// Files of each, the MF included.
pub const FILES: usize = 32;

/// Security domains that the product has memory for, in all: that of the issuer and two others.
pub const DOMAINS: usize = 3;

/// The applications of an SE, with the memory of their instances: in each container a SecApp; `LOADED` applications of all containers whose code is loaded, and
/// as many containers into which load files come by command; `DOMAINS` security domains of all containers.
#[derive(Debug)]
pub struct Standard<const CONTAINERS: usize = 1, const LOADED: usize = 0, const DOMAINS: usize = CONTAINERS> {
    card_managers: Pool<CardManager, DOMAINS>,
    os_parts: Pool<OsPart<PART_SESSIONS>, CONTAINERS>,
    sec_apps: Pool<SecApp, CONTAINERS>,
    file_systems: Pool<FileSystem<FILES>, FILE_SYSTEMS>,
    loaded: Pool<Loaded<LOADED_SESSIONS>, LOADED>,
    loadings: [Loading; LOADED],
}

impl<const CONTAINERS: usize, const LOADED: usize, const DOMAINS: usize> Applications
    for Standard<CONTAINERS, LOADED, DOMAINS>
{
    const NEW: Self = Self {
        card_managers: Pool::NEW,
        os_parts: Pool::NEW,
        sec_apps: Pool::NEW,
        file_systems: Pool::NEW,
        loaded: Pool::NEW,
        loadings: [const { Loading::NEW }; LOADED],
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::CARD_MANAGER => Some(self.card_managers.get(instance)?),
            Module::OS_PART => Some(self.os_parts.get(instance)?),
            Module::SEC_APP => Some(self.sec_apps.get(instance)?),
            Module::FILE_SYSTEM => Some(self.file_systems.get(instance)?),
            Module::LOADED => Some(self.loaded.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            Module::CARD_MANAGER => self.card_managers.release(instance),
            Module::SEC_APP => self.sec_apps.release(instance),
            Module::FILE_SYSTEM => self.file_systems.release(instance),
            Module::OS_PART => self.os_parts.release(instance),
            Module::LOADED => self.loaded.release(instance),
            _ => {}
        }
    }

    fn places(&self, module: Module) -> usize {
        match module {
            Module::CARD_MANAGER => self.card_managers.places(),
            Module::OS_PART => self.os_parts.places(),
            Module::SEC_APP => self.sec_apps.places(),
            Module::FILE_SYSTEM => self.file_systems.places(),
            Module::LOADED => self.loaded.places(),
            _ => 0,
        }
    }

    fn loading(&mut self, container: ContainerId) -> Option<&mut Loading> {
        self.loadings
            .get_mut(usize::from(container.number()).checked_sub(1)?)
    }
}
