//! Access rules: security attributes in compact format (ISO/IEC 7816-4, 5.4.3.1).

use sekisho_apdu::{BufferFull, StatusWord, Writer};
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
pub(super) struct Rules(pub(super) [u8; 4]);

impl Rules {
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
            Ok(Self(rules))
        } else {
            Err(WRONG_DATA)
        }
    }

    pub(super) fn write(self, w: &mut Writer<'_>) -> Result<(), BufferFull> {
        let used = |(rule, access): (&u8, &Access)| (*rule != NEVER).then_some((*rule, access.bit()));
        let mode = self
            .0
            .iter()
            .zip(&ORDER)
            .filter_map(used)
            .fold(0, |mode, (_, bit)| mode | bit);
        w.u8(mode)?;
        for (rule, _) in self.0.iter().zip(&ORDER).filter_map(used) {
            w.u8(rule)?;
        }
        Ok(())
    }

    fn condition(self, access: Access) -> u8 {
        let at = ORDER.iter().position(|a| *a == access);
        at.and_then(|at| self.0.get(at)).copied().unwrap_or(NEVER)
    }
}

/// Always, never, or one condition at least with the number of a key.
const fn is_condition(byte: u8) -> bool {
    let conditions = byte & (SECURE_MESSAGING | EXTERNAL_AUTHENTICATION | USER_AUTHENTICATION);
    let number = byte & 0x0F;
    byte == ALWAYS || byte == NEVER || conditions != 0 && number != 0 && number != 0x0F
}

impl Work<'_, '_> {
    /// Lets a command pass that a file's rules allow, else 6982. A rule's number means the key with this number in the file's own DF, or in the
    /// nearest above.
    pub(super) fn allowed(&self, file: FileNumber, head: &Head, access: Access) -> Result<(), Refusal> {
        let condition = head.rules.condition(access);
        if condition == ALWAYS {
            return Ok(());
        }
        if condition == NEVER {
            return Err(NOT_ALLOWED);
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
        if met { Ok(()) } else { Err(NOT_ALLOWED) }
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
