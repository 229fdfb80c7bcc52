//! Embodiment 3 of JP 7206869 B2: operation keys, and operations switched in step.

use sekisho_keys::{Rng, sha256};

use super::{Exchange, KeySchedule, KeyTable, Lanes, LegacyKey, Next, ScheduleError, Selector};
use crate::ssc::Ssc;

/// Exchanges after which the schedule ends: as many as the patent's list has keys.
pub const OPERATIONS_CAP: usize = 18;

/// How the next session key comes from the session key, the operation key used last, and the operation key chosen next.
pub type Operation = fn(session: &LegacyKey, previous: &LegacyKey, next: &LegacyKey) -> LegacyKey;

/// Operation 1 (step S98): session key XOR next operation key.
pub fn xor_session(session: &LegacyKey, _previous: &LegacyKey, next: &LegacyKey) -> LegacyKey {
    session.xor(next)
}

/// Operation 2 (step S108): session key AND next operation key. Half of the ones are gone each time.
pub fn and_session(session: &LegacyKey, _previous: &LegacyKey, next: &LegacyKey) -> LegacyKey {
    session.and(next)
}

/// Operation 3 (step S118): previous operation key XOR next operation key.
pub fn xor_previous(_session: &LegacyKey, previous: &LegacyKey, next: &LegacyKey) -> LegacyKey {
    previous.xor(next)
}

/// The three operations in the order of figures 16 to 18. A longer slice adds operations.
pub const PATENT_OPERATIONS: &[Operation] = &[xor_session, and_session, xor_previous];

/// Operation keys EK1 to EK18 (or another number) shared beforehand; the session key starts as EK1 (EK2 for responses
/// with [`Lanes::Separate`]), each command carries the list number of the next operation key inside its encrypted data,
/// and the operations take turns (figures 13 to 18). All-zero and repeated session keys are refused; number 0 says that
/// no exchange follows.
pub struct LegacyOperations {
    table: KeyTable,
    operations: &'static [Operation],
    lanes: Lanes,
    command: Lane,
    response: Lane,
    /// Exchanges finished; also picks the operation.
    done: usize,
    ended: bool,
    /// Fingerprints of the session keys used, to refuse repeats without keeping the keys.
    history: [u64; 2 * OPERATIONS_CAP],
}

#[derive(Clone)]
struct Lane {
    session: LegacyKey,
    /// List number of the operation key used last.
    previous: u8,
}

impl LegacyOperations {
    /// Starts both ends with the first operation key (the first two with [`Lanes::Separate`]).
    pub fn new(
        lanes: Lanes,
        table: KeyTable,
        operations: &'static [Operation],
    ) -> Result<Self, ScheduleError> {
        if operations.is_empty() {
            return Err(ScheduleError::BadKeys);
        }
        let command = Lane {
            session: table.get(1)?,
            previous: 1,
        };
        let response = match lanes {
            Lanes::Shared => command.clone(),
            Lanes::Separate => Lane {
                session: table.get(2)?,
                previous: 2,
            },
        };
        let mut schedule = Self {
            table,
            operations,
            lanes,
            command,
            response,
            done: 0,
            ended: false,
            history: [0; 2 * OPERATIONS_CAP],
        };
        schedule.remember();
        Ok(schedule)
    }

    /// Notes the session keys of the current exchange.
    fn remember(&mut self) {
        let prints = [
            fingerprint(&self.command.session),
            fingerprint(&self.response.session),
        ];
        if let Some(places) = self.history.get_mut(2 * self.done..2 * self.done + 2) {
            places.copy_from_slice(&prints);
        }
    }

    /// What the current operation makes of a lane with the operation key of this list number.
    fn roll(&self, lane: &Lane, number: u8) -> Result<Lane, ScheduleError> {
        let next = self.table.get(number)?;
        let turn = self
            .done
            .checked_rem(self.operations.len())
            .ok_or(ScheduleError::BadKeys)?;
        let operation = self.operations.get(turn).ok_or(ScheduleError::BadKeys)?;
        let session = operation(&lane.session, &self.table.get(lane.previous)?, &next);
        if session.is_zero() {
            return Err(ScheduleError::ZeroKey);
        }
        if self.history.contains(&fingerprint(&session)) {
            return Err(ScheduleError::RepeatedKey);
        }
        Ok(Lane {
            session,
            previous: number,
        })
    }

    /// Both lanes of the next exchange.
    fn roll_both(&self, command: u8, response: u8) -> Result<(Lane, Lane), ScheduleError> {
        let command = self.roll(&self.command, command)?;
        let response = match self.lanes {
            Lanes::Shared => command.clone(),
            Lanes::Separate => self.roll(&self.response, response)?,
        };
        if self.lanes == Lanes::Separate && command.session == response.session {
            return Err(ScheduleError::RepeatedKey);
        }
        Ok((command, response))
    }
}

/// Enough of a digest to recognise a key.
fn fingerprint(key: &LegacyKey) -> u64 {
    let [
        print @ ..,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
    ] = sha256(&[&key.0]);
    u64::from_be_bytes(print)
}

impl KeySchedule for LegacyOperations {
    fn selector_len(&self) -> usize {
        match self.lanes {
            Lanes::Shared => 1,
            Lanes::Separate => 2,
        }
    }

    fn exchange(&self, _command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        if self.ended {
            return Err(ScheduleError::Exhausted);
        }
        Ok(Exchange {
            command: self.command.session.keys()?,
            response: self.response.session.keys()?,
            next: Next::NOTHING,
        })
    }

    fn advance(&mut self, _next: Next, selector: &[u8]) -> Result<(), ScheduleError> {
        let (command, response) = match (self.lanes, selector) {
            (Lanes::Shared, &[number]) => (number, number),
            (Lanes::Separate, &[command, response]) => (command, response),
            _ => return Err(ScheduleError::BadSelector),
        };
        if (command, response) == (0, 0) || self.done + 1 >= OPERATIONS_CAP {
            (self.command.session, self.response.session) = Default::default();
            self.ended = true;
            return Ok(());
        }
        (self.command, self.response) = self.roll_both(command, response)?;
        self.done += 1;
        self.remember();
        Ok(())
    }

    fn propose(&self, rng: &mut dyn Rng) -> Selector {
        let mut random = [0; 2];
        rng.fill(&mut random);
        let len = self.table.len();
        let turn = |start: u8, step: u8| {
            let sum = u16::from(start) + u16::from(step);
            u8::try_from(sum % u16::from(len.max(1))).unwrap_or(0) + 1
        };
        let [first, second] = random;
        for command in (0..len).map(|step| turn(first, step)) {
            for response in (0..len).map(|step| turn(second, step)) {
                if self.roll_both(command, response).is_ok() {
                    return Selector::for_lanes(self.lanes, command, response);
                }
            }
        }
        Selector::for_lanes(self.lanes, 0, 0)
    }

    fn key_numbers(&self) -> (u32, u32) {
        let number = u32::try_from(self.done).unwrap_or(u32::MAX).saturating_add(1);
        (number, number)
    }

    #[cfg(feature = "expose-secrets")]
    fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        let Self {
            table,
            operations: _,
            lanes: _,
            command,
            response,
            done,
            ended,
            history,
        } = self;
        table.expose(sink);
        for Lane { session, previous } in [command, response] {
            sink(&session.0);
            sink(&[*previous]);
        }
        sink(&done.to_be_bytes());
        sink(&[u8::from(*ended)]);
        history.iter().for_each(|print| sink(&print.to_be_bytes()));
    }
}
