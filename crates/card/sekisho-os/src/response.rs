//! What the SE has to say: the data field that waits to be sent, in one piece or with GET RESPONSE (docs/spec/card.md, 1).

use sekisho_apdu::{ApduError, CApdu, Cla, StatusWord, Writer};

use crate::interface::Place;
use crate::refusal::Refusal;

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
    waiting: Option<Waiting>,
}

/// The command whose data waits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting {
    place: Place,
    cla: Cla,
}

impl Waiting {
    /// GET RESPONSE comes in the interindustry class, or in the class of the command: hosts do either.
    fn is_meant_by(self, cla: Cla) -> bool {
        cla == self.cla || Some(cla) == Cla::ISO.with_logical_channel(self.place.logical_channel)
    }
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
        if self.waiting.is_some_and(|waiting| is_gone(waiting.place)) {
            self.waiting = None;
            self.len = 0;
            self.sent = 0;
        }
    }

    /// The status word of the response.
    pub(crate) const fn status(&self) -> StatusWord {
        self.sw
    }

    /// GET RESPONSE (ISO/IEC 7816-4, 11.7.1): writes the next piece, or why there is none, to `out`, which holds two bytes or more, and returns
    /// the number of bytes. It belongs to the transport: it is never protected, and a refused one leaves what waits.
    ///
    /// # Errors
    /// 6D00 when nothing waits for the place: the only answer after which hosts that always send it keep the data they have.
    pub(crate) fn fetch(
        &mut self,
        place: Place,
        cla: Cla,
        command: Result<CApdu<'_>, ApduError>,
        out: &mut [u8],
    ) -> Result<usize, Refusal> {
        let waiting = self.waiting.filter(|waiting| waiting.place == place);
        let waiting = waiting.ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))?;
        if !waiting.is_meant_by(cla) {
            return Err(Refusal(StatusWord::CLA_NOT_SUPPORTED));
        }
        let wrong_length = Refusal(StatusWord::WRONG_LENGTH);
        let command = command.map_err(|_| wrong_length)?;
        if command.p1p2() != 0 {
            return Err(Refusal(StatusWord::INCORRECT_P1P2));
        }
        if !command.data.is_empty() {
            return Err(wrong_length);
        }
        Ok(self.deliver(place, waiting.cla, command.ne, command.extended, out))
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
    /// What is left waits for GET RESPONSE of the place, in the class of the command.
    pub(crate) fn deliver(
        &mut self,
        place: Place,
        cla: Cla,
        ne: Option<u32>,
        extended: bool,
        out: &mut [u8],
    ) -> usize {
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
        self.waiting = (!later.is_empty()).then_some(Waiting { place, cla });
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

    const ISO: Cla = Cla::ISO;

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
            let n = response.deliver(BASIC, ISO, ne, false, &mut out);
            got.extend_from_slice(&out[..n - 2]);
            assert_eq!(&out[n - 2..n], StatusWord(sw).bytes());
        }
        assert_eq!(got, data);
        assert_eq!(fetch(&mut response, BASIC, &[0, 0xC0, 0, 0, 0]), Err(0x6D00));
    }

    #[test]
    fn a_small_buffer_or_le_loses_nothing() {
        let (mut response, data) = with(5, StatusWord::NO_ERROR);
        let mut out = [0; 4];
        assert_eq!(response.deliver(BASIC, ISO, Some(256), false, &mut out), 4);
        assert_eq!(out, [data[0], data[1], 0x61, 3]);
        assert_eq!(response.deliver(BASIC, ISO, Some(1), false, &mut out), 3);
        assert_eq!(out[..3], [data[2], 0x61, 2]);
        assert_eq!(response.deliver(BASIC, ISO, None, true, &mut out), 4);
        assert_eq!(out, [data[3], data[4], 0x90, 0]);
        let (mut response, _) = with(5, StatusWord::NO_ERROR);
        assert_eq!(response.deliver(BASIC, ISO, Some(256), false, &mut out[..2]), 2);
        assert_eq!(out[..2], [0x61, 5]);
    }

    #[test]
    fn an_error_has_no_data() {
        let (mut response, _) = with(5, StatusWord::INCORRECT_DATA);
        let mut out = [0; 10];
        assert_eq!(response.deliver(BASIC, ISO, Some(256), false, &mut out), 2);
    }

    /// GET RESPONSE on a place: the piece with its status word, or why there is none.
    fn fetch(response: &mut Response, place: Place, capdu: &[u8]) -> Result<Vec<u8>, u16> {
        let mut out = [0; 300];
        let len = response.fetch(place, Cla(capdu[0]), CApdu::parse(capdu), &mut out);
        len.map(|len| out[..len].to_vec()).map_err(|refusal| refusal.0.0)
    }

    /// A response of five bytes to a command of this class, of which one has gone out.
    fn waiting(place: Place, cla: Cla) -> Response {
        let (mut response, _) = with(5, StatusWord::NO_ERROR);
        response.deliver(place, cla, Some(1), false, &mut [0; 9]);
        response
    }

    #[test]
    fn it_is_fetched_in_class_00_or_in_that_of_the_command_on_its_channel_alone() {
        for (number, value) in (0..=19).flat_map(|number| (0..=0xFE).map(move |value| (number, value))) {
            let place = Place {
                logical_channel: number,
                ..BASIC
            };
            let of_command = Cla(0x84).with_logical_channel(number).unwrap();
            let mut response = waiting(place, of_command);
            let asked = Cla(value);
            let from = Place {
                logical_channel: asked.logical_channel(),
                ..BASIC
            };
            let expected = match () {
                () if from != place => Err(0x6D00),
                () if asked == of_command || Some(asked) == ISO.with_logical_channel(number) => {
                    Ok([1, 2, 3, 4, 0x90, 0x00].to_vec())
                }
                () => Err(0x6E00),
            };
            let got = fetch(&mut response, from, &[value, 0xC0, 0, 0, 0]);
            assert_eq!(got, expected, "{asked:?} for {of_command:?}");
            if expected.is_err() {
                assert!(fetch(&mut response, place, &[of_command.0, 0xC0, 0, 0, 0]).is_ok());
            }
        }
    }

    #[test]
    fn a_refused_get_response_loses_nothing() {
        let mut response = waiting(BASIC, Cla(0x80));
        for (sw, capdu) in [
            (0x6A86, &[0x00, 0xC0, 0x01, 0x00, 0x00][..]),
            (0x6A86, &[0x80, 0xC0, 0x00, 0x01, 0x00]),
            (0x6700, &[0x00, 0xC0, 0x00, 0x00, 0x04, 0, 0, 0, 0]),
            (0x6700, &[0x00, 0xC0, 0x00, 0x00, 0x04, 0, 0, 0, 0, 0]),
            // No command's length at all.
            (0x6700, &[0x00, 0xC0, 0x00, 0x00, 0x04, 0]),
            (0x6E00, &[0x10, 0xC0, 0x00, 0x00, 0x00]),
        ] {
            assert_eq!(fetch(&mut response, BASIC, capdu), Err(sw), "{capdu:02X?}");
        }
        // Without Le, as a reader may cut it off: all there is.
        assert_eq!(
            fetch(&mut response, BASIC, &[0, 0xC0, 0, 0]),
            Ok([1, 2, 3, 4, 0x90, 0x00].to_vec())
        );
    }
}
