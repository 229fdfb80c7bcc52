//! From the SE to the connection: what an answer carries, piece by piece, each of which is a record.

use sekisho_apdu::{Cla, Reader};

use crate::correspondence::Correspondence;
use crate::piece::Piece;
use crate::{MESSAGE_HEADER, PLAINTEXT_MAX, RECORD_HEADER, RECORD_MAX, content_type, ins};

/// A record for the connection, in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    header: [u8; RECORD_HEADER + MESSAGE_HEADER],
    len: usize,
    /// What stands behind the header.
    pub body: &'a [u8],
}

impl Record<'_> {
    /// The record's header and, of a handshake message in the clear, the message's.
    pub fn header(&self) -> &[u8] {
        self.header.get(..self.len).unwrap_or_default()
    }
}

/// The data of an answer.
pub(crate) struct Outbound<'b> {
    buf: &'b mut [u8],
    filled: usize,
    at: usize,
    /// The session's first record has gone.
    begun: bool,
}

/// The data are not what an answer may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'b> Outbound<'b> {
    pub(crate) fn new(buf: &'b mut [u8]) -> Self {
        Self {
            buf,
            filled: 0,
            at: 0,
            begun: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.buf.fill(0);
        self.forget();
        self.begun = false;
    }

    /// Throws away what has been taken.
    pub(crate) fn forget(&mut self) {
        (self.filled, self.at) = (0, 0);
    }

    /// Takes more of an answer's data.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Malformed> {
        let end = self.filled + data.len();
        let room = self.buf.get_mut(self.filled..end).ok_or(Malformed)?;
        room.copy_from_slice(data);
        self.filled = end;
        Ok(())
    }

    /// Looks at the whole answer, so that nothing of a malformed one leaves.
    pub(crate) fn check(&self, cla: Cla, table: &Correspondence<'_>) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.buf.get(..self.filled).unwrap_or_default());
        while !reader.is_empty() {
            let piece = Piece::take(&mut reader, cla).map_err(|_| Malformed)?;
            record(piece, self.begun, table)?;
        }
        Ok(())
    }

    /// Whether there is another record.
    pub(crate) const fn has_more(&self) -> bool {
        self.at < self.filled
    }

    /// The next record.
    pub(crate) fn next(
        &mut self,
        cla: Cla,
        table: &Correspondence<'_>,
    ) -> Result<Option<Record<'_>>, Malformed> {
        let bytes = self.buf.get(self.at..self.filled).unwrap_or_default();
        let mut reader = Reader::new(bytes);
        if reader.is_empty() {
            return Ok(None);
        }
        let piece = Piece::take(&mut reader, cla).map_err(|_| Malformed)?;
        let record = record(piece, self.begun, table)?;
        self.at = self.filled - reader.len();
        self.begun = true;
        Ok(Some(record))
    }
}

/// The record of a piece; in an answer each is one by itself.
fn record<'a>(piece: Piece<'a>, begun: bool, table: &Correspondence<'_>) -> Result<Record<'a>, Malformed> {
    let len = piece.data.len();
    let message = table.handshake_type(piece.ins);
    let (content_type, whole, most) = match piece.ins {
        ins::APPLICATION_DATA => (content_type::APPLICATION_DATA, len, RECORD_MAX),
        ins::HANDSHAKE => (content_type::HANDSHAKE, len, RECORD_MAX),
        ins::CHANGE_CIPHER_SPEC => (content_type::CHANGE_CIPHER_SPEC, len, PLAINTEXT_MAX),
        ins::ALERT => (content_type::ALERT, len, RECORD_MAX),
        _ if message.is_some() => (content_type::HANDSHAKE, MESSAGE_HEADER + len, PLAINTEXT_MAX),
        _ => return Err(Malformed),
    };
    if piece.more || whole > most {
        return Err(Malformed);
    }
    // A ClientHello that begins a session says 0301 (RFC 8446, 5.1), all else 0303.
    let minor = if message == Some(CLIENT_HELLO) && !begun {
        1
    } else {
        3
    };
    let [_, _, a, b] = u32::try_from(whole).map_err(|_| Malformed)?.to_be_bytes();
    let [_, c, d, e] = u32::try_from(len).map_err(|_| Malformed)?.to_be_bytes();
    Ok(Record {
        header: [content_type, 3, minor, a, b, message.unwrap_or_default(), c, d, e],
        len: match message {
            Some(_) => RECORD_HEADER + MESSAGE_HEADER,
            None => RECORD_HEADER,
        },
        body: piece.data,
    })
}

/// `HandshakeType` of a `ClientHello`.
const CLIENT_HELLO: u8 = 1;
