//! SecApp: polls the paging server (`docs/spec/secapp.md`).
//!
//! The agent carries datagrams and timers; what to send, what to believe and how long to wait is decided here. The state stands in one record
//! of NVM, written once for each answer that is accepted. What is in RAM never runs ahead of it: each command begins by comparing the two.

mod commands;
mod key_pair;

use sekisho_apdu::{CApdu, StatusWord, Writer};
use sekisho_os::{Application, Context, Next, NotZero, Outcome, Refusal, State as Memory};
use sekisho_paging::device::{Accepted, Device, RECORD, Record, State};
use sekisho_paging::keys::RecoveryKey;
use sekisho_paging::message::Message;
use sekisho_paging::recovery::{Grant, REQUEST, Request};

use commands::Command;

/// AID of the application: F0 "SKOS" 03 01.
pub const AID: &[u8] = b"\xF0SKOS\x03\x01";
/// AID of its executable load file.
pub const LOAD_FILE_AID: &[u8] = b"\xF0SKOS\x03";

/// Record of the state ([`sekisho_paging::device::Record`]).
pub const STATE_RECORD: u16 = 0;
/// Record of the recovery key.
pub const RECOVERY_RECORD: u16 = 1;

const NOT_READY: Refusal = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
const WRONG_DATA: Refusal = Refusal(StatusWord::INCORRECT_DATA);

/// SecApp. All of it is RAM: after a loss of power it begins with what stands in NVM.
#[derive(Debug)]
pub struct SecApp {
    known: Option<Known>,
    /// The latest recovery request, until it has its grant.
    request: Option<([u8; REQUEST], Request)>,
}

#[derive(Debug)]
struct Known {
    device: Device,
    /// An answer whose record is being written: it counts when the record is found in NVM.
    accepted: Option<Accepted>,
    _mark: NotZero,
}

impl Memory for SecApp {
    const NEW: Self = Self {
        known: None,
        request: None,
    };
}

impl Application for SecApp {
    /// Answers SELECT with nothing but its AID.
    ///
    /// # Errors
    /// 6A84 when it does not fit.
    fn select(&mut self, _: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome {
        out.tlv_with(0x6F, |w| w.tlv(0x84, AID))?;
        Ok(StatusWord::NO_ERROR)
    }

    /// Processes a command.
    ///
    /// # Errors
    /// The status word of the refusal.
    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let command = Command::parse(capdu)?;
        if matches!(command, Command::Poll(_) | Command::Wait | Command::Status) {
            context.shallow();
        }
        self.catch_up(context)?;
        match command {
            Command::Poll(reason) => {
                let mut nonce = [0; 4];
                context.random(&mut nonce);
                let datagram = self.device()?.poll(reason, nonce);
                out.bytes(&datagram)?;
            }
            Command::Answer(datagram) => self.answer(context, datagram, out)?,
            Command::Wait => {
                let mut random = [0; 4];
                context.random(&mut random);
                let wait = self.device()?.wait(u32::from_be_bytes(random));
                out.u32(wait.millis)?;
                out.u8(u8::from(wait.recover))?;
            }
            Command::Done(order) => {
                let settled = self.device()?.settled(order);
                let state = settled.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
                context.put(STATE_RECORD, 0, &state.record().0)?;
            }
            Command::Status => self.status(out)?,
            Command::Recover => self.recover(context, out)?,
            Command::Grant(grant) => self.grant(context, grant)?,
            Command::NewKeyPair => {
                let key = recovery_key(context)?;
                key_pair::generate(context, &key, out)?;
            }
            Command::Certified { digest, proof } => {
                let key = recovery_key(context)?;
                key_pair::confirm(context, &key, digest, proof)?;
            }
            Command::Sign(digest) => key_pair::sign(context, digest, out)?,
            Command::PublicKey => key_pair::public(context, out)?,
        }
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

impl SecApp {
    fn device(&mut self) -> Result<&mut Device, Refusal> {
        Ok(&mut self.known()?.device)
    }

    fn known(&mut self) -> Result<&mut Known, Refusal> {
        self.known.as_mut().ok_or(NOT_READY)
    }

    /// Brings RAM to where NVM is: to the answer that has been written since, or, when the record is another, to the record.
    fn catch_up(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        let mut record = Record([0; RECORD]);
        let accepted = self.known.as_mut().and_then(|known| known.accepted.take());
        if context.get(STATE_RECORD, 0, &mut record.0)? != Some(RECORD) {
            self.known = None;
            return Err(NOT_READY);
        }
        if let (Some(known), Some(accepted)) = (&mut self.known, accepted)
            && accepted.record() == record
        {
            known.device.promote(accepted);
            return Ok(());
        }
        let state = State::restore(&record.0).map_err(|_| NOT_READY)?;
        match &mut self.known {
            Some(Known { device, .. }) if *device.state() == state => {}
            // DONE: the same identity, and the poll that is out stays out.
            Some(Known { device, .. }) if device.state().uid == state.uid => device.settle(state),
            known => {
                *known = Some(Known {
                    device: Device::new(state),
                    accepted: None,
                    _mark: NotZero::Value,
                });
            }
        }
        Ok(())
    }

    /// Looks at a datagram. A good answer's record is written with the command; a bad one leaves everything as it was.
    fn answer(
        &mut self,
        context: &mut Context<'_>,
        datagram: &[u8],
        out: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        let accepted = self.device()?.receive(datagram).map_err(|_| WRONG_DATA)?;
        context.put(STATE_RECORD, 0, &accepted.record().0)?;
        put_message(accepted.message(), out)?;
        out.u8(accepted.sent())?;
        self.known()?.accepted = Some(accepted);
        Ok(())
    }

    /// What may be shown to whoever holds the device: nothing by which it could be followed.
    fn status(&mut self, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let device = self.device()?;
        let state = device.state();
        put_message(state.pending.unwrap_or_default(), out)?;
        out.u32(state.order)?;
        out.u32(state.interval)?;
        out.u8(device.resend_counter())?;
        Ok(())
    }

    fn recover(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let key = recovery_key(context)?;
        let mut nonce = [0; 16];
        context.random(&mut nonce);
        let request = Request {
            se_id: context.se_id(),
            keyspace: self.device()?.state().keyspace,
            nonce,
        };
        let sealed = request.seal(&key);
        out.bytes(&sealed)?;
        self.request = Some((sealed, request));
        Ok(())
    }

    fn grant(&mut self, context: &mut Context<'_>, grant: &[u8]) -> Result<(), Refusal> {
        let key = recovery_key(context)?;
        let (sealed, request) = self.request.as_ref().ok_or(NOT_READY)?;
        let grant = Grant::open(&key, sealed, grant).map_err(|_| WRONG_DATA)?;
        let before = self.known.as_ref().ok_or(NOT_READY)?.device.state();
        let state = grant.state(&key, request, before);
        context.put(STATE_RECORD, 0, &state.record().0)?;
        // One grant for a request: again, it would bring an old identity back, and wear the flash as often as somebody likes.
        self.request = None;
        Ok(())
    }
}

fn recovery_key(context: &mut Context<'_>) -> Result<RecoveryKey, Refusal> {
    let mut key = zeroize::Zeroizing::new([0; 16]);
    match context.get(RECOVERY_RECORD, 0, key.as_mut())? {
        Some(16) => Ok(RecoveryKey::new(*key)),
        _ => Err(NOT_READY),
    }
}

/// KIND (1) ORDER (4) ARG (4).
fn put_message(message: Message, out: &mut Writer<'_>) -> Result<(), Refusal> {
    let (kind, argument) = message.action.parts();
    out.u8(kind)?;
    out.u32(message.order)?;
    out.u32(argument)?;
    Ok(())
}
