//! Answers that wait for GET RESPONSE, or for the same header with another P3.

use zeroize::Zeroize;

/// An answer that waits.
#[derive(Clone, Debug)]
pub(super) struct Answer<const APDU: usize> {
    channel: u8,
    bytes: [u8; APDU],
    len: usize,
    at: usize,
    sw: [u8; 2],
    /// CLA INS P1 P2 that it waits for, after 6CXX.
    header: Option<[u8; 4]>,
}

impl<const APDU: usize> Answer<APDU> {
    const NONE: Self = Self {
        channel: 0,
        bytes: [0; APDU],
        len: 0,
        at: 0,
        sw: [0; 2],
        header: None,
    };

    pub(super) const fn rest(&self) -> usize {
        self.len - self.at
    }

    /// The next bytes, which are then gone from here, and the status word behind them.
    pub(super) fn give(&mut self, n: usize, mut to: impl FnMut(u8)) -> [u8; 2] {
        let end = self.len.min(self.at + n);
        if let Some(bytes) = self.bytes.get_mut(self.at..end) {
            for byte in bytes.iter() {
                to(*byte);
            }
            bytes.zeroize();
        }
        self.at = end;
        self.header = None;
        if self.rest() == 0 {
            self.sw
        } else {
            [super::SW1_MORE, super::counted(self.rest())]
        }
    }

    fn wipe(&mut self) {
        if let Some(bytes) = self.bytes.get_mut(..self.len) {
            bytes.zeroize();
        }
        (self.len, self.at, self.header) = (0, 0, None);
    }
}

/// Room for some answers, each of a logical channel. The oldest gives way.
#[derive(Clone, Debug)]
pub(super) struct Waiting<const APDU: usize, const ANSWERS: usize> {
    answers: [Answer<APDU>; ANSWERS],
    oldest: usize,
}

impl<const APDU: usize, const ANSWERS: usize> Waiting<APDU, ANSWERS> {
    pub(super) const NONE: Self = Self {
        answers: [Answer::NONE; ANSWERS],
        oldest: 0,
    };

    fn find(&self, which: impl Fn(&Answer<APDU>) -> bool) -> Option<usize> {
        self.answers
            .iter()
            .position(|answer| answer.rest() > 0 && which(answer))
    }

    pub(super) fn at(&mut self, index: usize) -> Option<&mut Answer<APDU>> {
        self.answers.get_mut(index)
    }

    /// What waits for GET RESPONSE on a logical channel: where, and how many bytes.
    pub(super) fn of_channel(&self, channel: u8) -> Option<(usize, usize)> {
        let index = self.find(|answer| answer.channel == channel && answer.header.is_none())?;
        Some((index, self.answers.get(index)?.rest()))
    }

    /// What waits for a header with so many bytes, after 6CXX.
    pub(super) fn of_header(&self, header: [u8; 4], n: usize) -> Option<usize> {
        self.find(|answer| answer.header == Some(header) && answer.rest() == n)
    }

    /// Keeps an answer, in place of another of its channel, or in free room, or in place of the oldest.
    pub(super) fn keep(
        &mut self,
        channel: u8,
        data: &[u8],
        sw: [u8; 2],
        header: Option<[u8; 4]>,
    ) -> Option<usize> {
        self.drop_channel(channel);
        let free = self.answers.iter().position(|answer| answer.rest() == 0);
        let index = free.unwrap_or(self.oldest);
        if index == self.oldest {
            self.oldest = (self.oldest + 1) % ANSWERS.max(1);
        }
        let answer = self.answers.get_mut(index)?;
        answer.wipe();
        answer.bytes.get_mut(..data.len())?.copy_from_slice(data);
        (answer.channel, answer.len, answer.sw, answer.header) = (channel, data.len(), sw, header);
        Some(index)
    }

    pub(super) fn drop_channel(&mut self, channel: u8) {
        for answer in self.answers.iter_mut().filter(|answer| answer.channel == channel) {
            answer.wipe();
        }
    }

    /// What waited for a header that has not come.
    pub(super) fn drop_headers(&mut self) {
        for answer in self.answers.iter_mut().filter(|answer| answer.header.is_some()) {
            answer.wipe();
        }
    }
}

impl<const APDU: usize, const ANSWERS: usize> Drop for Waiting<APDU, ANSWERS> {
    fn drop(&mut self) {
        for answer in &mut self.answers {
            answer.bytes.zeroize();
        }
    }
}
