//! Past keys of a test card, whose MKEY everybody knows.

use std::cell::RefCell;
use std::rc::Rc;

use sekisho_keys::Rng;
use sekisho_messaging::schedule::{Exchange, KeySchedule, Next, Schedule, ScheduleError, Selector};
use sekisho_messaging::{Keys, Ssc};

/// The reader's schedule. When it is watched, a copy of the keys that it gave out last lies beside it: no schedule can be asked for them afterwards.
pub(super) struct Watched {
    schedule: Schedule,
    watch: Option<Watch>,
}

/// KSenc and KSmac of the latest command, then of its response, in hexadecimal digits.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Rc<RefCell<Vec<String>>>);

impl Watch {
    /// The keys; none are left behind.
    pub(super) fn take(&self) -> Vec<String> {
        self.0.take()
    }

    fn note(&self, exchange: &Exchange) {
        let mut seen = Vec::new();
        for keys in [&exchange.command, &exchange.response] {
            if let Keys::Aes { enc, mac } = keys {
                seen.extend([enc, mac].map(|key| hex::encode_upper(key.as_bytes())));
            }
        }
        self.0.replace(seen);
    }
}

impl Watched {
    pub(super) const fn new(schedule: Schedule, watch: Option<Watch>) -> Self {
        Self { schedule, watch }
    }
}

impl KeySchedule for Watched {
    fn selector_len(&self) -> usize {
        self.schedule.selector_len()
    }

    fn exchange(&self, command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        let exchange = self.schedule.exchange(command_ssc)?;
        if let Some(watch) = &self.watch {
            watch.note(&exchange);
        }
        Ok(exchange)
    }

    fn advance(&mut self, next: Next, selector: &[u8]) -> Result<(), ScheduleError> {
        self.schedule.advance(next, selector)
    }

    fn propose(&self, rng: &mut dyn Rng) -> Selector {
        self.schedule.propose(rng)
    }

    fn refresh_due(&self) -> bool {
        self.schedule.refresh_due()
    }

    fn refresh(&mut self, secret: &[u8]) -> Result<(), ScheduleError> {
        self.schedule.refresh(secret)
    }

    fn key_numbers(&self) -> (u32, u32) {
        self.schedule.key_numbers()
    }
}
