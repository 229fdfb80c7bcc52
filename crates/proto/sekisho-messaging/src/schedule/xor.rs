//! Embodiment 1 of JP 7206869 B2: the new key is the old one XOR the current one.

use zeroize::Zeroizing;

use super::{Exchange, KeySchedule, KeyTable, Lanes, LegacyKey, Next, ScheduleError};
use crate::ssc::Ssc;

/// Exchanges until the keys repeat: K1, K0 XOR K1, K0, and then K1 again.
pub const XOR_CAP: u8 = 3;

/// Keys K1, K2 = K0 XOR K1, K3 = K1 XOR K2 = K0 (figures 3 to 6). Ends after [`XOR_CAP`] exchanges, because the fourth
/// would use K1 again. Whoever learns two of the three keys knows all.
pub struct LegacyXor {
    command: Lane,
    response: Option<Lane>,
    done: u8,
}

struct Lane {
    old: LegacyKey,
    current: LegacyKey,
}

impl Lane {
    fn roll(&mut self) {
        let new = self.old.xor(&self.current);
        self.old = core::mem::replace(&mut self.current, new);
    }
}

impl LegacyXor {
    /// `keys` are K0 and K1; with [`Lanes::Separate`] those of the command and then those of the response.
    pub fn new(lanes: Lanes, keys: &[[u8; 16]]) -> Result<Self, ScheduleError> {
        let lane = |old: &[u8; 16], current: &[u8; 16]| Lane {
            old: LegacyKey(*old),
            current: LegacyKey(*current),
        };
        let (command, response) = match (lanes, keys) {
            (Lanes::Shared, [k0, k1]) => (lane(k0, k1), None),
            (Lanes::Separate, [k0, k1, r0, r1]) => (lane(k0, k1), Some(lane(r0, r1))),
            _ => return Err(ScheduleError::BadKeys),
        };
        let mut all = Zeroizing::new([[0; 16]; 6]);
        let used = [Some(&command), response.as_ref()].into_iter().flatten();
        let count = used.clone().count() * 3;
        for (place, lane) in all.chunks_exact_mut(3).zip(used) {
            place.copy_from_slice(&[lane.old.0, lane.current.0, lane.old.xor(&lane.current).0]);
        }
        // Building the table refuses an all-zero key and any two equal ones among all that will ever be used.
        KeyTable::new(all.get(..count).unwrap_or_default())?;
        Ok(Self {
            command,
            response,
            done: 0,
        })
    }
}

impl KeySchedule for LegacyXor {
    fn exchange(&self, _command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        if self.done >= XOR_CAP {
            return Err(ScheduleError::Exhausted);
        }
        let response = self.response.as_ref().unwrap_or(&self.command);
        Ok(Exchange {
            command: self.command.current.keys()?,
            response: response.current.keys()?,
            next: Next::NOTHING,
        })
    }

    fn advance(&mut self, _next: Next, _selector: &[u8]) -> Result<(), ScheduleError> {
        self.done = self.done.saturating_add(1);
        self.command.roll();
        if let Some(response) = &mut self.response {
            response.roll();
        }
        Ok(())
    }

    fn key_numbers(&self) -> (u32, u32) {
        let number = u32::from(self.done) + 1;
        (number, number)
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Self {
            command,
            response,
            done,
        } = self;
        for Lane { old, current } in [Some(command), response.as_ref()].into_iter().flatten() {
            sink(&old.0);
            sink(&current.0);
        }
        sink(&[*done]);
    }
}
