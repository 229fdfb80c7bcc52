//! Files of secrets, sealed under a passphrase: Argon2id and XChaCha20-Poly1305.
//!
//! ```text
//! "SKSEAL" | version(1) purpose(1) | salt(16) | nonce(24) | ciphertext and tag
//! ```
//!
//! The first 48 bytes are authenticated with the rest. Argon2id takes 64 MiB, 3 passes, 1 lane: about a third of a second.

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::{HsmError, Result, bounded, new_file};

const MAGIC: &[u8; 6] = b"SKSEAL";
const VERSION: u8 = 1;
const HEAD: usize = 6 + 2 + 16 + 24;
/// Bytes of the authentication tag.
const TAG: u64 = 16;
/// Longest sealed file, and longest hand-over in the clear: the individual keys of 100 000 SEs.
pub const MAX: u64 = 64 << 20;

/// What a sealed file holds; one is not taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The HSM's master keys.
    Keystore = 1,
    /// The design system's keys.
    Ceremony = 2,
    /// What a local paging server is given: a ticket key and keys of devices.
    Delegation = 3,
    /// Hand-over from the design system to whoever makes cards: Kos, `K_MAC`, the designer's public key.
    Product = 4,
    /// Hand-over from the HSM to whoever makes cards: individual keys of SEs.
    Personalisation = 5,
    /// Hand-over from the HSM to the design system: the key that wraps new keys for one SE.
    IndividualKey = 6,
}

fn cipher(passphrase: &[u8], salt: &[u8]) -> Result<XChaCha20Poly1305> {
    if passphrase.is_empty() {
        return Err(HsmError::Sealed(
            "the passphrase is empty: give one with --passphrase-file or SEKISHO_PASSPHRASE",
        ));
    }
    let params = Params::new(64 * 1024, 3, 1, Some(32)).map_err(|_| HsmError::Sealed("Argon2 parameters"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut *key)
        .map_err(|_| HsmError::Sealed("the passphrase cannot be used"))?;
    XChaCha20Poly1305::new_from_slice(&*key).map_err(|_| HsmError::Sealed("key length"))
}

/// Seals `content` into a new file, which nobody but its owner may read. Either the whole file is there afterwards, or none.
///
/// # Errors
/// [`HsmError::File`], also when there is such a file already; [`HsmError::Sealed`] for an empty passphrase; [`HsmError::TooLong`] for one that would
/// not be read again.
pub fn write(path: &Path, purpose: Purpose, passphrase: &[u8], content: &[u8]) -> Result<()> {
    new_file::check(path)?;
    if content.len() as u64 + HEAD as u64 + TAG > MAX {
        return Err(HsmError::TooLong);
    }
    let mut head = [0; HEAD];
    head[..6].copy_from_slice(MAGIC);
    head[6] = VERSION;
    head[7] = purpose as u8;
    getrandom::fill(&mut head[8..]).map_err(HsmError::Random)?;
    let cipher = cipher(passphrase, &head[8..24])?;
    let nonce = XNonce::try_from(&head[24..]).map_err(|_| HsmError::Sealed("nonce length"))?;
    let sealed = cipher
        .encrypt(
            &nonce,
            Payload {
                msg: content,
                aad: &head,
            },
        )
        .map_err(|_| HsmError::Sealed("encryption failed"))?;
    new_file::write(path, &[&head[..], &sealed].concat())
}

/// Whether these bytes begin as a sealed file does.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a sealed file and opens it.
///
/// # Errors
/// [`HsmError::File`], also for one that is longer than any; otherwise as [`open`].
pub fn read(path: &Path, purpose: Purpose, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    open(&bounded::read(path, MAX)?, purpose, passphrase)
}

/// Opens the bytes of a sealed file.
///
/// # Errors
/// [`HsmError::Sealed`] when it is none, of another purpose or version, changed, or the passphrase is wrong.
pub fn open(bytes: &[u8], purpose: Purpose, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let (head, sealed) = bytes
        .split_at_checked(HEAD)
        .ok_or(HsmError::Sealed("this is no sealed file: it is too short"))?;
    if &head[..6] != MAGIC {
        return Err(HsmError::Sealed("this is no sealed file"));
    }
    if head[6] != VERSION {
        return Err(HsmError::Sealed(
            "this sealed file is of a version that is not known here",
        ));
    }
    if head[7] != purpose as u8 {
        return Err(HsmError::Sealed(
            "this sealed file holds something else: keystore, ceremony file and hand-over files are not taken for each other",
        ));
    }
    let cipher = cipher(passphrase, &head[8..24])?;
    let nonce = XNonce::try_from(&head[24..]).map_err(|_| HsmError::Sealed("nonce length"))?;
    let content = cipher.decrypt(
        &nonce,
        Payload {
            msg: sealed,
            aad: head,
        },
    );
    content
        .map(Zeroizing::new)
        .map_err(|_| HsmError::Sealed("wrong passphrase, or the file has been changed"))
}
