//! Frames on the wire: SOF, 1 to 30 bytes and their CRC, most significant bit first, with a 0 behind five 1s, EOF.

use crc::{CRC_16_GENIBUS, CRC_16_IBM_3740, Crc};

use super::LPDU_MAX;

const SOF: u8 = 0x7E;
const EOF: u8 = 0x7F;
/// Bytes of the longest frame: SOF, EOF, and 32 bytes with a bit more for each five.
pub const FRAME_MAX: usize = 41;

/// How a frame's CRC ends. Readings of the standard differ, whose text was not at hand: a line says which it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As it is.
    Plain,
    /// Inverted.
    Inverted,
}

/// No frame: no SOF or EOF where it has to be, six 1s within, no whole bytes, too many or none, a wrong CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrame;

fn crc(ending: Ending, bytes: &[u8]) -> u16 {
    const PLAIN: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_3740);
    const INVERTED: Crc<u16> = Crc::<u16>::new(&CRC_16_GENIBUS);
    match ending {
        Ending::Plain => PLAIN.checksum(bytes),
        Ending::Inverted => INVERTED.checksum(bytes),
    }
}

/// Bits, written one behind another.
struct Bits<'a> {
    out: &'a mut [u8; FRAME_MAX],
    len: usize,
    ones: u8,
}

impl Bits<'_> {
    fn put(&mut self, bit: bool) -> Option<()> {
        let slot = self.out.get_mut(self.len / 8)?;
        let mask = 0x80 >> (self.len % 8);
        if bit {
            *slot |= mask;
        } else {
            *slot &= !mask;
        }
        self.len += 1;
        Some(())
    }

    fn flag(&mut self, byte: u8) -> Option<()> {
        (0..8).try_for_each(|at| self.put(byte & (0x80 >> at) != 0))
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        for at in 0..8 {
            let bit = byte & (0x80 >> at) != 0;
            self.put(bit)?;
            self.ones = if bit { self.ones + 1 } else { 0 };
            if self.ones == 5 {
                self.put(false)?;
                self.ones = 0;
            }
        }
        Some(())
    }
}

/// Writes a frame and says how many bits it has; the last byte is filled with 1s. None for no bytes, or more than 30.
#[must_use]
pub fn write(lpdu: &[u8], ending: Ending, out: &mut [u8; FRAME_MAX]) -> Option<usize> {
    if lpdu.is_empty() || lpdu.len() > LPDU_MAX {
        return None;
    }
    *out = [0xFF; FRAME_MAX];
    let mut bits = Bits { out, len: 0, ones: 0 };
    bits.flag(SOF)?;
    for byte in lpdu.iter().chain(&crc(ending, lpdu).to_be_bytes()) {
        bits.byte(*byte)?;
    }
    bits.flag(EOF)?;
    Some(bits.len)
}

/// Reads a frame of so many bits and says how long its LPDU is.
///
/// # Errors
/// [`NoFrame`].
pub fn read(frame: &[u8], bits: usize, ending: Ending, out: &mut [u8; LPDU_MAX]) -> Result<usize, NoFrame> {
    let bit = |at: usize| {
        let byte = frame.get(at / 8)?;
        (at < bits).then_some(byte & (0x80 >> (at % 8)) != 0)
    };
    let flag = |from: usize| (0..8).try_fold(0_u8, |byte, at| Some(byte << 1 | u8::from(bit(from + at)?)));
    let end = bits.checked_sub(8).filter(|end| *end >= 8).ok_or(NoFrame)?;
    if flag(0) != Some(SOF) || flag(end) != Some(EOF) {
        return Err(NoFrame);
    }
    let mut bytes = [0_u8; LPDU_MAX + 2];
    let (mut count, mut ones) = (0_usize, 0_u8);
    for at in 8..end {
        let one = bit(at).ok_or(NoFrame)?;
        if ones == 5 {
            if one {
                return Err(NoFrame);
            }
            ones = 0;
            continue;
        }
        ones = if one { ones + 1 } else { 0 };
        let slot = bytes.get_mut(count / 8).ok_or(NoFrame)?;
        *slot = *slot << 1 | u8::from(one);
        count += 1;
    }
    let body = bytes.get(..count / 8).filter(|_| count % 8 == 0).ok_or(NoFrame)?;
    let (lpdu, sum) = body.split_last_chunk().ok_or(NoFrame)?;
    if lpdu.is_empty() || *sum != crc(ending, lpdu).to_be_bytes() {
        return Err(NoFrame);
    }
    out.get_mut(..lpdu.len()).ok_or(NoFrame)?.copy_from_slice(lpdu);
    Ok(lpdu.len())
}
