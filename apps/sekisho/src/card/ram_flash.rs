//! Flash in memory, whose power can be cut: for virtual SEs by the thousand.

use core::ops::Range;

use sekisho_nvm::Flash;
use sekisho_os::Profile;

use super::file_flash::PAGE;

/// Bytes of a word (see [`Flash`]).
const WORD: usize = 4;

/// Why the flash refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RamError {
    /// The power has been cut; [`RamFlash::power_on`] makes it work again.
    PowerCut,
    /// Outside the flash, or not whole words.
    Range,
}

/// A flash in memory. Pages that are blank take none.
#[derive(Clone, Debug)]
pub(crate) struct RamFlash {
    page_size: usize,
    pages: Vec<Option<Box<[u8]>>>,
    cut: Option<Cut>,
    is_off: bool,
}

/// A cut of power that is to come.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Writes and erasures until then.
    operations: u64,
    /// Decides how far the operation gets.
    seed: u64,
}

impl RamFlash {
    /// A blank flash.
    pub(crate) fn new(page_size: usize, pages: usize) -> Self {
        Self {
            page_size,
            pages: vec![None; pages],
            cut: None,
            is_off: false,
        }
    }

    /// A blank flash in which an SE of this profile has room: its store, two slots and what is for load files, each rounded up to whole pages.
    pub(crate) fn for_profile(profile: &Profile) -> Self {
        let bytes = profile.store_bytes + 2 * profile.slot_bytes + profile.area_bytes;
        Self::new(PAGE, bytes.div_ceil(PAGE) + 3)
    }

    /// Cuts the power inside the `operations`-th write or erasure from now, counted from 0; `seed` says at which word, and how it tears.
    pub(crate) fn cut_after(&mut self, operations: u64, seed: u64) {
        self.cut = Some(Cut { operations, seed });
    }

    /// The power is back.
    pub(crate) fn power_on(&mut self) {
        self.is_off = false;
    }

    /// Whether the power has been cut.
    pub(crate) const fn is_off(&self) -> bool {
        self.is_off
    }

    /// Counts an operation. When it is the one to be cut: the seed.
    fn operate(&mut self) -> Result<Option<u64>, RamError> {
        if self.is_off {
            return Err(RamError::PowerCut);
        }
        match &mut self.cut {
            None => Ok(None),
            Some(Cut { operations: 0, seed }) => {
                let seed = *seed;
                self.cut = None;
                self.is_off = true;
                Ok(Some(seed))
            }
            Some(Cut { operations, .. }) => {
                *operations -= 1;
                Ok(None)
            }
        }
    }

    fn check(&self, address: usize, len: usize) -> Result<(), RamError> {
        let end = address.checked_add(len).ok_or(RamError::Range)?;
        if end > self.page_size * self.pages.len() {
            return Err(RamError::Range);
        }
        Ok(())
    }

    fn page(&mut self, page: usize) -> Result<&mut [u8], RamError> {
        let blank = || vec![0xFF; self.page_size].into_boxed_slice();
        let content = self.pages.get_mut(page).ok_or(RamError::Range)?;
        Ok(content.get_or_insert_with(blank))
    }
}

/// Which bits of a torn word, or of each of a torn page's, have been changed: none, all, or some.
fn torn(seed: u64) -> u32 {
    match seed % 4 {
        0 => 0,
        1 => u32::MAX,
        _ => {
            let [a, b, c, d, ..] = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            u32::from_be_bytes([a, b, c, d])
        }
    }
}

impl Flash for RamFlash {
    type Error = RamError;

    fn page_size(&self) -> usize {
        self.page_size
    }

    fn pages(&self) -> usize {
        self.pages.len()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), RamError> {
        if self.is_off {
            return Err(RamError::PowerCut);
        }
        self.check(address, out.len())?;
        let (mut at, mut rest) = (address, out);
        while !rest.is_empty() {
            let (page, offset) = (at / self.page_size, at % self.page_size);
            let (part, tail) = rest.split_at_mut(rest.len().min(self.page_size - offset));
            match &self.pages[page] {
                Some(content) => part.copy_from_slice(&content[offset..offset + part.len()]),
                None => part.fill(0xFF),
            }
            at += part.len();
            rest = tail;
        }
        Ok(())
    }

    /// Inside a page that has been written: the pages are apart in memory.
    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        let page = self.pages.get(range.start / self.page_size)?.as_deref()?;
        let offset = range.start % self.page_size;
        let bytes = page.get(offset..offset.checked_add(range.len())?)?;
        (!self.is_off).then_some(bytes)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        let (words, rest) = bytes.as_chunks::<WORD>();
        if !rest.is_empty() || !address.is_multiple_of(WORD) {
            return Err(RamError::Range);
        }
        self.check(address, bytes.len())?;
        let cut = self.operate()?;
        let whole = match cut {
            Some(seed) => usize::try_from(seed).unwrap_or(0) % words.len().max(1),
            None => words.len(),
        };
        for (index, word) in words.iter().enumerate().take(whole + 1) {
            let mask = match cut {
                Some(seed) if index == whole => torn(seed).to_be_bytes(),
                _ => [0xFF; WORD],
            };
            let at = address + WORD * index;
            let (page, offset) = (at / self.page_size, at % self.page_size);
            // Like any flash: a written zero stays one until the page is erased.
            for ((byte, new), mask) in self.page(page)?[offset..].iter_mut().zip(word).zip(mask) {
                *byte &= new | !mask;
            }
        }
        match cut {
            Some(_) => Err(RamError::PowerCut),
            None => Ok(()),
        }
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        if page >= self.pages.len() {
            return Err(RamError::Range);
        }
        let Some(seed) = self.operate()? else {
            self.pages[page] = None;
            return Ok(());
        };
        let mask = torn(seed).to_be_bytes();
        for (byte, mask) in self.page(page)?.iter_mut().zip(mask.iter().cycle()) {
            *byte |= mask;
        }
        Err(RamError::PowerCut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64;

    #[test]
    fn it_behaves_like_flash() {
        let mut flash = RamFlash::new(PAGE, 2);
        let mut word = [0; 4];
        flash.read(PAGE - 4, &mut word).unwrap();
        assert_eq!(word, [0xFF; 4], "new flash is blank");
        flash
            .write(PAGE - 4, &[0xF0, 0x0F, 0xFF, 0x00, 1, 2, 3, 4])
            .unwrap();
        flash.write(PAGE - 4, &[0xFF, 0xFF, 0x81, 0x55]).unwrap();
        let mut both = [0; 8];
        flash.read(PAGE - 4, &mut both).unwrap();
        assert_eq!(both, [0xF0, 0x0F, 0x81, 0x00, 1, 2, 3, 4], "bits only fall");
        flash.erase(0).unwrap();
        flash.read(PAGE - 4, &mut both).unwrap();
        assert_eq!(both, [0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4]);
    }

    #[test]
    fn nothing_outside_it_and_no_half_words() {
        let mut flash = RamFlash::new(PAGE, 2);
        for address in [2 * PAGE - 3, 2 * PAGE, usize::MAX - 1] {
            assert_eq!(flash.read(address, &mut [0; 4]), Err(RamError::Range));
            assert_eq!(flash.write(address & !3, &[0; 8]), Err(RamError::Range));
        }
        assert_eq!(flash.write(2, &[0; 4]), Err(RamError::Range));
        assert_eq!(flash.write(0, &[0; 3]), Err(RamError::Range));
        assert_eq!(flash.erase(2), Err(RamError::Range));
    }

    #[test]
    fn a_cut_stops_it_where_the_seed_says_and_tears_a_word() {
        let mut torn = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let mut flash = RamFlash::new(PAGE, 1);
            flash.cut_after(1, seed);
            flash.write(0, &[0xF0; 4]).unwrap();
            assert_eq!(flash.write(4, &[0; 8]), Err(RamError::PowerCut));
            assert!(flash.is_off());
            assert_eq!(flash.read(0, &mut [0; 4]), Err(RamError::PowerCut));
            assert_eq!(flash.write(12, &[0; 4]), Err(RamError::PowerCut));
            assert_eq!(flash.erase(0), Err(RamError::PowerCut));
            flash.power_on();
            let mut left = [0; 16];
            flash.read(0, &mut left).unwrap();
            assert_eq!(left[..4], [0xF0; 4], "what was finished stays");
            assert_eq!(left[12..], [0xFF; 4], "what came after never was");
            torn.insert(left[4..12].to_vec());
            flash.write(12, &[1; 4]).unwrap();
        }
        for word in [[0; 4], [0xFF; 4]] {
            assert!(torn.iter().any(|left| left[..4] == word), "{word:?}");
        }
        assert!(
            torn.iter().any(|left| !matches!(left[0], 0x00 | 0xFF)),
            "{torn:?}"
        );
    }

    #[test]
    fn a_cut_erasure_leaves_a_page_between_what_it_was_and_blank() {
        for seed in 0..8 {
            let mut flash = RamFlash::new(PAGE, 1);
            flash.write(0, &[0x0F; PAGE]).unwrap();
            flash.cut_after(0, seed);
            assert_eq!(flash.erase(0), Err(RamError::PowerCut));
            flash.power_on();
            let mut left = [0; PAGE];
            flash.read(0, &mut left).unwrap();
            assert!(left.iter().all(|byte| byte & 0x0F == 0x0F));
            flash.erase(0).unwrap();
            flash.read(0, &mut left).unwrap();
            assert_eq!(left, [0xFF; PAGE]);
        }
    }
}
