//! The dispatcher: the only caller of applications. It calls the one that is selected where a command came in, carries a command from that one to
//! another and its answer back, and asks for the next piece of a long answer.
//!
//! ```text
//! command --> process --> Done ----------------------------> commit --> answer
//!               |    ^--> More: a piece --> commit --> answer, and at GET RESPONSE resume(Piece) --> ...
//!               v
//!            Forward --> process of another application --> resume(Answer) --> Done, Forward or More
//! ```
//!
//! The command and the answer of a call have room of their own, so that neither application sees more of the other's than was sent. What both
//! write is one transaction, which the outermost decides: if it refuses, nothing of either is written. If the called one refuses, only what it
//! wrote is dropped. A call goes one level deep: who has been called calls nobody.

use sekisho_apdu::{CApdu, StatusWord, Writer};

use crate::application::{Application, Applications, Context, Effects, Protection, System};
use crate::call::{CALLS_MAX, Call, CallCommand, CallRoom, Caller, Next, Resume};
use crate::interface::{ContainerId, Place};
use crate::names::EntryId;
use crate::nvm::{Records, Staged};
use crate::profile::Profile;
use crate::refusal::Refusal;
use crate::registry::Entry;
use crate::stack::Depth;
use crate::state::{Core, Platform};

/// What the selected application is called for.
#[derive(Clone, Copy)]
pub(crate) enum Work<'c> {
    Command(&'c CApdu<'c>),
    Piece,
}

/// A call of an application: of which, and what it is told.
#[derive(Clone, Copy)]
pub(crate) struct Called<'a> {
    /// Its container.
    pub(crate) container: ContainerId,
    pub(crate) place: Place,
    pub(crate) caller: Caller,
    pub(crate) entry: &'a Entry,
    pub(crate) protection: Protection,
    /// Whether the answer may come in pieces.
    pub(crate) pieces: bool,
}

impl<P: Platform> Core<P> {
    /// Calls the selected application, and whatever it calls.
    pub(crate) fn execute(
        &mut self,
        (place, protection, pieces): (Place, Protection, bool),
        work: Work<'_>,
        staged: &mut Staged,
        effects: &mut Effects,
        room: &mut CallRoom,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let refused = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        let id = self.interfaces.channels.selected(place).ok_or(refused)?;
        // It may have been locked, by itself or with the card, while it was selected.
        let container = self.containers.at(&self.interfaces.channels, place);
        let row = self.containers.row(&self.interfaces.channels, place.interface);
        let entry = container.named(container.usable_on(id, place).ok_or(refused)?, row);
        let called = Called {
            container: container.id,
            place,
            caller: Caller::Interface(place),
            entry: &entry,
            protection,
            pieces,
        };
        staged.begin();
        let mut next = self.with(
            called,
            staged,
            effects,
            Some(&mut room.command),
            |it, cx| match work {
                Work::Command(command) => it.process(cx, command, out),
                Work::Piece => it.resume(cx, Resume::Piece, out),
            },
        )?;
        for left in (0..CALLS_MAX).rev() {
            let Next::Forward(call) = next else {
                return Ok(next);
            };
            let sw = self.carry((place, id), &call, staged, effects, room)?;
            staged.begin();
            let CallRoom {
                command,
                answer,
                answered,
                ..
            } = &mut *room;
            let data = answer.get(..*answered).unwrap_or_default();
            // Who has made the last call has no room for one more.
            let command = Some(command).filter(|_| left > 0);
            next = self.with(called, staged, effects, command, |it, cx| {
                it.resume(cx, Resume::Answer { data, sw }, out)
            })?;
        }
        match next {
            Next::Forward(_) => Err(refused),
            next => Ok(next),
        }
    }

    /// Carries a command to another application; gives its status word and leaves its data in the room.
    ///
    /// # Errors
    /// 6581: the flash has failed, and nobody is asked any more.
    ///
    /// Not inlined: what the other application brings about would take its room of the stack of every command.
    #[inline(never)]
    fn carry(
        &mut self,
        (place, from): (Place, EntryId),
        call: &Call,
        staged: &mut Staged,
        effects: &mut Effects,
        room: &mut CallRoom,
    ) -> Result<StatusWord, Refusal> {
        let before = staged.begin();
        (room.answered, room.is_used) = (0, true);
        // Whoever has called does not know how deep another application goes.
        staged.depth = Depth::Whole;
        let mut out = Writer::new(&mut room.answer);
        let bytes = room.command.bytes.get(..room.command.len).unwrap_or_default();
        let mut own = Effects::default();
        match self.call((place, from), call.to, bytes, staged, &mut own, &mut out) {
            Ok(sw) => {
                room.answered = if sw.is_success_or_warning() { out.len() } else { 0 };
                effects.join(&own);
                Ok(sw)
            }
            Err(Refusal(StatusWord::MEMORY_FAILURE)) => Err(Refusal(StatusWord::MEMORY_FAILURE)),
            Err(Refusal(sw)) => {
                staged.forget_since(before);
                Ok(sw)
            }
        }
    }

    fn call(
        &mut self,
        (place, from): (Place, EntryId),
        to: EntryId,
        command: &[u8],
        staged: &mut Staged,
        effects: &mut Effects,
        out: &mut Writer<'_>,
    ) -> Result<StatusWord, Refusal> {
        let refused = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        let container = self.containers.at(&self.interfaces.channels, place);
        let entry = *container.usable(to, place).ok_or(refused)?;
        let command = CApdu::parse(command).map_err(|_| Refusal(StatusWord::WRONG_LENGTH))?;
        if let Some((index, _)) = container.registry.entry(to) {
            self.interfaces.channels.note_called(place, index);
        }
        let called = Called {
            container: container.id,
            place,
            caller: Caller::Application { entry: from },
            entry: &entry,
            protection: Protection::None,
            pieces: false,
        };
        match self.with(called, staged, effects, None, |it, cx| {
            it.process(cx, &command, out)
        })? {
            Next::Done(sw) => Ok(sw),
            // Nobody would fetch the rest.
            Next::More | Next::Forward(_) => Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)),
        }
    }

    /// Calls an application.
    pub(crate) fn with<T>(
        &mut self,
        called: Called<'_>,
        staged: &mut Staged,
        effects: &mut Effects,
        call: Option<&mut CallCommand>,
        run: impl FnOnce(&mut dyn Application, &mut Context<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let module = called.entry.module;
        let (applications, mut context) = self.context(called, staged, effects, call);
        let application = applications.get(module, context.instance());
        run(
            application.ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))?,
            &mut context,
        )
    }

    /// The context of an application, beside the applications themselves.
    pub(crate) fn context<'a>(
        &'a mut self,
        called: Called<'a>,
        staged: &'a mut Staged,
        effects: &'a mut Effects,
        call: Option<&'a mut CallCommand>,
    ) -> (&'a mut P::Applications, Context<'a>) {
        let context = Context {
            place: called.place,
            protocol: self.interfaces.channels.protocol(called.place.interface),
            caller: called.caller,
            entry: called.entry,
            protection: called.protection,
            pieces: called.pieces,
            #[cfg(feature = "tls")]
            peer: self
                .speaking
                .filter(|_| matches!(called.caller, Caller::Interface(place) if place.is_inside()))
                .map(|speaking| speaking.speaker.peer),
            session: self.interfaces.channels.session(called.place),
            records: Records {
                nvm: self.nvm.open(),
                staged,
            },
            rng: &mut self.platform.rng,
            call,
            system: System {
                profile: Profile::or_default(&self.platform.profile),
                container: self.containers.get(called.container),
                secure: &mut self.interfaces.secure,
                messaging: &self.interfaces.messaging,
                loader: &mut self.loader,
                effects,
                pairing: &self.containers.pairing,
                containers: self.containers.made(),
                free_ram: self.platform.free_ram,
            },
        };
        (&mut self.platform.applications, context)
    }
}
