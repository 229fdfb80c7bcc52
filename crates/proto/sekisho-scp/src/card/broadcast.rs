//! Broadcast mode (broadcast update, section 2.1): commands under a key set that the whole fleet shares.

use core::fmt;

use sekisho_apdu::CApdu;
use sekisho_keys::AesKey;
use zeroize::ZeroizeOnDrop;

use super::channel::SecureChannel;
use super::protection::CommandProtection;
use crate::{MacChainingValue, MacMode, ScpError};

/// What CHANGE MODE carries.
#[derive(Clone, ZeroizeOnDrop)]
pub struct BroadcastStart {
    /// BK-ENC, in the place of S-ENC.
    pub bk_enc: AesKey,
    /// BK-MAC, in the place of S-MAC.
    pub bk_mac: AesKey,
    /// The encryption counter of the first command.
    pub counter: u32,
    /// The MAC chaining value of the first command.
    pub chaining: MacChainingValue,
}

impl fmt::Debug for BroadcastStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastStart")
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// Where a broadcast stands between two commands: stored with the blocks it belongs to, it lets a torn write go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BroadcastCheckpoint {
    /// The encryption counter of the next command. It has gone past 32 bits where CHANGE MODE's began high.
    pub counter: u64,
    /// The MAC chaining value of the next command.
    pub chaining: MacChainingValue,
}

impl fmt::Debug for BroadcastCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastCheckpoint")
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// The secure channel in broadcast mode: level 03, S8, no protection of responses.
///
/// It owns the individual secure channel that it was entered from; only [`return_to_saved`](Self::return_to_saved) gives it back, once: when the
/// broadcast channel says that all is there, or at a command that the saved channel itself protects. Drop
/// this value, and no session of any kind is left: that is how every refused command ends.
pub struct BroadcastChannel {
    saved: SecureChannel,
    /// `None` when closed: the keys are erased then, and so are the saved ones.
    command: Option<CommandProtection>,
}

impl fmt::Debug for BroadcastChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastChannel")
            .field("open", &self.command.is_some())
            .finish_non_exhaustive()
    }
}

impl BroadcastChannel {
    pub(super) fn new(saved: SecureChannel, start: BroadcastStart) -> Self {
        let command = saved.authenticated().is_some().then(|| CommandProtection {
            enc: start.bk_enc.clone(),
            mac: start.bk_mac.clone(),
            mode: MacMode::S8,
            chaining: start.chaining,
            next_counter: start.counter.into(),
        });
        Self { saved, command }
    }

    /// Takes the channel out of its place, where a closed one is left, as [`SecureChannel::take`].
    #[must_use]
    pub fn take(&mut self) -> Self {
        let taken = Self {
            saved: self.saved.take(),
            command: self.command.clone(),
        };
        self.command = None;
        taken
    }

    /// Goes on from a checkpoint instead of the start. To be called before the first command.
    pub fn resume_at(&mut self, checkpoint: &BroadcastCheckpoint) {
        if let Some(command) = &mut self.command {
            command.next_counter = checkpoint.counter;
            command.chaining = checkpoint.chaining;
        }
    }

    /// Where the broadcast stands after the last command.
    ///
    /// # Errors
    /// [`ScpError::Closed`].
    pub fn checkpoint(&self) -> Result<BroadcastCheckpoint, ScpError> {
        let command = self.command.as_ref().ok_or(ScpError::Closed)?;
        Ok(BroadcastCheckpoint {
            counter: command.next_counter,
            chaining: command.chaining,
        })
    }

    /// Verifies the C-MAC of a command, then decrypts its data field into `buf`; as [`SecureChannel::unwrap`] at level 03.
    ///
    /// # Errors
    /// As there. After any of them this channel **and the saved one** are closed.
    pub fn unwrap<'b>(&mut self, capdu: &CApdu<'b>, buf: &'b mut [u8]) -> Result<CApdu<'b>, ScpError> {
        let command = self.command.as_mut().ok_or(ScpError::Closed)?;
        let done = unwrap(command, capdu, buf);
        if done.is_err() {
            self.command = None;
            self.saved.close();
        }
        done
    }

    /// Verifies and decrypts a command that the saved channel protects: the one that leaves broadcast mode before its end.
    ///
    /// # Errors
    /// As [`BroadcastChannel::unwrap`]: after any of them both channels are closed.
    pub fn unwrap_saved<'b>(&mut self, capdu: &CApdu<'b>, buf: &'b mut [u8]) -> Result<CApdu<'b>, ScpError> {
        let done = self.saved.unwrap(capdu, buf);
        if done.is_err() {
            self.command = None;
            self.saved.close();
        }
        done
    }

    /// The sequence counter with which the saved channel was opened, also when both are closed.
    pub const fn sequence_counter(&self) -> u32 {
        self.saved.sequence_counter()
    }

    /// Goes back to the individual secure channel as it was; the broadcast keys are erased. After an error the channel that comes back is
    /// closed too.
    pub fn return_to_saved(self) -> SecureChannel {
        self.saved
    }
}

fn unwrap<'b>(
    command: &mut CommandProtection,
    capdu: &CApdu<'b>,
    buf: &'b mut [u8],
) -> Result<CApdu<'b>, ScpError> {
    let data = command.verify(capdu)?;
    let counter = command.count()?;
    let data = command.decrypt(counter, data, buf)?;
    Ok(CApdu {
        cla: capdu.cla.with_secure_messaging(false),
        data,
        ..*capdu
    })
}
