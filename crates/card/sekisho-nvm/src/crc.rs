//! Check sums against accidents: CRC-32 (IEEE 802.3) and CRC-8 (polynomial 07, starting at FF).

/// CRC-32 of the 16 values of four bits.
#[allow(clippy::indexing_slicing, reason = "computed at compile time")]
const NIBBLES: [u32; 16] = {
    let mut table = [0; 16];
    let mut value: u32 = 0;
    while value < 16 {
        let mut sum = value;
        let mut bit = 0;
        while bit < 4 {
            sum = (sum >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(sum & 1));
            bit += 1;
        }
        table[value as usize] = sum;
        value += 1;
    }
    table
};

/// CRC-8 of the 256 bytes: heads are read for every record that a search passes.
#[allow(clippy::indexing_slicing, reason = "computed at compile time")]
const BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut value: usize = 0;
    let mut byte: u8 = 0;
    while value < 256 {
        let mut sum = byte;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 0x80 == 0 {
                sum << 1
            } else {
                (sum << 1) ^ 0x07
            };
            bit += 1;
        }
        table[value] = sum;
        byte = byte.wrapping_add(1);
        value += 1;
    }
    table
};

/// CRC-32, running: start with [`Crc32::new`].
#[derive(Clone, Copy)]
pub(crate) struct Crc32(u32);

impl Crc32 {
    pub(crate) const fn new() -> Self {
        Self(u32::MAX)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..2 {
                let index = usize::from(self.0.to_le_bytes()[0] & 0x0F);
                self.0 = (self.0 >> 4) ^ NIBBLES.get(index).copied().unwrap_or_default();
            }
        }
    }

    /// The sum. Never zero: a stored zero is the mark of a wiped record.
    pub(crate) const fn finish(self) -> u32 {
        let sum = !self.0;
        if sum == 0 { 1 } else { sum }
    }
}

/// CRC-8 of a record's first seven bytes.
pub(crate) fn crc8(bytes: &[u8]) -> u8 {
    // Starts at FF so that a run of zeros is no valid head.
    bytes.iter().fold(0xFF, |sum, byte| {
        BYTES.get(usize::from(sum ^ byte)).copied().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_are_the_published_ones() {
        // Catalogue of parametrised CRC algorithms: CRC-32/ISO-HDLC. The catalogue has no CRC-8 with this polynomial and start that is not
        // reflected, so its value is the long division's, done bit by bit.
        let mut crc = Crc32::new();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), 0xCBF4_3926);
        let division = b"123456789".iter().fold(0xFF_u8, |sum, byte| {
            (0..8).fold(sum ^ byte, |sum, _| (sum << 1) ^ (0x07 * (sum >> 7)))
        });
        assert_eq!((crc8(b"123456789"), division), (0xFB, 0xFB));
        assert_ne!(crc8(&[0; 7]), 0);
    }

    #[test]
    fn up_to_three_changed_bits_of_a_head_are_found() {
        let head = [0x01, 0x02, 0x00, 0x03, 0x00, 0x20, 0x11];
        let mut whole = [0; 8];
        whole[..7].copy_from_slice(&head);
        whole[7] = crc8(&head);
        let word = u64::from_be_bytes(whole);
        let is_found = |flips: u64| {
            let bytes = (word ^ flips).to_be_bytes();
            crc8(&bytes[..7]) != bytes[7]
        };
        for a in 0..64 {
            for b in a..64 {
                for c in b..64 {
                    // Equal positions cancel out: with b = c one bit is changed, with a = b = c also one.
                    let flips = (1_u64 << a) ^ (1 << b) ^ (1 << c);
                    assert!(is_found(flips), "{flips:016X}");
                    assert!(a == b || is_found((1_u64 << a) ^ (1 << b)));
                }
            }
        }
    }
}
