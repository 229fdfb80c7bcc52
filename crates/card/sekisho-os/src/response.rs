//! What the SE has to say: the data field that waits to be sent, in one piece or with GET RESPONSE (docs/spec/card.md, 1).

use sekisho_apdu::{ApduError, CApdu, Cla, StatusWord, Writer};
use sekisho_messaging::SmError;
use zeroize::Zeroize;

use crate::interface::{Protocol, WithoutLe};
use crate::refusal::Refusal;

/// Longest response data field before secure messaging.
pub const RESPONSE_DATA_MAX: usize = 1024;

/// Room for padding (R-ENCRYPTION, 16) and an R-MAC (at most 16); or for the data objects of secure messaging: 87 with four bytes of head,
/// an indicator and 16 of padding, 99 (4), 8E (10).
const PROTECTION_MAX: usize = 35;

/// Longest data field of a protected answer.
pub(crate) const RESPONSE_ROOM: usize = RESPONSE_DATA_MAX + PROTECTION_MAX;

/// Ne of a command without Le whose data goes out all the same: what a short response can hold.
const NE_WITHOUT_LE: u32 = 256;

/// 6100 behind the last byte of a piece: more is to be fetched, and nobody knows yet how much.
const MORE_TO_MAKE: StatusWord = StatusWord(0x6100);

/// How a command wants its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Its class: GET RESPONSE may come in it.
    pub(crate) cla: Cla,
    /// Most bytes of data that can go out now.
    room: usize,
}

impl Wanted {
    /// What the command, the protocol on which it came, and `out`, which holds two bytes or more, allow.
    pub(crate) fn of(command: &CApdu<'_>, protocol: Protocol, out: &[u8]) -> Self {
        let ne = match (command.ne, protocol.case4_without_le()) {
            (None, WithoutLe::Waits) if !command.data.is_empty() => Some(0),
            (ne, _) => ne,
        };
        Self::by(command.cla, ne, command.extended, out)
    }

    /// What Ne and `out`, which holds two bytes or more, allow.
    pub(crate) fn by(cla: Cla, ne: Option<u32>, extended: bool, out: &[u8]) -> Self {
        let ne = match (ne, extended) {
            (Some(ne), _) => ne,
            (None, true) => u32::MAX,
            (None, false) => NE_WITHOUT_LE,
        };
        let ne = usize::try_from(ne).unwrap_or(usize::MAX);
        Self {
            cla,
            room: out.len().saturating_sub(2).min(ne),
        }
    }
}

/// Writes what there is room for, and the status word: `sw` behind the last byte, else how many wait. Gives the bytes that are left and the
/// number of bytes in `out`.
fn send<'d>(data: &'d [u8], sw: StatusWord, room: usize, out: &mut [u8]) -> (&'d [u8], usize) {
    let (now, later) = data.split_at(room.min(data.len()));
    let sw = if later.is_empty() {
        sw
    } else {
        StatusWord::more_data(later.len())
    };
    let mut writer = Writer::new(out);
    // Both fit: `room` left two bytes for the status word.
    let _ = writer.bytes(now);
    let _ = writer.bytes(&sw.bytes());
    (later, writer.len())
}

/// What an answer is to the interface on which it goes out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What does not go out at once waits.
    Plain,
    /// It is a piece: the application that made it is asked for the next one when it has been fetched.
    Piece,
    /// Of secure messaging: it is kept, whole, to be given again.
    Protected,
    /// The one that is kept goes out again.
    Again,
}

/// The answer to the command that is being processed.
pub(crate) struct Response {
    /// With room for the status word that secure messaging writes behind its answer.
    data: [u8; RESPONSE_ROOM + 2],
    len: usize,
    sw: StatusWord,
    /// Most bytes that its data may have.
    limit: usize,
    kind: Kind,
    /// The interface keeps the last protected answer of the logical channel.
    kept: bool,
}

impl Response {
    /// Of an SE that has not started, which [clears](Response::clear) it before it answers anything: zeros.
    pub(crate) const fn new() -> Self {
        Self {
            data: [0; RESPONSE_ROOM + 2],
            len: 0,
            sw: StatusWord(0),
            limit: 0,
            kind: Kind::Plain,
            kept: false,
        }
    }

    /// Wipes the answer.
    pub(crate) fn clear(&mut self) {
        self.data.zeroize();
        (self.len, self.sw, self.kind) = (0, StatusWord::UNKNOWN, Kind::Plain);
        self.limit = RESPONSE_ROOM;
    }

    /// Begins the answer to another command: its data goes out at once, all of it, where nothing `can_wait`; `kept` says whether the interface keeps the protected answer before
    /// it.
    pub(crate) fn begin(&mut self, wanted: Wanted, can_wait: bool, kept: bool) {
        self.kept = kept;
        self.limit = if can_wait {
            RESPONSE_ROOM
        } else {
            wanted.room.min(RESPONSE_ROOM)
        };
    }

    /// Whether the answer may wait for GET RESPONSE.
    pub(crate) const fn can_wait(&self) -> bool {
        self.limit == RESPONSE_ROOM
    }

    /// What has been set is a piece of a longer answer.
    pub(crate) const fn set_going_on(&mut self) {
        self.kind = Kind::Piece;
    }

    /// Most bytes that the answer's data may have.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// The status word of the response.
    pub(crate) const fn status(&self) -> StatusWord {
        self.sw
    }

    /// Replaces the response by what `fill` writes. Data of an error status is dropped: an error has no data field.
    pub(crate) fn set(&mut self, fill: impl FnOnce(&mut Writer<'_>) -> StatusWord) {
        self.kind = Kind::Plain;
        let mut writer = Writer::new(self.data.get_mut(..self.limit).unwrap_or_default());
        self.sw = fill(&mut writer);
        self.len = if self.sw.is_success_or_warning() {
            writer.len()
        } else {
            0
        };
    }

    /// Replaces the response by a whole R-APDU of secure messaging, which has a data field with an error status too: `protect` writes it and gives its length.
    pub(crate) fn set_protected(
        &mut self,
        protect: impl FnOnce(&mut [u8]) -> Result<usize, SmError>,
    ) -> Result<(), SmError> {
        let len = protect(&mut self.data)?;
        let whole = self.data.get(..len).and_then(<[u8]>::split_last_chunk);
        let (data, sw) = whole.ok_or(SmError::BufferTooSmall)?;
        (self.len, self.sw) = (data.len(), StatusWord(u16::from_be_bytes(*sw)));
        self.kind = Kind::Protected;
        Ok(())
    }

    /// Gives the protected answer that the interface keeps once more; false when it keeps another one by now.
    pub(crate) const fn set_again(&mut self) -> bool {
        if self.kept {
            (self.len, self.sw, self.kind) = (0, StatusWord::NO_ERROR, Kind::Again);
        }
        self.kept
    }

    /// Sends as much as there is room for, at least the status word; returns the number of bytes. `out` holds two bytes or more. What is left
    /// waits for GET RESPONSE of the logical channel.
    pub(crate) fn deliver(
        &self,
        channel: u8,
        wanted: Wanted,
        waiting: &mut WaitingAnswer,
        out: &mut [u8],
    ) -> usize {
        let data = self.data.get(..self.len).unwrap_or_default();
        let owner = Owner {
            channel,
            cla: wanted.cla,
        };
        let sw = match self.kind {
            Kind::Again => return waiting.again(owner, wanted, out),
            Kind::Protected => {
                waiting.keep(owner, data, self.sw);
                waiting.kept_for = Some(channel);
                return waiting.next(wanted, out);
            }
            Kind::Piece => MORE_TO_MAKE,
            Kind::Plain => self.sw,
        };
        let (later, len) = send(data, sw, wanted.room, out);
        if self.kind == Kind::Piece || !later.is_empty() {
            waiting.keep(owner, later, sw);
        }
        len
    }
}

/// The answer that waits on an interface. There is one for all logical channels of the interface, and another interface has another.
pub(crate) struct WaitingAnswer {
    /// Whose GET RESPONSE may fetch it.
    owner: Option<Owner>,
    /// The logical channel whose last answer under secure messaging this is, from its first byte: it goes out again when its command comes again.
    kept_for: Option<u8>,
    data: [u8; RESPONSE_ROOM],
    /// What is left of it, from the first byte that has not been fetched.
    start: usize,
    end: usize,
    sw: StatusWord,
}

/// The command whose data waits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    channel: u8,
    cla: Cla,
}

impl Owner {
    /// GET RESPONSE comes in the interindustry class, or in the class of the command: hosts do either.
    fn is_meant_by(self, cla: Cla) -> bool {
        cla == self.cla || Some(cla) == Cla::ISO.with_logical_channel(self.channel)
    }
}

impl WaitingAnswer {
    pub(crate) const fn new() -> Self {
        Self {
            owner: None,
            kept_for: None,
            data: [0; RESPONSE_ROOM],
            start: 0,
            end: 0,
            // No answer waits: zeros, as everywhere in an SE that has not started.
            sw: StatusWord(0),
        }
    }

    /// The logical channel whose answer waits.
    pub(crate) fn channel(&self) -> Option<u8> {
        self.owner.map(|owner| owner.channel)
    }

    /// Wipes what waits, or is kept, for the logical channels that `is_gone` names.
    pub(crate) fn drop_at(&mut self, is_gone: impl FnOnce(u8) -> bool) {
        if self.channel().or(self.kept_for).is_some_and(is_gone) {
            self.clear();
        }
    }

    /// Another command has come on a logical channel: nothing waits for it any more.
    pub(crate) fn interrupt(&mut self, channel: u8) {
        if self.channel() == Some(channel) {
            self.settle();
        }
    }

    /// Nothing is to be fetched any more; what is kept stays.
    fn settle(&mut self) {
        match self.kept_for {
            Some(_) => self.owner = None,
            None => self.clear(),
        }
    }

    /// Whether the last answer under secure messaging of a logical channel is kept.
    pub(crate) fn keeps_for(&self, channel: u8) -> bool {
        self.kept_for == Some(channel)
    }

    fn clear(&mut self) {
        (self.owner, self.kept_for) = (None, None);
        self.data.get_mut(..self.end).unwrap_or_default().zeroize();
        (self.start, self.end) = (0, 0);
    }

    /// Keeps the rest of an answer, in the place of what waited.
    fn keep(&mut self, owner: Owner, rest: &[u8], sw: StatusWord) {
        self.clear();
        let room = self.data.iter_mut().zip(rest);
        room.for_each(|(to, from)| *to = *from);
        self.end = rest.len().min(RESPONSE_ROOM);
        self.sw = sw;
        self.owner = Some(owner);
    }

    /// Sends what is kept from its beginning.
    fn again(&mut self, owner: Owner, wanted: Wanted, out: &mut [u8]) -> usize {
        (self.owner, self.start) = (Some(owner), 0);
        self.next(wanted, out)
    }

    /// GET RESPONSE (ISO/IEC 7816-4, 11.7.1): what it wants, or why it gets nothing. It belongs to the transport: it is never protected, and a
    /// refused one leaves what waits.
    ///
    /// # Errors
    /// 6D00 when nothing waits for the logical channel: the only answer after which hosts that always send it keep the data they have.
    pub(crate) fn claim(
        &self,
        channel: u8,
        cla: Cla,
        command: Result<CApdu<'_>, ApduError>,
        out: &[u8],
    ) -> Result<Wanted, Refusal> {
        let owner = self.owner.filter(|owner| owner.channel == channel);
        let owner = owner.ok_or(Refusal(StatusWord::INS_NOT_SUPPORTED))?;
        if !owner.is_meant_by(cla) {
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
        Ok(Wanted::by(owner.cla, command.ne, command.extended, out))
    }

    /// Whether bytes wait; if none do, there is more of the answer to be made.
    pub(crate) const fn has_data(&self) -> bool {
        self.start < self.end
    }

    /// Writes the next of what waits to `out`, which holds two bytes or more, and returns the number of bytes.
    pub(crate) fn next(&mut self, wanted: Wanted, out: &mut [u8]) -> usize {
        let data = self.data.get(self.start..self.end).unwrap_or_default();
        let (later, len) = send(data, self.sw, wanted.room, out);
        self.start = self.end - later.len();
        if later.is_empty() && self.sw != MORE_TO_MAKE {
            self.settle();
        }
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const ISO: Cla = Cla::ISO;

    fn with(len: u16, sw: StatusWord) -> (Response, Vec<u8>) {
        let data: Vec<u8> = (0..=250).cycle().take(len.into()).collect();
        let mut response = Response::new();
        response.clear();
        response.set(|w| {
            w.bytes(&data).unwrap();
            sw
        });
        (response, data)
    }

    /// What goes out on a logical channel for a short command of Ne bytes, and what waits then.
    fn deliver(
        response: &Response,
        channel: u8,
        cla: Cla,
        ne: u32,
        out: &mut [u8],
    ) -> (usize, WaitingAnswer) {
        let mut waiting = WaitingAnswer::new();
        let wanted = Wanted::by(cla, Some(ne), false, out);
        (response.deliver(channel, wanted, &mut waiting, out), waiting)
    }

    /// GET RESPONSE on a logical channel: the piece with its status word, or why there is none.
    fn fetch(waiting: &mut WaitingAnswer, channel: u8, capdu: &[u8]) -> Result<Vec<u8>, u16> {
        let mut out = [0; 300];
        let claimed = waiting.claim(channel, Cla(capdu[0]), CApdu::parse(capdu), &out);
        let wanted = claimed.map_err(|refusal| refusal.0.0)?;
        let len = waiting.next(wanted, &mut out);
        Ok(out[..len].to_vec())
    }

    #[test]
    fn comes_in_pieces_of_ne_bytes_and_ends_with_its_own_status() {
        let (response, data) = with(600, StatusWord(0x6310));
        let mut out = [0; 300];
        let (n, mut waiting) = deliver(&response, 0, ISO, 256, &mut out);
        assert_eq!(&out[n - 2..n], [0x61, 0x00]);
        let mut got = out[..n - 2].to_vec();
        for (command, sw) in [(&[0, 0xC0, 0, 0, 0][..], 0x6158_u16), (&[0, 0xC0, 0, 0], 0x6310)] {
            let piece = fetch(&mut waiting, 0, command).unwrap();
            let (bytes, status) = piece.split_at(piece.len() - 2);
            got.extend_from_slice(bytes);
            assert_eq!(status, sw.to_be_bytes());
        }
        assert_eq!(got, data);
        assert_eq!(fetch(&mut waiting, 0, &[0, 0xC0, 0, 0, 0]), Err(0x6D00));
        assert!(waiting.data.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_small_buffer_or_le_loses_nothing() {
        let (response, data) = with(5, StatusWord::NO_ERROR);
        let mut out = [0; 4];
        let (len, mut waiting) = deliver(&response, 0, ISO, 256, &mut out);
        assert_eq!((len, out), (4, [data[0], data[1], 0x61, 3]));
        let piece = fetch(&mut waiting, 0, &[0, 0xC0, 0, 0, 1]);
        assert_eq!(piece.unwrap(), [data[2], 0x61, 2]);
    }

    #[test]
    fn an_error_has_no_data() {
        let (response, _) = with(5, StatusWord::INCORRECT_DATA);
        let mut out = [0; 10];
        assert_eq!(deliver(&response, 0, ISO, 256, &mut out).0, 2);
    }

    #[test]
    fn where_nothing_can_wait_there_is_no_more_room_than_ne() {
        let mut response = Response::new();
        response.clear();
        for (can_wait, fits) in [(true, RESPONSE_ROOM), (false, 16)] {
            let out = [0; 300];
            response.begin(Wanted::by(ISO, Some(16), false, &out), can_wait, false);
            assert_eq!(response.limit(), fits);
            response.set(|w| {
                assert!(w.bytes(&[1; 16]).is_ok());
                assert_eq!(w.u8(1).is_ok(), can_wait);
                StatusWord::NO_ERROR
            });
        }
    }

    /// A response of five bytes to a command of this class, of which one has gone out.
    fn waiting(channel: u8, cla: Cla) -> WaitingAnswer {
        let (response, _) = with(5, StatusWord::NO_ERROR);
        deliver(&response, channel, cla, 1, &mut [0; 9]).1
    }

    #[test]
    fn it_is_fetched_in_class_00_or_in_that_of_the_command_on_its_channel_alone() {
        for (number, value) in (0..=19).flat_map(|number| (0..=0xFE).map(move |value| (number, value))) {
            let of_command = Cla(0x84).with_logical_channel(number).unwrap();
            let mut waiting = waiting(number, of_command);
            let asked = Cla(value);
            let from = asked.logical_channel();
            let expected = match () {
                () if from != number => Err(0x6D00),
                () if asked == of_command || Some(asked) == ISO.with_logical_channel(number) => {
                    Ok([1, 2, 3, 4, 0x90, 0x00].to_vec())
                }
                () => Err(0x6E00),
            };
            let got = fetch(&mut waiting, from, &[value, 0xC0, 0, 0, 0]);
            assert_eq!(got, expected, "{asked:?} for {of_command:?}");
            if expected.is_err() {
                assert!(fetch(&mut waiting, number, &[of_command.0, 0xC0, 0, 0, 0]).is_ok());
            }
        }
    }

    #[test]
    fn a_refused_get_response_loses_nothing() {
        let mut waiting = waiting(0, Cla(0x80));
        for (sw, capdu) in [
            (0x6A86, &[0x00, 0xC0, 0x01, 0x00, 0x00][..]),
            (0x6A86, &[0x80, 0xC0, 0x00, 0x01, 0x00]),
            (0x6700, &[0x00, 0xC0, 0x00, 0x00, 0x04, 0, 0, 0, 0]),
            (0x6700, &[0x00, 0xC0, 0x00, 0x00, 0x04, 0, 0, 0, 0, 0]),
            // No command's length at all.
            (0x6700, &[0x00, 0xC0, 0x00, 0x00, 0x04, 0]),
            (0x6E00, &[0x10, 0xC0, 0x00, 0x00, 0x00]),
        ] {
            assert_eq!(fetch(&mut waiting, 0, capdu), Err(sw), "{capdu:02X?}");
        }
        // Without Le, as a reader may cut it off: all there is.
        assert_eq!(
            fetch(&mut waiting, 0, &[0, 0xC0, 0, 0]),
            Ok([1, 2, 3, 4, 0x90, 0x00].to_vec())
        );
    }
}
