//! When to try again.

use core::time::Duration;

/// First wait after a failure, in seconds.
const FIRST: u32 = 2;
/// Longest wait, unless the server asks for more, in seconds.
const LONGEST: u32 = 3600;

/// Counts failures in a row and says how long to wait: twice as long each time, and a part of it at random, so that a fleet that lost its server does
/// not come back to it as one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub const fn new() -> Self {
        Self { failures: 0 }
    }

    /// It worked.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It failed. `asked` are the seconds that the server asked for, which count if they are more; `random` decides about the wait's second half.
    pub fn failed(&mut self, asked: Option<u32>, random: u16) -> Duration {
        let seconds = FIRST
            .checked_shl(self.failures.min(16))
            .map_or(LONGEST, |s| s.min(LONGEST));
        self.failures = self.failures.saturating_add(1);
        let half = Duration::from_secs(seconds.into()) / 2;
        let wait = half + half * u32::from(random) / u32::from(u16::MAX);
        wait.max(Duration::from_secs(asked.unwrap_or(0).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_again() {
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..40)
            .map(|_| backoff.failed(None, u16::MAX).as_secs())
            .collect();
        assert_eq!(waits[..5], [2, 4, 8, 16, 32]);
        assert_eq!(waits[39], 3600);
        backoff.succeeded();
        assert_eq!(backoff.failed(None, 0), Duration::from_secs(1));
    }

    #[test]
    fn the_server_may_ask_for_more_but_not_for_less() {
        assert_eq!(Backoff::new().failed(Some(7200), 0), Duration::from_secs(7200));
        assert_eq!(Backoff::new().failed(Some(0), u16::MAX), Duration::from_secs(2));
    }
}
