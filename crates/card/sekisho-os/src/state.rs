//! What an SE is built on, and what it knows from one command to the next.

use sekisho_keys::Rng;
use sekisho_nvm::{Flash, Memory, Store};
use zeroize::Zeroize;

use crate::application::Applications;
use crate::buffers::Interfaces;
use crate::call::CallRoom;
use crate::chaining::COMMAND_DATA_MAX;
use crate::channels::Channels;
use crate::container::{ContainerMemory, ContainerParts};
use crate::interface::{Interface, Place};
use crate::loader::Loader;
use crate::messaging::MessagingMemory;
use crate::nvm::{BulkArea, Layout, NvmParts, Staged};
use crate::pairing::Pairing;
use crate::pairing_record::PairingState;
use crate::profile::Profile;
use crate::response::RESPONSE_DATA_MAX;
use crate::secure::SecureChannels;

/// What an SE is built on.
pub trait Platform {
    /// Its flash.
    type Flash: Flash;
    /// Its random number generator.
    type Rng: Rng;
    /// Its applications.
    type Applications: Applications;
    /// Its interfaces.
    type Interfaces: Interfaces;
    /// Its containers, [`Containers<N>`](crate::Containers).
    type Containers: ContainerMemory;
    /// The memory of its store of records, `Ram<RECORDS, PAGES, OWNERS>`: records that its index has no place for are looked for on the flash.
    type Index: Memory;

    /// The lowest address of the stack that commands run on: nothing is wiped below it, and an SE whose profile asks for more does not start. 0 where
    /// something else keeps the stack's end, as a guard page does.
    fn stack_low() -> usize {
        0
    }
}

/// What a command works with, but for the buffers that it is read from and answered into: groups with one owner each.
pub(crate) struct Core<P: Platform> {
    pub(crate) platform: PlatformParts<P>,
    pub(crate) nvm: NvmParts<P::Flash, P::Index, <P::Containers as ContainerMemory>::Rooms>,
    pub(crate) containers: ContainerParts<P::Containers>,
    pub(crate) interfaces: InterfaceParts<<P::Interfaces as Interfaces>::Messagings>,
    pub(crate) loader: Loader,
    /// Interfaces whose row in pairing data is another since this command: they are reset behind its answer.
    pub(crate) unpaired: [bool; Interface::COUNT],
    /// A command has changed a registry: what it has made secure-only is left behind its answer.
    pub(crate) changed: bool,
    /// What an application has asked in this command that the device be told.
    #[cfg(feature = "os-part")]
    pub(crate) announced: Option<crate::announcement::Announcement>,
    /// Who is speaking in the TLS session whose command is processed.
    #[cfg(feature = "tls")]
    pub(crate) speaking: Option<crate::tls_inside::Speaking>,
    /// The SE has started, and its flash has not failed since: otherwise, what it holds is only known after a boot.
    pub(crate) on: bool,
}

/// What the product gives, but for the flash.
pub(crate) struct PlatformParts<P: Platform> {
    pub(crate) rng: P::Rng,
    pub(crate) applications: P::Applications,
    /// None before the first start.
    pub(crate) profile: Option<Profile>,
    /// RAM that the budget leaves, in bytes.
    pub(crate) free_ram: usize,
}

/// What is open, selected and proved on each interface.
pub(crate) struct InterfaceParts<M> {
    pub(crate) channels: Channels,
    pub(crate) secure: SecureChannels,
    pub(crate) messaging: M,
}

/// Where a command is processed.
pub(crate) struct Scratch {
    /// The command data field without its protection.
    pub(crate) plain: [u8; COMMAND_DATA_MAX],
    pub(crate) work: WorkRoom,
    /// The command's writes.
    pub(crate) staged: Staged,
}

/// What applications write to.
pub(crate) struct WorkRoom {
    /// The answer before it is protected.
    pub(crate) answer: [u8; RESPONSE_DATA_MAX],
    /// What applications say to each other.
    pub(crate) call: CallRoom,
}

impl Scratch {
    /// Nothing is processed any more.
    pub(crate) fn clear(&mut self) {
        self.plain.zeroize();
        self.work.answer.zeroize();
        self.work.call.clear();
        self.staged.clear();
    }

    /// Nothing is processed.
    pub(crate) const fn new() -> Self {
        Self {
            plain: [0; COMMAND_DATA_MAX],
            work: WorkRoom {
                answer: [0; RESPONSE_DATA_MAX],
                call: CallRoom::new(),
            },
            staged: Staged::new(),
        }
    }
}

impl<P: Platform> Core<P> {
    /// Nothing is known yet but the flash. All zeros but for what the product gives.
    pub(crate) const fn off(flash: P::Flash, rng: P::Rng) -> Self {
        Self {
            platform: PlatformParts {
                rng,
                applications: P::Applications::NEW,
                profile: None,
                free_ram: 0,
            },
            nvm: NvmParts {
                flash,
                store: Store::BLANK,
                area: BulkArea::new(0..0),
                layout: Layout::NONE,
                rooms: P::Containers::ROOMS,
            },
            containers: ContainerParts {
                pairing: PairingState::of(Pairing::NONE),
                table: P::Containers::NEW,
            },
            interfaces: InterfaceParts {
                channels: Channels::CLOSED,
                secure: SecureChannels::new(),
                messaging: MessagingMemory::NEW,
            },
            loader: Loader::NEW,
            unpaired: [false; Interface::COUNT],
            #[cfg(feature = "os-part")]
            announced: None,
            changed: false,
            #[cfg(feature = "tls")]
            speaking: None,
            on: false,
        }
    }

    /// Ends secure channels and secure messaging; the loader forgets the broadcast that one of them carried.
    pub(crate) fn end_secure(&mut self, is_gone: impl Fn(Place) -> bool) {
        self.interfaces.messaging.end(&is_gone);
        self.give_loads_up(&is_gone);
        if self.interfaces.secure.end(is_gone) {
            self.loader.abort();
        }
    }

    /// Ends the secure messaging of a logical channel, if it has any, and with it the application session and all that it had opened.
    pub(crate) fn end_messaging(&mut self, place: Place) {
        if self.interfaces.messaging.is_open(place) {
            self.interfaces.messaging.end(|p| p == place);
            self.renew(place);
        }
    }

    /// Whether a key has been proved on a logical channel: a secure channel is open there, or secure messaging in which a right command has come.
    pub(crate) fn has_proved(&self, place: Place) -> bool {
        self.interfaces.secure.is_proved(place) || self.interfaces.messaging.is_proved(place)
    }
}
