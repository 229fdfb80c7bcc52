//! What an engine counts: each way that a poll can go has a counter of its own, in each worker, so that no two cores write to one cache line.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a datagram went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Signal {
    /// Answered, and the first under its identity.
    First,
    /// Answered; the device has asked before.
    Resend,
    /// Answered; the very datagram came before.
    Repeat,
    /// Not answered: repeated too often.
    Limited,
    /// Not 44 bytes.
    Malformed,
    /// Nobody's identity.
    Unknown,
    /// Not made with the identity's key.
    BadMac,
    /// An identity that its device has left.
    Stale,
    /// No further identity.
    Exhausted,
    /// A device that is blocked.
    Blocked,
    /// The journal could not be written: not answered.
    Unwritten,
}

impl Signal {
    /// All of them, with their names in metrics.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::First, "first"),
        (Self::Resend, "resend"),
        (Self::Repeat, "repeat"),
        (Self::Limited, "limited"),
        (Self::Malformed, "malformed"),
        (Self::Unknown, "unknown"),
        (Self::BadMac, "bad_mac"),
        (Self::Stale, "stale"),
        (Self::Exhausted, "exhausted"),
        (Self::Blocked, "blocked"),
        (Self::Unwritten, "unwritten"),
    ];

    /// Whether somebody sent what no device of ours sends.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Malformed | Self::Unknown | Self::BadMac | Self::Stale)
    }
}

/// Sums over all workers since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    counts: [u64; Signal::ALL.len()],
    /// Answers sent.
    pub answered: u64,
    /// Identities that devices have proved: how often one changed.
    pub promoted: u64,
    /// Answers with a message other than "nothing".
    pub messages: u64,
    /// Polls lost on their way, by what the devices say.
    pub lost_polls: u64,
    /// Answers lost on their way.
    pub lost_answers: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

impl Totals {
    /// How often a datagram went this way.
    pub const fn of(&self, signal: Signal) -> u64 {
        self.counts[signal as usize]
    }

    /// Prometheus text (exposition format 0.0.4).
    pub fn to_prometheus(&self) -> String {
        let mut out = String::from("# TYPE sekisho_paging_polls_total counter\n");
        for (signal, name) in Signal::ALL {
            let _ = writeln!(
                out,
                "sekisho_paging_polls_total{{signal=\"{name}\"}} {}",
                self.of(signal)
            );
        }
        for (name, value) in [
            ("answers", self.answered),
            ("identities_changed", self.promoted),
            ("messages", self.messages),
            ("lost_polls", self.lost_polls),
            ("lost_answers", self.lost_answers),
            ("received_bytes", self.bytes_in),
            ("sent_bytes", self.bytes_out),
        ] {
            let _ = writeln!(
                out,
                "# TYPE sekisho_paging_{name}_total counter\nsekisho_paging_{name}_total {value}"
            );
        }
        out
    }
}

/// The counters of one worker: written by it alone, once for each batch.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    counts: [AtomicU64; Signal::ALL.len()],
    sums: [AtomicU64; 7],
}

impl Counters {
    /// Adds a batch's sums.
    pub(crate) fn add(&self, batch: &Totals) {
        let bump = |counter: &AtomicU64, value: u64| {
            if value != 0 {
                counter.store(counter.load(Ordering::Relaxed) + value, Ordering::Relaxed);
            }
        };
        self.counts
            .iter()
            .zip(batch.counts)
            .for_each(|(counter, value)| bump(counter, value));
        self.sums
            .iter()
            .zip(batch.sums())
            .for_each(|(counter, value)| bump(counter, value));
    }

    pub(crate) fn add_to(&self, totals: &mut Totals) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals
            .counts
            .iter_mut()
            .zip(&self.counts)
            .for_each(|(sum, counter)| *sum += load(counter));
        let [
            answered,
            promoted,
            messages,
            lost_polls,
            lost_answers,
            bytes_in,
            bytes_out,
        ] = self.sums.each_ref().map(load);
        totals.answered += answered;
        totals.promoted += promoted;
        totals.messages += messages;
        totals.lost_polls += lost_polls;
        totals.lost_answers += lost_answers;
        totals.bytes_in += bytes_in;
        totals.bytes_out += bytes_out;
    }
}

impl Totals {
    const fn sums(&self) -> [u64; 7] {
        [
            self.answered,
            self.promoted,
            self.messages,
            self.lost_polls,
            self.lost_answers,
            self.bytes_in,
            self.bytes_out,
        ]
    }

    pub(crate) const fn count(&mut self, signal: Signal) {
        self.counts[signal as usize] += 1;
    }
}
