//! SHDLC (TS 102 613, clause 10): numbered frames both ways, both ends alike. Numbers are modulo 8, windows up to 4.

use zeroize::Zeroize;

use super::{INFORMATION_MAX, WINDOW_MAX};

/// How often in a row frames are sent again, or RSET is, before the link is set up anew, or given up.
pub const RETRIES: u8 = 5;
/// How often a link is set up anew without anything having come through.
pub const RESETS_MAX: u8 = 8;
/// How often in a row the other end may say that it is not ready.
pub const BUSY_MAX: u16 = 500;

const I: u8 = 0x80;
const S: u8 = 0xC0;
const RR: u8 = 0;
const REJ: u8 = 1;
const RNR: u8 = 2;
const SREJ: u8 = 3;
const RSET: u8 = 0xF9;
const UA: u8 = 0xE6;
const SLOTS: usize = WINDOW_MAX as usize;

/// A timer that a machine wants to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// T1: how long an acknowledgement waits for a frame that carries it.
    Acknowledge,
    /// T2: how long a frame waits for its acknowledgement.
    Retransmit,
    /// T3: how long RSET waits for UA.
    Connect,
}

/// What whoever is above has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The link stands.
    Connected,
    /// The link was set up anew: what was sent and not acknowledged, and messages of which a part has come, are lost.
    Restarted,
    /// The other end does not answer, or does not stop: nothing goes any more.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Idle,
    /// RSET is out.
    Resetting,
    Connected,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot {
    bytes: [u8; INFORMATION_MAX],
    len: u8,
    full: bool,
}

impl Slot {
    const EMPTY: Self = Self {
        bytes: [0; INFORMATION_MAX],
        len: 0,
        full: false,
    };

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.zeroize();
        if let (Some(to), Ok(len)) = (self.bytes.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            to.copy_from_slice(bytes);
            self.len = len;
            self.full = true;
        }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
        self.full = false;
    }
}

/// One end of a link.
///
/// `hear` takes an LPDU, `say` gives the next one to send, `send` queues information, `take` gives what has come in order, `event` what has happened. `wants` says whether a timer is to run, anew each time that [`Shdlc::generation`] changes; `expire` that it has run out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shdlc {
    state: State,
    offered: u8,
    offered_srej: bool,
    /// Whether another window is offered in its place: by turns, with each link that this end has set up anew.
    turned: bool,
    window: u8,
    srej: bool,
    /// N(S) of the next frame that is queued, of the oldest that is not acknowledged, and of the next that is sent.
    vs: u8,
    va: u8,
    cursor: u8,
    /// N(S) of the next that has never been sent.
    unsent: u8,
    /// N(S) that is expected, and of the oldest frame that has not been taken.
    vr: u8,
    vd: u8,
    outbox: [Slot; SLOTS],
    inbox: [Slot; SLOTS],
    /// One frame alone is wanted again.
    again: Option<u8>,
    unnumbered: Option<u8>,
    supervisory: Option<u8>,
    acknowledge: bool,
    rejected: bool,
    /// What the other end rejects is sent again once until it has come through.
    gone_back: bool,
    full: bool,
    peer_busy: bool,
    tries: u8,
    resets: u8,
    busy: u16,
    /// The link stands by the other end's RSET, and nothing has come since.
    fresh: bool,
    generation: u8,
    event: Option<Event>,
    dropped: u32,
}

impl Shdlc {
    /// An end that offers this window, 1 to 4, and SREJ or not. It waits for RSET, or for [`Shdlc::connect`].
    #[must_use]
    pub fn new(window: u8, srej: bool) -> Self {
        let offered = window.clamp(1, WINDOW_MAX);
        Self {
            state: State::Idle,
            offered,
            offered_srej: srej,
            turned: false,
            window: offered,
            srej: false,
            vs: 0,
            va: 0,
            cursor: 0,
            unsent: 0,
            vr: 0,
            vd: 0,
            outbox: [Slot::EMPTY; SLOTS],
            inbox: [Slot::EMPTY; SLOTS],
            again: None,
            unnumbered: None,
            supervisory: None,
            acknowledge: false,
            rejected: false,
            gone_back: false,
            full: false,
            peer_busy: false,
            tries: 0,
            resets: 0,
            busy: 0,
            fresh: false,
            generation: 0,
            event: None,
            dropped: 0,
        }
    }

    /// Sends RSET: sets the link up, or up anew.
    pub fn connect(&mut self) {
        if self.state == State::Connected {
            self.event = Some(Event::Restarted);
            self.turned = !self.turned;
        }
        self.clear();
        self.tries = 0;
        self.state = State::Resetting;
        self.send_rset();
    }

    /// The window that it offers. An RSET anew does not look like a copy of the last one, behind which the other end would send again what has been taken.
    const fn offer(&self) -> u8 {
        match (self.turned, self.offered) {
            (false, offered) => offered,
            (true, 1) => 2,
            (true, offered) => offered - 1,
        }
    }

    fn send_rset(&mut self) {
        self.unnumbered = Some(RSET);
        self.generation = self.generation.wrapping_add(1);
    }

    /// Numbers 0, nothing queued.
    fn clear(&mut self) {
        (self.vs, self.va, self.cursor, self.unsent) = (0, 0, 0, 0);
        self.outbox.iter_mut().for_each(Slot::clear);
        self.again = None;
        self.peer_busy = false;
        (self.vr, self.vd) = (0, 0);
        self.inbox.iter_mut().for_each(Slot::clear);
        self.supervisory = None;
        self.acknowledge = false;
        self.rejected = false;
        self.gone_back = false;
        self.full = false;
    }

    /// Whether the link stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Frames that were no frames, out of the window, or of another layer, so far.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Queues information; false while the window is full or no link stands.
    pub fn send(&mut self, information: &[u8]) -> bool {
        let queued = distance(self.vs, self.va);
        if self.state != State::Connected || queued >= self.window || information.len() > INFORMATION_MAX {
            return false;
        }
        if let Some(slot) = slot(&mut self.outbox, self.vs) {
            slot.put(information);
        }
        self.vs = next(self.vs);
        true
    }

    /// The next information that has come, in order.
    pub fn take(&mut self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        while self.vd != self.vr {
            let slot = slot(&mut self.inbox, self.vd)?;
            let len = usize::from(slot.len);
            out.get_mut(..len)?.copy_from_slice(slot.get());
            slot.clear();
            self.vd = next(self.vd);
            if core::mem::take(&mut self.full) {
                self.supervisory = Some(RR);
            }
            // An empty one acknowledges, and says nothing.
            if len > 0 {
                return Some(len);
            }
        }
        None
    }

    /// What has happened since the last call.
    pub const fn event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// Takes an LPDU of this layer.
    pub fn hear(&mut self, lpdu: &[u8]) {
        let Some((control, information)) = lpdu.split_first() else {
            return self.dropped += 1;
        };
        match (self.state, control >> 6, control) {
            (State::Failed, ..) => {}
            (_, 3, &RSET) => self.rset(information),
            (_, 3, &UA) => self.ua(),
            (State::Connected, 2, _) => self.information(*control, information),
            (State::Connected, 3, _) if control & 0x20 == 0 && information.is_empty() => {
                self.supervised(control >> 3 & 3, control & 7);
            }
            _ => self.dropped += 1,
        }
    }

    fn rset(&mut self, parameters: &[u8]) {
        let (window, srej) = match parameters {
            [] => (WINDOW_MAX, false),
            [window] => (*window, false),
            [window, srej, ..] => (*window, *srej & 1 != 0),
        };
        if window == 0 || window > WINDOW_MAX {
            return self.dropped += 1;
        }
        if self.state == State::Connected {
            self.resets += 1;
            if self.resets > RESETS_MAX {
                return self.fail();
            }
            // The same RSET again, repeated or copied: whatever the other end sends once it knows that the link stands comes behind. What was sent is sent again, under its numbers.
            if self.fresh && (window, srej) == (self.window, self.srej) {
                self.cursor = self.va;
                return self.unnumbered = Some(UA);
            }
            self.event = Some(Event::Restarted);
        }
        self.clear();
        if window > self.offered || srej && !self.offered_srej {
            self.tries = self.tries.saturating_add(1);
            if self.tries > RETRIES {
                return self.fail();
            }
            self.state = State::Resetting;
            return self.send_rset();
        }
        self.window = window;
        self.srej = srej;
        self.unnumbered = Some(UA);
        self.stand();
        self.fresh = true;
    }

    fn ua(&mut self) {
        match self.state {
            State::Resetting => {
                self.window = self.offer();
                self.srej = self.offered_srej;
                self.stand();
            }
            // For an RSET that came twice.
            State::Connected => {}
            _ => self.dropped += 1,
        }
    }

    fn stand(&mut self) {
        self.tries = 0;
        self.busy = 0;
        if self.state != State::Connected {
            self.event = self.event.or(Some(Event::Connected));
        }
        self.state = State::Connected;
        self.fresh = false;
        self.generation = self.generation.wrapping_add(1);
    }

    fn fail(&mut self) {
        self.clear();
        self.unnumbered = None;
        self.state = State::Failed;
        self.event = Some(Event::Failed);
    }

    fn information(&mut self, control: u8, information: &[u8]) {
        let (ns, nr) = (control >> 3 & 7, control & 7);
        if information.len() > INFORMATION_MAX || !self.acknowledged(nr) {
            return self.dropped += 1;
        }
        let ahead = distance(ns, self.vr);
        if distance(ns, self.vd) >= WINDOW_MAX && ahead < WINDOW_MAX {
            // In order, but nobody has taken what came before.
            self.full = true;
            return self.supervisory = Some(RNR);
        }
        match ahead {
            0 => self.in_sequence(ns, information),
            ahead if ahead < self.window => {
                if self.srej
                    && let Some(slot) = slot(&mut self.inbox, ns)
                {
                    slot.put(information);
                }
                if !core::mem::replace(&mut self.rejected, true) {
                    self.supervisory = Some(if self.srej { SREJ } else { REJ });
                }
            }
            // A copy of one that has been taken.
            _ => self.supervisory = Some(RR),
        }
    }

    fn in_sequence(&mut self, ns: u8, information: &[u8]) {
        if let Some(slot) = slot(&mut self.inbox, ns) {
            slot.put(information);
        }
        self.resets = 0;
        self.vr = next(self.vr);
        self.rejected = false;
        // What came ahead of it follows.
        while self.vr != self.vd
            && distance(self.vr, self.vd) < WINDOW_MAX
            && slot(&mut self.inbox, self.vr).is_some_and(|slot| slot.full)
        {
            self.vr = next(self.vr);
        }
        self.acknowledge = true;
    }

    /// All before N(R) has arrived; false when that cannot be.
    fn acknowledged(&mut self, nr: u8) -> bool {
        let arrived = distance(nr, self.va);
        if arrived > distance(self.unsent, self.va) {
            return false;
        }
        if arrived > 0 {
            if distance(self.cursor, self.va) < arrived {
                self.cursor = nr;
            }
            while self.va != nr {
                if let Some(slot) = slot(&mut self.outbox, self.va) {
                    slot.clear();
                }
                self.va = next(self.va);
            }
            self.again = None;
            self.gone_back = false;
            self.tries = 0;
            self.resets = 0;
            self.generation = self.generation.wrapping_add(1);
        }
        self.fresh = false;
        true
    }

    fn supervised(&mut self, kind: u8, nr: u8) {
        let before = self.va;
        if !self.acknowledged(nr) {
            return self.dropped += 1;
        }
        let was_busy = core::mem::replace(&mut self.peer_busy, kind == RNR);
        match kind {
            RNR => {
                self.busy = self.busy.saturating_add(1);
                if self.busy > BUSY_MAX {
                    self.connect_anew();
                }
                return;
            }
            // The Linux kernel says it to each frame behind one that is missing. Where what is sent again is lost too, T2 runs out.
            REJ if self.gone_back => {}
            REJ => {
                self.gone_back = true;
                self.cursor = nr;
            }
            SREJ if self.srej => {
                if nr != self.vs {
                    self.again = Some(nr);
                }
                self.count(before == nr);
            }
            SREJ => return self.dropped += 1,
            // Ready again: what it had not taken.
            _ if was_busy => self.cursor = nr,
            _ => {}
        }
        if before != nr {
            self.busy = 0;
        }
    }

    /// The other end wants something again, and nothing has come through.
    fn count(&mut self, fruitless: bool) {
        self.tries += u8::from(fruitless && self.va != self.vs);
        if self.tries > RETRIES {
            self.connect_anew();
        }
    }

    fn connect_anew(&mut self) {
        self.resets += 1;
        if self.resets > RESETS_MAX {
            return self.fail();
        }
        self.connect();
    }

    /// Whether a timer is to run.
    #[must_use]
    pub fn wants(&self, timer: Timer) -> bool {
        let connected = self.state == State::Connected;
        match timer {
            Timer::Acknowledge => connected && self.acknowledge,
            Timer::Retransmit => connected && self.va != self.vs,
            Timer::Connect => self.state == State::Resetting,
        }
    }

    /// Changes when a timer that runs begins anew.
    #[must_use]
    pub const fn generation(&self, timer: Timer) -> u8 {
        match timer {
            Timer::Acknowledge => 0,
            Timer::Retransmit | Timer::Connect => self.generation,
        }
    }

    /// A timer that was wanted has run out.
    pub fn expire(&mut self, timer: Timer) {
        if !self.wants(timer) {
            return;
        }
        match timer {
            Timer::Acknowledge => self.supervisory = self.supervisory.or(Some(RR)),
            Timer::Retransmit => {
                self.tries += 1;
                if self.tries > RETRIES && !self.peer_busy {
                    return self.connect_anew();
                }
                // One that was not ready is asked with a frame, as its RR may be lost.
                self.busy = self.busy.saturating_add(u16::from(self.peer_busy));
                self.peer_busy = false;
                self.tries = self.tries.min(RETRIES);
                if self.busy > BUSY_MAX {
                    return self.connect_anew();
                }
                self.cursor = self.va;
                self.gone_back = false;
                self.generation = self.generation.wrapping_add(1);
            }
            Timer::Connect => {
                self.tries += 1;
                if self.tries > RETRIES {
                    return self.fail();
                }
                self.send_rset();
            }
        }
    }

    /// The next LPDU to send.
    pub fn say(&mut self, out: &mut [u8; INFORMATION_MAX + 1]) -> Option<usize> {
        let mut put = |control: u8, information: &[u8]| {
            let (first, rest) = out.split_first_mut()?;
            *first = control;
            rest.get_mut(..information.len())?.copy_from_slice(information);
            Some(1 + information.len())
        };
        match self.unnumbered.take() {
            Some(RSET) => return put(RSET, &[self.offer(), u8::from(self.offered_srej)]),
            Some(other) => return put(other, &[]),
            None if self.state != State::Connected => return None,
            None => {}
        }
        let waits = self.again.is_some() || self.cursor != self.vs && !self.peer_busy;
        // What is rejected, or not taken, is said in a frame of its own, first.
        let alone = self.supervisory.take().filter(|kind| *kind != RR || !waits);
        if alone.is_some() || waits {
            self.acknowledge = false;
        }
        if let Some(kind) = alone {
            return put(S | kind << 3 | self.vr, &[]);
        }
        if !waits {
            return None;
        }
        let ns = self.again.take().unwrap_or_else(|| {
            let ns = self.cursor;
            self.cursor = next(ns);
            if ns == self.unsent {
                self.unsent = self.cursor;
            }
            ns
        });
        let slot = slot(&mut self.outbox, ns)?;
        put(I | ns << 3 | self.vr, slot.get())
    }
}

impl Drop for Shdlc {
    fn drop(&mut self) {
        self.outbox.iter_mut().for_each(Slot::clear);
        self.inbox.iter_mut().for_each(Slot::clear);
    }
}

const fn next(number: u8) -> u8 {
    (number + 1) & 7
}

/// From one number up to another.
const fn distance(to: u8, from: u8) -> u8 {
    to.wrapping_sub(from) & 7
}

fn slot(slots: &mut [Slot; SLOTS], number: u8) -> Option<&mut Slot> {
    slots.get_mut(usize::from(number) % SLOTS)
}
