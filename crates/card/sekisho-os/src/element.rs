//! The secure element: its one entry, and the way of a command from there to an application and back.

use core::fmt;

use sekisho_apdu::gp::{Privileges, ins};
use sekisho_apdu::{ApduError, CApdu, Cla, StatusWord, Writer};

use crate::buffers::{InterfaceState, Interfaces};
use crate::chaining::Segment;
use crate::channels::Channels;
use crate::interface::{ContainerId, Interface, Place, Protocol};
use crate::loader::PartState;
use crate::messaging;
use crate::pairing::Pairing;
use crate::profile::Profile;
use crate::response::{Response, Wanted};
use crate::stack::{Depth, Stack};
use crate::state::{Core, Platform, Scratch};

/// A secure element.
pub struct SecureElement<P: Platform> {
    pub(crate) core: Core<P>,
    pub(crate) buffers: Buffers<P::Interfaces>,
}

pub(crate) struct Buffers<I> {
    pub(crate) interfaces: I,
    pub(crate) response: Response,
    pub(crate) scratch: Scratch,
}

impl<I: Interfaces> Buffers<I> {
    /// Nothing waits, and nothing is processed.
    pub(crate) fn clear(&mut self) {
        for interface in Interface::ALL {
            if let Some(own) = self.interfaces.get(interface) {
                own.clear();
            }
            #[cfg(feature = "tls")]
            if let Some((_, room)) = self.interfaces.inside(interface) {
                room.clear();
            }
        }
        self.response.clear();
        self.scratch.clear();
    }
}

/// The life cycle state of its eSE; nothing of what it keeps.
impl<P: Platform> fmt::Debug for SecureElement<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let life_cycle = self.core.containers.get(ContainerId::ESE).card.life_cycle;
        f.debug_struct("SecureElement")
            .field("life_cycle", &life_cycle)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> SecureElement<P> {
    /// An SE that is off: every command is answered 6581 until it has [booted](SecureElement::boot). This is where all of its state stands from here on, in a static
    /// if the product has no stack for it.
    pub const fn new(flash: P::Flash, rng: P::Rng) -> Self {
        Self {
            core: Core::off(flash, rng),
            buffers: Buffers {
                interfaces: P::Interfaces::NEW,
                response: Response::new(),
                scratch: Scratch::new(),
            },
        }
    }

    /// Processes one C-APDU and writes the R-APDU to `out`: at least a status word, at most what the command's Ne and `out` allow; the rest
    /// waits for GET RESPONSE. Returns the number of bytes, which is never below two.
    ///
    /// Once the flash has failed (6581) every command is answered so, until the SE is booted again: only that tells what was written.
    ///
    /// `out` has room for at least two bytes, or nothing is done and nothing answered.
    pub fn transmit(&mut self, interface: Interface, capdu: &[u8], out: &mut [u8]) -> usize {
        if out.len() < 2 {
            return 0;
        }
        // What selects, opens or closes while there is no key in the SE's RAM, and touches no record, leaves none on the stack.
        let has_no_keys = self.core.interfaces.secure.is_empty() && self.core.interfaces.messaging.is_empty();
        self.buffers.scratch.staged.worked = false;
        self.buffers.scratch.staged.depth = Depth::Unknown;
        #[cfg(feature = "os-part")]
        {
            self.core.announced = None;
        }
        let len = self.answer(interface, capdu, out);
        if self.core.unpaired != [false; Interface::COUNT] {
            self.reset_unpaired();
        }
        if self.core.changed {
            self.leave_hidden();
        }
        if !has_no_keys || self.buffers.scratch.staged.worked {
            Stack::of(
                Profile::or_default(&self.core.platform.profile),
                self.buffers.scratch.staged.depth,
                P::stack_low(),
            )
            .wipe();
        }
        len
    }

    /// Resets the interfaces whose row the command has changed: the answer has gone out.
    fn reset_unpaired(&mut self) {
        let changed = core::mem::take(&mut self.core.unpaired);
        for (interface, _) in Interface::ALL.into_iter().zip(changed).filter(|(_, is)| *is) {
            self.reset(interface);
        }
    }

    /// What has become secure-only is as if it had never been there: where it is selected the issuer security domain is, and what it has begun or not yet given there goes.
    #[inline(never)]
    pub(crate) fn leave_hidden(&mut self) {
        self.core.changed = false;
        for place in Channels::places() {
            let core = &mut self.core;
            let container = core.containers.at(&core.interfaces.channels, place);
            let selected = core.interfaces.channels.selected(place);
            let found = selected.and_then(|id| container.registry.entry(id));
            if found.is_none_or(|(index, _)| container.registry.shows(index, place)) {
                continue;
            }
            core.change(place, core.root(place));
            if let Some(own) = self.buffers.interfaces.get(place.interface) {
                own.chain.clear_at(|channel| channel == place.logical_channel);
                own.waiting.drop_at(|channel| channel == place.logical_channel);
            }
        }
    }

    /// Not inlined: [`Stack::wipe`] wipes what is below [`SecureElement::transmit`].
    #[inline(never)]
    fn answer(&mut self, interface: Interface, capdu: &[u8], out: &mut [u8]) -> usize {
        #[cfg(feature = "tls")]
        if self.core.on
            && let Some(len) = self.tls_command(interface, capdu, out)
        {
            return len;
        }
        let cla = Cla(capdu.first().copied().unwrap_or_default());
        let place = Place {
            interface,
            logical_channel: cla.logical_channel(),
        };
        match CApdu::parse(capdu) {
            _ if !self.core.on => self.fail(place, StatusWord::MEMORY_FAILURE, out),
            Ok(_) if !cla.is_supported() => self.fail(place, StatusWord::CLA_NOT_SUPPORTED, out),
            Ok(_) if !self.core.interfaces.channels.is_open(place) => {
                self.fail(place, StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED, out)
            }
            command if is_get_response(capdu) => self.fetch(place, cla, command, out),
            Ok(command) => {
                let wanted = Wanted::of(&command, self.protocol(interface), out);
                self.run(place, &command, wanted);
                let Some(own) = self.buffers.interfaces.get(interface) else {
                    return bare(self.buffers.response.status(), out);
                };
                let channel = place.logical_channel;
                self.buffers
                    .response
                    .deliver(channel, wanted, &mut own.waiting, out)
            }
            Err(_) => self.fail(place, StatusWord::WRONG_LENGTH, out),
        }
    }

    /// GET RESPONSE: neither command chaining, nor SCP03, nor secure messaging sees it, and an application only when it answers in pieces. Broadcast mode, in which nothing
    /// can wait, ends like at any other command that it does not have.
    pub(crate) fn fetch(
        &mut self,
        place: Place,
        cla: Cla,
        command: Result<CApdu<'_>, ApduError>,
        out: &mut [u8],
    ) -> usize {
        let Buffers {
            interfaces,
            response,
            scratch,
            ..
        } = &mut self.buffers;
        let Some(InterfaceState { waiting, .. }) = interfaces.get(place.interface) else {
            return bare(StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED, out);
        };
        let channel = place.logical_channel;
        let wanted = match waiting.claim(channel, cla, command, out) {
            Ok(wanted) => wanted,
            Err(refusal) => {
                self.core.end_broadcast(place);
                return bare(refusal.0, out);
            }
        };
        if waiting.has_data() {
            return waiting.next(wanted, out);
        }
        // All of the last piece has gone: the application makes another.
        waiting.drop_at(|owner| owner == channel);
        response.begin(wanted, true, false);
        #[cfg(feature = "tls")]
        if crate::tls_inside::is_class(wanted.cla) {
            self.core.tls_rest(place, response);
            return response.deliver(channel, wanted, waiting, out);
        }
        self.core.next_piece(place, scratch, response);
        self.core.on &= response.status() != StatusWord::MEMORY_FAILURE;
        response.deliver(channel, wanted, waiting, out)
    }

    /// Answers what is no command: nothing but broadcast mode and secure messaging, which any error ends, is touched.
    fn fail(&mut self, place: Place, sw: StatusWord, out: &mut [u8]) -> usize {
        self.core.end_broadcast(place);
        self.core.end_messaging(place);
        bare(sw, out)
    }

    fn run(&mut self, place: Place, command: &CApdu<'_>, wanted: Wanted) {
        let channel = place.logical_channel;
        let core = &mut self.core;
        let Buffers {
            interfaces,
            response,
            scratch,
            ..
        } = &mut self.buffers;
        let Some(InterfaceState { chain, waiting }) = interfaces.get(place.interface) else {
            return response.set(|_| StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED);
        };
        waiting.interrupt(channel);
        let stays = waiting
            .channel()
            .is_some_and(|owner| core.has_proved(place.on(owner)));
        response.begin(
            wanted,
            !stays || core.has_proved(place) || core.interfaces.messaging.is_open(place),
            waiting.keeps_for(channel),
        );
        if core.interfaces.messaging.is_open(place) && !messaging::is_meant_by(command.cla) {
            // In the clear, whatever it is: SELECT, MANAGE CHANNEL and the first of a chain as well.
            chain.clear_at(|owner| owner == channel);
            core.end_messaging(place);
            return response.set(|_| StatusWord::SM_OBJECTS_MISSING);
        }
        let loading = core.loading_session(place, command.ins);
        let selected = core.interfaces.channels.selected(place);
        let container = core.containers.at(&core.interfaces.channels, place);
        let security_domain = selected
            .and_then(|id| container.registry.entry(id))
            .is_some_and(|(_, entry)| entry.privileges.contains(Privileges::SECURITY_DOMAIN));
        let is_proved = |channel| core.has_proved(place.on(channel));
        match chain.accept(channel, command, security_domain, is_proved) {
            Segment::Whole => core.process(place, command, scratch, response),
            Segment::Last => {
                core.process(place, &chain.assembled(command), scratch, response);
                chain.clear();
            }
            Segment::Answer(sw) => {
                if sw == StatusWord::WRONG_LENGTH {
                    // Longer than any command, so that its MAC will not be seen.
                    core.end_messaging(place);
                }
                response.set(|_| sw);
            }
        }
        if command.ins == ins::MANAGE_CHANNEL {
            let is_closed = |channel| !core.interfaces.channels.is_open(place.on(channel));
            chain.clear_at(is_closed);
            waiting.drop_at(is_closed);
        }
        core.on &= response.status() != StatusWord::MEMORY_FAILURE;
        // In broadcast mode any status other than 9000 ends the secure channel (broadcast update, 2.1).
        if response.status() != StatusWord::NO_ERROR {
            if let Some(session) = loading {
                core.refuse_load(place, session, response.status(), &mut scratch.staged);
            }
            core.end_broadcast(place);
        }
    }

    /// What an interface speaks.
    pub fn protocol(&self, interface: Interface) -> Protocol {
        self.core.interfaces.channels.protocol(interface)
    }

    /// Pairing data that the SE works with: the profile's, or what the platform's record says in their place.
    pub const fn pairing(&self) -> &Pairing {
        &self.core.containers.pairing.rows
    }

    /// Resets an interface, which speaks `protocol` from here on; false, and nothing is done, when it cannot or when pairing data have no row for it.
    #[must_use]
    pub fn reset_to(&mut self, interface: Interface, protocol: Protocol) -> bool {
        let can = protocol.is_of(interface) && self.core.containers.pairing.rows.row(protocol).is_some();
        if can {
            self.core.interfaces.channels.set_protocol(interface, protocol);
            self.reset(interface);
        }
        can
    }

    /// A reader's power cycle on one interface, which goes on speaking its protocol: its logical channels close, its secure channels end, the default
    /// application of the container that is paired with the protocol is selected on its basic channel. What stands in NVM stays.
    pub fn reset(&mut self, interface: Interface) {
        let is_gone = |place: Place| place.interface == interface;
        if let Some(own) = self.buffers.interfaces.get(interface) {
            own.clear();
        }
        #[cfg(feature = "tls")]
        self.core.end_tls(is_gone);
        for place in Channels::places().filter(|place| is_gone(*place)) {
            self.core.deselect(place);
        }
        let paired = self
            .core
            .containers
            .paired(&self.core.interfaces.channels, interface);
        let selected = paired.default_application(interface);
        self.core.interfaces.channels.reset(interface, selected);
        self.core.end_secure(is_gone);
    }

    /// Whether the SE is off, or the flash has failed: every command is answered 6581, until the SE is booted again.
    pub const fn has_failed(&self) -> bool {
        !self.core.on
    }

    /// What an application has asked, in the command that was processed last, that the device be told when the reader has gone: what carries the command to the device does it.
    #[cfg(feature = "os-part")]
    pub const fn announcement(&self) -> Option<&crate::announcement::Announcement> {
        self.core.announced.as_ref()
    }

    /// What is known of the active OS part; `None` when there is none.
    pub fn part(&self) -> Option<PartState> {
        self.core.loader.part()
    }

    /// Version of the design system's keys (broadcast update, 3.1).
    pub const fn key_version(&self) -> u32 {
        self.core.loader.key_version()
    }

    /// RAM that an SE of this profile gives its OS part, in bytes.
    pub const fn part_ram(profile: &Profile) -> usize {
        profile.ram.saturating_sub(size_of::<Self>())
    }

    /// The answer to reset.
    pub const fn atr(&self) -> &'static [u8] {
        Profile::or_default(&self.core.platform.profile).atr
    }

    /// The flash.
    pub const fn flash(&self) -> &P::Flash {
        &self.core.nvm.flash
    }

    /// Switches the SE off and gives the flash back.
    pub fn into_flash(self) -> P::Flash {
        self.core.nvm.flash
    }
}

/// Answers a status word beside what waits to be fetched. `out` holds two bytes or more.
fn bare(sw: StatusWord, out: &mut [u8]) -> usize {
    let mut writer = Writer::new(out);
    let _ = writer.bytes(&sw.bytes());
    writer.len()
}

/// By the header alone: GET RESPONSE with a wrong length is one too.
pub(crate) fn is_get_response(capdu: &[u8]) -> bool {
    matches!(capdu, [_, ins::GET_RESPONSE, _, _, ..])
}
