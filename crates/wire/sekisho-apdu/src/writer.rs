//! Writing into a borrowed buffer.

use core::fmt;

/// The buffer is too small for what was to be written. Nothing of the failed call stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferFull;

impl fmt::Display for BufferFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("buffer full")
    }
}

impl core::error::Error for BufferFull {}

/// Appends big-endian fields and BER-TLV data objects to a borrowed buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// An empty writer over `buf`.
    pub const fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Number of bytes written.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been written.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of bytes that still fit.
    pub const fn remaining(&self) -> usize {
        self.buf.len() - self.len
    }

    /// What has been written.
    pub fn written(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or_default()
    }

    /// What has been written, to be changed in place.
    pub fn written_mut(&mut self) -> &mut [u8] {
        self.buf.get_mut(..self.len).unwrap_or_default()
    }

    /// What has been written, for as long as the buffer lives.
    pub fn into_written(self) -> &'a mut [u8] {
        self.buf.get_mut(..self.len).unwrap_or_default()
    }

    /// Goes back to the first `len` bytes; does nothing when there are not more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`BufferFull`], and nothing is written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), BufferFull> {
        let end = self.len.checked_add(bytes.len()).ok_or(BufferFull)?;
        self.buf
            .get_mut(self.len..end)
            .ok_or(BufferFull)?
            .copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Appends one byte.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn u8(&mut self, value: u8) -> Result<(), BufferFull> {
        self.bytes(&[value])
    }

    /// Appends two bytes.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn u16(&mut self, value: u16) -> Result<(), BufferFull> {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends the low three bytes of `value`; the top byte is dropped.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn u24(&mut self, value: u32) -> Result<(), BufferFull> {
        let [_, a, b, c] = value.to_be_bytes();
        self.bytes(&[a, b, c])
    }

    /// Appends four bytes.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn u32(&mut self, value: u32) -> Result<(), BufferFull> {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends eight bytes.
    ///
    /// # Errors
    /// [`BufferFull`].
    pub fn u64(&mut self, value: u64) -> Result<(), BufferFull> {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a BER-TLV data object; the length takes as few bytes as it can. `tag` is the tag field as a number (4F, 9F70, 7F21).
    ///
    /// # Errors
    /// [`BufferFull`]; also for a value beyond 16,777,215 bytes, which no length field here can say.
    pub fn tlv(&mut self, tag: u32, value: &[u8]) -> Result<(), BufferFull> {
        self.whole(|w| {
            w.tag(tag)?;
            w.lv(value)
        })
    }

    /// Appends a BER-TLV data object whose value is what `value` writes.
    ///
    /// # Errors
    /// What `value` returns, or [`BufferFull`]; in either case nothing is written.
    pub fn tlv_with<E: From<BufferFull>>(
        &mut self,
        tag: u32,
        value: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole(|w| {
            w.tag(tag)?;
            w.lv_with(value)
        })
    }

    /// Appends what `parts` writes, all of it or nothing.
    fn whole<E>(&mut self, parts: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let start = self.len;
        let done = parts(self);
        if done.is_err() {
            self.len = start;
        }
        done
    }

    /// Appends a value behind its length, which is BER.
    ///
    /// # Errors
    /// [`BufferFull`], as of [`Writer::tlv`]; a part of it may have been written then.
    pub fn lv(&mut self, value: &[u8]) -> Result<(), BufferFull> {
        match u8::try_from(value.len()) {
            Ok(short @ 0..=0x7F) => self.u8(short)?,
            _ => {
                let (field, len) = long(value.len())?;
                self.bytes(field.get(..len).unwrap_or_default())?;
            }
        }
        self.bytes(value)
    }

    /// Appends what `value` writes behind its length.
    ///
    /// # Errors
    /// What `value` returns, or [`BufferFull`]; a part of it may have been written then.
    pub fn lv_with<E: From<BufferFull>>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        // One byte is kept for the length; a longer length moves the value once it is known.
        let length_at = self.len;
        self.u8(0)?;
        let value_at = self.len;
        value(self)?;
        let length = self.len.saturating_sub(value_at);
        self.patch_length(length_at, length)?;
        Ok(())
    }

    fn tag(&mut self, tag: u32) -> Result<(), BufferFull> {
        match tag.to_be_bytes() {
            [0, 0, 0, a] => self.u8(a),
            [0, 0, a, b] => self.bytes(&[a, b]),
            [0, a, b, c] => self.bytes(&[a, b, c]),
            bytes => self.bytes(&bytes),
        }
    }

    /// Writes the length of what stands behind `at`, where one byte was kept for it.
    fn patch_length(&mut self, at: usize, length: usize) -> Result<(), BufferFull> {
        if let (Ok(short @ 0..=0x7F), Some(kept)) = (u8::try_from(length), self.buf.get_mut(at)) {
            *kept = short;
            return Ok(());
        }
        let (field, len) = long(length)?;
        let end = self.len + (len - 1);
        if end > self.buf.len() {
            return Err(BufferFull);
        }
        self.buf.copy_within(at + 1..self.len, at + len);
        self.buf
            .get_mut(at..at + len)
            .ok_or(BufferFull)?
            .copy_from_slice(field.get(..len).unwrap_or_default());
        self.len = end;
        Ok(())
    }
}

/// A length field of more than one byte, for 128 bytes and more, and how many of these it has (X.690, 8.1.3.5).
fn long(length: usize) -> Result<([u8; 4], usize), BufferFull> {
    let length = u32::try_from(length).map_err(|_| BufferFull)?;
    match length.to_be_bytes() {
        [0, 0, 0, c] => Ok(([0x81, c, 0, 0], 2)),
        [0, 0, b, c] => Ok(([0x82, b, c, 0], 3)),
        [0, a, b, c] => Ok(([0x83, a, b, c], 4)),
        _ => Err(BufferFull),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian() {
        let mut buf = [0; 18];
        let mut w = Writer::new(&mut buf);
        w.u8(1).unwrap();
        w.u16(0x0203).unwrap();
        w.u24(0xFF04_0506).unwrap();
        w.u32(0x0708_090A).unwrap();
        w.u64(0x0B0C_0D0E_0F10_1112).unwrap();
        assert_eq!(w.remaining(), 0);
        assert_eq!(w.u8(0), Err(BufferFull));
        let expected: std::vec::Vec<u8> = (1..=18).collect();
        assert_eq!(w.into_written(), expected);
    }

    #[test]
    fn a_failed_call_writes_nothing() {
        let mut buf = [0; 5];
        let mut w = Writer::new(&mut buf);
        w.u16(0xABCD).unwrap();
        assert_eq!(w.u32(1), Err(BufferFull));
        assert_eq!(w.tlv(0x9F70, &[1]), Err(BufferFull));
        assert_eq!(w.written(), [0xAB, 0xCD]);
        w.tlv(0x4F, &[1]).unwrap();
        assert_eq!(w.written(), [0xAB, 0xCD, 0x4F, 1, 1]);
    }

    #[test]
    fn length_fields_of_every_size() {
        for (length, field) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x81, 0x80]),
            (255, &[0x81, 0xFF]),
            (256, &[0x82, 0x01, 0x00]),
            (65_535, &[0x82, 0xFF, 0xFF]),
            (65_536, &[0x83, 0x01, 0x00, 0x00]),
        ] {
            let value: std::vec::Vec<u8> = (0..251).cycle().take(length).collect();
            let mut buf = std::vec![0; length + 8];
            let mut w = Writer::new(&mut buf);
            w.tlv(0x7F21, &value).unwrap();
            let expected = [&[0x7F, 0x21], field, &value].concat();
            assert_eq!(w.written(), expected, "length {length}");
            // One byte less of room is an error, and leaves nothing behind.
            let mut small = std::vec![0; expected.len() - 1];
            let mut w = Writer::new(&mut small);
            assert_eq!(w.tlv(0x7F21, &value), Err(BufferFull));
            assert!(w.is_empty());
        }
    }

    #[test]
    fn templates_nest() {
        let mut buf = [0; 300];
        let mut w = Writer::new(&mut buf);
        w.tlv_with(0xE3, |w| {
            w.tlv(0x4F, &[0xA0; 5])?;
            w.tlv(0x5F_5001, &[7; 130])
        })
        .unwrap();
        let inner = [
            &[0x4F, 5][..],
            &[0xA0; 5],
            &[0x5F, 0x50, 0x01, 0x81, 130],
            &[7; 130],
        ]
        .concat();
        assert_eq!(
            w.written(),
            [&[0xE3, 0x81, u8::try_from(inner.len()).unwrap()], &inner[..]].concat()
        );
    }
}
