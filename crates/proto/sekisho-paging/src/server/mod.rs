//! The server's half, for one device: what a datagram does to its record, and the answer.
//!
//! There is no table here. The caller finds the record, by the ticket's index ([`crate::ticket::Ring::open`]) or in its own index of
//! identities (scheme `random`), and keeps it. Nothing in a record changes for a datagram that is not authentic.

mod random;
mod ticket;

pub use random::{ENTRY, Entry, RandomReceived, RandomRecord, Reply, Unwritten};
pub use ticket::{CATCH_UP_MAX, Checkpoint, TicketReceived, TicketRecord};

use core::fmt;

use crate::datagram::Poll;

/// Why a datagram gets no answer. Each is a signal of its own (property 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reject {
    /// Nobody has this identity: noise, a guess, or a ticket key that is gone.
    Unknown,
    /// An identity of ours, but the poll was not made with its key.
    BadMac,
    /// An identity that its device has left: a replay.
    Stale,
    /// There is no next identity: the last counter of the last generation.
    Exhausted,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown identity",
            Self::BadMac => "not authentic",
            Self::Stale => "identity no longer in use",
            Self::Exhausted => "no further identity",
        })
    }
}

impl core::error::Error for Reject {}

/// How a poll stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The first under its identity, and the device says the same.
    First,
    /// The device has asked before and got no answer.
    Resend,
    /// The very datagram that came before: the network repeated it, or somebody.
    Repeat,
}

/// What a poll tells about the way: datagrams that were lost since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Loss {
    /// Polls that did not arrive: `Resend_Counter` + 1 - Sent.
    pub polls: u8,
    /// Answers that did not arrive: Sent - 1.
    pub answers: u8,
}

/// The tries of the current identity. Six bytes, in RAM: when they are lost, Sent begins at 1 again, which a device accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Tries {
    nonce: [u8; 4],
    resend: u8,
    /// The last Sent; 0 before the first.
    sent: u8,
}

impl Tries {
    /// Counts an authentic poll.
    ///
    /// Sent never exceeds `Resend_Counter` + 1, whatever is replayed: otherwise an attacker could make the device refuse good answers.
    fn count(&mut self, poll: &Poll) -> (Standing, Loss) {
        if self.sent != 0 && self.nonce == poll.nonce && self.resend == poll.resend {
            return (Standing::Repeat, Loss::default());
        }
        let before = self.loss();
        let standing = if self.sent == 0 && poll.resend == 0 {
            Standing::First
        } else {
            Standing::Resend
        };
        *self = Self {
            nonce: poll.nonce,
            resend: poll.resend,
            sent: self.sent.saturating_add(1).min(poll.resend.saturating_add(1)),
        };
        let after = self.loss();
        let loss = Loss {
            polls: after.polls.saturating_sub(before.polls),
            answers: after.answers.saturating_sub(before.answers),
        };
        (standing, loss)
    }

    const fn loss(&self) -> Loss {
        if self.sent == 0 {
            return Loss { polls: 0, answers: 0 };
        }
        let answers = self.sent - 1;
        Loss {
            polls: self.resend.saturating_sub(answers),
            answers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Reason;

    fn poll(resend: u8, nonce: u8) -> Poll {
        Poll {
            resend,
            reason: Reason::Periodic,
            order: 0,
            nonce: [nonce; 4],
        }
    }

    #[test]
    fn figure_2_an_answer_is_lost() {
        let mut tries = Tries::default();
        assert_eq!(tries.count(&poll(0, 1)), (Standing::First, Loss::default()));
        assert_eq!(tries.sent, 1);
        let lost = Loss { polls: 0, answers: 1 };
        assert_eq!(tries.count(&poll(1, 2)), (Standing::Resend, lost));
        assert_eq!(tries.sent, 2);
    }

    #[test]
    fn figure_3_a_poll_is_lost() {
        let mut tries = Tries::default();
        let lost = Loss { polls: 1, answers: 0 };
        assert_eq!(tries.count(&poll(1, 1)), (Standing::Resend, lost));
        assert_eq!(tries.sent, 1);
    }

    #[test]
    fn sent_never_runs_away_from_the_resend_counter() {
        let mut tries = Tries::default();
        for nonce in 0..=255 {
            tries.count(&poll(0, nonce));
            assert_eq!(tries.sent, 1);
        }
        for resend in 0..=255u8 {
            tries.count(&poll(resend, resend ^ 0x55));
            assert!(tries.sent >= 1 && tries.sent <= resend.saturating_add(1));
        }
        for nonce in 0..=255 {
            tries.count(&poll(255, nonce));
            assert_eq!(tries.sent, 255);
        }
    }

    #[test]
    fn a_repeat_counts_nothing() {
        let mut tries = Tries::default();
        tries.count(&poll(3, 1));
        let before = tries;
        assert_eq!(tries.count(&poll(3, 1)), (Standing::Repeat, Loss::default()));
        assert_eq!(tries, before);
    }
}
