//! The same keys for every exchange: ICAO secure messaging.

use super::{Exchange, KeySchedule, Next, ScheduleError};
use crate::keys::Keys;
use crate::ssc::Ssc;

/// Fixed keys, as after BAC, PACE or chip authentication. Only the send sequence counter changes.
pub struct Fixed {
    command: Keys,
    response: Keys,
}

impl Fixed {
    /// One pair of keys for both directions.
    pub fn new(keys: Keys) -> Self {
        Self::separate(keys.clone(), keys)
    }

    /// A pair for each direction.
    pub const fn separate(command: Keys, response: Keys) -> Self {
        Self { command, response }
    }
}

impl KeySchedule for Fixed {
    fn exchange(&self, _command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        Ok(Exchange {
            command: self.command.clone(),
            response: self.response.clone(),
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
        self.command.expose(sink);
        self.response.expose(sink);
    }
}
