//! A link from activation on: ACT, then SHDLC, each LPDU with its check bytes; and the timers.

use super::shdlc::{Event, Shdlc, Timer};
use super::{INFORMATION_MAX, LPDU_MAX, Layer};
use crate::Micros;
use crate::check::crc;

/// Bytes of the longest LPDU with its check bytes.
pub const FRAME_MAX: usize = LPDU_MAX + 2;

/// ACT: 011 FR INF control(3) (TS 102 613, 9.3).
const ACT: u8 = 0x60;
const FR: u8 = 0x10;
const INF: u8 = 0x08;
const READY: u8 = 0;
const SYNC: u8 = 1;
const POWER_MODE: u8 = 2;
/// ACT_POWER_MODE: full power.
const FULL: u8 = 1;
/// How often the device asks for a frame again.
const FR_MAX: u8 = 3;
const TIMERS: [Timer; 3] = [Timer::Acknowledge, Timer::Retransmit, Timer::Connect];

/// Which end of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The UICC, with what it says of itself: SYNC_ID, and ACT_INFORMATION if it has any.
    Card {
        /// By which a device knows that it is another card.
        sync_id: [u8; 2],
        /// ACT_INFORMATION.
        information: Option<u8>,
    },
    /// The contactless front end.
    Device,
}

/// Times, in microseconds. The standard's own were not at hand: those of the Linux kernel are 5 ms for each frame of the window by 4, 300 ms and 5 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long the device waits for an ACT frame.
    pub activation: u64,
    /// T1: how long an acknowledgement waits for a frame that carries it.
    pub acknowledge: u64,
    /// T2: how long a frame waits for its acknowledgement.
    pub retransmit: u64,
    /// T3: how long RSET waits for UA.
    pub connect: u64,
}

impl Timing {
    /// Those of the Linux kernel, for a window of 4.
    pub const LINUX: Self = Self {
        activation: 10_000,
        acknowledge: 5_000,
        retransmit: 300_000,
        connect: 5_000,
    };

    const fn of(&self, timer: Timer) -> u64 {
        match timer {
            Timer::Acknowledge => self.acknowledge,
            Timer::Retransmit => self.retransmit,
            Timer::Connect => self.connect,
        }
    }
}

/// How far activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The other end's first ACT frame is awaited: ACT_SYNC, ACT_POWER_MODE.
    Begun,
    /// The device has sent ACT_POWER_MODE.
    PowerMode,
    /// SHDLC goes.
    Active,
    /// The card has not answered.
    Failed,
}

/// One end of a link, made when the card gets power.
///
/// `hear` takes frames, `say` gives the next to send, `expire` is called at `deadline`. `send` queues information, `take` gives what has come, `event` what has happened.
#[derive(Clone, Debug)]
pub struct Link {
    role: Role,
    timing: Timing,
    activation: Activation,
    /// The ACT frame that was sent last, and is to be sent.
    act: ([u8; 4], u8),
    act_waits: bool,
    act_at: Option<Micros>,
    repeats: u8,
    sync_id: Option<[u8; 2]>,
    shdlc: Shdlc,
    timers: [Option<(u8, Micros)>; 3],
    declined: u32,
    damaged: u32,
    failed: bool,
}

impl Link {
    /// An end whose card got power now; its window is 1 to 4.
    #[must_use]
    pub fn new(now: Micros, role: Role, window: u8, srej: bool, timing: Timing) -> Self {
        let (act, act_waits) = match role {
            Role::Card {
                sync_id: [high, low],
                information,
            } => match information {
                Some(byte) => (([ACT | INF | SYNC, high, low, byte], 4), true),
                None => (([ACT | SYNC, high, low, 0], 3), true),
            },
            Role::Device => (([ACT | POWER_MODE, FULL, 0, 0], 2), false),
        };
        Self {
            role,
            timing,
            activation: Activation::Begun,
            act,
            act_waits,
            act_at: (role == Role::Device).then(|| now.after(timing.activation)),
            repeats: 0,
            sync_id: None,
            shdlc: Shdlc::new(window, srej),
            timers: [None; 3],
            declined: 0,
            damaged: 0,
            failed: false,
        }
    }

    /// How far activation is.
    #[must_use]
    pub const fn activation(&self) -> Activation {
        self.activation
    }

    /// The card's SYNC_ID, at the device, once it has come.
    #[must_use]
    pub const fn sync_id(&self) -> Option<[u8; 2]> {
        self.sync_id
    }

    /// CLT frames that were declined, frames that were damaged, and what SHDLC has dropped, so far.
    #[must_use]
    pub const fn passed_over(&self) -> [u32; 3] {
        [self.declined, self.damaged, self.shdlc.dropped()]
    }

    /// Takes a frame: an LPDU and its check bytes. A damaged one is passed over.
    pub fn hear(&mut self, now: Micros, frame: &[u8]) {
        match frame.split_last_chunk() {
            Some((lpdu, sum)) if lpdu.len() <= LPDU_MAX && *sum == crc(lpdu).to_le_bytes() => {
                match lpdu.first().and_then(|byte| Layer::of(*byte)) {
                    Some(Layer::Act) => self.heard_act(now, lpdu),
                    Some(Layer::Shdlc) if self.activation == Activation::Active => self.shdlc.hear(lpdu),
                    Some(Layer::Clt) => self.declined += 1,
                    Some(Layer::Shdlc) | None => self.damaged += 1,
                }
            }
            _ => self.damaged += 1,
        }
        self.arm(now);
    }

    fn heard_act(&mut self, now: Micros, lpdu: &[u8]) {
        let (first, rest) = match lpdu.split_first() {
            Some((first, rest)) => (*first, rest),
            None => return,
        };
        match (self.role, self.activation, first & 7) {
            (Role::Card { .. }, Activation::Begun | Activation::Active, POWER_MODE) => {
                if first & FR == 0 {
                    self.act = ([ACT | READY, 0, 0, 0], 1);
                    self.activation = Activation::Active;
                }
                self.act_waits = true;
            }
            (Role::Device, Activation::Begun | Activation::PowerMode, SYNC) => {
                if let [high, low, ..] = rest {
                    self.sync_id = Some([*high, *low]);
                    self.activation = Activation::PowerMode;
                    self.send_power_mode(now, false);
                }
            }
            (Role::Device, Activation::PowerMode, READY) => {
                self.activation = Activation::Active;
                self.act_at = None;
                self.act_waits = false;
                self.shdlc.connect();
            }
            _ => self.damaged += 1,
        }
    }

    fn send_power_mode(&mut self, now: Micros, again: bool) {
        self.repeats += 1;
        // The first one, and those that are asked for.
        if self.repeats > 1 + 2 * FR_MAX {
            self.activation = Activation::Failed;
            self.failed = true;
            self.act_at = None;
            return;
        }
        let fr = if again { FR } else { 0 };
        self.act = ([ACT | fr | POWER_MODE, FULL, 0, 0], 2);
        self.act_waits = true;
        self.act_at = Some(now.after(self.timing.activation));
    }

    /// Timers run as SHDLC wants them.
    fn arm(&mut self, now: Micros) {
        for (slot, timer) in self.timers.iter_mut().zip(TIMERS) {
            let generation = self.shdlc.generation(timer);
            let runs = slot.is_some_and(|(of, _)| of == generation);
            if !self.shdlc.wants(timer) {
                *slot = None;
            } else if !runs {
                *slot = Some((generation, now.after(self.timing.of(timer))));
            }
        }
    }

    /// Looks at the time: [`Link::deadline`] says when.
    pub fn expire(&mut self, now: Micros) {
        if self.act_at.is_some_and(|at| at <= now) {
            self.send_power_mode(now, true);
        }
        for (index, timer) in TIMERS.into_iter().enumerate() {
            let slot = self.timers.get_mut(index);
            if let Some(slot) = slot
                && slot.is_some_and(|(_, at)| at <= now)
            {
                *slot = None;
                self.shdlc.expire(timer);
            }
        }
        self.arm(now);
    }

    /// The next moment at which something happens of itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        let timers = self.timers.iter().flatten().map(|(_, at)| *at);
        timers.chain(self.act_at).min()
    }

    /// The next frame to send, written to `out`.
    pub fn say(&mut self, now: Micros, out: &mut [u8; FRAME_MAX]) -> Option<usize> {
        let mut lpdu = [0; INFORMATION_MAX + 1];
        let len = if core::mem::take(&mut self.act_waits) {
            let (bytes, len) = self.act;
            lpdu.get_mut(..bytes.len())?.copy_from_slice(&bytes);
            usize::from(len)
        } else {
            self.shdlc.say(&mut lpdu)?
        };
        self.arm(now);
        let lpdu = lpdu.get(..len)?;
        out.get_mut(..len)?.copy_from_slice(lpdu);
        out.get_mut(len..len + 2)?
            .copy_from_slice(&crc(lpdu).to_le_bytes());
        Some(len + 2)
    }

    /// Queues information; false while the window is full or no link stands.
    pub fn send(&mut self, now: Micros, information: &[u8]) -> bool {
        let queued = self.shdlc.send(information);
        self.arm(now);
        queued
    }

    /// The next information that has come, in order.
    pub fn take(&mut self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        self.shdlc.take(out)
    }

    /// What has happened since the last call.
    pub fn event(&mut self) -> Option<Event> {
        if core::mem::replace(&mut self.failed, false) {
            return Some(Event::Failed);
        }
        self.shdlc.event()
    }

    /// Sets the link up anew: RSET.
    pub fn restart(&mut self, now: Micros) {
        if self.activation == Activation::Active {
            self.shdlc.connect();
            self.arm(now);
        }
    }
}
