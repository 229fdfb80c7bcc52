//! A world for tests: one server with what it has written down, and a device with its flash, everything from one seed.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part of this module"
)]

use sekisho_paging::Uid;
use sekisho_paging::datagram::{DATAGRAM, Reason};
use sekisho_paging::device::{Device, DeviceKey, Record, State};
use sekisho_paging::keys::{Keyspace, PollKey, Root};
use sekisho_paging::message::Message;
use sekisho_paging::server::{Checkpoint, Entry, RandomRecord, Reject, Reply, TicketRecord};
use sekisho_paging::ticket::{Ring, TicketKey};

pub type Datagram = [u8; DATAGRAM];

/// SplitMix64: reproducible, and nothing secret.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.next().to_be_bytes()[0])
    }
}

pub const GLOBAL: Keyspace = Keyspace {
    domain: 0,
    generation: 0,
};
pub const ROOT: [u8; 16] = [0x5A; 16];
pub const TICKET_KEY: [u8; 16] = [0x7E; 16];
pub const INDEX: u32 = 12;
pub const FIRST_RANDOM_UID: Uid = Uid([0xC1; 16]);

pub fn root() -> Root {
    Root::new(ROOT)
}

pub fn ring() -> Ring {
    let mut ring = Ring::new();
    ring.add(TicketKey::new(0, 1, &TICKET_KEY, true)).unwrap();
    ring
}

/// Which of the two keys a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Fixed,
    Rolling,
}

pub fn state(mode: Mode, uid: Uid) -> State {
    let key = match mode {
        Mode::Fixed => DeviceKey::Fixed(root()),
        Mode::Rolling => DeviceKey::Rolling(root().poll_key(GLOBAL)),
    };
    State::new(uid, GLOBAL, key, 900)
}

/// A server, as far as one device sees it.
pub trait Server {
    /// Takes a datagram; the answer has left when this returns.
    fn poll(&mut self, datagram: &[u8], message: Message) -> Result<Datagram, Reject>;
    /// Writes down what is not written yet.
    fn flush(&mut self);
    /// Killed: what was not written is gone.
    fn kill(&mut self);
    fn first_uid(&self) -> Uid;
    /// Everything that it knows, in a form that can be compared.
    fn fingerprint(&self) -> String;
}

#[derive(Clone)]
pub struct TicketServer {
    pub ring: Ring,
    pub record: TicketRecord,
    disk: Checkpoint,
    mode: Mode,
}

impl TicketServer {
    pub fn new(mode: Mode) -> Self {
        let ring = ring();
        let uid = first_ticket(&ring);
        let key = root().poll_key(GLOBAL);
        let record = match mode {
            Mode::Fixed => TicketRecord::fixed(GLOBAL, &key),
            Mode::Rolling => TicketRecord::rolling(GLOBAL, 0, key, uid),
        };
        Self {
            disk: record.checkpoint(),
            ring,
            record,
            mode,
        }
    }

    pub fn key_of(&self) -> impl Fn(Keyspace) -> Option<PollKey> + use<> {
        let fixed = self.mode == Mode::Fixed;
        move |keyspace| fixed.then(|| root().poll_key(keyspace))
    }
}

pub fn first_ticket(ring: &Ring) -> Uid {
    ring.issuing(0).unwrap().seal(INDEX, 0, 0)
}

impl Server for TicketServer {
    fn poll(&mut self, datagram: &[u8], message: Message) -> Result<Datagram, Reject> {
        let uid = Uid::of(datagram).ok_or(Reject::Unknown)?;
        let ticket = self.ring.open(&uid).ok_or(Reject::Unknown)?;
        if ticket.index != INDEX {
            return Err(Reject::Unknown);
        }
        let key_of = self.key_of();
        let received = self.record.receive(&self.ring, &ticket, datagram, key_of)?;
        received.answer(&self.ring, message)
    }

    fn flush(&mut self) {
        self.disk = self.record.checkpoint();
    }

    fn kill(&mut self) {
        self.record = TicketRecord::restore(&self.disk, |keyspace| root().poll_key(keyspace));
    }

    fn first_uid(&self) -> Uid {
        first_ticket(&self.ring)
    }

    fn fingerprint(&self) -> String {
        let key = |checkpoint: &Checkpoint| {
            let rolling = checkpoint.rolling.as_ref();
            rolling.map(|(key, uid)| (*key.as_bytes(), *uid))
        };
        let now = self.record.checkpoint();
        format!(
            "{:?} {:?} {:?} {:?}",
            self.record,
            key(&now),
            self.disk,
            key(&self.disk)
        )
    }
}

#[derive(Clone)]
pub struct RandomServer {
    pub record: RandomRecord,
    disk: Entry,
    dice: Dice,
}

impl RandomServer {
    pub fn new(mode: Mode, seed: u64) -> Self {
        let key = root().poll_key(GLOBAL);
        let record = RandomRecord::new(FIRST_RANDOM_UID, key, mode == Mode::Rolling);
        Self {
            disk: record.entry(),
            record,
            dice: Dice(seed),
        }
    }
}

impl Server for RandomServer {
    fn poll(&mut self, datagram: &[u8], message: Message) -> Result<Datagram, Reject> {
        let uid = Uid::of(datagram).ok_or(Reject::Unknown)?;
        if uid != self.record.current() && Some(uid) != self.record.next() {
            return Err(Reject::Unknown);
        }
        let received = self.record.receive(datagram)?;
        let dice = &mut self.dice;
        match received.answer(message, || dice.bytes(), |_| false) {
            Reply::Now(answer) => Ok(answer),
            Reply::AfterWrite(unwritten) => {
                self.disk = unwritten.entry().clone();
                self.record.written(unwritten.entry());
                Ok(unwritten.written())
            }
        }
    }

    fn flush(&mut self) {}

    fn kill(&mut self) {
        self.record = RandomRecord::restore(&self.disk).unwrap();
    }

    fn first_uid(&self) -> Uid {
        FIRST_RANDOM_UID
    }

    fn fingerprint(&self) -> String {
        format!("{:?} {:?} {:?}", self.record, self.record.entry().0, self.disk.0)
    }
}

/// A device with its flash.
#[derive(Clone)]
pub struct Se {
    pub device: Device,
    pub flash: Record,
    /// How many records were written.
    pub writes: u32,
    /// Every message that was accepted, in order.
    pub heard: Vec<Message>,
}

impl Se {
    pub fn new(mode: Mode, uid: Uid) -> Self {
        let state = state(mode, uid);
        Self {
            flash: state.record(),
            device: Device::new(state),
            writes: 0,
            heard: Vec::new(),
        }
    }

    pub fn poll(&mut self, dice: &mut Dice) -> Datagram {
        self.device.poll(Reason::Periodic, dice.bytes())
    }

    /// Takes a datagram; true when it was accepted.
    pub fn receive(&mut self, datagram: &[u8]) -> bool {
        let Ok(accepted) = self.device.receive(datagram) else {
            return false;
        };
        self.flash = accepted.record();
        self.writes += 1;
        self.heard.push(accepted.message());
        self.device.promote(accepted);
        true
    }

    /// Takes a datagram, with a loss of power before or after the write.
    pub fn receive_and_die(&mut self, datagram: &[u8], after: bool) {
        if let Ok(accepted) = self.device.receive(datagram)
            && after
        {
            self.flash = accepted.record();
        }
        self.power_cycle();
    }

    pub fn power_cycle(&mut self) {
        self.device = Device::new(State::restore(&self.flash.0).unwrap());
    }
}
