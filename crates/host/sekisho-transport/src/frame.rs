//! vpcd's framing: a length of two bytes, big endian, then so many bytes.
//!
//! From reader to SE, a body of one byte is a control code, any other one a C-APDU; no C-APDU has one byte. From SE to reader come
//! the R-APDU of each command and the ATR for [`Control::GetAtr`]; the other control codes have no answer.
//! (Virtual Smart Card Architecture, `virtualsmartcard/src/vpcd/vpcd.h`.)

/// What a listener that has a reader already begins its one frame with, before it hangs up; the rest says which reader that is. No ATR begins so (TS is 3B or 3F: ISO/IEC
/// 7816-3, 8.1).
pub const REFUSED: &str = "refused: ";

/// Most bytes of a body: what the length field can say.
pub const BODY_MAX: usize = 0xFFFF;

/// A control code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Control {
    /// Power off.
    Off = 0,
    /// Power on.
    On = 1,
    /// Warm reset.
    Reset = 2,
    /// Ask for the answer to reset.
    GetAtr = 4,
}

/// What a reader sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromReader<'a> {
    /// A control code.
    Control(Control),
    /// A C-APDU, or bytes that stand in its place.
    Command(&'a [u8]),
    /// A control code that does not exist, or nothing at all.
    Unknown,
}

impl<'a> FromReader<'a> {
    /// Classifies a body.
    pub const fn parse(body: &'a [u8]) -> Self {
        match body {
            [] => Self::Unknown,
            [0] => Self::Control(Control::Off),
            [1] => Self::Control(Control::On),
            [2] => Self::Control(Control::Reset),
            [4] => Self::Control(Control::GetAtr),
            [_] => Self::Unknown,
            capdu => Self::Command(capdu),
        }
    }
}

/// Puts a body and its length into one piece, to be sent with one call: two would wait for each other (Nagle, delayed ACK).
///
/// `None` for a body longer than [`BODY_MAX`].
pub fn encode(body: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(body.len()).ok()?;
    let mut frame = Vec::with_capacity(2 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_told_apart() {
        assert_eq!(FromReader::parse(&[4]), FromReader::Control(Control::GetAtr));
        assert_eq!(FromReader::parse(&[]), FromReader::Unknown);
        for byte in [3, 5, 0xFF] {
            assert_eq!(FromReader::parse(&[byte]), FromReader::Unknown);
        }
        assert_eq!(FromReader::parse(&[0, 0]), FromReader::Command(&[0, 0]));
    }

    #[test]
    fn the_length_is_exact() {
        assert_eq!(encode(&[4]), Some(vec![0, 1, 4]));
        assert_eq!(
            encode(&[7; BODY_MAX]).map(|f| (f.len(), f[0], f[1])),
            Some((BODY_MAX + 2, 0xFF, 0xFF))
        );
        assert_eq!(encode(&[7; BODY_MAX + 1]), None);
    }
}
