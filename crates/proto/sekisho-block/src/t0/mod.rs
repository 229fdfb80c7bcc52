//! T=0 (ISO/IEC 7816-3, clauses 10 and 12): characters, and C-APDUs as exchanges of five bytes and data in one direction.
//!
//! T=0 numbers nothing and repeats nothing but a character whose parity was wrong, which is below this level. What gets lost shows by silence, and then the device resets the card.

mod card;
mod device;
mod waiting;

pub use card::{Acknowledge, Card};
pub use device::{Device, FRUITLESS_MAX, NULLS_MAX};

use sekisho_apdu::{Cla, SecureMessaging};

/// Bytes that an end says in one go, at the most: 256 bytes each behind a procedure byte, and a status word.
pub const OUT_MAX: usize = 514;

/// Bytes of a header: CLA INS P1 P2 P3.
const HEADER: usize = 5;
/// NULL: the card needs time.
const NULL: u8 = 0x60;
/// INS of ENVELOPE and of GET RESPONSE (ISO/IEC 7816-4, 11.8).
const ENVELOPE: u8 = 0xC2;
const GET_RESPONSE: u8 = 0xC0;
/// INS of MANAGE CHANNEL (ISO/IEC 7816-4, 11.1.2).
const MANAGE_CHANNEL: u8 = 0x70;
/// SW1: more bytes wait, and how many; P3 was wrong, and what it should be.
const SW1_MORE: u8 = 0x61;
const SW1_LENGTH: u8 = 0x6C;

/// Times of a line, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// WT: the longest silence before a character of either end while an exchange is under way.
    pub wt: u64,
    /// How long a line must be silent after a status word before the device takes it for one: a lost procedure byte shows by the characters that come after what looked like a status word.
    pub guard: u64,
}

/// Where the data of a command go. The command says it, not the line: both ends must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the card; P3 is Lc, 00 none.
    In,
    /// To the device; P3 is Le, 00 for 256.
    Out,
}

/// The direction of a command's data by CLA and INS, for the commands of ISO/IEC 7816-4 and the GlobalPlatform Card Specification: to the device those of even INS that read something without saying what; all else, and whatever is under secure messaging, to the card.
#[must_use]
pub fn direction(cla: u8, ins: u8) -> Direction {
    // GET RESPONSE, MANAGE CHANNEL, GET CHALLENGE, READ BINARY, READ RECORD, GET DATA.
    let out = matches!(ins, GET_RESPONSE | MANAGE_CHANNEL | 0x84 | 0xB0 | 0xB2 | 0xCA);
    let clear = matches!(Cla(cla).secure_messaging(), SecureMessaging::None);
    if out && (clear || ins == GET_RESPONSE) {
        Direction::Out
    } else {
        Direction::In
    }
}

/// Whether a value of INS can be none: a card could not acknowledge it (10.3.2).
const fn is_forbidden(ins: u8) -> bool {
    matches!(ins >> 4, 0x6 | 0x9)
}

/// How many bytes P3 or XX says, where 00 is 256.
fn count(byte: u8) -> usize {
    match byte {
        0 => 256,
        n => usize::from(n),
    }
}

/// P3 or XX for so many bytes; 00 is 256, or as XX also more.
fn counted(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(0)
}
