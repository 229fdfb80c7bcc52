//! Claims 1 and 2 of JP 7206869 B2 as claimed: the new key comes from the old and the current one, by one operation (embodiment 1) or by several
//! that take turns (claims 2 and 5).

use zeroize::Zeroizing;

use super::{Exchange, KeySchedule, KeyTable, Lanes, LegacyKey, Next, ScheduleError};
use crate::ssc::Ssc;

/// How the next session key comes from the old and the current one.
pub type PairOperation = fn(old: &LegacyKey, current: &LegacyKey) -> LegacyKey;

/// The operations, which take turns, one after each exchange, and how many exchanges they are good for.
#[derive(Clone, Copy, Debug)]
pub struct PairRule {
    /// After exchange n the operation (n - 1) modulo their number.
    pub operations: &'static [PairOperation],
    /// Exchanges after which the keys would repeat or be zero.
    pub cap: u8,
}

/// Most exchanges of any [`PairRule`]: of the 7 values that XOR and AND make of two keys one is zero.
const CAP_MAX: usize = 6;
const LANES_MAX: usize = 2;

/// Exchanges until the keys of [`XOR`] repeat: K1, K0 XOR K1, K0, and then K1 again.
pub const XOR_CAP: u8 = 3;
/// Embodiment 1 (figures 3 to 6): K1, K2 = K0 XOR K1, K3 = K1 XOR K2 = K0. Whoever learns two of the three keys knows all.
pub const XOR: PairRule = PairRule {
    operations: &[LegacyKey::xor],
    cap: XOR_CAP,
};

/// Exchanges of [`TURNS`]: the fifth key is always zero.
pub const TURNS_CAP: u8 = 4;
/// Claims 2 and 5: XOR and AND in turn. K1, K2 = K0 XOR K1, K3 = K1 AND K2 = K1 AND NOT K0, K4 = K2 XOR K3 = K0 AND NOT K1, and then
/// K3 AND K4, which is zero whatever K0 and K1 are.
pub const TURNS: PairRule = PairRule {
    operations: &[LegacyKey::xor, LegacyKey::and],
    cap: TURNS_CAP,
};

/// Keys of which each comes from the two before it. Ends after the rule's cap.
pub struct LegacyPair {
    rule: PairRule,
    command: Lane,
    response: Option<Lane>,
    done: u8,
}

#[derive(Clone)]
struct Lane {
    old: LegacyKey,
    current: LegacyKey,
}

impl Lane {
    fn roll(&mut self, rule: PairRule, done: u8) -> Result<(), ScheduleError> {
        let turn = usize::from(done).checked_rem(rule.operations.len());
        let operation = turn.and_then(|turn| rule.operations.get(turn));
        let new = operation.ok_or(ScheduleError::BadKeys)?(&self.old, &self.current);
        self.old = core::mem::replace(&mut self.current, new);
        Ok(())
    }
}

impl LegacyPair {
    /// `keys` are K0 and K1; with [`Lanes::Separate`] those of the command and then those of the response. Refuses keys from which an all-zero
    /// key, or the same key twice, would come within the rule's cap.
    pub fn new(rule: PairRule, lanes: Lanes, keys: &[[u8; 16]]) -> Result<Self, ScheduleError> {
        let lane = |old: &[u8; 16], current: &[u8; 16]| Lane {
            old: LegacyKey(*old),
            current: LegacyKey(*current),
        };
        let (command, response) = match (lanes, keys) {
            (Lanes::Shared, [k0, k1]) => (lane(k0, k1), None),
            (Lanes::Separate, [k0, k1, r0, r1]) => (lane(k0, k1), Some(lane(r0, r1))),
            _ => return Err(ScheduleError::BadKeys),
        };
        KeyTable::new(keys)?;
        let mut all = Zeroizing::new([[0; 16]; CAP_MAX * LANES_MAX]);
        let mut places = all.iter_mut();
        for mut lane in [Some(command.clone()), response.clone()].into_iter().flatten() {
            for (done, place) in (0..rule.cap).zip(&mut places) {
                *place = lane.current.0;
                lane.roll(rule, done)?;
            }
        }
        let count = usize::from(rule.cap) * (1 + usize::from(response.is_some()));
        // Building the table refuses an all-zero key and any two equal ones among all that will ever be used.
        KeyTable::new(all.get(..count).ok_or(ScheduleError::BadKeys)?)?;
        Ok(Self {
            rule,
            command,
            response,
            done: 0,
        })
    }
}

impl KeySchedule for LegacyPair {
    fn exchange(&self, _command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        if self.done >= self.rule.cap {
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
        self.command.roll(self.rule, self.done)?;
        if let Some(response) = &mut self.response {
            response.roll(self.rule, self.done)?;
        }
        self.done = self.done.saturating_add(1);
        Ok(())
    }

    fn key_numbers(&self) -> (u32, u32) {
        let number = u32::from(self.done) + 1;
        (number, number)
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Self {
            rule: _,
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
