//! The way of a command: broadcast mode's rule, the operating system's own commands, secure channel, application, commit, protection.

use sekisho_apdu::gp::{CardLifeCycle, SecurityDomainLifeCycle, ins};
use sekisho_apdu::{CApdu, SecureMessaging, StatusWord, Writer};
use sekisho_messaging::SmError;
use sekisho_scp::ScpError;
use zeroize::Zeroize;

use crate::application::{Effects, Protection};
use crate::bulk;
use crate::call::Next;
use crate::chaining::COMMAND_DATA_MAX;
use crate::channels::Channels;
use crate::dispatch::Work;
use crate::interface::{Interface, Place};
use crate::keys::{KVN_DAP, KVN_TOKEN};
use crate::loader::commands::ChangeMode;
use crate::messaging::Revoked;
use crate::nvm::{Records, Staged};
use crate::pairing_record::PairingState;
use crate::refusal::{Outcome, Refusal};
use crate::response::Response;
use crate::secure::{ModeChange, Slot};
use crate::select;
use crate::state::{Core, Platform, Scratch, WorkRoom};

/// A command that has passed the secure channel or the secure messaging.
struct Admitted<'b> {
    command: CApdu<'b>,
    /// How it was protected: its answer gets the same.
    protection: Protection,
    passed: Passed,
}

/// A word that only they have who came by the way that leads here: an instruction that the chip leaves out may end in the middle of a function, and has not made it.
struct Passed(u32);

impl Passed {
    const WORD: u32 = 0x3CA5_965A;

    fn here() -> Self {
        // The compiler must not know it where it is looked at.
        Self(core::hint::black_box(Self::WORD))
    }

    const fn holds(&self) -> bool {
        self.0 == Self::WORD
    }
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
    /// Processes a whole command and leaves the answer in `response`. What is being loaded from there ends with any other command than the next block, and with one that is refused.
    pub(crate) fn process(
        &mut self,
        place: Place,
        command: &CApdu<'_>,
        scratch: &mut Scratch,
        response: &mut Response,
    ) {
        if command.ins != ins::LOAD {
            self.end_load(place);
        }
        self.process_alone(place, command, scratch, response);
        if response.status() != StatusWord::NO_ERROR {
            self.end_load(place);
        }
    }

    fn process_alone(
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
        if self.interfaces.messaging.is_open(place) {
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
        scratch.staged.worked = true;
        let plain = &mut scratch.plain;
        let admitted = match self.admit(place, command, plain) {
            Ok(Admission::Command(admitted)) if admitted.command.data.len() <= COMMAND_DATA_MAX => admitted,
            Ok(Admission::Again) if response.set_again() => return,
            Ok(Admission::Again) => {
                self.end_messaging(place);
                return response.set(|_| StatusWord::CONDITIONS_NOT_SATISFIED);
            }
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
        let Admitted {
            command: admitted,
            protection,
            passed,
        } = admitted;
        if !passed.holds() {
            wipe(plain, command);
            return response.set(|_| StatusWord::SECURITY_STATUS_NOT_SATISFIED);
        }
        self.work(
            place,
            protection,
            Work::Command(&admitted),
            &mut scratch.work,
            &mut scratch.staged,
            response,
        );
        // A decrypted command may carry keys, or what the fleet alone may read.
        wipe(plain, command);
    }

    /// The next piece of the answer that an application gives in pieces at a place, where nothing else has come since.
    pub(crate) fn next_piece(&mut self, place: Place, scratch: &mut Scratch, response: &mut Response) {
        scratch.staged.worked = true;
        self.work(
            place,
            Protection::None,
            Work::Piece,
            &mut scratch.work,
            &mut scratch.staged,
            response,
        );
    }

    /// Lets the selected application work, commits, and leaves the answer in `response`.
    fn work(
        &mut self,
        place: Place,
        protection: Protection,
        work: Work<'_>,
        WorkRoom { answer, call }: &mut WorkRoom,
        staged: &mut Staged,
        response: &mut Response,
    ) {
        let limit = response.limit().min(answer.len());
        let mut writer = Writer::new(answer.get_mut(..limit).unwrap_or_default());
        let mut effects = Effects::default();
        let pieces = protection == Protection::None && response.can_wait();
        let next = self.execute(
            (place, protection, pieces),
            work,
            staged,
            &mut effects,
            call,
            &mut writer,
        );
        call.clear();
        let (outcome, goes_on) = match next {
            Ok(Next::Done(sw)) => (Ok(sw), false),
            Ok(Next::More) if pieces => (Ok(StatusWord::NO_ERROR), true),
            Ok(Next::More | Next::Forward(_)) => (Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY)), false),
            Err(refusal) => (Err(refusal), false),
        };
        if matches!(work, Work::Piece) {
            staged.clear();
        }
        let outcome = match (effects.order.take(), work) {
            (Some(order), Work::Command(command)) if outcome.is_ok() => self
                .perform(&order, command.data, staged, &mut writer)
                .and(outcome),
            _ => outcome,
        };
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
        if goes_on && outcome.is_ok() {
            response.set_going_on();
        }
        answered.zeroize();
        if outcome.is_ok() {
            if let Some(pairing) = effects.pairing.take() {
                self.pair(pairing);
            }
            if let Some(mode) = effects.mode.take() {
                self.change_mode(place, mode);
            }
            if effects.opened.is_some() {
                self.open_messaging(place, &mut effects);
            }
            self.end_revoked(place, &effects);
            #[cfg(feature = "os-part")]
            self.announced.clone_from(&effects.announced);
        }
    }

    /// Works with other pairing data from here on; the interfaces whose row is another are reset behind the answer.
    fn pair(&mut self, next: PairingState) {
        let before = core::mem::replace(&mut self.containers.pairing, next).rows;
        for (interface, is_changed) in Interface::ALL.into_iter().zip(&mut self.unpaired) {
            let protocol = self.interfaces.channels.protocol(interface);
            *is_changed |= before.row(protocol) != next.rows.row(protocol);
        }
    }

    /// Secure messaging begins. Not inlined: what is moved here would take its room of the stack of every command.
    #[inline(never)]
    fn open_messaging(&mut self, place: Place, effects: &mut Effects) {
        if let Some((credential, opened)) = effects.opened.take()
            && let Some(gone) = self.interfaces.messaging.open(place, credential, opened)
        {
            self.renew(gone);
        }
    }

    /// Ends what the command of `place` has taken the ground from: secure messaging and secure channels whose key or policy is another now, and the
    /// application sessions of applications that cannot be used any more. What was proved to these is not proved when they are unlocked. Of a container that is
    /// terminated all secure channels but the command's own end.
    #[inline(never)]
    fn end_revoked(&mut self, place: Place, effects: &Effects) {
        for revoked in effects.revoked.iter().flatten() {
            while let Some(place) = self.interfaces.messaging.opened_by(*revoked) {
                self.end_messaging(place);
            }
            if let Revoked::KeySet(key) = revoked {
                if matches!(key.kvn, KVN_DAP | KVN_TOKEN) {
                    // What it has verified is not verified any more.
                    self.give_load_up(key.domain.container, |_| true);
                }
                while let Some(other) = self.interfaces.secure.opened_with(*key, place) {
                    self.end_secure(|p| p == other);
                    self.renew(other);
                }
            }
        }
        if effects.reload {
            for other in Channels::places() {
                let selected = self.interfaces.channels.selected(other);
                let container = self.containers.at(&self.interfaces.channels, other);
                let is_over = container.card.life_cycle == CardLifeCycle::Terminated && other != place;
                let usable = selected.map(|id| (id, container.usable_on(id, other)));
                let is_unusable = usable.is_some_and(|(_, entry)| entry.is_none());
                // Opened with the keys of a domain above, while it had none.
                let is_foreign = |id| {
                    self.interfaces
                        .secure
                        .key(other)
                        .is_some_and(|key| key.domain.entry != id)
                };
                let is_replaced = usable.is_some_and(|(id, entry)| {
                    let is_personalised = entry
                        .is_some_and(|entry| entry.life_cycle == SecurityDomainLifeCycle::PERSONALIZED.0);
                    other != place && is_personalised && is_foreign(id)
                });
                if is_over || is_unusable || is_replaced {
                    self.end_secure(|p| p == other);
                }
                if is_unusable {
                    self.end_messaging(other);
                    self.renew(other);
                }
            }
        }
    }

    /// Answers under the protection that the command came with. Not inlined, as [`Core::admit`].
    #[inline(never)]
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
        match self.interfaces.messaging.receive(place, command, plain) {
            Ok(Some(command)) => Ok(Admission::Command(Admitted {
                command,
                protection: Protection::Messaging,
                passed: Passed::here(),
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
        let refreshed = fresh.map_or(Ok(()), |secret| self.interfaces.messaging.refresh(place, secret));
        let messaging = &mut self.interfaces.messaging;
        let done =
            refreshed.and_then(|()| response.set_protected(|out| messaging.answer(place, data, sw, out)));
        if let Err(error) = done {
            self.end_messaging(place);
            response.set(|_| error.status());
        }
    }

    /// Lets a command through the secure channel of its logical channel: verifies and decrypts it (GPC 10.2.3, Amd D 5.6). Not inlined: what it needs of
    /// the stack is free when the application works.
    #[inline(never)]
    fn admit<'b>(
        &mut self,
        place: Place,
        command: &CApdu<'b>,
        plain: &'b mut [u8],
    ) -> Result<Admission<'b>, Refusal> {
        if self.interfaces.messaging.is_open(place) {
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
        let admitted = |command, protection| {
            Admission::Command(Admitted {
                command,
                protection,
                passed: Passed::here(),
            })
        };
        let in_the_clear = admitted(*command, Protection::None);
        let indicated = command.cla.secure_messaging() != SecureMessaging::None;
        let starts = command.ins == ins::INITIALIZE_UPDATE && command.cla.proprietary() && !indicated;
        let continues = command.ins == ins::EXTERNAL_AUTHENTICATE;
        if self.interfaces.secure.is_aborted(place) && !starts {
            return Err(refused);
        }
        let slot = match self.interfaces.secure.get(place) {
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
                    self.interfaces.secure.abort(place);
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

    /// Commits the writes of a command that succeeded, and reads again what is kept in RAM of them. Not inlined, as [`Core::admit`].
    #[inline(never)]
    fn commit(&mut self, place: Place, outcome: Outcome, staged: &mut Staged, effects: &Effects) -> Outcome {
        let done = match outcome {
            Ok(_) if !staged.is_empty() => self.write(place, staged, effects).and(outcome),
            _ => outcome,
        };
        staged.clear();
        let done = match done {
            Err(Refusal(StatusWord::MEMORY_FAILURE)) => done,
            _ => bulk::settle(&mut self.nvm.open()).and(done),
        };
        // An opening whose sequence counter is not durable must not go on.
        if done.is_err()
            && let Some(slot @ Slot::Initiated { .. }) = self.interfaces.secure.get(place)
        {
            *slot = Slot::FREE;
        }
        done
    }

    fn write(&mut self, place: Place, staged: &mut Staged, effects: &Effects) -> Result<(), Refusal> {
        staged.commit(&mut self.nvm.open(), effects.essential)?;
        staged.clear();
        if effects.reload {
            self.read_again(place, staged)?;
        }
        Ok(())
    }

    /// Reads the container again. Not inlined, as [`Core::open_messaging`].
    #[inline(never)]
    fn read_again(&mut self, place: Place, staged: &mut Staged) -> Result<(), Refusal> {
        self.changed = true;
        let container = self.interfaces.channels.container(place);
        let mut records = Records {
            nvm: self.nvm.open(),
            staged,
        };
        self.containers.reload(&mut records, container)
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
        let open = match self.interfaces.secure.get(place) {
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
