//! Wires from those who talk to the secure element, and what went over them in the order in which it was heard.

use std::sync::{Arc, Mutex, PoisonError};

use sekisho_apdu::gp::ins;
use sekisho_link::SeId;
use sekisho_messaging::setup::INS_SESSION_KEY_DECRYPTION;
use sekisho_os::Protocol;
use sekisho_transport::{Card, CardSide, TransportError};

use crate::card::line::name;
use crate::card::ram_flash::RamFlash;
use crate::card::side::OnLine;

/// The longest R-APDU.
const RAPDU_MAX: usize = 65_538;

/// Who talks to the secure element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Modem,
    RichOs,
    Tee,
    NfcReader,
    RemoteServer,
}

impl Who {
    pub(super) const ALL: [Self; 5] = [
        Self::Modem,
        Self::RichOs,
        Self::Tee,
        Self::NfcReader,
        Self::RemoteServer,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Modem => "modem",
            Self::RichOs => "rich OS",
            Self::Tee => "TEE",
            Self::NfcReader => "NFC reader",
            Self::RemoteServer => "remote server",
        }
    }

    /// The container that pairing data mean for it.
    pub(super) const fn container(self) -> u8 {
        match self {
            Self::Modem => 2,
            _ => 1,
        }
    }
}

/// A command that the secure element has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) who: Who,
    pub(super) protocol: Protocol,
    /// The container that has said last on this wire who it is; 0 before that.
    pub(super) container: u8,
    pub(super) ins: u8,
    pub(super) sw: u16,
}

impl Heard {
    /// The command's name.
    pub(super) const fn command(&self) -> &'static str {
        match self.ins {
            0xA4 => "SELECT",
            0xCA => "GET DATA",
            0x84 => "GET CHALLENGE",
            INS_SESSION_KEY_DECRYPTION => "open secure messaging",
            0xB0 => "READ BINARY",
            0xD6 => "UPDATE BINARY",
            0xC0 => "GET RESPONSE",
            ins::INITIALIZE_UPDATE => "INITIALIZE UPDATE",
            ins::EXTERNAL_AUTHENTICATE => "EXTERNAL AUTHENTICATE",
            ins::CHANGE_MODE => "CHANGE MODE",
            ins::WRITE => "WRITE",
            ins::AUTHORIZE_ACTION => "AUTHORIZE ACTION",
            _ => "of its application",
        }
    }
}

/// All commands, in the order in which the secure element heard them.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Heard>>>);

impl Log {
    pub(super) fn all(&self) -> Vec<Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A wire on one protocol.
pub(super) struct Wire {
    line: OnLine<RamFlash>,
    protocol: Protocol,
    pub(super) who: Who,
    log: Log,
    se_ids: [SeId; 2],
    container: u8,
    out: Vec<u8>,
}

impl Wire {
    /// `se_ids`: by container, from 1 on.
    pub(super) fn new(
        line: OnLine<RamFlash>,
        protocol: Protocol,
        who: Who,
        (log, se_ids): (&Log, [SeId; 2]),
    ) -> Self {
        Self {
            line,
            protocol,
            who,
            log: log.clone(),
            se_ids,
            container: 0,
            out: vec![0; RAPDU_MAX],
        }
    }

    /// The container that has said last who it is; 0 for a stranger.
    pub(super) const fn container(&self) -> u8 {
        self.container
    }

    /// What it is plugged into, for errors.
    pub(super) fn name(&self) -> &'static str {
        name(self.protocol)
    }

    /// The field is gone, or the host switches the secure element off.
    pub(super) fn power_off(&mut self) {
        self.line.power_off();
    }
}

impl Card for Wire {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        // Held while the SE answers, so that the order is its own.
        let mut heard = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.line.transmit(capdu, &mut self.out);
        let rapdu = self.out.get(..len).unwrap_or_default().to_vec();
        let sw = rapdu.last_chunk().map_or(0, |sw| u16::from_be_bytes(*sw));
        if let [0x00 | 0x80, 0xCA, 0x00, 0xCF, ..] = capdu {
            let its = |(_, id): &(u8, &SeId)| rapdu.windows(id.0.len()).any(|bytes| bytes == id.0);
            let found = (1..).zip(&self.se_ids).find(its);
            self.container = found.map_or(0, |(number, _)| number);
        }
        heard.push(Heard {
            who: self.who,
            protocol: self.protocol,
            container: self.container,
            ins: capdu.get(1).copied().unwrap_or(0),
            sw,
        });
        drop(heard);
        // The others have waited.
        std::thread::yield_now();
        if rapdu.len() < 2 {
            return Err(TransportError::ShortResponse(rapdu.len()));
        }
        Ok(rapdu)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        self.line.reset();
        Ok(self.line.atr())
    }
}
