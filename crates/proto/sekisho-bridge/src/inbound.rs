//! From the connection to the SE: bytes to records, records to pieces.

use crate::correspondence::Correspondence;
use crate::piece::Extent;
use crate::{MESSAGE_HEADER, RECORD_HEADER, RECORD_MAX, Why, content_type, ins};

/// How often a record begins anew.
const AGAIN_MAX: u16 = 10_000;

/// What has come and is not with the SE yet: a record, or the beginning of one.
pub(crate) struct Inbound<'b> {
    buf: &'b mut [u8],
    filled: usize,
    /// Of the record at the front of the buffer, what has not become a piece yet.
    rest: Option<Content>,
    begun: Begun,
    /// How it was in front of this record, and how often the record has begun anew.
    before: (Begun, u16),
    /// A `change_cipher_spec` has come: what is handshake behind it is, or may be, encrypted.
    sealed: bool,
}

#[derive(Clone, Copy)]
struct Content {
    content_type: u8,
    at: usize,
    end: usize,
}

/// A piece, and where its bytes stand.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) ins: u8,
    pub(crate) extent: Extent,
    at: usize,
}

/// A handshake message in the clear of which an earlier record has brought a part.
#[derive(Clone, Copy, Default)]
struct Begun {
    header: [u8; MESSAGE_HEADER],
    have: usize,
    /// Bytes of the body that are still to come, once the header is here.
    left: usize,
}

impl Begun {
    const fn is_none(&self) -> bool {
        self.have == 0
    }

    /// How many of these bytes belong to the message; they are counted.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for (to, from) in self.header.iter_mut().skip(self.have).zip(bytes) {
            *to = *from;
            taken += 1;
        }
        self.have += taken;
        if self.have < MESSAGE_HEADER {
            return taken;
        }
        if taken > 0 {
            self.left = body_len(self.header);
        }
        let body = self.left.min(bytes.len() - taken);
        self.left -= body;
        if self.left == 0 {
            *self = Self::default();
        }
        taken + body
    }
}

const fn body_len([_, a, b, c]: [u8; MESSAGE_HEADER]) -> usize {
    u32::from_be_bytes([0, a, b, c]) as usize
}

impl<'b> Inbound<'b> {
    pub(crate) fn new(buf: &'b mut [u8]) -> Self {
        Self {
            buf,
            filled: 0,
            rest: None,
            begun: Begun::default(),
            before: (Begun::default(), 0),
            sealed: false,
        }
    }

    /// Whether the longest record fits.
    pub(crate) fn holds_a_record(&self) -> bool {
        self.buf.len() >= RECORD_HEADER + RECORD_MAX
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.buf.fill(0);
        self.filled = 0;
        self.rest = None;
        self.begun = Begun::default();
        self.sealed = false;
    }

    /// Where the next bytes of the connection go.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.buf.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many have been written there.
    pub(crate) fn filled(&mut self, len: usize) {
        self.filled = self.filled.saturating_add(len).min(self.buf.len());
    }

    /// The bytes of a part, from `from` on, at most `most`.
    pub(crate) fn bytes(&self, part: &Part, from: usize, most: usize) -> &[u8] {
        let end = part.extent.len().min(from.saturating_add(most));
        self.buf.get(part.at + from..part.at + end).unwrap_or_default()
    }

    /// The next piece, if the record that it belongs to is here whole. Its bytes stand until the next call.
    pub(crate) fn next(&mut self, table: &Correspondence<'_>) -> Result<Option<Part>, Why> {
        let content = match self.rest.take() {
            Some(content) => content,
            None => match self.record()? {
                Some(content) => {
                    self.before = (self.begun, 0);
                    content
                }
                None => return Ok(None),
            },
        };
        let bytes = self.buf.get(content.at..content.end).unwrap_or_default();
        let (ins, skip, taken) = match content.content_type {
            content_type::CHANGE_CIPHER_SPEC => {
                self.sealed = true;
                (ins::CHANGE_CIPHER_SPEC, 0, bytes.len())
            }
            content_type::ALERT => (ins::ALERT, 0, bytes.len()),
            content_type::HANDSHAKE if !self.sealed => split(bytes, &mut self.begun, table),
            content_type::HANDSHAKE => (ins::HANDSHAKE, 0, bytes.len()),
            _ => (ins::APPLICATION_DATA, 0, bytes.len()),
        };
        let at = content.at + taken;
        let more = at < content.end;
        if more {
            self.rest = Some(Content { at, ..content });
        }
        let extent = Extent::new(more, taken - skip).ok_or(Why::TooLong)?;
        Ok(Some(Part {
            ins,
            extent,
            at: content.at + skip,
        }))
    }

    /// The next record, once it is whole. What stood before it in the buffer is gone.
    fn record(&mut self) -> Result<Option<Content>, Why> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        Ok((header.end <= self.filled).then_some(header))
    }

    fn header(&mut self) -> Result<Option<Content>, Why> {
        let Some(&[content_type, major, _, a, b]) =
            self.buf.get(..self.filled).and_then(|bytes| bytes.first_chunk())
        else {
            return Ok(None);
        };
        let known = content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA;
        if !known.contains(&content_type) || major != 3 {
            return Err(Why::NoRecord);
        }
        let len = usize::from(u16::from_be_bytes([a, b]));
        if len > RECORD_MAX {
            return Err(Why::TooLong);
        }
        Ok(Some(Content {
            content_type,
            at: RECORD_HEADER,
            end: RECORD_HEADER + len,
        }))
    }

    /// The record at the front, of which a piece is on its way, goes from its first piece again. False when that has been too often.
    pub(crate) fn again(&mut self) -> bool {
        let (begun, times) = self.before;
        if times >= AGAIN_MAX {
            return false;
        }
        self.begun = begun;
        self.before.1 = times + 1;
        self.rest = self.record().ok().flatten();
        self.rest.is_some()
    }

    /// The record at the front is with the SE, if all its pieces have been taken.
    pub(crate) fn done(&mut self) {
        if self.rest.is_some() {
            return;
        }
        if let Ok(Some(content)) = self.header() {
            let end = content.end.min(self.filled);
            self.buf.copy_within(end..self.filled, 0);
            self.filled -= end;
        }
    }
}

/// The first piece of handshake bytes in the clear: its instruction, how many bytes to leave out at its front, how many it is of. A message has an instruction
/// of its own if all of it is in this record: a device that put messages together out of records would hide from the SE that a record ends within one.
fn split(bytes: &[u8], begun: &mut Begun, table: &Correspondence<'_>) -> (u8, usize, usize) {
    if begun.is_none()
        && let Some(header) = bytes.first_chunk::<MESSAGE_HEADER>()
    {
        let whole = MESSAGE_HEADER + body_len(*header);
        let [handshake_type, ..] = *header;
        if whole <= bytes.len() {
            return match table.ins(handshake_type) {
                Some(ins) => (ins, MESSAGE_HEADER, whole),
                None => (ins::HANDSHAKE, 0, whole),
            };
        }
    }
    (ins::HANDSHAKE, 0, begun.take(bytes))
}
