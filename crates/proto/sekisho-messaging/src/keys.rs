//! The keys of one direction of one exchange, and the cryptography of ICAO 9303-11 section 9.8 over them.

use core::fmt;

use sekisho_keys::{AesKey, cbc_decrypt_counted, cbc_encrypt_counted, cmac};

use crate::error::SmError;
use crate::objects::MAC_LEN;
use crate::ssc::Ssc;

/// Padding method 2 of ISO 9797-1 for the longest block.
const PADDING: [u8; 16] = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// KSenc and KSmac: what encrypts and authenticates one message. Wiped when dropped.
#[derive(Clone)]
#[non_exhaustive]
pub enum Keys {
    /// AES-CBC with the IV AES(KSenc, SSC), and AES-CMAC cut to 8 bytes (ICAO 9303-11 section 9.8.6.2, 9.8.7.2).
    Aes {
        /// Encrypts data object 87 or 85.
        enc: AesKey,
        /// Makes data object 8E.
        mac: AesKey,
    },
    /// Two-key triple DES in CBC with a zero IV, and the retail MAC (ICAO 9303-11 section 9.8.6.1, 9.8.7.1).
    #[cfg(feature = "legacy-tdes")]
    Tdes(sekisho_keys::tdes::TdesKeys),
}

impl Keys {
    /// AES keys from bytes: each 16, 24 or 32 long.
    pub fn aes(enc: &[u8], mac: &[u8]) -> Result<Self, SmError> {
        let key = |bytes| AesKey::new(bytes).map_err(|_| SmError::Malformed);
        Ok(Self::Aes {
            enc: key(enc)?,
            mac: key(mac)?,
        })
    }

    /// Zeros, where there are no keys.
    pub(crate) const fn zero() -> Self {
        Self::Aes {
            enc: AesKey::aes128([0; 16]),
            mac: AesKey::aes128([0; 16]),
        }
    }

    /// Triple DES keys from bytes.
    #[cfg(feature = "legacy-tdes")]
    pub fn tdes(enc: [u8; 16], mac: [u8; 16]) -> Self {
        Self::Tdes(sekisho_keys::tdes::TdesKeys::new(enc, mac))
    }

    /// Length of a cipher block.
    pub(crate) const fn block_len(&self) -> usize {
        match self {
            Self::Aes { .. } => 16,
            #[cfg(feature = "legacy-tdes")]
            Self::Tdes(_) => 8,
        }
    }

    /// Encrypts whole blocks in place: IV = AES(KSenc, SSC).
    pub(crate) fn encrypt(&self, ssc: Ssc, buf: &mut [u8]) -> Result<(), SmError> {
        match self {
            Self::Aes { enc, .. } => {
                cbc_encrypt_counted(enc, &ssc.to_block(), buf).map_err(|_| SmError::IncorrectObjects)
            }
            #[cfg(feature = "legacy-tdes")]
            Self::Tdes(keys) => keys.encrypt(buf).map_err(|_| SmError::IncorrectObjects),
        }
    }

    /// Decrypts whole blocks in place.
    pub(crate) fn decrypt(&self, ssc: Ssc, buf: &mut [u8]) -> Result<(), SmError> {
        match self {
            Self::Aes { enc, .. } => {
                cbc_decrypt_counted(enc, &ssc.to_block(), buf).map_err(|_| SmError::IncorrectObjects)
            }
            #[cfg(feature = "legacy-tdes")]
            Self::Tdes(keys) => keys.decrypt(buf).map_err(|_| SmError::IncorrectObjects),
        }
    }

    /// The MAC over SSC, the padded header of a command (none for a response) and the data objects, padded.
    ///
    /// A command without data objects still gets the block of padding behind its padded header, as other
    /// implementations of ICAO 9303-11 do (JMRTD, gmrtd).
    pub(crate) fn mac(&self, ssc: Ssc, header: Option<[u8; 4]>, objects: &[u8]) -> [u8; MAC_LEN] {
        let block = self.block_len();
        let mut first = PADDING;
        if let (Some([cla, ins, p1, p2]), [a, b, c, d, e, ..]) = (header, &mut first) {
            (*a, *b, *c, *d, *e) = (cla, ins, p1, p2, 0x80);
        }
        let first_len = if header.is_some() { block } else { 0 };
        let first = first.get(..first_len).unwrap_or_default();
        let padding = PADDING.get(..block - objects.len() % block).unwrap_or_default();
        match self {
            Self::Aes { mac, .. } => {
                let [tag @ .., _, _, _, _, _, _, _, _] =
                    cmac(mac, &[&ssc.to_block(), first, objects, padding]);
                tag
            }
            #[cfg(feature = "legacy-tdes")]
            Self::Tdes(keys) => keys.retail_mac(&[&ssc.low(), first, objects, padding]),
        }
    }

    /// Hands the key bytes to `sink`, for tests.
    #[cfg(feature = "expose-secrets")]
    pub fn expose(&self, sink: &mut dyn FnMut(&[u8])) {
        match self {
            Self::Aes { enc, mac } => {
                sink(enc.as_bytes());
                sink(mac.as_bytes());
            }
            #[cfg(feature = "legacy-tdes")]
            Self::Tdes(keys) => {
                sink(keys.enc());
                sink(keys.mac());
            }
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(redacted)")
    }
}
