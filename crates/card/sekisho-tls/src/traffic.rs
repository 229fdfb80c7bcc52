//! The record layer of an open session, in place and without heap: all that stays of a session behind its handshake.

use sekisho_apdu::{BufferFull, Writer};
use sekisho_keys::{Gcm, hmac_sha256, sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Alert;
use crate::tickets::TICKET_MAX;

/// The longest content in the clear (RFC 8446, 5.1).
pub(crate) const PLAINTEXT_MAX: usize = 1 << 14;
/// Of GCM.
pub(crate) const TAG: usize = 16;
/// The explicit part of a nonce in TLS 1.2 (RFC 5288, 3).
pub(crate) const EXPLICIT: usize = 8;
/// Records under one key: what the CFRG's draft on AEAD limits allows AES-GCM, and RFC 8446, 5.5 rounds to.
pub(crate) const RECORDS_MAX: u32 = 1 << 24;

pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Which protocol a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Keys and counters of one direction: 64 bytes. Erased when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Direction {
    key: [u8; 16],
    iv: [u8; 12],
    /// Of the next record.
    number: u32,
    /// TLS 1.3: what the next key is made of.
    secret: [u8; 32],
}

/// HKDF-Expand-Label (RFC 8446, 7.1), one block of it. Labels and contexts are short.
fn expand_label(secret: &[u8; 32], label: &[u8], context: &[u8], len: u8) -> Zeroizing<[u8; 32]> {
    let named = u8::try_from(PREFIX.len() + label.len()).unwrap_or_default();
    let said = u8::try_from(context.len()).unwrap_or_default();
    let parts = [&[0, len, named][..], PREFIX, label, &[said], context, &[1]];
    Zeroizing::new(hmac_sha256(secret, &parts))
}

/// TLS-Exporter (RFC 8446, 7.5) of a label without a context, 32 bytes.
pub(crate) fn exporter(secret: &[u8; 32], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let nothing = sha256(&[]);
    let of_label = expand_label(secret, label, &nothing, 32);
    expand_label(&of_label, b"exporter", &nothing, 32)
}

const PREFIX: &[u8] = b"tls13 ";

fn copy<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut to = [0; N];
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to
}

impl Direction {
    /// Of TLS 1.3, from its traffic secret.
    pub(crate) fn from_secret(secret: [u8; 32]) -> Self {
        let mut direction = Self {
            key: [0; 16],
            iv: [0; 12],
            number: 0,
            secret,
        };
        direction.expand();
        direction
    }

    /// Of TLS 1.2; `number` records have gone.
    pub(crate) fn from_keys(key: &[u8], iv: [u8; 12], number: u32) -> Self {
        Self {
            key: copy(key),
            iv,
            number,
            secret: [0; 32],
        }
    }

    #[cfg(test)]
    pub(crate) fn with_number(mut self, number: u32) -> Self {
        self.number = number;
        self
    }

    /// Whether key and IV are these.
    pub(crate) fn is(&self, key: &[u8], iv: &[u8]) -> bool {
        sekisho_keys::ct_eq(&self.key, key) && sekisho_keys::ct_eq(&self.iv, iv)
    }

    fn expand(&mut self) {
        self.key = copy(expand_label(&self.secret, b"key", &[], 16).as_slice());
        self.iv = copy(expand_label(&self.secret, b"iv", &[], 12).as_slice());
        self.number = 0;
    }

    /// KeyUpdate (RFC 8446, 7.2).
    fn update(&mut self) {
        self.secret = *expand_label(&self.secret, b"traffic upd", &[], 32);
        self.expand();
    }

    /// The IV and the number of the next record (RFC 8446, 5.3).
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        let low = nonce.iter_mut().rev().zip(self.number.to_le_bytes());
        low.for_each(|(to, with)| *to ^= with);
        nonce
    }

    /// The additional data of TLS 1.2 (RFC 5246, 6.2.3.3).
    fn aad12(&self, content_type: u8, len: usize) -> [u8; 13] {
        let [.., a, b] = len.to_be_bytes();
        let [c, d, e, f] = self.number.to_be_bytes();
        [0, 0, 0, 0, c, d, e, f, content_type, 3, 3, a, b]
    }
}

fn aad13(len: usize) -> [u8; 5] {
    let [.., a, b] = len.to_be_bytes();
    [APPLICATION_DATA, 3, 3, a, b]
}

/// An open session.
pub struct Traffic {
    pub(crate) version: Version,
    tx: Direction,
    rx: Direction,
    /// Bytes that are still to come of a message that is passed over.
    passing: u32,
}

/// What a record said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// Application data.
    Data(&'a mut [u8]),
    /// Nothing that wants an answer.
    Nothing,
    /// A `NewSessionTicket` that may be used, this its body.
    Ticket(&'a [u8]),
    /// The peer wants our next key too.
    KeyUpdate,
    /// The peer would begin anew (TLS 1.2), which we do not.
    HelloRequest,
    /// The peer has said goodbye.
    CloseNotify,
    /// The peer has given up.
    Fatal,
}

impl Traffic {
    pub(crate) const fn new(version: Version, tx: Direction, rx: Direction) -> Self {
        Self {
            version,
            tx,
            rx,
            passing: 0,
        }
    }

    /// What is added to a text of a record.
    pub(crate) const fn overhead(&self) -> usize {
        match self.version {
            Version::Tls12 => EXPLICIT + TAG,
            Version::Tls13 => 1 + TAG,
        }
    }

    /// The content type that a record of this type shows.
    pub(crate) const fn outer(&self, content_type: u8) -> u8 {
        match self.version {
            Version::Tls12 => content_type,
            Version::Tls13 => APPLICATION_DATA,
        }
    }

    /// Whether the key that we send under has been used as often as it may, but for one record.
    pub(crate) const fn is_used_up(&self) -> bool {
        self.tx.number >= RECORDS_MAX - 1
    }

    /// Appends the content of a record with this text.
    pub(crate) fn seal(
        &mut self,
        content_type: u8,
        text: &[u8],
        out: &mut Writer<'_>,
    ) -> Result<(), BufferFull> {
        let total = text.len() + self.overhead();
        if out.remaining() < total || self.tx.number >= RECORDS_MAX {
            return Err(BufferFull);
        }
        let start = out.len();
        let (nonce, key) = (self.tx.nonce(), Gcm::new(&self.tx.key));
        let tag = match self.version {
            Version::Tls12 => {
                let aad = self.tx.aad12(content_type, text.len());
                out.bytes(nonce.get(4..).unwrap_or_default())?;
                out.bytes(text)?;
                let written = out.written_mut().get_mut(start + EXPLICIT..);
                key.seal(&nonce, &aad, written.unwrap_or_default())
            }
            Version::Tls13 => {
                out.bytes(text)?;
                out.u8(content_type)?;
                let written = out.written_mut().get_mut(start..);
                key.seal(&nonce, &aad13(total), written.unwrap_or_default())
            }
        };
        self.tx.number += 1;
        out.bytes(&tag.map_err(|_| BufferFull)?)
    }

    /// Opens a record in place, and understands what is not application data.
    pub(crate) fn hear<'r>(&mut self, content_type: u8, record: &'r mut [u8]) -> Result<Said<'r>, Alert> {
        let (content_type, text) = self.open(content_type, record)?;
        if self.passing > 0 && content_type != HANDSHAKE {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        match content_type {
            APPLICATION_DATA => Ok(Said::Data(text)),
            ALERT => match (self.version, &*text) {
                (_, [_, 0]) => Ok(Said::CloseNotify),
                // A warning: user_canceled, and in TLS 1.2 no_renegotiation.
                (_, [_, 90]) | (Version::Tls12, [1, 100]) => Ok(Said::Nothing),
                (_, [_, _]) => Ok(Said::Fatal),
                _ => Err(Alert::DECODE_ERROR),
            },
            HANDSHAKE => match self.version {
                Version::Tls12 if *text == [0; 4] => Ok(Said::HelloRequest),
                Version::Tls12 => Err(Alert::UNEXPECTED_MESSAGE),
                Version::Tls13 => self.handshake(text),
            },
            _ => Err(Alert::UNEXPECTED_MESSAGE),
        }
    }

    fn open<'r>(&mut self, content_type: u8, record: &'r mut [u8]) -> Result<(u8, &'r mut [u8]), Alert> {
        let len = record.len();
        let plain = len.checked_sub(self.overhead()).ok_or(Alert::BAD_RECORD_MAC)?;
        if plain > PLAINTEXT_MAX {
            return Err(Alert::RECORD_OVERFLOW);
        }
        let number = self.rx.number.checked_add(1).ok_or(Alert::INTERNAL_ERROR)?;
        let key = Gcm::new(&self.rx.key);
        let opened = match self.version {
            Version::Tls12 => {
                let (explicit, text) = record
                    .split_at_mut_checked(EXPLICIT)
                    .ok_or(Alert::BAD_RECORD_MAC)?;
                let mut nonce = self.rx.iv;
                nonce
                    .iter_mut()
                    .skip(4)
                    .zip(explicit)
                    .for_each(|(to, from)| *to = *from);
                let aad = self.rx.aad12(content_type, plain);
                let text = key.open(&nonce, &aad, text);
                (content_type, text.map_err(|_| Alert::BAD_RECORD_MAC)?)
            }
            Version::Tls13 if content_type == APPLICATION_DATA => {
                let text = key.open(&self.rx.nonce(), &aad13(len), record);
                let text = text.map_err(|_| Alert::BAD_RECORD_MAC)?;
                // Behind the text its type, and zeros (RFC 8446, 5.4).
                let at = text
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .ok_or(Alert::UNEXPECTED_MESSAGE)?;
                let (text, behind) = text.split_at_mut_checked(at).ok_or(Alert::INTERNAL_ERROR)?;
                (behind.first().copied().unwrap_or_default(), text)
            }
            Version::Tls13 => return Err(Alert::UNEXPECTED_MESSAGE),
        };
        self.rx.number = number;
        Ok(opened)
    }

    /// Messages behind the handshake: tickets, which are passed over, and `KeyUpdate`, behind which its record ends (RFC 8446, 5.1).
    fn handshake<'r>(&mut self, text: &'r [u8]) -> Result<Said<'r>, Alert> {
        if text.is_empty() {
            return Err(Alert::UNEXPECTED_MESSAGE);
        }
        let mut rest = text;
        // The first one that is whole in the record.
        let mut ticket = None;
        loop {
            let passed = rest
                .len()
                .min(usize::try_from(self.passing).unwrap_or(usize::MAX));
            self.passing -= u32::try_from(passed).unwrap_or_default();
            rest = rest.get(passed..).unwrap_or_default();
            match rest {
                [] => return Ok(ticket.map_or(Said::Nothing, Said::Ticket)),
                [NEW_SESSION_TICKET, a, b, c, behind @ ..] => {
                    self.passing = u32::from_be_bytes([0, *a, *b, *c]);
                    rest = behind;
                    let body = behind.get(..usize::try_from(self.passing).unwrap_or(usize::MAX));
                    ticket = ticket.or(body.filter(|body| body.len() <= TICKET_MAX));
                }
                [KEY_UPDATE, 0, 0, 1, requested] => {
                    if *requested > 1 {
                        return Err(Alert::ILLEGAL_PARAMETER);
                    }
                    self.rx.update();
                    return Ok(if *requested == 1 {
                        Said::KeyUpdate
                    } else {
                        Said::Nothing
                    });
                }
                _ => return Err(Alert::UNEXPECTED_MESSAGE),
            }
        }
    }

    /// Behind a `KeyUpdate` that we have sent.
    pub(crate) fn next_key(&mut self) {
        self.tx.update();
    }
}

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// `KeyUpdate`, `update_not_requested`.
pub(crate) const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

#[cfg(test)]
mod tests;
