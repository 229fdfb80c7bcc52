//! TLS sessions that end in the SE (`docs/spec/tls-apdu.md`, `docs/spec/tls-manager.md`): the class that no application has, and what comes out of a session.
//!
//! ```text
//! A4..A7, B4..B7 --> TLS Manager --> an answer, or a command in the clear
//!                                      |
//!                                      v
//!                    place inside the session: SELECT, secure channel, application, commit --> R-APDU --> TLS Manager --> answer
//! ```
//!
//! What is selected inside belongs to the session: it stands at a [place](Place::inside) that no class byte names, and goes with the session. The operating system knows no engine:
//! a product without [`Tls`] has nothing of all this, and a build without the feature not even the places.

use sekisho_apdu::gp::ins;
use sekisho_apdu::{Aid, CApdu, Cla, PartialAid, StatusWord, Writer};

use crate::application::{Applications, Effects, Protection, Tls};
use crate::buffers::{InterfaceState, Interfaces};
use crate::call::Caller;
use crate::channels::{Channels, Selected};
use crate::container::ContainerMemory;
use crate::dispatch::Called;
use crate::element::{SecureElement, is_get_response};
use crate::interface::{ContainerId, Interface, Place};
use crate::not_zero::NotZero;
use crate::nvm::Staged;
use crate::pairing::Row;
use crate::profile::Profile;
use crate::registry::{Entry, Instance, Module};
use crate::response::{Response, Wanted};
use crate::state::{Core, Platform};
use crate::tls_inside::{InsideRoom, Speaker, Speaking, TlsHeard, is_class};

/// AID of the TLS Manager: F0 "SKOS" 05 01.
pub const TLS_MANAGER: &[u8] = b"\xF0SKOS\x05\x01";

/// Where a TLS Manager stands.
type Manager = (ContainerId, Entry);

impl<P: Platform> Core<P> {
    /// The TLS Manager that an interface reaches, if it can be used.
    fn tls_manager(&self, interface: Interface) -> Option<Manager> {
        let row = self.containers.row(&self.interfaces.channels, interface);
        let name = PartialAid::try_from(TLS_MANAGER).ok()?;
        // It may be secure-only itself.
        let inside = Place {
            interface,
            logical_channel: 0,
        }
        .inside();
        let common = Profile::or_default(&self.platform.profile).common;
        let (container, entry) = self.containers.find((row, common), &name, inside)?;
        let usable = self.containers.get(container).usable(entry.id, inside)?;
        (usable.module == Module::TLS_MANAGER).then_some((container, entry))
    }

    fn tls(&mut self, (container, entry): &Manager) -> Option<&mut dyn Tls> {
        let instance = Instance {
            container: *container,
            entry: entry.id,
        };
        self.platform.applications.get(entry.module, instance)?.tls()
    }

    /// Lets the TLS Manager take a command of the class.
    fn tls_hear(
        &mut self,
        (container, entry): &Manager,
        place: Place,
        command: &CApdu<'_>,
        staged: &mut Staged,
        out: &mut Writer<'_>,
    ) -> TlsHeard {
        let called = Called {
            container: *container,
            place,
            caller: Caller::Interface(place),
            entry,
            protection: Protection::None,
            pieces: false,
        };
        let mut effects = Effects::default();
        staged.begin();
        let (applications, mut context) = self.context(called, staged, &mut effects, None);
        let tls = applications
            .get(entry.module, context.instance())
            .and_then(|application| application.tls());
        let heard = tls.map(|tls| tls.hear(&mut context, command, out));
        staged.clear();
        heard.unwrap_or(TlsHeard::Answer(StatusWord::CLA_NOT_SUPPORTED))
    }

    /// More of an answer of the class, whose beginning has been fetched.
    pub(crate) fn tls_rest(&mut self, place: Place, response: &mut Response) {
        let manager = self.tls_manager(place.interface);
        let tls = manager.as_ref().and_then(|manager| self.tls(manager));
        let Some(tls) = tls.filter(|tls| tls.has_rest(place)) else {
            return response.set(|_| StatusWord::CONDITIONS_NOT_SATISFIED);
        };
        response.set(|out| {
            tls.rest(place, out);
            StatusWord::NO_ERROR
        });
        if tls.has_rest(place) {
            response.set_going_on();
        }
    }

    /// Ends the TLS sessions of places, and what was selected in them.
    pub(crate) fn end_tls(&mut self, is_gone: impl Fn(Place) -> bool) {
        for place in Channels::places().filter(|place| is_gone(*place)) {
            if place.has_inside() {
                self.end_tls_at(place);
            }
        }
    }

    fn end_tls_at(&mut self, place: Place) {
        for container in self.containers.table.all() {
            let its = |(_, entry): &(u8, &Entry)| entry.module == Module::TLS_MANAGER;
            for (_, entry) in container.registry.applications().filter(its) {
                let instance = Instance {
                    container: container.id,
                    entry: entry.id,
                };
                let manager = self.platform.applications.get(entry.module, instance);
                if let Some(tls) = manager.and_then(|application| application.tls()) {
                    tls.end(place);
                }
            }
        }
        self.close_inside(place);
    }

    /// What was selected in the session of a place is not selected any more.
    fn close_inside(&mut self, place: Place) {
        let inside = place.inside();
        if self.interfaces.channels.is_open(inside) {
            self.end_secure(|p| p == inside);
            self.deselect(inside);
            self.interfaces.channels.close(inside);
        }
    }

    /// Where names mean something at a place: inside a session in the TLS Manager's container, whatever protocol carries it.
    pub(crate) fn row_inside(&self, place: Place, row: Row) -> Row {
        let speaking = self.speaking.as_ref().filter(|_| place.is_inside());
        speaking.map_or(row, |speaking| Row {
            container: speaking.container,
            ..row
        })
    }

    /// Whether what is selected at a place may be this: inside a session only what the peer's row names.
    pub(crate) fn may_reach(&self, place: Place, container: ContainerId, aid: &Aid) -> bool {
        !place.is_inside()
            || self.speaking.as_ref().is_some_and(|speaking| {
                speaking.container == container
                    && speaking.speaker.reach.iter().flatten().any(|one| one == aid)
            })
    }
}

impl<P: Platform> SecureElement<P> {
    /// Takes a command of the class of TLS sessions; `None` for what is none, and where no TLS Manager is. Neither the chain nor the security of the logical channel sees it.
    #[inline(never)]
    pub(crate) fn tls_command(
        &mut self,
        interface: Interface,
        capdu: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let cla = Cla(*capdu.first()?);
        if !is_class(cla) || self.buffers.interfaces.inside(interface).is_none() {
            return None;
        }
        let place = Place {
            interface,
            logical_channel: cla.0 & 3,
        };
        let Some(manager) = self.core.tls_manager(interface) else {
            self.core.end_tls_at(place);
            return None;
        };
        let command = CApdu::parse(capdu);
        if is_get_response(capdu) {
            return Some(self.fetch(place, cla, command, out));
        }
        let protocol = self.protocol(interface);
        let wanted = match &command {
            Ok(command) => Wanted::of(command, protocol, out),
            Err(_) => Wanted::by(cla, None, false, out),
        };
        let InterfaceState { waiting, .. } = self.buffers.interfaces.get(interface)?;
        waiting.interrupt(place.logical_channel);
        let core = &self.core;
        let stays = waiting
            .channel()
            .is_some_and(|owner| core.has_proved(place.on(owner)));
        let kept = waiting.keeps_for(place.logical_channel);
        let begin = (wanted, !stays || core.has_proved(place), kept);
        self.buffers.response.begin(begin.0, begin.1, begin.2);
        let is_open = self.core.interfaces.channels.is_open(place);
        match command {
            _ if !is_open => {
                self.buffers
                    .response
                    .set(|_| StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED);
            }
            Ok(command) => self.tls_session(&manager, place, &command, begin),
            Err(_) => self.buffers.response.set(|_| StatusWord::WRONG_LENGTH),
        }
        self.leave_rest(&manager, place);
        let sw = self.buffers.response.status();
        self.core.on &= sw != StatusWord::MEMORY_FAILURE;
        // With 6400 a record is to be sent again.
        if sw != StatusWord::NO_ERROR && sw != StatusWord::NO_SPECIFIC_DIAGNOSIS {
            self.core.end_tls_at(place);
        }
        let waiting = &mut self.buffers.interfaces.get(interface)?.waiting;
        let len = self
            .buffers
            .response
            .deliver(place.logical_channel, wanted, waiting, out);
        Some(len)
    }

    /// The TLS Manager takes a command; if one comes out, it is run and its answer goes back in.
    fn tls_session(
        &mut self,
        manager: &Manager,
        place: Place,
        command: &CApdu<'_>,
        begin: (Wanted, bool, bool),
    ) {
        self.buffers.scratch.staged.worked = true;
        let mut heard = TlsHeard::Answer(StatusWord::UNKNOWN);
        let (core, staged) = (&mut self.core, &mut self.buffers.scratch.staged);
        self.buffers.response.set(|out| {
            heard = core.tls_hear(manager, place, command, staged, out);
            match heard {
                TlsHeard::Answer(sw) => sw,
                TlsHeard::Command(_) => StatusWord::NO_ERROR,
            }
        });
        if let TlsHeard::Command(speaker) = heard {
            let len = self.run_inside(manager, place, speaker);
            self.buffers.response.clear();
            self.buffers.response.begin(begin.0, begin.1, begin.2);
            let room = self.buffers.interfaces.inside(place.interface);
            let both = self.core.tls(manager).zip(room);
            self.buffers.response.set(|out| {
                both.map_or(StatusWord::CONDITIONS_NOT_SATISFIED, |(tls, (_, room))| {
                    let sw = tls.answer(place, room.answer.get(..len).unwrap_or_default(), out);
                    room.clear();
                    sw
                })
            });
        }
    }

    /// What has no room in the answer is to be fetched behind it, where that can wait.
    fn leave_rest(&mut self, manager: &Manager, place: Place) {
        let response = &mut self.buffers.response;
        if self.core.tls(manager).is_some_and(|tls| tls.has_rest(place)) {
            if response.can_wait() {
                response.set_going_on();
            } else {
                response.set(|_| StatusWord::UNKNOWN);
            }
        }
    }

    /// Runs the command that came out of the session of a place. Its R-APDU stands in the room then, as long as this says.
    fn run_inside(&mut self, manager: &Manager, place: Place, speaker: Speaker) -> usize {
        let Some((own, room)) = self.buffers.interfaces.inside(place.interface) else {
            return 0;
        };
        let came = self.core.tls(manager).and_then(|tls| {
            let command = tls.command(place);
            let into = room.command.get_mut(..command.len())?;
            into.copy_from_slice(command);
            Some(into.len())
        });
        let Some(len) = came else {
            return bare(StatusWord::WRONG_LENGTH, &mut room.answer);
        };
        let speaking = Speaking {
            speaker,
            container: manager.0,
            _mark: NotZero::Value,
        };
        let inside = place.inside();
        if !self.core.interfaces.channels.is_open(inside) {
            let nothing = Selected {
                container: manager.0,
                entry: None,
            };
            self.core.interfaces.channels.open_inside(inside, nothing);
        }
        let InsideRoom { command, answer } = room;
        let command = CApdu::parse(command.get(..len).unwrap_or_default());
        let command = match command.map_err(|_| StatusWord::WRONG_LENGTH).and_then(admit) {
            Ok(command) => command,
            Err(sw) => return bare(sw, answer),
        };
        let wanted = Wanted::by(command.cla, command.ne, command.extended, answer);
        let (core, response, scratch) = (
            &mut self.core,
            &mut self.buffers.response,
            &mut self.buffers.scratch,
        );
        response.begin(wanted, false, false);
        let loading = core.loading_session(inside, command.ins);
        core.speaking = Some(speaking);
        core.process(inside, &command, scratch, response);
        Speaking::end(&mut core.speaking);
        core.on &= response.status() != StatusWord::MEMORY_FAILURE;
        if response.status() != StatusWord::NO_ERROR {
            if let Some(session) = loading {
                core.refuse_load(inside, session, response.status(), &mut scratch.staged);
            }
            core.end_broadcast(inside);
        }
        // Nothing waits: there was no room for more than goes out.
        response.deliver(inside.logical_channel, wanted, &mut own.waiting, answer)
    }
}

/// Whether a session has such commands.
fn admit(command: CApdu<'_>) -> Result<CApdu<'_>, StatusWord> {
    let cla = command.cla;
    match command.ins {
        _ if !cla.is_supported() => Err(StatusWord::CLA_NOT_SUPPORTED),
        _ if cla.logical_channel() != 0 => Err(StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED),
        _ if cla.chaining() => Err(StatusWord::CHAINING_NOT_SUPPORTED),
        ins::MANAGE_CHANNEL if !cla.proprietary() => Err(StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED),
        ins::GET_RESPONSE => Err(StatusWord::INS_NOT_SUPPORTED),
        _ => Ok(command),
    }
}

fn bare(sw: StatusWord, out: &mut [u8]) -> usize {
    let mut writer = Writer::new(out);
    let _ = writer.bytes(&sw.bytes());
    writer.len()
}
