//! AES-128-GCM as the engine asks for it, during the handshake.

use alloc::boxed::Box;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError, make_tls12_aad, make_tls13_aad,
};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion};
use sekisho_keys::Gcm;

use crate::traffic::{EXPLICIT, PLAINTEXT_MAX, TAG};

pub(crate) struct Aes128Gcm;

fn key(key: &AeadKey) -> Gcm {
    let mut bytes = zeroize::Zeroizing::new([0; 16]);
    bytes
        .iter_mut()
        .zip(key.as_ref())
        .for_each(|(to, from)| *to = *from);
    Gcm::new(&bytes)
}

/// Four bytes of salt, eight of what the explicit nonce is counted from.
fn iv12(salt: &[u8], explicit: &[u8]) -> [u8; 12] {
    let mut iv = [0; 12];
    iv.iter_mut()
        .zip(salt.iter().take(4).chain(explicit))
        .for_each(|(to, from)| *to = *from);
    iv
}

struct Sealing {
    key: Gcm,
    iv: Iv,
    version: ProtocolVersion,
}

struct Opening {
    key: Gcm,
    /// TLS 1.3: the nonce is it and the number of the record. TLS 1.2: its first four bytes are the nonce's.
    iv: [u8; 12],
    version: ProtocolVersion,
}

impl Tls13AeadAlgorithm for Aes128Gcm {
    fn encrypter(&self, write: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Sealing {
            key: key(&write),
            iv,
            version: ProtocolVersion::TLSv1_3,
        })
    }

    fn decrypter(&self, read: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        // The nonce of record 0 is the IV.
        let iv = Nonce::new(&iv, 0).0;
        Box::new(Opening {
            key: key(&read),
            iv,
            version: ProtocolVersion::TLSv1_3,
        })
    }

    fn key_len(&self) -> usize {
        16
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(ConnectionTrafficSecrets::Aes128Gcm { key, iv })
    }
}

impl Tls12AeadAlgorithm for Aes128Gcm {
    fn encrypter(&self, write: AeadKey, iv: &[u8], explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        let iv = Iv::from(iv12(iv, explicit));
        Box::new(Sealing {
            key: key(&write),
            iv,
            version: ProtocolVersion::TLSv1_2,
        })
    }

    fn decrypter(&self, read: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(Opening {
            key: key(&read),
            iv: iv12(iv, &[]),
            version: ProtocolVersion::TLSv1_2,
        })
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape {
            enc_key_len: 16,
            fixed_iv_len: 4,
            explicit_nonce_len: EXPLICIT,
        }
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(ConnectionTrafficSecrets::Aes128Gcm {
            key,
            iv: Iv::from(iv12(iv, explicit)),
        })
    }
}

impl MessageEncrypter for Sealing {
    fn encrypt(&mut self, msg: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        let total = self.encrypted_payload_len(msg.payload.len());
        let mut payload = PrefixedPayload::with_capacity(total);
        let nonce = Nonce::new(&self.iv, seq).0;
        let is_13 = self.version == ProtocolVersion::TLSv1_3;
        let skip = if is_13 { 0 } else { EXPLICIT };
        payload.extend_from_slice(nonce.get(12 - skip..).unwrap_or_default());
        payload.extend_from_chunks(&msg.payload);
        if is_13 {
            payload.extend_from_slice(&[msg.typ.into()]);
        }
        let text = payload.as_mut().get_mut(skip..).unwrap_or_default();
        let tag = if is_13 {
            self.key.seal(&nonce, &make_tls13_aad(total), text)
        } else {
            let aad = make_tls12_aad(seq, msg.typ, msg.version, msg.payload.len());
            self.key.seal(&nonce, &aad, text)
        };
        payload.extend_from_slice(&tag.map_err(|_| Error::EncryptError)?);
        let content_type = if is_13 {
            ContentType::ApplicationData
        } else {
            msg.typ
        };
        Ok(OutboundOpaqueMessage::new(
            content_type,
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, len: usize) -> usize {
        match self.version {
            ProtocolVersion::TLSv1_3 => len + 1 + TAG,
            _ => len + EXPLICIT + TAG,
        }
    }
}

impl MessageDecrypter for Opening {
    fn decrypt<'a>(
        &mut self,
        mut msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let len = msg.payload.len();
        if self.version == ProtocolVersion::TLSv1_3 {
            let nonce = Nonce::new(&Iv::from(self.iv), seq).0;
            let opened = self.key.open(&nonce, &make_tls13_aad(len), &mut msg.payload);
            let len = opened.map_err(|_| Error::DecryptError)?.len();
            msg.payload.truncate(len);
            return msg.into_tls13_unpadded_message();
        }
        let plain = len.checked_sub(EXPLICIT + TAG).ok_or(Error::DecryptError)?;
        let (explicit, text) = msg
            .payload
            .split_at_mut_checked(EXPLICIT)
            .ok_or(Error::DecryptError)?;
        let nonce = iv12(&self.iv, explicit);
        let aad = make_tls12_aad(seq, msg.typ, msg.version, plain);
        self.key
            .open(&nonce, &aad, text)
            .map_err(|_| Error::DecryptError)?;
        if plain > PLAINTEXT_MAX {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok(msg.into_plain_message_range(EXPLICIT..EXPLICIT + plain))
    }
}
