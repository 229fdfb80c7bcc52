//! Status words in words, for whoever reads one on a screen or in a log.

use core::fmt;

use crate::StatusWord;

/// What a status word says; shown in words, without the status word itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning(StatusWord);

impl StatusWord {
    /// What it says (ISO/IEC 7816-4, Tables 5 and 6; GPC; 95XX: `docs/spec/broadcast-update.md`, 2.5).
    pub const fn meaning(self) -> Meaning {
        Meaning(self)
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [sw1, sw2] = self.0.bytes();
        match (sw1, words(self.0)) {
            (_, Some(words)) => f.write_str(words),
            (0x61, _) if sw2 == 0 => f.write_str("done; more than 255 bytes wait"),
            (0x61, _) => write!(f, "done; {sw2} bytes wait"),
            (0x6C, _) => write!(f, "wrong Le: there are {sw2} bytes"),
            (0x63, _) if sw2 & 0xF0 == 0xC0 => write!(f, "wrong; {} tries left", sw2 & 0x0F),
            (0x62 | 0x63, _) => f.write_str("done, with a warning"),
            _ => f.write_str("another status word"),
        }
    }
}

/// Those that say one thing.
const fn words(sw: StatusWord) -> Option<&'static str> {
    Some(match sw.0 {
        0x9000 => "done",
        0x6282 => "done; the file ends before",
        0x6283 => "selected; the card is locked",
        0x6300 => "the host cryptogram is wrong",
        0x6310 => "done; there is more",
        0x6400 => "not done; the card does not say why",
        0x6581 => "the card's memory has failed",
        0x6700 => "wrong length",
        0x6881 => "there is no such logical channel",
        0x6882 => "secure messaging is not supported here",
        0x6883 => "the last command of the chain was expected",
        0x6884 => "chaining is not supported",
        0x6981 => "the file has another structure",
        0x6982 => "not allowed: something must be proved first",
        0x6983 => "blocked after too many wrong tries",
        0x6985 => "not now: the conditions are not met",
        0x6986 => "no file is selected",
        0x6987 => "secure messaging was expected",
        0x6988 => "secure messaging is wrong: its MAC or an object of its",
        0x6999 => "the application refuses to be selected",
        0x6A80 => "the data is wrong",
        0x6A81 => "not supported",
        0x6A82 => "there is no such file or application",
        0x6A83 => "there is no such record",
        0x6A84 => "there is no room",
        0x6A86 => "wrong P1 or P2",
        0x6A88 => "there is no such key or data object",
        0x6A89 => "there is such a file already",
        0x6B00 => "the offset is behind the end",
        0x6D00 => "there is no such command",
        0x6E00 => "there is no such class",
        0x6F00 => "the card cannot say why",
        0x9484 => "the algorithm is not supported",
        0x9485 => "the key check value is wrong",
        0x9501 => "the designer's signature is wrong",
        0x9502 => "rollback: the version is not above the active one, or the active one is too old for it",
        0x9503 => "integrity: the digest or a code is wrong",
        0x9504 => "a block is out of sequence, or the image is not whole",
        0x9505 => "code format or ABI unknown, or the module does not load",
        0x9506 => "another campaign is staged",
        _ => return None,
    })
}
