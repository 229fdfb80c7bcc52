//! Check bytes: LRC and CRC.

use crc::{CRC_16_IBM_SDLC, Crc};

/// ISO/IEC 13239's CRC of 16 bits (X.25), of T=1' blocks (GPC_SPE_172) and SHDLC frames.
const X25: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_SDLC);

/// The longitudinal redundancy check of a T=1 block (ISO 7816-3, 11.3.4): with it, all bytes add up to nothing. PCK of a PPS and TCK of an ATR are the same sum.
#[must_use]
pub fn lrc(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

/// The cyclic redundancy check of a T=1' block or an SHDLC frame. Which byte goes first is the protocol's.
#[must_use]
pub fn crc(bytes: &[u8]) -> u16 {
    X25.checksum(bytes)
}
