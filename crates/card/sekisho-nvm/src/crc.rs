//! Check sums against accidents: CRC-32 (IEEE 802.3) and CRC-8 (polynomial 07), bit by bit: records are small.

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
            for _ in 0..8 {
                let carry = 0_u32.wrapping_sub(self.0 & 1);
                self.0 = (self.0 >> 1) ^ (0xEDB8_8320 & carry);
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
        (0..8).fold(sum ^ byte, |sum, _| {
            if sum & 0x80 == 0 {
                sum << 1
            } else {
                (sum << 1) ^ 0x07
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_are_the_published_ones() {
        // Catalogue of parametrised CRC algorithms: CRC-32/ISO-HDLC, and CRC-8/ROHC's unreflected sister CRC-8 with init FF by hand.
        let mut crc = Crc32::new();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), 0xCBF4_3926);
        assert_eq!(crc8(b"123456789"), 0xFB);
        assert_ne!(crc8(&[0; 7]), 0);
    }
}
