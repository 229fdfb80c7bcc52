//! Starting an SE, where it stands: nothing of its state is made elsewhere and moved.
//!
//! ```text
//! new --> off --boot--> on --boot: a power cycle--> on
//!          | ^           |
//!          | +--error----+
//!          +--manufacture, then boot--> on
//! ```

use core::fmt;

use sekisho_apdu::StatusWord;
use sekisho_nvm::Flash;

use crate::application::Applications;
use crate::bulk;
use crate::channels::Selected;
use crate::container::{Container, ContainerMemory};
use crate::element::SecureElement;
use crate::interface::{CHANNELS_MAX, ContainerId, Interface};
use crate::leftovers;
use crate::names::carried;
use crate::nvm::{AnyFlash, BulkArea, Layout, Records};
use crate::pairing_record::PairingState;
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::routing::made;
use crate::stack::{Depth, Stack};
use crate::state::Platform;

/// Why an SE does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// The flash has fewer pages than the profile asks for.
    FlashTooSmall,
    /// The RAM budget does not hold the operating system's own state.
    RamTooSmall,
    /// The platform's stack is smaller than what the profile says that commands use.
    StackTooSmall,
    /// The profile has no logical channel, or more than there can be.
    Channels,
    /// The SE has not been made, or its making was broken off: make it.
    Blank,
    /// The SE has been made already; it is not made twice.
    AlreadyMade,
    /// The flash failed, or holds what this operating system cannot read; or the personalisation was refused. The status word says why.
    Refused(StatusWord),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlashTooSmall => f.write_str("the flash is smaller than the profile asks for"),
            Self::RamTooSmall => f.write_str("the RAM budget is smaller than the operating system's state"),
            Self::StackTooSmall => f.write_str("the stack is smaller than what commands use"),
            Self::Channels => f.write_str("the profile asks for no logical channel, or for more than 20"),
            Self::Blank => f.write_str("the secure element has not been personalised"),
            Self::AlreadyMade => f.write_str("the secure element is personalised already"),
            Self::Refused(sw) => {
                write!(
                    f,
                    "flash or personalisation refused with status word {sw}, {}",
                    sw.meaning()
                )
            }
        }
    }
}

impl core::error::Error for BootError {}

impl From<Refusal> for BootError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.0)
    }
}

impl Layout {
    /// Store first, then both slots, then the area, in whole pages.
    fn of(flash: &AnyFlash<'_>, profile: &Profile) -> Result<Self, BootError> {
        let pages = |bytes: usize| bytes.div_ceil(flash.page_size().max(1)).max(1);
        let store = pages(profile.store_bytes);
        let slot = pages(profile.slot_bytes);
        let area = store + 2 * slot;
        let end = area + profile.area_bytes.div_ceil(flash.page_size().max(1));
        let layout = Self {
            store: 0..store,
            slots: [store..store + slot, store + slot..area],
            area: area..end,
            area_quota: profile.area_quota / flash.page_size().max(1),
            container_area_quota: profile.container_area_quota / flash.page_size().max(1),
            container_quota: profile.container_quota,
        };
        if end > flash.pages() {
            return Err(BootError::FlashTooSmall);
        }
        Ok(layout)
    }
}

impl<P: Platform> SecureElement<P> {
    /// Starts an SE that has been made, where it stands; one that is on goes off first, as when its power is cut.
    ///
    /// # Errors
    /// The SE is off then; with [`BootError::Blank`] it is to be [made](SecureElement::manufacture).
    pub fn boot(&mut self, profile: &Profile) -> Result<(), BootError> {
        let started = self.start(profile);
        // Records have been read, and moved if the store was left untidy: keys are among them.
        Self::wipe_stack(profile);
        started
    }

    /// Wipes what a start may have left.
    #[inline(always)]
    pub(crate) fn wipe_stack(profile: &Profile) {
        Stack::of(profile, Depth::Whole, P::stack_low()).wipe();
    }

    /// Not inlined: [`Stack::wipe`] wipes what is below its caller.
    #[inline(never)]
    fn start(&mut self, profile: &Profile) -> Result<(), BootError> {
        self.switch_off();
        let loaded = self.load(profile).and_then(|()| self.start_loader(profile));
        if loaded.is_err() {
            self.switch_off();
            return loaded;
        }
        self.core.platform.profile = Some(profile.clone());
        self.core.platform.free_ram = Self::part_ram(profile);
        let containers = &self.core.containers;
        self.core
            .interfaces
            .channels
            .begin(profile.logical_channels, |interface| containers.first(interface));
        self.core.on = true;
        Ok(())
    }

    /// What is selected, proved, kept and waiting goes; what stands in NVM stays. Every command is answered 6581 from here on.
    pub(crate) fn switch_off(&mut self) {
        self.core.on = false;
        self.buffers.clear();
        self.core.end_secure(|_| true);
        self.core.interfaces.channels.begin(0, |_| Selected::NONE);
        self.core.unpaired = [false; Interface::COUNT];
        self.core.loader.forget();
        self.core
            .containers
            .table
            .all_mut()
            .iter_mut()
            .for_each(Container::forget);
        self.forget_applications();
    }

    /// Not inlined, so that what all applications have in memory is not on the stack of the whole start.
    #[inline(never)]
    fn forget_applications(&mut self) {
        self.core.platform.applications = P::Applications::NEW;
    }

    /// Reads what there is, but for the loader's.
    ///
    /// # Errors
    /// [`BootError::Blank`]: the store may be open then, and has no SE.
    pub(crate) fn load(&mut self, profile: &Profile) -> Result<(), BootError> {
        if profile.ram < size_of::<Self>() {
            return Err(BootError::RamTooSmall);
        }
        if !Stack::of(profile, Depth::Whole, P::stack_low()).is_there() {
            return Err(BootError::StackTooSmall);
        }
        if profile.logical_channels == 0 || profile.logical_channels > CHANNELS_MAX {
            return Err(BootError::Channels);
        }
        self.core.nvm.layout = Layout::of(&AnyFlash::new(&mut self.core.nvm.flash), profile)?;
        self.core.nvm.rooms = P::Containers::ROOMS;
        self.core.nvm.area = BulkArea::new(self.core.nvm.layout.area.clone());
        let mut nvm = self.core.nvm.open();
        let pages = nvm.layout.store.clone();
        match nvm.store.open_or_carry_in_place(&mut nvm.flash, pages, carried) {
            Ok(()) => {}
            Err(sekisho_nvm::Error::NotFormatted) => return Err(BootError::Blank),
            Err(sekisho_nvm::Error::Geometry) => return Err(BootError::FlashTooSmall),
            Err(error) => return Err(Refusal::from(error).into()),
        }
        let mut records = Records {
            nvm,
            staged: &mut self.buffers.scratch.staged,
        };
        let mut is_made = false;
        for (number, container) in (1..).zip(self.core.containers.table.all_mut()) {
            let id = ContainerId(number);
            if container.load(&mut records, id)? {
                leftovers::sweep(&mut records, id)?;
                is_made |= id == ContainerId::ESE;
            }
            if !is_made {
                return Err(BootError::Blank);
            }
        }
        bulk::open(&mut records.nvm)?;
        let made = made(&self.core.containers.table);
        self.core.containers.pairing = PairingState::load(&mut records, &profile.pairing, made);
        Ok(())
    }

    fn start_loader(&mut self, profile: &Profile) -> Result<(), BootError> {
        let mut nvm = self.core.nvm.open();
        let loader = &mut self.core.loader;
        loader
            .boot(&mut nvm, Self::part_ram(profile))
            .map_err(BootError::Refused)
    }
}
