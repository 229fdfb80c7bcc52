//! One SE for several users of a device at once: its agent, a TLS session that is carried, a sensor that is written down.

use core::time::Duration;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sekisho_transport::{Card, TransportError};

/// How long the others wait for one who has begun what takes several commands and does not go on: it takes no longer between two of them than a thread does.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bit 5 of CLA: the command is not the last of its chain (ISO/IEC 7816-4, 5.4.1).
const CHAINING: u8 = 0x10;
/// SW1 of 61XX: more of the answer waits.
const MORE_DATA: u8 = 0x61;

/// A user's way to an SE that others use too. What belongs together is not parted: a chain of commands, and an answer with all that GET RESPONSE brings of it. Nothing else is
/// kept: who selects something does so on a logical channel of his own, or does not rely on it.
pub struct SharedCard {
    shared: Arc<Shared>,
    number: u64,
}

struct Shared {
    state: Mutex<State>,
    free: Condvar,
    users: AtomicU64,
}

struct State {
    card: Box<dyn Card + Send>,
    /// Who is in the middle of something, and since when.
    owner: Option<(u64, Instant)>,
}

impl SharedCard {
    /// The first user's way.
    pub fn new(card: Box<dyn Card + Send>) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State { card, owner: None }),
                free: Condvar::new(),
                users: AtomicU64::new(1),
            }),
            number: 0,
        }
    }

    /// Waits until nobody else is in the middle of something.
    fn turn(&self) -> MutexGuard<'_, State> {
        let others = |state: &mut State| match state.owner {
            Some((owner, since)) => owner != self.number && since.elapsed() < PATIENCE,
            None => false,
        };
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        while others(&mut state) {
            let waited = self.shared.free.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn ask(
        &self,
        goes_on: impl FnOnce(&[u8]) -> bool,
        ask: impl FnOnce(&mut dyn Card) -> Result<Vec<u8>, TransportError>,
    ) -> Result<Vec<u8>, TransportError> {
        let mut state = self.turn();
        let answer = ask(&mut *state.card);
        let goes_on = answer.as_ref().is_ok_and(|answer| goes_on(answer));
        state.owner = goes_on.then(|| (self.number, now()));
        drop(state);
        self.shared.free.notify_all();
        answer
    }
}

/// Another user's way to the same SE.
impl Clone for SharedCard {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            number: self.shared.users.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl core::fmt::Debug for SharedCard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SharedCard")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Whoever goes leaves nothing in the middle.
impl Drop for SharedCard {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.owner.is_some_and(|(owner, _)| owner == self.number) {
            state.owner = None;
            self.shared.free.notify_all();
        }
    }
}

/// Whether what belongs together goes on behind this command and its answer.
fn goes_on(capdu: &[u8], answer: &[u8]) -> bool {
    let is_chained = capdu.first().is_some_and(|cla| cla & CHAINING != 0);
    match answer.last_chunk() {
        Some([MORE_DATA, _]) => true,
        Some([0x90, 0x00]) => is_chained,
        _ => false,
    }
}

impl Card for SharedCard {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        self.ask(|answer| goes_on(capdu, answer), |card| card.transmit(capdu))
    }

    fn transmit_again(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        self.ask(|answer| goes_on(capdu, answer), |card| card.transmit_again(capdu))
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        self.ask(|_| false, |card| card.reset())
    }
}

#[expect(clippy::disallowed_methods, reason = "users of a card are threads")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use sekisho_transport::{InProcessCard, Request};

    use super::*;

    /// A card that keeps what it is asked, by the last byte of each command; P1 says what is answered.
    fn card(asked: &Arc<Mutex<Vec<u8>>>) -> SharedCard {
        let asked = Arc::clone(asked);
        SharedCard::new(Box::new(InProcessCard::new(move |request: Request<'_>| {
            let Request::Command(command) = request else {
                asked.lock().unwrap().push(0xFF);
                return Ok(vec![]);
            };
            asked.lock().unwrap().push(command[3]);
            match command[2] {
                0 => Ok(vec![0x90, 0]),
                1 => Ok(vec![0x61, 5]),
                2 => Ok(vec![0x62, 0x85]),
                _ => Err(TransportError::Timeout),
            }
        })))
    }

    /// Whether another user's command waits for `first` of one who then says `second`.
    fn waits(first: &[u8], second: &[u8]) -> bool {
        let asked = Arc::default();
        let mut one = card(&asked);
        let mut other = one.clone();
        let _ = one.transmit(first);
        let other = thread::spawn(move || other.transmit(&[0, 0, 0, 2]).unwrap());
        sekisho_transport::Stop::new().wait(Duration::from_millis(50));
        let waits = asked.lock().unwrap().len() == 1;
        let _ = one.transmit(second);
        other.join().unwrap();
        let order = asked.lock().unwrap().clone();
        assert_eq!(order, if waits { [1, 3, 2] } else { [1, 2, 3] });
        waits
    }

    #[test]
    fn what_belongs_together_is_not_parted() {
        let end = [0, 0, 0, 3];
        assert!(!waits(&[0, 0, 0, 1], &end));
        // A chain, of any class.
        assert!(waits(&[0xB4, 0, 0, 1], &end) && waits(&[0x10, 0, 0, 1], &end));
        // One that is over in its middle; one whose outcome nobody knows.
        assert!(!waits(&[0xB4, 0, 2, 1], &end) && !waits(&[0xB4, 0, 3, 1], &end));
        // More of an answer.
        assert!(waits(&[0, 0, 1, 1], &end));
    }

    #[test]
    fn who_does_not_go_on_keeps_nobody_waiting() {
        let asked = Arc::default();
        let mut one = card(&asked);
        let mut other = one.clone();
        one.transmit(&[0x10, 0, 0, 1]).unwrap();
        let started = now();
        other.transmit(&[0, 0, 0, 2]).unwrap();
        assert!(started.elapsed() >= PATIENCE && started.elapsed() < PATIENCE * 3);
        // Who goes does not even for that long.
        one.transmit(&[0x10, 0, 0, 3]).unwrap();
        let started = now();
        drop(one);
        other.reset().unwrap();
        assert!(started.elapsed() < PATIENCE);
        assert_eq!(*asked.lock().unwrap(), [1, 2, 3, 0xFF]);
    }
}
