//! An authenticated secure channel.

use core::fmt;

use sekisho_apdu::{CApdu, RApdu, SecureMessaging, StatusWord, Writer};
use sekisho_keys::{AesKey, LengthError, cbc_decrypt, cmac};

use super::broadcast::{BroadcastChannel, BroadcastStart};
use super::protection::CommandProtection;
use crate::{ScpError, SecurityLevel};

/// Proof that the off-card entity is authenticated. Only a secure channel makes one, and it can only be borrowed from it, so it ends with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Proof {
    level: SecurityLevel,
    kvn: u8,
    sequence_counter: u32,
}

impl Proof {
    pub(super) const fn new(level: SecurityLevel, kvn: u8, sequence_counter: u32) -> Self {
        Self {
            level,
            kvn,
            sequence_counter,
        }
    }

    /// The security level of the secure channel.
    pub const fn level(&self) -> SecurityLevel {
        self.level
    }

    /// The version number of the keys that opened it.
    pub const fn kvn(&self) -> u8 {
        self.kvn
    }

    /// The sequence counter with which it was opened, 24 bits; 0 where the card challenge is random.
    pub const fn sequence_counter(&self) -> u32 {
        self.sequence_counter
    }
}

/// A secure channel after EXTERNAL AUTHENTICATE.
pub struct SecureChannel {
    authenticated: Proof,
    /// `None` when closed: the keys are erased then.
    keys: Option<Keys>,
}

#[derive(Clone)]
struct Keys {
    command: CommandProtection,
    s_rmac: AesKey,
    /// The encryption counter of the command whose response is due.
    response_due: Option<u64>,
}

impl fmt::Debug for SecureChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureChannel")
            .field("authenticated", &self.authenticated)
            .field("open", &self.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl SecureChannel {
    pub(super) const fn new(command: CommandProtection, s_rmac: AesKey, authenticated: Proof) -> Self {
        Self {
            authenticated,
            keys: Some(Keys {
                command,
                s_rmac,
                response_due: None,
            }),
        }
    }

    /// The security level that EXTERNAL AUTHENTICATE set.
    pub const fn level(&self) -> SecurityLevel {
        self.authenticated.level
    }

    /// The sequence counter with which it was opened, also once it is closed.
    pub(super) const fn sequence_counter(&self) -> u32 {
        self.authenticated.sequence_counter
    }

    /// The proof for applications; `None` once the channel is closed.
    pub const fn authenticated(&self) -> Option<&Proof> {
        if self.keys.is_some() {
            Some(&self.authenticated)
        } else {
            None
        }
    }

    /// Takes the channel out of its place, where a closed one is left: a mere move would leave the keys behind.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let Proof {
            level,
            kvn,
            sequence_counter,
        } = self.authenticated;
        let taken = Self {
            authenticated: Proof::new(level, kvn, sequence_counter),
            keys: self.keys.clone(),
        };
        self.close();
        taken
    }

    /// Erases the keys. Nothing opens the channel again.
    pub fn close(&mut self) {
        self.keys = None;
    }

    /// Verifies the C-MAC of a command, then decrypts its data field, as the level says. The result has the plain data field (in `buf` when it
    /// was enciphered, so `buf` takes as many bytes as the command's data field), no secure messaging in the class byte, and the logical
    /// channel that it came on.
    ///
    /// # Errors
    /// [`ScpError::Mac`] also for a command without the protection of the level, or with one at level 00; [`ScpError::Padding`],
    /// [`ScpError::Length`], [`ScpError::CounterExhausted`]. After any of them the channel is closed. [`ScpError::TooLong`] when `buf` is too
    /// small for a data field whose MAC is right: the channel goes on, and the response is due.
    pub fn unwrap<'b>(&mut self, capdu: &CApdu<'b>, buf: &'b mut [u8]) -> Result<CApdu<'b>, ScpError> {
        let level = self.level();
        let keys = self.keys.as_mut().ok_or(ScpError::Closed)?;
        let done = keys.unwrap(level, capdu, buf);
        if done.as_ref().is_err_and(|error| *error != ScpError::TooLong) {
            self.close();
        }
        done
    }

    /// Appends the response to the command that was unwrapped last, data field and status word, protected as the level says. At a level with
    /// R-MAC an error status word goes alone and bare (6.2.5), without the data field.
    ///
    /// # Errors
    /// [`ScpError::Sequence`] when no command waits for a response; [`ScpError::BufferFull`]; [`ScpError::Closed`]. After any of them the
    /// channel is closed, and nothing is written.
    pub fn wrap_response(
        &mut self,
        data: &[u8],
        sw: StatusWord,
        out: &mut Writer<'_>,
    ) -> Result<(), ScpError> {
        let level = self.level();
        let keys = self.keys.as_mut().ok_or(ScpError::Closed)?;
        let start = out.len();
        let done = keys.wrap_response(level, data, sw, out);
        if done.is_err() {
            out.truncate(start);
            self.close();
        }
        done
    }

    /// Decrypts sensitive data (keys in PUT KEY and STORE DATA) in place with the static Key-DEK: CBC, ICV zero (6.2.8).
    ///
    /// # Errors
    /// [`LengthError`] unless `data` is whole blocks.
    pub fn decrypt_sensitive(&self, dek: &AesKey, data: &mut [u8]) -> Result<(), LengthError> {
        cbc_decrypt(dek, &[0; 16], data)
    }

    /// Saves this channel and goes to broadcast mode. Call it after the response to CHANGE MODE, which still belongs to this channel.
    ///
    /// A channel that is closed, or whose level has no C-DECRYPTION, gives a broadcast channel that is closed.
    pub fn enter_broadcast(mut self, start: BroadcastStart) -> BroadcastChannel {
        if !self.level().at_least(SecurityLevel::C_DECRYPTION_C_MAC) {
            self.close();
        }
        BroadcastChannel::new(self, start)
    }
}

impl Keys {
    fn unwrap<'b>(
        &mut self,
        level: SecurityLevel,
        capdu: &CApdu<'b>,
        buf: &'b mut [u8],
    ) -> Result<CApdu<'b>, ScpError> {
        let mut data = capdu.data;
        if level.c_mac() {
            data = self.command.verify(capdu)?;
        } else if capdu.cla.secure_messaging() != SecureMessaging::None {
            return Err(ScpError::Mac);
        }
        let counter = self.command.count()?;
        self.response_due = Some(counter);
        if level.c_decryption() {
            data = self.command.decrypt(counter, data, buf)?;
        }
        Ok(CApdu {
            cla: capdu.cla.with_secure_messaging(false),
            data,
            ..*capdu
        })
    }

    fn wrap_response(
        &mut self,
        level: SecurityLevel,
        data: &[u8],
        sw: StatusWord,
        out: &mut Writer<'_>,
    ) -> Result<(), ScpError> {
        let counter = self.response_due.take().ok_or(ScpError::Sequence)?;
        if !level.r_mac() {
            return Ok(RApdu { data, sw }.encode(out)?);
        }
        if !sw.is_success_or_warning() {
            return Ok(out.bytes(&sw.bytes())?);
        }
        let start = out.len();
        out.bytes(data)?;
        if level.r_encryption() && !data.is_empty() {
            let padding = 16 - data.len() % 16;
            out.bytes(
                [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
                    .get(..padding)
                    .unwrap_or_default(),
            )?;
            let field = out.written_mut().get_mut(start..).unwrap_or_default();
            self.command.encrypt_response(counter, field)?;
        }
        let field = out.written().get(start..).unwrap_or_default();
        let r_mac = cmac(&self.s_rmac, &[&self.command.chaining, field, &sw.bytes()]);
        out.bytes(r_mac.get(..self.command.mode.size()).unwrap_or_default())?;
        Ok(out.bytes(&sw.bytes())?)
    }
}
