//! The way of a command: broadcast mode's rule, the operating system's own commands, secure channel, application, commit, protection.

use sekisho_apdu::gp::{CardLifeCycle, ins};
use sekisho_apdu::{CApdu, SecureMessaging, StatusWord, Writer};
use sekisho_messaging::SmError;
use sekisho_scp::ScpError;
use zeroize::Zeroize;

use crate::application::{Applications, Context, Effects, Protection, System};
use crate::chaining::COMMAND_DATA_MAX;
use crate::channels::Channels;
use crate::container::{Container, ISD_INDEX};
use crate::element::{Core, Platform, Scratch};
use crate::interface::Place;
use crate::issuer::ModeChange;
use crate::loader::commands::ChangeMode;
use crate::messaging::Revoked;
use crate::nvm::{AnyFlash, Nvm, Records, Staged};
use crate::refusal::{Outcome, Refusal};
use crate::registry::Entry;
use crate::response::Response;
use crate::secure::Slot;
use crate::select;

/// A command that has passed the secure channel or the secure messaging.
struct Admitted<'b> {
    command: CApdu<'b>,
    /// How it was protected: its answer gets the same.
    protection: Protection,
}

/// What the protection of a command says of it.
enum Admission<'b> {
    /// It is for the application.
    Command(Admitted<'b>),
    /// It is the last command of secure messaging once more: its answer goes out again.
    Again,
    /// Its MAC is right and its data longer than the SE takes: it is refused, and what protected it goes on.
    TooLong(Protection),
}

/// Wipes what a command was decrypted into; it is not longer than what came.
fn wipe(plain: &mut [u8], command: &CApdu<'_>) {
    let len = plain.len().min(command.data.len());
    plain.get_mut(..len).unwrap_or_default().zeroize();
}

impl<P: Platform> Core<P> {
    /// Processes a whole command and leaves the answer in `response`.
    pub(crate) fn process(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        scratch: &mut Scratch,
        response: &mut Response,
    ) {
        if !matches!(command.ins, ins::WRITE | ins::CHANGE_MODE) && self.is_broadcast(place) {
            self.end_broadcast(place);
            if !select::is_by_name(command) {
                return response.set(|_| StatusWord::INS_NOT_SUPPORTED);
            }
        }
        // Under secure messaging the application has no command in common with the operating system.
        if self.messaging.is_open(place) {
            return self.dispatch(place, command, scratch, response);
        }
        if select::is_by_name(command) {
            return response.set(|w| {
                self.select(place, command, &mut scratch.staged, w)
                    .unwrap_or_else(|r| r.0)
            });
        }
        match command.ins {
            ins::MANAGE_CHANNEL if !command.cla.proprietary() => {
                response.set(|w| self.manage_channel(place, command, w).unwrap_or_else(|r| r.0));
            }
            _ => self.dispatch(place, command, scratch, response),
        }
    }

    fn dispatch(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        scratch: &mut Scratch,
        response: &mut Response,
    ) {
        let Scratch {
            plain,
            answer,
            staged,
        } = scratch;
        staged.worked = true;
        let admitted = match self.admit(place, command, plain) {
            Ok(Admission::Command(admitted)) if admitted.command.data.len() <= COMMAND_DATA_MAX => admitted,
            Ok(Admission::Again) => return response.set_protected(self.messaging.last_answer(place)),
            Ok(Admission::TooLong(protection) | Admission::Command(Admitted { protection, .. })) => {
                wipe(plain, command);
                return self.respond(place, protection, None, &[], StatusWord::WRONG_LENGTH, response);
            }
            Err(refusal) => {
                // It may have been decrypted before it was refused.
                wipe(plain, command);
                return response.set(|_| refusal.0);
            }
        };
        let protection = admitted.protection;
        let limit = response.limit().min(answer.len());
        let mut writer = Writer::new(answer.get_mut(..limit).unwrap_or_default());
        let mut effects = Effects::default();
        let outcome = self.execute(place, admitted, staged, &mut effects, &mut writer);
        let outcome = self.commit(place, outcome, staged, &effects);
        if outcome.is_ok()
            && let Some(left) = effects.mode.take_if(|mode| matches!(mode, ModeChange::Left))
        {
            self.change_mode(place, left);
        }
        let answered = writer.into_written();
        let (data, sw): (&[u8], _) = match outcome {
            Ok(sw) => (answered, sw),
            Err(refusal) => (&[], refusal.0),
        };
        let fresh = effects.refresh.take().filter(|_| outcome.is_ok());
        self.respond(place, protection, fresh.as_deref(), data, sw, response);
        answered.zeroize();
        // A decrypted command may carry keys, or what the fleet alone may read.
        wipe(plain, command);
        if outcome.is_ok() {
            if let Some(mode) = effects.mode {
                self.change_mode(place, mode);
            }
            if let Some((credential, opened)) = effects.opened
                && let Some(gone) = self.messaging.open(place, credential, opened)
            {
                self.renew(gone);
            }
            self.end_revoked(place, effects.revoked, effects.reload);
        }
    }

    /// Ends what the command of `place` has taken the ground from: secure messaging and secure channels whose key or policy is another now, and the
    /// application sessions of applications that cannot be used any more. What was proved to these is not proved when they are unlocked.
    fn end_revoked(&mut self, place: Place, revoked: Option<Revoked>, reloaded: bool) {
        if let Some(revoked) = revoked {
            while let Some(place) = self.messaging.opened_by(revoked) {
                self.end_messaging(place);
            }
        }
        if let Some(Revoked::KeySet(key)) = revoked {
            while let Some(other) = self.secure.opened_with(key, place) {
                self.end_secure(|p| p == other);
            }
        }
        if reloaded {
            for place in Channels::places() {
                let selected = self.channels.selected(place);
                if selected.is_some_and(|index| self.usable(index).is_none()) {
                    self.end_messaging(place);
                    self.renew(place);
                }
            }
        }
    }

    /// The registry's entry of an application that may process commands: neither it nor the card is locked.
    fn usable(&self, index: u8) -> Option<&Entry> {
        let entry = self.container.registry.get(index)?;
        let card_is_open = self.container.card.life_cycle < CardLifeCycle::CardLocked;
        (index == ISD_INDEX || card_is_open && entry.is_selectable()).then_some(entry)
    }

    /// Answers under the protection that the command came with.
    fn respond(
        &mut self,
        place: Place,
        protection: Protection,
        fresh: Option<&[u8; 32]>,
        data: &[u8],
        sw: StatusWord,
        response: &mut Response,
    ) {
        if protection == Protection::Messaging {
            self.answer(place, fresh, data, sw, response);
        } else {
            response.set(|w| self.protect(place, protection, data, sw, w));
        }
    }

    /// Lets a command through the secure messaging of its logical channel. Every error ends it.
    fn admit_messaging<'b>(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        plain: &'b mut [u8],
    ) -> Result<Admission<'b>, Refusal> {
        match self.messaging.receive(place, command, plain) {
            Ok(Some(command)) => Ok(Admission::Command(Admitted {
                command,
                protection: Protection::Messaging,
            })),
            Ok(None) => Ok(Admission::Again),
            Err(SmError::TooLong) => Ok(Admission::TooLong(Protection::Messaging)),
            Err(error) => {
                self.end_messaging(place);
                Err(Refusal(error.status()))
            }
        }
    }

    /// Protects an answer of secure messaging: the keys of the exchange are gone before it leaves.
    fn answer(
        &mut self,
        place: Place,
        fresh: Option<&[u8; 32]>,
        data: &[u8],
        sw: StatusWord,
        response: &mut Response,
    ) {
        let refreshed = fresh.map_or(Ok(()), |secret| self.messaging.refresh(place, secret));
        match refreshed.and_then(|()| self.messaging.answer(place, data, sw)) {
            Ok(rapdu) => response.set_protected(rapdu),
            Err(error) => {
                self.end_messaging(place);
                response.set(|_| error.status());
            }
        }
    }

    /// Lets a command through the secure channel of its logical channel: verifies and decrypts it (GPC 10.2.3, Amd D 5.6).
    fn admit<'b>(
        &mut self,
        place: Place,
        command: &CApdu<'b>,
        plain: &'b mut [u8],
    ) -> Result<Admission<'b>, Refusal> {
        if self.messaging.is_open(place) {
            return self.admit_messaging(place, command, plain);
        }
        self.admit_secure_channel(place, command, plain)
    }

    fn admit_secure_channel<'b>(
        &mut self,
        place: Place,
        command: &CApdu<'b>,
        plain: &'b mut [u8],
    ) -> Result<Admission<'b>, Refusal> {
        let refused = Refusal(StatusWord::SECURITY_STATUS_NOT_SATISFIED);
        let admitted = |command, protection| Admission::Command(Admitted { command, protection });
        let in_the_clear = admitted(*command, Protection::None);
        let indicated = command.cla.secure_messaging() != SecureMessaging::None;
        let starts = command.ins == ins::INITIALIZE_UPDATE && command.cla.proprietary() && !indicated;
        let continues = command.ins == ins::EXTERNAL_AUTHENTICATE;
        if self.secure.is_aborted(place) && !starts {
            return Err(refused);
        }
        let slot = match self.secure.get(place) {
            Some(slot) => slot,
            None if indicated && !continues => return Err(refused),
            None => return Ok(in_the_clear),
        };
        match slot {
            _ if starts && !slot.is_broadcast() => Ok(in_the_clear),
            Slot::Initiated { .. } | Slot::Free(_) if continues => Ok(in_the_clear),
            Slot::Initiated { .. } | Slot::Free(_) => {
                // Whatever comes between INITIALIZE UPDATE and EXTERNAL AUTHENTICATE breaks the opening off.
                *slot = Slot::FREE;
                if indicated { Err(refused) } else { Ok(in_the_clear) }
            }
            Slot::Open { session, .. } => match session.channel.unwrap(command, plain) {
                Ok(command) => Ok(admitted(command, Protection::SecureChannel)),
                Err(ScpError::TooLong) => Ok(Admission::TooLong(Protection::SecureChannel)),
                Err(error) => {
                    self.secure.abort(place);
                    Err(error.into())
                }
            },
            Slot::Broadcast { channel, .. } if ChangeMode::leaves(command) => Ok(admitted(
                channel.unwrap_saved(command, plain)?,
                Protection::SecureChannel,
            )),
            Slot::Broadcast { channel, .. } => {
                Ok(admitted(channel.unwrap(command, plain)?, Protection::None))
            }
        }
    }

    /// Calls the selected application.
    fn execute(
        &mut self,
        place: Place,
        admitted: Admitted<'_>,
        staged: &mut Staged,
        effects: &mut Effects,
        out: &mut Writer<'_>,
    ) -> Outcome {
        let refused = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        let index = self.channels.selected(place).ok_or(refused)?;
        // It may have been locked, by itself or with the card, while it was selected.
        let entry = *self.usable(index).ok_or(refused)?;
        let (applications, mut context) =
            self.context(place, index, &entry, admitted.protection, staged, effects);
        let application = applications
            .get(entry.module, context.instance())
            .ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))?;
        application.process(&mut context, &admitted.command, out)
    }

    /// The context of an application, beside the applications themselves.
    pub(crate) fn context<'a>(
        &'a mut self,
        place: Place,
        application: u8,
        entry: &'a Entry,
        protection: Protection,
        staged: &'a mut Staged,
        effects: &'a mut Effects,
    ) -> (&'a mut P::Applications, Context<'a>) {
        let container = self.container(place.interface);
        let context = Context {
            place,
            protocol: self.channels.protocol(place.interface),
            application,
            entry,
            protection,
            session: self.channels.session(place),
            records: Records {
                nvm: Nvm {
                    flash: AnyFlash::new(&mut self.flash),
                    store: &mut self.store,
                    layout: &self.layout,
                },
                staged,
                container,
            },
            rng: &mut self.rng,
            system: System {
                profile: &self.profile,
                container: &mut self.container,
                secure: &mut self.secure,
                messaging: &self.messaging,
                loader: &mut self.loader,
                effects,
                free_ram: self.free_ram,
            },
        };
        (&mut self.applications, context)
    }

    /// Commits the writes of a command that succeeded, and reads again what is kept in RAM of them.
    fn commit(&mut self, place: Place, outcome: Outcome, staged: &mut Staged, effects: &Effects) -> Outcome {
        let done = match outcome {
            Ok(_) if !staged.is_empty() => self.write(place, staged, effects).and(outcome),
            _ => outcome,
        };
        staged.clear();
        // An opening whose sequence counter is not durable must not go on.
        if done.is_err()
            && let Some(slot @ Slot::Initiated { .. }) = self.secure.get(place)
        {
            *slot = Slot::FREE;
        }
        done
    }

    fn write(&mut self, place: Place, staged: &mut Staged, effects: &Effects) -> Result<(), Refusal> {
        let mut nvm = Nvm {
            flash: AnyFlash::new(&mut self.flash),
            store: &mut self.store,
            layout: &self.layout,
        };
        staged.commit(&mut nvm, effects.essential)?;
        staged.clear();
        if effects.reload {
            let container = self.pairing.container(place.interface);
            let loaded = Container::load(&mut Records {
                nvm,
                staged,
                container,
            })?;
            self.container = loaded.ok_or(Refusal(StatusWord::MEMORY_FAILURE))?;
        }
        Ok(())
    }

    /// Gives an answer the protection of the secure channel through which its command came, if it is still there.
    fn protect(
        &mut self,
        place: Place,
        protection: Protection,
        data: &[u8],
        sw: StatusWord,
        out: &mut Writer<'_>,
    ) -> StatusWord {
        let open = match self.secure.get(place) {
            Some(Slot::Open { session, .. }) if protection == Protection::SecureChannel => session,
            _ => {
                return if out.bytes(data).is_ok() {
                    sw
                } else {
                    StatusWord::UNKNOWN
                };
            }
        };
        match open.channel.wrap_response(data, sw, out) {
            Ok(()) => {
                // The status word goes with the last piece of the response.
                out.truncate(out.len().saturating_sub(2));
                sw
            }
            Err(_) => {
                self.end_secure(|p| p == place);
                StatusWord::UNKNOWN
            }
        }
    }
}
