//! The load itself: devices that poll over real sockets, and what goes wrong on the way.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use sekisho_pager::socket::{BATCH, Batch};
use sekisho_paging::DATAGRAM;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::Device;
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::fleet::TestFleet;

/// A poll that got no answer for so long is lost.
const LOST: Duration = Duration::from_millis(500);
/// Old polls to replay.
const OLD: usize = 1024;
/// How often a device may ask at the end, on a network that loses nothing.
const TRIES: u32 = 2;

type Datagram = [u8; DATAGRAM];

/// What to do.
pub(super) struct Drive {
    pub(super) server: SocketAddr,
    pub(super) window: usize,
    pub(super) sockets: usize,
    pub(super) rate: Option<u32>,
    pub(super) loss: u64,
    pub(super) replay: u64,
    pub(super) bogus: u32,
    pub(super) seed: u64,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) seconds: f64,
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) resent: u64,
    pub(super) bogus: u64,
    pub(super) replayed: u64,
    /// Datagrams that no device took.
    pub(super) refused: u64,
    /// Datagrams that a device took although they answered an earlier poll.
    pub(super) stale: u64,
    /// Devices that did not come back on a good network.
    pub(super) locked_out: u64,
    /// Nanoseconds from poll to answer.
    pub(super) latency: Histogram<u64>,
}

/// A socket with the polls that are out on it, in their order: a server answers a socket in the order in which it asked.
struct Lane {
    socket: UdpSocket,
    out: VecDeque<Out>,
}

struct Out {
    device: usize,
    at: Instant,
    /// Its nonce: the number of the poll.
    number: u32,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    const fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.next() % 100 < chance
    }
}

struct Run<'a> {
    drive: &'a Drive,
    devices: Vec<Device>,
    /// The number of each device's latest poll.
    latest: Vec<u32>,
    ready: VecDeque<usize>,
    lanes: Vec<Lane>,
    noise: UdpSocket,
    batch: Batch,
    dice: Dice,
    old: Vec<Datagram>,
    number: u32,
    outcome: Outcome,
}

fn socket(server: SocketAddr) -> Result<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = sekisho_pager::socket::open(any.parse()?).context("a socket")?;
    socket.connect(server)?;
    Ok(socket)
}

impl Drive {
    #[allow(clippy::disallowed_methods, reason = "a load runs in real time")]
    pub(super) fn run(&self, fleet: &TestFleet, duration: Duration) -> Result<Outcome> {
        let devices = fleet.make()?;
        let lanes = (0..self.sockets).map(|_| {
            Ok(Lane {
                socket: socket(self.server)?,
                out: VecDeque::new(),
            })
        });
        let mut run = Run {
            drive: self,
            latest: vec![0; devices.len()],
            ready: (0..devices.len()).collect(),
            lanes: lanes.collect::<Result<_>>()?,
            noise: socket(self.server)?,
            batch: Batch::new(),
            dice: Dice(self.seed),
            old: Vec::with_capacity(OLD),
            number: 0,
            outcome: Outcome {
                seconds: 0.0,
                sent: 0,
                answered: 0,
                resent: 0,
                bogus: 0,
                replayed: 0,
                refused: 0,
                stale: 0,
                locked_out: 0,
                latency: Histogram::new_with_bounds(100, 100_000_000_000, 3)?,
            },
            devices,
        };
        let bar = ProgressBar::new(duration.as_secs().max(1));
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {elapsed}  {msg}") {
            bar.set_style(style);
        }
        let started = Instant::now();
        while started.elapsed() < duration {
            run.turn(started, self.loss)?;
            bar.set_position(started.elapsed().as_secs());
            bar.set_message(format!("{} answered", run.outcome.answered));
        }
        run.outcome.seconds = started.elapsed().as_secs_f64();
        bar.finish_and_clear();
        run.calm()?;
        Ok(run.outcome)
    }
}

#[allow(clippy::disallowed_methods, reason = "a load runs in real time")]
impl Run<'_> {
    /// A turn of every lane: send what fits, take what has come.
    fn turn(&mut self, started: Instant, loss: u64) -> Result<()> {
        let per_lane = (self.drive.window / self.lanes.len()).max(1);
        for lane in 0..self.lanes.len() {
            let mut allowed = per_lane.saturating_sub(self.lanes[lane].out.len()).min(BATCH);
            if let Some(rate) = self.drive.rate {
                let due = started.elapsed().as_secs_f64() * f64::from(rate);
                let behind = (due - self.outcome.sent as f64).clamp(0.0, BATCH as f64);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 64"
                )]
                let behind = behind as usize;
                allowed = allowed.min(behind);
            }
            self.send(lane, allowed, loss)?;
            self.receive(lane, loss)?;
            self.give_up(lane);
        }
        Ok(())
    }

    fn send(&mut self, lane: usize, count: usize, loss: u64) -> Result<()> {
        let mut polls = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(device) = self.ready.pop_front() else {
                break;
            };
            self.number += 1;
            let poll = self.devices[device].poll(Reason::Periodic, self.number.to_be_bytes());
            self.latest[device] = self.number;
            self.outcome.sent += 1;
            self.outcome.resent += u64::from(self.devices[device].resend_counter() > 0);
            self.lanes[lane].out.push_back(Out {
                device,
                at: Instant::now(),
                number: self.number,
            });
            if !self.dice.percent(loss) {
                polls.push(poll);
            }
            self.meddle(&poll);
        }
        let to = vec![None; polls.len()];
        self.batch.send(&self.lanes[lane].socket, &polls, &to);
        Ok(())
    }

    /// What else is on the network: replays, noise, forgeries.
    fn meddle(&mut self, poll: &Datagram) {
        if self.drive.replay > 0 {
            if self.old.len() < OLD {
                self.old.push(*poll);
            } else {
                let at = self.place(OLD);
                self.old[at] = *poll;
            }
            if self.dice.percent(self.drive.replay) {
                let at = self.place(self.old.len());
                let _ = self.noise.send(&self.old[at]);
                self.outcome.replayed += 1;
            }
        }
        for n in 0..self.drive.bogus / 100 + u32::from(self.dice.percent(u64::from(self.drive.bogus % 100))) {
            let mut bogus = *poll;
            match n % 3 {
                0 => bogus
                    .iter_mut()
                    .for_each(|byte| *byte = self.dice.next().to_be_bytes()[0]),
                1 => bogus[self.place(DATAGRAM)] ^= 0x10,
                _ => {}
            }
            let len = if n % 3 == 2 {
                self.place(DATAGRAM)
            } else {
                DATAGRAM
            };
            let _ = self.noise.send(&bogus[..len]);
            self.outcome.bogus += 1;
        }
    }

    fn place(&mut self, below: usize) -> usize {
        usize::try_from(self.dice.next() % below.max(1) as u64).unwrap_or(0)
    }

    fn receive(&mut self, lane: usize, loss: u64) -> Result<()> {
        let count = self.batch.receive(&self.lanes[lane].socket, false)?;
        for number in 0..count {
            if self.dice.percent(loss) {
                continue;
            }
            let lanes = &mut self.lanes[lane].out;
            // The answer to the first of those that are out, unless some were lost.
            let taken = lanes.iter().position(|out| {
                let device = &mut self.devices[out.device];
                match device.receive(self.batch.datagram(number)) {
                    Ok(accepted) => {
                        self.outcome.stale += u64::from(self.latest[out.device] != out.number);
                        device.promote(accepted);
                        true
                    }
                    Err(_) => false,
                }
            });
            match taken {
                Some(at) => {
                    if let Some(out) = lanes.remove(at) {
                        let nanos = u64::try_from(out.at.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        self.outcome.latency.saturating_record(nanos);
                        self.outcome.answered += 1;
                        self.ready.push_back(out.device);
                    }
                }
                None => self.outcome.refused += 1,
            }
        }
        Ok(())
    }

    fn give_up(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane].out;
        while lane.front().is_some_and(|out| out.at.elapsed() > LOST) {
            if let Some(out) = lane.pop_front() {
                self.ready.push_front(out.device);
            }
        }
    }

    /// A good network: every device that has ever polled must be answered within two polls.
    fn calm(&mut self) -> Result<()> {
        for lane in &mut self.lanes {
            lane.out.clear();
            while self.batch.receive(&lane.socket, false)? > 0 {}
        }
        let mut waiting: Vec<usize> = (0..self.devices.len())
            .filter(|device| self.latest[*device] != 0)
            .collect();
        for _ in 0..TRIES {
            let mut left = Vec::new();
            for devices in waiting.chunks(BATCH) {
                left.extend(self.ask(devices)?);
            }
            waiting = left;
        }
        self.outcome.locked_out = waiting.len() as u64;
        Ok(())
    }

    /// Asks for a batch of devices; gives those that got no answer.
    fn ask(&mut self, devices: &[usize]) -> Result<Vec<usize>> {
        let mut left = devices.to_vec();
        let mut polls = Vec::with_capacity(devices.len());
        for device in devices {
            self.number += 1;
            polls.push(self.devices[*device].poll(Reason::Periodic, self.number.to_be_bytes()));
        }
        let to = vec![None; polls.len()];
        self.batch.send(&self.lanes[0].socket, &polls, &to);
        let since = Instant::now();
        while !left.is_empty() && since.elapsed() < LOST {
            let count = self.batch.receive(&self.lanes[0].socket, true)?;
            for number in 0..count {
                let datagram = self.batch.datagram(number);
                let taken = left
                    .iter()
                    .position(|device| match self.devices[*device].receive(datagram) {
                        Ok(accepted) => {
                            self.devices[*device].promote(accepted);
                            true
                        }
                        Err(_) => false,
                    });
                if let Some(at) = taken {
                    left.remove(at);
                }
            }
        }
        Ok(left)
    }
}
