//! Embodiment 2 of JP 7206869 B2: a list of session keys, of which the reader picks the next.

use sekisho_keys::Rng;

use super::{Exchange, KeySchedule, KeyTable, Lanes, Next, ScheduleError, Selector};
use crate::ssc::Ssc;

/// Keys K1 to K18 (or another number) shared beforehand; each command carries the list number of the next key inside its
/// encrypted data (figures 8 to 12). The first exchange uses K1 (with [`Lanes::Separate`], K1 for the command and K2 for
/// the response). No number is used twice, used keys are wiped, and
/// number 0 says that no exchange follows. Whoever opens one card has the rest of the list; with MKEY and the recorded
/// opening he has all of it.
pub struct LegacyList {
    table: KeyTable,
    lanes: Lanes,
    /// List numbers of the current exchange; 0 after the last.
    current: (u8, u8),
    /// Bit n - 1 stands for list number n.
    used: u32,
}

impl LegacyList {
    /// Starts with the first key of the list (the first two with [`Lanes::Separate`]).
    pub fn new(lanes: Lanes, table: KeyTable) -> Self {
        let (current, used) = match lanes {
            Lanes::Shared => ((1, 1), 0b1),
            Lanes::Separate => ((1, 2), 0b11),
        };
        Self {
            table,
            lanes,
            current,
            used,
        }
    }

    /// The bit of a list number that exists and has not been used.
    fn fresh(&self, number: u8) -> Result<u32, ScheduleError> {
        if number == 0 || number > self.table.len() {
            return Err(ScheduleError::BadSelector);
        }
        let bit = 1_u32
            .checked_shl(u32::from(number) - 1)
            .ok_or(ScheduleError::BadSelector)?;
        if self.used & bit == 0 {
            Ok(bit)
        } else {
            Err(ScheduleError::RepeatedKey)
        }
    }

    /// The `skip`-th unused list number, going round.
    fn unused(&self, skip: u8, except: u8) -> u8 {
        let fresh = |number: &u8| *number != except && self.fresh(*number).is_ok();
        let count = (1..=self.table.len()).filter(fresh).count();
        let Some(nth) = usize::from(skip).checked_rem(count) else {
            return 0;
        };
        (1..=self.table.len()).filter(fresh).nth(nth).unwrap_or(0)
    }
}

impl KeySchedule for LegacyList {
    fn selector_len(&self) -> usize {
        match self.lanes {
            Lanes::Shared => 1,
            Lanes::Separate => 2,
        }
    }

    fn exchange(&self, _command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        if self.current == (0, 0) {
            return Err(ScheduleError::Exhausted);
        }
        Ok(Exchange {
            command: self.table.get(self.current.0)?.keys()?,
            response: self.table.get(self.current.1)?.keys()?,
            next: Next::NOTHING,
        })
    }

    fn advance(&mut self, _next: Next, selector: &[u8]) -> Result<(), ScheduleError> {
        let numbers = match (self.lanes, selector) {
            (Lanes::Shared, &[number]) => (number, number),
            (Lanes::Separate, &[command, response]) => (command, response),
            _ => return Err(ScheduleError::BadSelector),
        };
        if numbers != (0, 0) {
            let bits = (self.fresh(numbers.0)?, self.fresh(numbers.1)?);
            if self.lanes == Lanes::Separate && bits.0 == bits.1 {
                return Err(ScheduleError::RepeatedKey);
            }
            self.used |= bits.0 | bits.1;
        }
        let (command, response) = core::mem::replace(&mut self.current, numbers);
        self.table.wipe(command);
        self.table.wipe(response);
        Ok(())
    }

    fn propose(&self, rng: &mut dyn Rng) -> Selector {
        let mut random = [0; 2];
        rng.fill(&mut random);
        let [first, second] = random;
        let command = self.unused(first, 0);
        let response = self.unused(second, command);
        if self.lanes == Lanes::Separate && response == 0 {
            return Selector::pair(0, 0);
        }
        Selector::for_lanes(self.lanes, command, response)
    }

    fn key_numbers(&self) -> (u32, u32) {
        (self.current.0.into(), self.current.1.into())
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Self {
            table,
            lanes: _,
            current,
            used,
        } = self;
        table.expose(sink);
        sink(&[current.0, current.1]);
        sink(&used.to_be_bytes());
    }
}
