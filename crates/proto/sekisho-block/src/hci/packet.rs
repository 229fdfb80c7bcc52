//! HCP: messages in packets of what one I frame carries.

use zeroize::Zeroize;

use crate::swp::INFORMATION_MAX;

/// CB: this is the last packet of its message.
const LAST: u8 = 0x80;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A command.
    Command,
    /// An event.
    Event,
    /// A response.
    Response,
}

impl Kind {
    fn of(header: u8) -> Option<Self> {
        match header >> 6 {
            0 => Some(Self::Command),
            1 => Some(Self::Event),
            2 => Some(Self::Response),
            _ => None,
        }
    }

    /// The header of a message: kind and instruction.
    #[must_use]
    pub const fn header(self, instruction: u8) -> u8 {
        let kind = match self {
            Self::Command => 0,
            Self::Event => 1,
            Self::Response => 2,
        };
        kind << 6 | instruction & 0x3F
    }
}

/// A message that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// On which pipe.
    pub pipe: u8,
    /// What it is.
    pub kind: Kind,
    /// Which.
    pub instruction: u8,
    /// Its data.
    pub data: &'a [u8],
}

/// What a packet has made of the message of which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// More of it is to come, or it was none.
    Piece,
    /// It is whole.
    Whole,
    /// This was the end of one that is too long: nothing of it is here.
    TooLong,
}

/// The pipe on which a message is passed over, to its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passing(Option<u8>);

impl Passing {
    /// A message of which this is the first packet.
    pub(super) fn begin(&mut self, pipe: u8, is_last: bool) {
        self.0 = Some(pipe).filter(|_| !is_last);
    }

    /// What has come of a message goes; if that was not all of it, the rest is passed over.
    pub(super) fn rest_of<const LEN: usize>(&mut self, heard: &mut Buffer<LEN>) {
        self.0 = heard.partial().or(self.0);
        heard.clear();
    }

    /// Whether a packet is of it.
    pub(super) fn takes(&mut self, pipe: u8, is_last: bool) -> bool {
        let is_of_it = self.0 == Some(pipe);
        if is_of_it && is_last {
            self.0 = None;
        }
        is_of_it
    }
}

/// One message of up to `LEN` bytes, its header included, cut into packets, or put together from them.
#[derive(Clone, Debug)]
pub struct Buffer<const LEN: usize> {
    pipe: u8,
    bytes: [u8; LEN],
    len: usize,
    at: usize,
    spoilt: bool,
}

impl<const LEN: usize> Default for Buffer<LEN> {
    fn default() -> Self {
        Self {
            pipe: 0,
            bytes: [0; LEN],
            len: 0,
            at: 0,
            spoilt: false,
        }
    }
}

impl<const LEN: usize> Buffer<LEN> {
    /// Forgets what is here.
    pub fn clear(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
        self.at = 0;
        self.spoilt = false;
    }

    /// Nothing is here.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0 && !self.spoilt
    }

    /// Some of it has been sent, and some has not.
    #[must_use]
    pub const fn is_begun(&self) -> bool {
        self.at > 0 && self.at < self.len
    }

    /// Some of a message on this pipe has come, and its end has not.
    #[must_use]
    pub const fn is_partial(&self, pipe: u8) -> bool {
        self.pipe == pipe && self.at == 0 && !self.is_empty()
    }

    /// The pipe on which the rest of a message is still to come.
    pub(super) const fn partial(&self) -> Option<u8> {
        if self.is_partial(self.pipe) {
            Some(self.pipe)
        } else {
            None
        }
    }

    /// Takes a message to be cut; false when it is too long.
    pub fn put(&mut self, pipe: u8, header: u8, data: &[u8]) -> bool {
        self.put_both(pipe, header, data, &[])
    }

    /// The same, with more behind the data.
    pub(super) fn put_both(&mut self, pipe: u8, header: u8, data: &[u8], more: &[u8]) -> bool {
        self.clear();
        let end = 1 + data.len() + more.len();
        let Some((first, rest)) = self.bytes.get_mut(..end).and_then(<[u8]>::split_first_mut) else {
            return false;
        };
        *first = header;
        for (to, from) in rest.iter_mut().zip(data.iter().chain(more)) {
            *to = *from;
        }
        self.pipe = pipe;
        self.len = end;
        true
    }

    /// The next packet, if any; it counts as sent by [`Buffer::sent`].
    #[must_use]
    pub fn packet(&self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        let rest = self
            .bytes
            .get(self.at..self.len)
            .filter(|rest| !rest.is_empty())?;
        let n = rest.len().min(INFORMATION_MAX - 1);
        let last = if n == rest.len() { LAST } else { 0 };
        let (first, to) = out.split_first_mut()?;
        *first = last | self.pipe & 0x7F;
        to.get_mut(..n)?.copy_from_slice(rest.get(..n)?);
        Some(1 + n)
    }

    /// That packet has been queued.
    pub fn sent(&mut self) {
        self.at = self.len.min(self.at + INFORMATION_MAX - 1);
        if self.at == self.len {
            self.clear();
        }
    }

    /// Takes a packet; true when its message is whole. A message that is too long is passed over to its end.
    pub fn take(&mut self, packet: &[u8]) -> bool {
        self.put_together(packet) == Taken::Whole
    }

    /// The same, told more exactly.
    pub(super) fn put_together(&mut self, packet: &[u8]) -> Taken {
        let Some((first, data)) = packet.split_first() else {
            return Taken::Piece;
        };
        let pipe = first & 0x7F;
        if self.at == 1 || pipe != self.pipe {
            self.clear();
        }
        self.pipe = pipe;
        match self.bytes.get_mut(self.len..self.len + data.len()) {
            Some(slot) if !self.spoilt => {
                slot.copy_from_slice(data);
                self.len += data.len();
            }
            _ => self.spoilt = true,
        }
        let last = first & LAST != 0;
        if last && (self.spoilt || self.len == 0) {
            let taken = if self.spoilt { Taken::TooLong } else { Taken::Piece };
            self.clear();
            return taken;
        }
        // Whole: what comes next begins anew.
        self.at = usize::from(last);
        if last { Taken::Whole } else { Taken::Piece }
    }

    /// The message that has come whole.
    #[must_use]
    pub fn message(&self) -> Option<Message<'_>> {
        let (header, data) = self.bytes.get(..self.len)?.split_first()?;
        Some(Message {
            pipe: self.pipe,
            kind: Kind::of(*header)?,
            instruction: header & 0x3F,
            data,
        })
    }
}

impl<const LEN: usize> Drop for Buffer<LEN> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Short messages that are to be sent, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    messages: [Buffer<{ super::SHORT_MAX }>; 3],
}

impl Queue {
    pub(super) fn clear(&mut self) {
        self.messages.iter_mut().for_each(Buffer::clear);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.iter().all(Buffer::is_empty)
    }

    /// Queues a message; false when there is no room, or it is too long.
    pub(super) fn put(&mut self, pipe: u8, header: u8, data: &[u8]) -> bool {
        let free = self.messages.iter_mut().find(|message| message.is_empty());
        free.is_some_and(|message| message.put(pipe, header, data))
    }

    pub(super) fn packet(&self, out: &mut [u8; INFORMATION_MAX]) -> Option<usize> {
        self.messages.first()?.packet(out)
    }

    pub(super) fn sent(&mut self) {
        if let Some(first) = self.messages.first_mut() {
            first.sent();
            if first.is_empty() {
                self.messages.rotate_left(1);
            }
        }
    }
}
