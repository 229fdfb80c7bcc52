//! The same keys for every exchange: ICAO secure messaging.

use super::{Exchange, KeySchedule, Next, ScheduleError};
use crate::keys::Keys;
use crate::ssc::Ssc;

/// Fixed keys, as after BAC, PACE or chip authentication. Only the send sequence counter changes.
pub struct Fixed {
    keys: Keys,
}

impl Fixed {
    /// One pair of keys for both directions.
    pub const fn new(keys: Keys) -> Self {
        Self { keys }
    }
}

impl KeySchedule for Fixed {
    fn exchange(&self, _command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        Ok(Exchange {
            command: self.keys.clone(),
            response: self.keys.clone(),
            next: Next::NOTHING,
        })
    }

    fn advance(&mut self, _next: Next, _selector: &[u8]) -> Result<(), ScheduleError> {
        Ok(())
    }

    fn key_numbers(&self) -> (u32, u32) {
        (1, 1)
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        self.keys.expose(sink);
    }
}
