//! Both ends of a single wire: SWP, SHDLC, HCI.

use sekisho_block::hci::ids::HOST_UICC;
use sekisho_block::hci::{self, Gates, Session, Technology};
use sekisho_block::lr1::Record;
use sekisho_block::swp::{Event, FRAME_MAX, INFORMATION_MAX, Link, Role, Timing, WINDOW_MAX};
use sekisho_block::{Ended, Fault, Micros, Power};

use super::APDU;
use super::card_end::CardEnd;
use super::device_end::{DeviceEnd, DeviceLine};
use crate::serve::Transaction;

/// A header before it, and behind it what the field says of it.
const LEN: usize = APDU + 2;
/// The pipe that a device of this crate creates.
const PIPE: u8 = 0x19;
/// By which a device knows another card; the session's identity tells more.
const SYNC_ID: [u8; 2] = [0x53, 0x4B];
/// ST's example shows a card with this ACT_INFORMATION.
const INFORMATION: u8 = 0x02;
/// Acknowledgements go out at once where nothing else carries them; RSET and frames are not sent again before a stream can have brought them.
const TIMING: Timing = Timing {
    activation: 1_000_000,
    acknowledge: 300,
    retransmit: 2_000_000,
    connect: 1_000_000,
};
const GATE: hci::Timing = hci::Timing {
    wait: 2_000_000,
    response: 100_000,
    reader: 0,
};
/// A device waits longer than a card says, and three times for a response for longer than the link takes to send a lost frame again.
const DEVICE_GATE: hci::Timing = hci::Timing {
    wait: 3 * GATE.wait,
    response: TIMING.retransmit / 2,
    reader: 60_000_000,
};

/// Which end of the wire's device speaks to the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// The device itself, on the APDU gate.
    ApduGate,
    /// A contactless reader.
    Reader(Technology),
}

pub(super) struct WireDevice {
    face: Face,
    link: Option<Box<Link>>,
    hci: Box<hci::Device<LEN>>,
    power: Option<Power>,
}

impl WireDevice {
    pub(super) fn new(face: Face) -> Self {
        Self {
            face,
            link: None,
            hci: Box::new(hci::Device::new(DEVICE_GATE, HOST_UICC, PIPE)),
            power: Some(Power::On),
        }
    }

    /// What the link has brought goes up, what is to be said goes down.
    fn carry(&mut self, now: Micros) {
        let Some(link) = &mut self.link else { return };
        match link.event() {
            Some(Event::Connected | Event::Restarted) => self.hci.linked(now),
            Some(Event::Failed) => self.hci.failed(),
            None => {}
        }
        let mut packet = [0; INFORMATION_MAX];
        while let Some(len) = link.take(&mut packet) {
            self.hci.hear(now, packet.get(..len).unwrap_or_default());
        }
        while let Some(len) = self.hci.packet(&mut packet) {
            if !link.send(now, packet.get(..len).unwrap_or_default()) {
                break;
            }
            self.hci.sent();
        }
    }
}

impl DeviceEnd for WireDevice {
    fn power(&mut self, now: Micros) -> Option<Power> {
        let power = self.power.take()?;
        // What is under way, and the session, are told when the link stands.
        self.link = Some(Box::new(Link::new(now, Role::Device, WINDOW_MAX, false, TIMING)));
        Some(power)
    }

    fn hear(&mut self, now: Micros, record: Record<'_>) -> bool {
        let (Record::Data(frame), Some(link)) = (record, &mut self.link) else {
            return false;
        };
        link.hear(now, frame);
        self.carry(now);
        true
    }

    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        self.carry(now);
        say_frame(self.link.as_deref_mut(), now, send)
    }

    fn expire(&mut self, now: Micros) {
        if let Some(link) = &mut self.link {
            link.expire(now);
        }
        self.hci.expire(now);
        self.carry(now);
    }

    fn deadline(&self) -> Option<Micros> {
        let link = self.link.as_ref().and_then(|link| link.deadline());
        [link, self.hci.deadline()].into_iter().flatten().min()
    }

    fn opened(&self) -> Option<Result<&[u8], Fault>> {
        if self.power.is_some() {
            None
        } else if self.hci.is_failed() {
            Some(Err(Fault::Silent))
        } else {
            let is_ready = match self.face {
                Face::ApduGate => self.hci.is_ready(),
                Face::Reader(technology) => self.hci.reader_is_ready(technology),
            };
            is_ready.then_some(Ok(&[][..]))
        }
    }

    fn start(&mut self, now: Micros, command: &[u8]) -> bool {
        let is_on = self.power.is_none();
        is_on
            && match self.face {
                Face::ApduGate => self.hci.start(now, command),
                Face::Reader(technology) => self.hci.start_reader(now, technology, command),
            }
    }

    fn ended(&self) -> Option<Ended<'_>> {
        match self.face {
            Face::ApduGate => self.hci.ended(),
            Face::Reader(_) => self.hci.reader_ended(),
        }
    }

    fn reset(&mut self, now: Micros) {
        self.hci.linked(now);
        self.link = None;
        self.power = Some(Power::Reset);
    }

    fn transaction(&self) -> Option<Transaction> {
        self.hci.transaction().map(|told| Transaction {
            aid: told.aid.to_vec(),
            parameters: told.parameters.to_vec(),
        })
    }

    fn turn_to(&mut self, line: DeviceLine) -> bool {
        let face = match line {
            DeviceLine::ApduGate => Face::ApduGate,
            DeviceLine::SwpA => Face::Reader(Technology::A),
            DeviceLine::SwpB => Face::Reader(Technology::B),
            _ => return false,
        };
        self.face = face;
        true
    }

    fn renew(&mut self, now: Micros) -> bool {
        match self.face {
            Face::ApduGate => self.hci.renew(),
            Face::Reader(_) => self.hci.leave_reader(now),
        }
        true
    }
}

fn say_frame(link: Option<&mut Link>, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
    let mut out = [0; FRAME_MAX];
    let said = link.and_then(|link| link.say(now, &mut out));
    let said = said.and_then(|len| out.get(..len));
    said.map(|frame| send(Record::Data(frame))).is_some()
}

/// A secure element's end of the wire: the APDU gate, and readers of type A and B. Its session outlives the wire's power.
pub(super) struct WireCard {
    atr: Vec<u8>,
    session: Session,
    fresh: [u8; hci::SESSION_LEN],
    on: Option<(Box<Link>, Box<hci::Card<LEN>>)>,
}

impl WireCard {
    pub(super) fn new(atr: &[u8], fresh: [u8; hci::SESSION_LEN]) -> Self {
        Self {
            atr: atr.to_vec(),
            session: Session::default(),
            fresh,
            on: None,
        }
    }

    fn carry(&mut self, now: Micros) {
        let Some((link, hci)) = &mut self.on else { return };
        match link.event() {
            Some(Event::Connected | Event::Restarted) => hci.linked(),
            Some(Event::Failed) | None => {}
        }
        let mut packet = [0; INFORMATION_MAX];
        while let Some(len) = link.take(&mut packet) {
            hci.hear(packet.get(..len).unwrap_or_default());
        }
        while let Some(len) = hci.packet(&mut packet) {
            if !link.send(now, packet.get(..len).unwrap_or_default()) {
                break;
            }
            hci.sent();
        }
        if let Some(session) = hci.session() {
            self.session = session;
        }
    }
}

impl CardEnd for WireCard {
    fn power(&mut self, now: Micros, on: bool) {
        let role = Role::Card {
            sync_id: SYNC_ID,
            information: Some(INFORMATION),
        };
        let fresh = || {
            let link = Link::new(now, role, WINDOW_MAX, false, TIMING);
            let hci = hci::Card::new(GATE, Gates::ALL, &self.atr, self.session, self.fresh);
            (Box::new(link), Box::new(hci))
        };
        self.on = on.then(fresh);
    }

    fn hear(&mut self, now: Micros, record: Record<'_>) {
        if let (Record::Data(frame), Some((link, _))) = (record, &mut self.on) {
            link.hear(now, frame);
            self.carry(now);
        }
    }

    fn say(&mut self, now: Micros, send: &mut dyn FnMut(Record<'_>)) -> bool {
        self.carry(now);
        say_frame(self.on.as_mut().map(|(link, _)| &mut **link), now, send)
    }

    fn expire(&mut self, now: Micros) {
        if let Some((link, hci)) = &mut self.on {
            link.expire(now);
            hci.expire(now);
            self.carry(now);
        }
    }

    fn deadline(&self) -> Option<Micros> {
        let (link, hci) = self.on.as_ref()?;
        [link.deadline(), hci.deadline()].into_iter().flatten().min()
    }

    fn command(&self) -> Option<(usize, &[u8])> {
        let (_, hci) = self.on.as_ref()?;
        let of_reader = || hci.reader_command().map(|(by, command)| (side_of(by), command));
        hci.command()
            .map(|command| (APDU_GATE, command))
            .or_else(of_reader)
    }

    fn take(&mut self, now: Micros, side: usize) {
        if let Some((_, hci)) = &mut self.on {
            if side == APDU_GATE {
                hci.take(now);
            } else {
                hci.take_reader();
            }
        }
    }

    fn answer(&mut self, _: Micros, side: usize, answer: &[u8]) {
        if let Some((_, hci)) = &mut self.on {
            if side == APDU_GATE {
                hci.answer(answer);
            } else {
                hci.answer_reader(answer);
            }
        }
    }

    fn announce(&mut self, side: usize, told: &Transaction) {
        if let (Some((_, hci)), false) = (&mut self.on, side == APDU_GATE) {
            hci.announce(&told.aid, &told.parameters);
        }
    }

    fn power_wanted(&mut self) -> Option<(usize, Power)> {
        let (_, hci) = self.on.as_mut()?;
        if hci.reset_wanted() {
            return Some((APDU_GATE, Power::Reset));
        }
        let (by, is_chosen) = hci.field()?;
        Some((side_of(by), if is_chosen { Power::Reset } else { Power::Off }))
    }
}

/// The sides of a wire, in the order of [`super::Lines::sides`].
const APDU_GATE: usize = 0;

const fn side_of(technology: Technology) -> usize {
    match technology {
        Technology::A => 1,
        Technology::B => 2,
    }
}
