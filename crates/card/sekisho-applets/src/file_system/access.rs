//! Access rules: security attributes in compact format (ISO/IEC 7816-4, 5.4.3.1).

use core::hint::black_box;

use sekisho_apdu::{BufferFull, StatusWord, Writer};
use sekisho_keys::Verdict;
use sekisho_os::Refusal;

use super::file::{Head, Usage};
use super::tree::FileNumber;
use super::{NOT_ALLOWED, WRONG_DATA, Work};

/// What is done with a file. For a DF the first three bits of the access mode byte have other names: DELETE FILE (of a child), CREATE FILE (EF),
/// CREATE FILE (DF).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Bit 1: READ. DF: delete a child.
    Read,
    /// Bit 2: UPDATE; of a key file: change its value, reset its counter. DF: create an EF.
    Update,
    /// Bit 3: WRITE, APPEND. DF: create a DF.
    Write,
    /// Bit 7: delete the file itself.
    Delete,
}

impl Access {
    pub(super) const DELETE_CHILD: Self = Self::Read;
    pub(super) const CREATE_EF: Self = Self::Update;
    pub(super) const CREATE_DF: Self = Self::Write;

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 0x01,
            Self::Update => 0x02,
            Self::Write => 0x04,
            Self::Delete => 0x40,
        }
    }
}

/// The order of security condition bytes behind an access mode byte: from bit 7 down.
const ORDER: [Access; 4] = [Access::Delete, Access::Write, Access::Update, Access::Read];

/// Security condition bytes (ISO/IEC 7816-4, Table 23).
const ALWAYS: u8 = 0x00;
const NEVER: u8 = 0xFF;
const ALL_CONDITIONS: u8 = 0x80;
const SECURE_MESSAGING: u8 = 0x40;
const EXTERNAL_AUTHENTICATION: u8 = 0x20;
const USER_AUTHENTICATION: u8 = 0x10;

/// The condition of each access, in the order of [`ORDER`]. What a template does not name is never allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    conditions: [u8; 4],
    /// The same with each bit turned round: memory that was to be written, and was not, is no rule.
    inverse: [u8; 4],
}

impl Rules {
    /// From the same conditions twice.
    pub(super) fn new(conditions: [u8; 4], again: [u8; 4]) -> Self {
        Self {
            conditions,
            inverse: again.map(|condition| !condition),
        }
    }

    pub(super) const fn conditions(self) -> [u8; 4] {
        self.conditions
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let (mode, mut conditions) = bytes.split_first().ok_or(WRONG_DATA)?;
        let known = ORDER.iter().fold(0, |bits, access| bits | access.bit());
        if mode & !known != 0 {
            return Err(WRONG_DATA);
        }
        let mut rules = [NEVER; 4];
        for (rule, access) in rules.iter_mut().zip(ORDER) {
            if mode & access.bit() != 0 {
                let (condition, rest) = conditions.split_first().ok_or(WRONG_DATA)?;
                if !is_condition(*condition) {
                    return Err(WRONG_DATA);
                }
                *rule = *condition;
                conditions = rest;
            }
        }
        if conditions.is_empty() {
            Ok(Self::new(rules, rules))
        } else {
            Err(WRONG_DATA)
        }
    }

    pub(super) fn write(self, w: &mut Writer<'_>) -> Result<(), BufferFull> {
        let used = |(rule, access): (&u8, &Access)| (*rule != NEVER).then_some((*rule, access.bit()));
        let mode = self
            .conditions
            .iter()
            .zip(&ORDER)
            .filter_map(used)
            .fold(0, |mode, (_, bit)| mode | bit);
        w.u8(mode)?;
        for (rule, _) in self.conditions.iter().zip(&ORDER).filter_map(used) {
            w.u8(rule)?;
        }
        Ok(())
    }

    fn condition(&self, access: Access) -> u8 {
        let at = ORDER.iter().position(|a| *a == access);
        let found = at.and_then(|at| Some((*self.conditions.get(at)?, *black_box(&self.inverse).get(at)?)));
        match found {
            Some((condition, inverse)) if condition == !inverse => condition,
            _ => NEVER,
        }
    }
}

/// Always, never, or one condition at least with the number of a key.
const fn is_condition(byte: u8) -> bool {
    let conditions = byte & (SECURE_MESSAGING | EXTERNAL_AUTHENTICATION | USER_AUTHENTICATION);
    let number = byte & 0x0F;
    byte == ALWAYS || byte == NEVER || conditions != 0 && number != 0 && number != 0x0F
}

/// What the rules have allowed.
#[derive(Clone, Copy)]
pub(super) struct Allowed(Verdict);

impl Allowed {
    /// Whether they have, else 6982.
    #[inline(always)]
    pub(super) fn still(self) -> Result<(), Refusal> {
        if self.0.is_yes() { Ok(()) } else { Err(NOT_ALLOWED) }
    }
}

impl Work<'_, '_> {
    /// Lets a command pass that a file's rules allow, else 6982. What comes of it is [looked at once more](Allowed::still) where the door is opened.
    #[inline(always)]
    pub(super) fn allowed(&self, file: FileNumber, head: &Head, access: Access) -> Result<Allowed, Refusal> {
        let asked = (self, file, head, access);
        let allowed = Allowed(Verdict::of(&asked, |(work, file, head, access)| {
            work.rule(*file, head, *access)
        }));
        allowed.still()?;
        Ok(allowed)
    }

    /// What the rules say. A rule's number means the key with this number in the file's own DF, or in the nearest above.
    #[inline(never)]
    fn rule(&self, file: FileNumber, head: &Head, access: Access) -> bool {
        let condition = head.rules.condition(access);
        if matches!(condition, ALWAYS | NEVER) {
            return condition == ALWAYS;
        }
        let home = if head.is_df() { file } else { head.parent };
        let number = condition & 0x0F;
        let all = condition & ALL_CONDITIONS != 0;
        let mut met = all;
        for (bit, usage) in [
            (SECURE_MESSAGING, Usage::Messaging),
            (EXTERNAL_AUTHENTICATION, Usage::External),
            (USER_AUTHENTICATION, Usage::Pin),
        ] {
            if condition & bit != 0 {
                let holds = self.holds(home, usage, number);
                met = if all { met && holds } else { met || holds };
            }
        }
        met
    }

    fn holds(&self, home: FileNumber, usage: Usage, number: u8) -> bool {
        let Some(key) = self.tree.key(home, usage, number) else {
            return false;
        };
        if usage == Usage::Messaging {
            self.context.is_messaging() && self.session.messaging_key == Some(key)
        } else {
            self.tree.is_proved(key, self.session.seat())
        }
    }
}

/// 6981: the command does not fit the file's structure.
pub(super) const INCOMPATIBLE: Refusal = Refusal(StatusWord(0x6981));
/// 6986: no EF is selected.
pub(super) const NO_CURRENT_EF: Refusal = Refusal(StatusWord(0x6986));
