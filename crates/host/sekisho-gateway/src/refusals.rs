//! Connections that became no session, counted by why: who connects and proves nothing decides how many there are, and not how much is written of them.

use core::fmt;
use core::time::Duration;
use std::io::ErrorKind;
use std::time::Instant;

use crate::gateway::AcceptError;

/// Why a connection became no session, in as many words as there are here, whatever the other end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// There was no room for a handshake, or for a session.
    Full,
    /// The handshake took too long.
    Slow,
    /// It gave way to a later connection.
    GaveWay,
    /// The other end closed the connection, or it broke.
    Closed,
    /// The other end ended the handshake with an alert.
    Alert,
    /// No certificate, or one that is not vouched for, is over, or is revoked.
    Certificate,
    /// No version, cipher suite or curve that both have.
    NothingInCommon,
    /// What came is no TLS, or breaks its rules.
    NoTls,
    /// Anything else.
    Other,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Slow,
        Self::GaveWay,
        Self::Closed,
        Self::Alert,
        Self::Certificate,
        Self::NothingInCommon,
        Self::NoTls,
        Self::Other,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "there are as many connections as there may be",
            Self::Slow => "the handshake took too long",
            Self::GaveWay => "the handshake was given up for a later connection",
            Self::Closed => "the connection was closed before the handshake was done",
            Self::Alert => "the other end ended the handshake with an alert",
            Self::Certificate => "no certificate of a secure element",
            Self::NothingInCommon => "no version or cipher suite that both have",
            Self::NoTls => "what came is no TLS, or breaks its rules",
            Self::Other => "the handshake failed",
        })
    }
}

impl AcceptError {
    /// Which of the reasons it is.
    pub fn reason(&self) -> Reason {
        let error = match self {
            Self::Full => return Reason::Full,
            Self::Slow => return Reason::Slow,
            Self::GaveWay => return Reason::GaveWay,
            Self::Certificate => return Reason::Certificate,
            Self::Handshake(error) => error,
        };
        let tls = error.get_ref().and_then(|error| error.downcast_ref());
        match (tls, error.kind()) {
            (Some(error), _) => of_tls(error),
            (
                None,
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::NotConnected,
            ) => Reason::Closed,
            (None, _) => Reason::Other,
        }
    }
}

const fn of_tls(error: &rustls::Error) -> Reason {
    use rustls::Error;
    match error {
        Error::AlertReceived(_) => Reason::Alert,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Reason::Certificate,
        Error::PeerIncompatible(_) => Reason::NothingInCommon,
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord => Reason::NoTls,
        _ => Reason::Other,
    }
}

/// What is known of one reason in the present period.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Whether one has been told by itself.
    is_told: bool,
    /// Those behind it.
    more: u64,
}

/// Counts connections that became no session, in periods: of each reason the first in a period is to be told by itself, and the others by their number when it is over. At most
/// twice as many lines as there are reasons are written in a period.
#[derive(Debug)]
pub struct Refusals {
    period: Duration,
    /// When the present one began; none before the first connection.
    since: Option<Instant>,
    counts: [Count; Reason::ALL.len()],
}

impl Refusals {
    /// Periods of this length.
    pub const fn new(period: Duration) -> Self {
        Self {
            period,
            since: None,
            counts: [Count {
                is_told: false,
                more: 0,
            }; Reason::ALL.len()],
        }
    }

    /// One more at `now`. True when it is to be told by itself.
    pub fn count(&mut self, reason: Reason, now: Instant) -> bool {
        self.since.get_or_insert(now);
        let Some(count) = self.counts.get_mut(reason as usize) else {
            return false;
        };
        if !core::mem::replace(&mut count.is_told, true) {
            return true;
        }
        count.more += 1;
        false
    }

    /// When the present period is over, if one has begun: [`Refusals::take`] then.
    pub fn ends(&self) -> Option<Instant> {
        self.since?.checked_add(self.period)
    }

    /// Ends the period: how many there were of each reason beside those that were told by themselves.
    pub fn take(&mut self) -> impl Iterator<Item = (Reason, u64)> + use<> {
        self.since = None;
        let counts = core::mem::take(&mut self.counts);
        let counts = Reason::ALL.into_iter().zip(counts.map(|count| count.more));
        counts.filter(|(_, more)| *more > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_reason_one_is_told_in_a_period_and_none_is_lost() {
        #[expect(clippy::disallowed_methods, reason = "a test")]
        let now = Instant::now();
        let mut refusals = Refusals::new(Duration::from_secs(60));
        assert_eq!(refusals.ends(), None);
        for _ in 0..2 {
            let told = |reason| (0..1000).filter(|_| refusals.count(reason, now)).count();
            assert_eq!(Reason::ALL.map(told), [1; 9]);
            assert_eq!(refusals.ends(), Some(now + Duration::from_secs(60)));
            assert_eq!(
                refusals.take().collect::<Vec<_>>(),
                Reason::ALL.map(|reason| (reason, 999))
            );
            assert_eq!((refusals.ends(), refusals.take().count()), (None, 0));
        }
    }

    #[test]
    fn numbers_are_places() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
