//! Command protection: C-MAC and C-DECRYPTION as the card removes them (6.2.4, 6.2.6).

use sekisho_apdu::{CApdu, Cla, SecureMessaging};
use sekisho_keys::{AesKey, LengthError, cbc_decrypt_counted, cbc_encrypt_counted, cmac, ct_eq, unpad80};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{MacChainingValue, MacMode, ScpError};

/// The bit of the ICV's counter block that tells a response from a command (6.2.7).
const RESPONSE_ICV: u8 = 0x80;

/// What the verification of commands goes on from one to the next.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct CommandProtection {
    pub(super) enc: AesKey,
    pub(super) mac: AesKey,
    #[zeroize(skip)]
    pub(super) mode: MacMode,
    pub(super) chaining: MacChainingValue,
    /// The encryption counter of the next command, a 16-byte number (6.2.6): it begins with 32 bits at most, and no channel lives long enough for
    /// 64.
    pub(super) next_counter: u64,
}

impl CommandProtection {
    /// Verifies the C-MAC of `command` and gives its data field without it. Only a right C-MAC changes the chaining value.
    pub(super) fn verify<'a>(&mut self, command: &CApdu<'a>) -> Result<&'a [u8], ScpError> {
        if !command.cla.is_supported() || command.cla.secure_messaging() != SecureMessaging::Proprietary {
            return Err(ScpError::Mac);
        }
        let data_len = command
            .data
            .len()
            .checked_sub(self.mode.size())
            .ok_or(ScpError::Mac)?;
        let (data, c_mac) = command.data.split_at_checked(data_len).ok_or(ScpError::Mac)?;
        let expected = self.c_mac(command, data)?;
        if !ct_eq(expected.get(..c_mac.len()).unwrap_or_default(), c_mac) {
            return Err(ScpError::Mac);
        }
        self.chaining = expected;
        Ok(data)
    }

    /// The full CMAC over the chaining value, the header as if sent on the basic logical channel, Lc as sent, and `data`.
    fn c_mac(&self, command: &CApdu<'_>, data: &[u8]) -> Result<MacChainingValue, ScpError> {
        let cla = class_under_mac(command.cla);
        let header = [cla, command.ins, command.p1, command.p2];
        // Lc counts the C-MAC too.
        let [high, low] = u16::try_from(command.data.len())
            .map_err(|_| ScpError::Length)?
            .to_be_bytes();
        let extended = [0x00, high, low];
        let lc = if command.extended { &extended[..] } else { &[low] };
        Ok(cmac(&self.mac, &[&self.chaining, &header, lc, data]))
    }

    /// Counts the command. It counts also when it has no data field (6.2.6).
    pub(super) fn count(&mut self) -> Result<u64, ScpError> {
        let counter = self.next_counter;
        self.next_counter = counter.checked_add(1).ok_or(ScpError::CounterExhausted)?;
        Ok(counter)
    }

    /// Decrypts `data` into `buf` and gives what stands before the padding. A field that is all padding is an empty data field: hosts exist
    /// that encipher even those.
    pub(super) fn decrypt<'b>(
        &self,
        counter: u64,
        data: &[u8],
        buf: &'b mut [u8],
    ) -> Result<&'b [u8], ScpError> {
        if data.is_empty() {
            return Ok(&[]);
        }
        let buf = buf.get_mut(..data.len()).ok_or(ScpError::TooLong)?;
        buf.copy_from_slice(data);
        cbc_decrypt_counted(&self.enc, &counter_block(counter, 0x00), buf)?;
        Ok(unpad80(buf)?)
    }

    /// Encrypts the padded data field of the response to the command of `counter` (6.2.7).
    pub(super) fn encrypt_response(&self, counter: u64, field: &mut [u8]) -> Result<(), LengthError> {
        cbc_encrypt_counted(&self.enc, &counter_block(counter, RESPONSE_ICV), field)
    }
}

/// What the ICV is made of: the counter, with its first byte replaced.
fn counter_block(counter: u64, first: u8) -> [u8; 16] {
    let [_, rest @ ..] = u128::from(counter).to_be_bytes();
    let mut block = [first; 16];
    for (to, from) in block.iter_mut().skip(1).zip(rest) {
        *to = from;
    }
    block
}

/// The class byte in the C-MAC: the logical channel is zero, secure messaging is GlobalPlatform's (6.2.4).
fn class_under_mac(cla: Cla) -> u8 {
    let class = if cla.proprietary() { 0x80 } else { 0x00 };
    let chaining = if cla.chaining() { 0x10 } else { 0x00 };
    class | chaining | 0x04
}
