//! Key pairs that are made in the SE: ECDSA over P-256. One service for all applications; the private key never leaves.
//!
//! A new pair is *pending* until whoever certifies it has had his say. The one before serves until then, and is wiped with the same commit that makes the new one live.

use sekisho_apdu::StatusWord;
use sekisho_keys::ct_eq;
use sekisho_keys::p256sig::SigningKey;
use zeroize::Zeroizing;

use crate::application::Context;
use crate::refusal::Refusal;

/// A key pair of an application, named by the two of its [records](Context::put) in which the live private key and the pending one stand: 32 bytes, a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Where the live key stands.
    pub live: u16,
    /// Where the pending one stands.
    pub pending: u16,
}

impl KeyPair {
    /// Makes a pair from the platform's generator, which is pending when the command succeeds; one that was is gone then.
    ///
    /// # Errors
    /// 6581 when the generator gives no key, the same one twice, or one that the application has already: the SE stops, as when the flash fails. 6A84 without room.
    ///
    /// Not inlined: what is compared here would take its room of the stack of what is signed with the key.
    #[inline(never)]
    pub fn make(self, context: &mut Context<'_>) -> Result<SigningKey, Refusal> {
        let failed = Refusal(StatusWord::MEMORY_FAILURE);
        let key = SigningKey::generate(context.rng()).map_err(|_| failed)?;
        let bytes = key.to_bytes();
        let mut other = Zeroizing::new([0; 32]);
        // One that gives the same again is no generator.
        context.random(other.as_mut_slice());
        let mut is_known = ct_eq(other.as_slice(), bytes.as_slice());
        for record in [self.live, self.pending] {
            if context.get(record, 0, other.as_mut_slice())?.is_some() {
                is_known |= ct_eq(other.as_slice(), bytes.as_slice());
            }
        }
        if is_known {
            return Err(failed);
        }
        context.put(self.pending, 0, bytes.as_slice())?;
        Ok(key)
    }

    /// The live key.
    ///
    /// # Errors
    /// 6A88 when there is none; 6581.
    pub fn live(self, context: &mut Context<'_>) -> Result<SigningKey, Refusal> {
        read(context, self.live)
    }

    /// The pending key.
    ///
    /// # Errors
    /// 6A88 when there is none; 6581.
    pub fn pending(self, context: &mut Context<'_>) -> Result<SigningKey, Refusal> {
        read(context, self.pending)
    }

    /// Makes `pending`, the [pending key](Self::pending), the live one when the command succeeds.
    ///
    /// # Errors
    /// 6A84 without room; 6581.
    pub fn adopt(self, context: &mut Context<'_>, pending: &SigningKey) -> Result<(), Refusal> {
        context.put(self.live, 0, pending.to_bytes().as_ref())?;
        context.remove(self.pending, 0)
    }
}

fn read(context: &mut Context<'_>, record: u16) -> Result<SigningKey, Refusal> {
    let mut bytes = Zeroizing::new([0; 32]);
    match context.get(record, 0, bytes.as_mut())? {
        Some(32) => SigningKey::from_bytes(&bytes).map_err(|_| Refusal(StatusWord::MEMORY_FAILURE)),
        _ => Err(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND)),
    }
}
