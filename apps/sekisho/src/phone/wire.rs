//! Wires from those who talk to the secure element, each by its protocol's own frames, and what went over them in the order in which it was heard.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use anyhow::{Context as _, Result, bail};

use sekisho_apdu::gp::ins;
use sekisho_keys::Rng as _;
use sekisho_link::SeId;
use sekisho_messaging::setup::INS_SESSION_KEY_DECRYPTION;
use sekisho_os::Protocol;
use sekisho_transport::{
    Card, CardLine, CardSide, DeviceLine, Lines, LinkAddress, LinkCard, LinkListener, NodeAddress, Stop,
    Transaction, TransportError, serve_link,
};

use crate::card::element::SystemRng;
use crate::card::line::name;
use crate::card::ram_flash::RamFlash;
use crate::card::side::OnLine;
use crate::trace::{self, Trace};

/// How long an answer may take while all others talk.
const PATIENCE: Duration = Duration::from_secs(30);

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

    /// Where it stands among all.
    fn index(self) -> usize {
        Self::ALL.iter().position(|who| *who == self).unwrap_or(0)
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

/// The secure element on one protocol, with the log of what it has heard there.
#[derive(Clone)]
pub(super) struct Heeded {
    log: Log,
    se_ids: [SeId; 2],
    protocol: Protocol,
    who: Arc<AtomicUsize>,
    /// The container that has said last who it is.
    container: Arc<AtomicU8>,
}

impl Heeded {
    fn heard(&self, heard: &mut Vec<Heard>, capdu: &[u8], rapdu: &[u8]) {
        let sw = rapdu.last_chunk().map_or(0, |sw| u16::from_be_bytes(*sw));
        if let [0x00 | 0x80, 0xCA, 0x00, 0xCF, ..] = capdu {
            let its = |(_, id): &(u8, &SeId)| rapdu.windows(id.0.len()).any(|bytes| bytes == id.0);
            let found = (1..).zip(&self.se_ids).find(its);
            self.container
                .store(found.map_or(0, |(number, _)| number), Ordering::SeqCst);
        }
        let who = Who::ALL.get(self.who.load(Ordering::SeqCst)).copied();
        heard.push(Heard {
            who: who.unwrap_or(Who::Modem),
            protocol: self.protocol,
            container: self.container.load(Ordering::SeqCst),
            ins: capdu.get(1).copied().unwrap_or(0),
            sw,
        });
    }
}

/// A side of the secure element that is heeded.
pub(super) struct Side {
    line: OnLine<RamFlash>,
    heeded: Heeded,
}

impl Side {
    /// Who speaks there, and which container has said last who it is.
    fn known(&self) -> (Arc<AtomicUsize>, Arc<AtomicU8>) {
        (Arc::clone(&self.heeded.who), Arc::clone(&self.heeded.container))
    }
}

impl CardSide for Side {
    fn atr(&mut self) -> Vec<u8> {
        self.line.atr()
    }

    fn reset(&mut self) {
        self.line.reset();
    }

    fn power_off(&mut self) {
        self.line.power_off();
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        // Held while the SE answers, so that the order is its own.
        let log = self.heeded.log.clone();
        let mut heard = log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.line.transmit(capdu, out);
        self.heeded
            .heard(&mut heard, capdu, out.get(..len).unwrap_or_default());
        drop(heard);
        // The others have waited.
        std::thread::yield_now();
        len
    }

    fn announcement(&mut self) -> Option<Transaction> {
        self.line.announcement()
    }
}

/// A wire on one protocol, by its own frames.
pub(super) struct Wire {
    card: Arc<Mutex<LinkCard>>,
    /// The end of a wire that has several, and whose other ends must not notice a reset.
    end: Option<DeviceLine>,
    protocol: Protocol,
    who: Arc<AtomicUsize>,
    container: Arc<AtomicU8>,
}

/// Where a wire begins: a side of the secure element and who heeds it.
pub(super) fn side(
    line: OnLine<RamFlash>,
    protocol: Protocol,
    who: Who,
    (log, se_ids): (&Log, [SeId; 2]),
) -> Side {
    let heeded = Heeded {
        log: log.clone(),
        se_ids,
        protocol,
        who: Arc::default(),
        container: Arc::default(),
    };
    heeded.who.store(who.index(), Ordering::SeqCst);
    Side { line, heeded }
}

impl Wire {
    /// The secure element listens at this address until it is stopped, in a thread of the scope; its sides are on one wire, the first one is spoken to by one that is alone there.
    pub(super) fn frames<'s>(
        scope: &'s Scope<'s, '_>,
        sides: Vec<Side>,
        address: &LinkAddress,
        traces: &[Trace],
        stop: &Stop,
    ) -> Result<Self> {
        let protocol = sides.first().map_or(Protocol::T0, |side| side.heeded.protocol);
        let (wire, device) = match protocol {
            Protocol::T0 => (CardLine::T0, DeviceLine::T0),
            Protocol::SpiEse => (CardLine::Spi, DeviceLine::Spi(NodeAddress::Ese)),
            Protocol::ApduGate => (CardLine::Swp, DeviceLine::ApduGate),
            other => bail!("{} has no wire of its own", name(other)),
        };
        let (who, container) = sides.first().map_or_else(Default::default, Side::known);
        let mut listener = LinkListener::bind(address).context("no socket for a wire")?;
        let mut fresh = [0; 8];
        SystemRng.fill(&mut fresh);
        let sides = sides.into_iter();
        let lines = Lines {
            line: wire,
            sides: sides
                .map(|side| Box::new(side) as Box<dyn CardSide + Send>)
                .collect(),
            fresh,
            tap: None,
            chip: None,
        };
        let stop = stop.clone();
        scope.spawn(move || serve_link(&mut listener, lines, &stop, &mut |_| ()));
        let card = LinkCard::tapped(device, address, PATIENCE, trace::tap(traces, device.name()))
            .with_context(|| format!("{} does not begin", name(protocol)))?;
        Ok(Self {
            card: Arc::new(Mutex::new(card)),
            end: None,
            protocol,
            who,
            container,
        })
    }

    /// The wire between the contactless front end and the secure element: the rich operating system on the APDU gate, and a reader of type A and of type B, take turns on it.
    pub(super) fn front_end<'s>(
        scope: &'s Scope<'s, '_>,
        sides: [Side; 3],
        address: &LinkAddress,
        traces: &[Trace],
        stop: &Stop,
    ) -> Result<(Self, [Self; 2])> {
        let known = sides.each_ref().map(Side::known);
        let [_, a, b] = known;
        let mut gate = Self::frames(scope, sides.into(), address, traces, stop)?;
        let reader = |(end, protocol), (who, container)| Self {
            card: Arc::clone(&gate.card),
            end: Some(end),
            protocol,
            who,
            container,
        };
        let readers = [
            reader((DeviceLine::SwpA, Protocol::SwpA), a),
            reader((DeviceLine::SwpB, Protocol::SwpB), b),
        ];
        gate.end = Some(DeviceLine::ApduGate);
        Ok((gate, readers))
    }

    /// Who speaks from now on.
    pub(super) fn speaks(&self, who: Who) {
        self.who.store(who.index(), Ordering::SeqCst);
    }

    /// The container that is meant for whoever speaks.
    pub(super) fn meant(&self) -> u8 {
        Who::ALL
            .get(self.who.load(Ordering::SeqCst))
            .map_or(0, |who| who.container())
    }

    /// The container that has said last who it is; 0 for a stranger.
    pub(super) fn container(&self) -> u8 {
        self.container.load(Ordering::SeqCst)
    }

    /// What it is plugged into, for errors.
    pub(super) fn name(&self) -> &'static str {
        name(self.protocol)
    }

    /// What the secure element has said last of a reader's visit to the device that the wire is in.
    pub(super) fn told(&self) -> Option<Transaction> {
        let card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        card.transaction()
    }

    fn lock(&self) -> Result<MutexGuard<'_, LinkCard>, TransportError> {
        let mut card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = self.end {
            card.turn_to(end)?;
        }
        Ok(card)
    }

    /// A reader's field is gone.
    pub(super) fn leave(&mut self) -> Result<(), TransportError> {
        self.lock()?.renew()
    }
}

impl Card for Wire {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        self.lock()?.transmit(capdu)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        let mut card = self.lock()?;
        if self.end.is_some() {
            card.renew()?;
            return Ok(Vec::new());
        }
        card.reset()
    }
}
