//! The bulk of a broadcast, made once for every card (broadcast update, section 2.1).

use core::fmt;

use sekisho_apdu::{CApdu, Writer};
use sekisho_keys::AesKey;

use super::command::CommandWrapper;
use crate::{MacChainingValue, MacMode, ScpError};

/// Protects the commands of P_SE with the broadcast key set: level 03, S8.
pub struct BroadcastWriter(CommandWrapper);

impl fmt::Debug for BroadcastWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BroadcastWriter { .. }")
    }
}

impl BroadcastWriter {
    /// Starts with the encryption counter and the MAC chaining value that CHANGE MODE will give to each card.
    pub fn new(bk_enc: AesKey, bk_mac: AesKey, counter: u32, chaining: MacChainingValue) -> Self {
        Self(CommandWrapper {
            enc: bk_enc,
            mac: bk_mac,
            mode: MacMode::S8,
            chaining,
            counter: counter.into(),
        })
    }

    /// Appends the protected command to `out`.
    ///
    /// # Errors
    /// [`ScpError::Parameter`] for a class byte that cannot say secure messaging; [`ScpError::Length`] for data that no length field can say, [`ScpError::BufferFull`], [`ScpError::CounterExhausted`]; nothing is
    /// written and the counter stays.
    pub fn wrap(&mut self, command: &CApdu<'_>, out: &mut Writer<'_>) -> Result<(), ScpError> {
        self.0.wrap(command, true, out)
    }
}
