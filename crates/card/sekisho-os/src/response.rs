//! What the SE has to say: the data field that waits to be sent, in one piece or with GET RESPONSE.

use sekisho_apdu::{StatusWord, Writer};

use crate::interface::Place;

/// Longest response data field before secure messaging.
pub const RESPONSE_DATA_MAX: usize = 1024;

/// Room for padding (R-ENCRYPTION, 16) and an R-MAC (at most 16); or for the data objects of secure messaging: 87 with four bytes of head,
/// an indicator and 16 of padding, 99 (4), 8E (10).
const PROTECTION_MAX: usize = 35;

/// Longest data field of a protected answer.
pub(crate) const RESPONSE_ROOM: usize = RESPONSE_DATA_MAX + PROTECTION_MAX;

/// Ne of a command without Le: what a short response can hold. Hosts behind a reader that carries whole APDUs leave Le away and
/// expect the data all the same.
const NE_WITHOUT_LE: u32 = 256;

/// The response being sent. There is one, so that the next command, on whichever logical channel, ends the fetching of the last answer.
pub(crate) struct Response {
    data: [u8; RESPONSE_ROOM],
    len: usize,
    sent: usize,
    sw: StatusWord,
    /// Whose GET RESPONSE may fetch the rest.
    waiting: Option<Place>,
}

impl Response {
    pub(crate) const fn new() -> Self {
        Self {
            data: [0; RESPONSE_ROOM],
            len: 0,
            sent: 0,
            sw: StatusWord::UNKNOWN,
            waiting: None,
        }
    }

    /// Forgets what waits for the place.
    pub(crate) fn drop_waiting(&mut self, is_gone: impl FnOnce(Place) -> bool) {
        if self.waiting.is_some_and(is_gone) {
            self.waiting = None;
            self.len = 0;
            self.sent = 0;
        }
    }

    /// The status word of the response.
    pub(crate) const fn status(&self) -> StatusWord {
        self.sw
    }

    pub(crate) fn is_waiting(&self, place: Place) -> bool {
        self.waiting == Some(place)
    }

    /// Replaces the response by what `fill` writes. Data of an error status is dropped: an error has no data field.
    pub(crate) fn set(&mut self, fill: impl FnOnce(&mut Writer<'_>) -> StatusWord) {
        let mut writer = Writer::new(&mut self.data);
        self.sw = fill(&mut writer);
        self.len = if self.sw.is_success_or_warning() {
            writer.len()
        } else {
            0
        };
        self.sent = 0;
        self.waiting = None;
    }

    /// Replaces the response by a whole R-APDU of secure messaging, which has a data field with an error status too.
    pub(crate) fn set_protected(&mut self, rapdu: &[u8]) {
        let Some((data, sw)) = rapdu.split_last_chunk() else {
            return self.set(|_| StatusWord::UNKNOWN);
        };
        self.sw = StatusWord(u16::from_be_bytes(*sw));
        let len = data.len().min(self.data.len());
        for (to, from) in self.data.iter_mut().zip(data) {
            *to = *from;
        }
        self.len = len;
        self.sent = 0;
        self.waiting = None;
    }

    /// Sends as much as Ne and `out` allow, at least the status word; returns the number of bytes. `out` holds two bytes or more.
    pub(crate) fn deliver(&mut self, place: Place, ne: Option<u32>, extended: bool, out: &mut [u8]) -> usize {
        let ne = match (ne, extended) {
            (Some(ne), _) => ne,
            (None, true) => u32::MAX,
            (None, false) => NE_WITHOUT_LE,
        };
        let room = out
            .len()
            .saturating_sub(2)
            .min(usize::try_from(ne).unwrap_or(usize::MAX));
        let rest = self.data.get(self.sent..self.len).unwrap_or_default();
        let (now, later) = rest.split_at(room.min(rest.len()));
        let sw = if later.is_empty() {
            self.sw
        } else {
            StatusWord::more_data(later.len())
        };
        self.waiting = if later.is_empty() { None } else { Some(place) };
        self.sent += now.len();
        let mut writer = Writer::new(out);
        // Both fit: `room` left two bytes for the status word.
        let _ = writer.bytes(now);
        let _ = writer.bytes(&sw.bytes());
        writer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Interface;
    use std::vec::Vec;

    const BASIC: Place = Place {
        interface: Interface::Iso7816Contact,
        logical_channel: 0,
    };

    fn with(len: u16, sw: StatusWord) -> (Response, Vec<u8>) {
        let data: Vec<u8> = (0..=250).cycle().take(len.into()).collect();
        let mut response = Response::new();
        response.set(|w| {
            w.bytes(&data).unwrap();
            sw
        });
        (response, data)
    }

    #[test]
    fn comes_in_pieces_of_ne_bytes_and_ends_with_its_own_status() {
        let (mut response, data) = with(600, StatusWord(0x6310));
        let mut got = Vec::new();
        let mut out = [0; 300];
        for (ne, sw) in [(Some(256), 0x6100), (Some(256), 0x6158), (None, 0x6310)] {
            let n = response.deliver(BASIC, ne, false, &mut out);
            got.extend_from_slice(&out[..n - 2]);
            assert_eq!(&out[n - 2..n], StatusWord(sw).bytes());
        }
        assert_eq!(got, data);
        assert!(!response.is_waiting(BASIC));
    }

    #[test]
    fn a_small_buffer_or_le_loses_nothing() {
        let (mut response, data) = with(5, StatusWord::NO_ERROR);
        let mut out = [0; 4];
        assert_eq!(response.deliver(BASIC, Some(256), false, &mut out), 4);
        assert_eq!(out, [data[0], data[1], 0x61, 3]);
        assert_eq!(response.deliver(BASIC, Some(1), false, &mut out), 3);
        assert_eq!(out[..3], [data[2], 0x61, 2]);
        assert_eq!(response.deliver(BASIC, None, true, &mut out), 4);
        assert_eq!(out, [data[3], data[4], 0x90, 0]);
        let (mut response, _) = with(5, StatusWord::NO_ERROR);
        assert_eq!(response.deliver(BASIC, Some(256), false, &mut out[..2]), 2);
        assert_eq!(out[..2], [0x61, 5]);
    }

    #[test]
    fn an_error_has_no_data() {
        let (mut response, _) = with(5, StatusWord::INCORRECT_DATA);
        let mut out = [0; 10];
        assert_eq!(response.deliver(BASIC, Some(256), false, &mut out), 2);
    }
}
