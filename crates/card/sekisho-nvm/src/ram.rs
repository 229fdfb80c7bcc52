//! A flash in RAM that keeps the rules of the crate's page, can be cut at any operation, and tears what it was doing.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::flash::{Flash, WORD};

/// Why the flash in RAM refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamError {
    /// The power has been cut; [`RamFlash::power_on`] makes it work again.
    PowerCut,
    /// Outside the flash, or not whole words.
    Range,
    /// A word was written more often than it may be, or a bit from 0 to 1.
    Rule,
}

/// When the power is to be cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// After so many writes and erasures, inside the next one.
    Operations(u64),
    /// After so many words and erasures, inside the next one.
    Units(u64),
}

/// A flash in RAM. Pages that are blank take no memory.
#[derive(Clone, Debug, Default)]
pub struct RamFlash {
    page_size: usize,
    pages: Vec<Option<Box<[u8]>>>,
    /// Writes of each word since its page was erased; empty when the rules are not watched.
    writes: Vec<Vec<u8>>,
    cut: Option<Cut>,
    is_off: bool,
    seed: u64,
    operations: u64,
    erasures: Vec<u32>,
}

impl RamFlash {
    /// A blank flash that watches the rules.
    pub fn strict(page_size: usize, pages: usize) -> Self {
        let mut flash = Self::new(page_size, pages);
        flash.writes = vec![vec![0; page_size / WORD]; pages];
        flash.erasures = vec![0; pages];
        flash
    }

    /// A blank flash that takes as little memory as it can: for virtual SEs by the thousand.
    pub fn new(page_size: usize, pages: usize) -> Self {
        Self {
            page_size,
            pages: vec![None; pages],
            ..Self::default()
        }
    }

    /// A flash that holds `image` from its first byte on.
    pub fn from_image(page_size: usize, image: &[u8]) -> Self {
        let mut flash = Self::new(page_size, image.len().div_ceil(page_size));
        for (page, bytes) in flash.pages.iter_mut().zip(image.chunks(page_size)) {
            let mut content = vec![0xFF; page_size].into_boxed_slice();
            for (to, from) in content.iter_mut().zip(bytes) {
                *to = *from;
            }
            *page = Some(content);
        }
        flash
    }

    /// All bytes.
    pub fn image(&self) -> Vec<u8> {
        let blank = vec![0xFF; self.page_size].into_boxed_slice();
        self.pages
            .iter()
            .flat_map(|page| page.as_ref().unwrap_or(&blank).iter().copied())
            .collect()
    }

    /// Cuts the power inside the `operation`-th write or erasure from now, counted from 0, at a word and tearing it as `seed` says.
    pub fn cut_after(&mut self, operation: u64, seed: u64) {
        self.cut = Some(Cut::Operations(operation));
        self.seed = seed;
    }

    /// Cuts the power inside the `unit`-th word or erasure from now, counted from 0, tearing it as `seed` says.
    pub fn cut_after_units(&mut self, unit: u64, seed: u64) {
        self.cut = Some(Cut::Units(unit));
        self.seed = seed;
    }

    /// The power is back; no cut is armed.
    pub fn power_on(&mut self) {
        self.is_off = false;
        self.cut = None;
    }

    /// Whether a cut has happened since the last [`RamFlash::power_on`].
    pub const fn is_off(&self) -> bool {
        self.is_off
    }

    /// Writes and erasures so far.
    pub const fn operations(&self) -> u64 {
        self.operations
    }

    /// Erasures of each page so far; empty unless made by [`RamFlash::strict`].
    pub fn erasures(&self) -> &[u32] {
        &self.erasures
    }

    /// Bytes of memory that the pages take.
    pub fn memory(&self) -> usize {
        self.pages.iter().flatten().map(|page| page.len()).sum()
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): good enough to tear words.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Counts an operation of so many units, and says in which of them it is cut.
    fn start(&mut self, units: usize) -> Result<Option<usize>, RamError> {
        if self.is_off {
            return Err(RamError::PowerCut);
        }
        self.operations += 1;
        let units = units as u64;
        let at = match &mut self.cut {
            None => return Ok(None),
            Some(Cut::Operations(0)) => self.random() % units.max(1),
            Some(Cut::Units(left)) if *left < units => *left,
            Some(Cut::Operations(left)) => {
                *left -= 1;
                return Ok(None);
            }
            Some(Cut::Units(left)) => {
                *left -= units;
                return Ok(None);
            }
        };
        self.is_off = true;
        self.cut = None;
        Ok(usize::try_from(at).ok())
    }

    /// Which of the changing bits of a word are changed when it is cut: none, all, or some.
    fn tear(&mut self) -> u32 {
        match self.random() % 4 {
            0 => 0,
            1 => u32::MAX,
            _ => {
                let [a, b, c, d, ..] = self.random().to_be_bytes();
                u32::from_be_bytes([a, b, c, d])
            }
        }
    }

    /// What a cut erasure leaves in a page: what was there, FF that is none, more ones than before, zeros (many a flash writes
    /// them first), or anything. True unless nothing has happened.
    fn tear_page(&mut self, page: usize) -> Result<bool, RamError> {
        let how = self.random() % 5;
        let mut noise = self.noise();
        let size = self.page_size;
        let content = self.pages.get_mut(page).ok_or(RamError::Range)?;
        let bytes = content.get_or_insert_with(|| vec![0xFF; size].into_boxed_slice());
        match how {
            0 => return Ok(false),
            1 => bytes.fill(0xFF),
            2 => bytes.iter_mut().for_each(|byte| *byte |= noise()),
            3 => bytes.fill(0),
            _ => bytes.iter_mut().for_each(|byte| *byte = noise()),
        }
        Ok(true)
    }

    /// Noise that depends on the seed, for whole pages.
    fn noise(&self) -> impl FnMut() -> u8 + use<> {
        let mut state = self.seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        }
    }

    fn write_word(&mut self, address: usize, word: [u8; WORD], tear: Option<u32>) -> Result<(), RamError> {
        let (page, offset) = (address / self.page_size, address % self.page_size);
        let size = self.page_size;
        let content = self.pages.get_mut(page).ok_or(RamError::Range)?;
        let content = content.get_or_insert_with(|| vec![0xFF; size].into_boxed_slice());
        let old = content.get_mut(offset..offset + WORD).ok_or(RamError::Range)?;
        let mut was = [0; WORD];
        was.copy_from_slice(old);
        let (was, wanted) = (u32::from_be_bytes(was), u32::from_be_bytes(word));
        let now = was & (wanted | !tear.unwrap_or(u32::MAX));
        // A cut before the word's first bit is no write.
        let is_written = tear.is_none() || now != was;
        let count = self
            .writes
            .get_mut(page)
            .and_then(|page| page.get_mut(offset / WORD));
        if let Some(count) = count.filter(|_| is_written) {
            *count = count.saturating_add(1);
            if wanted & !was != 0 || *count > 2 || (*count == 2 && wanted != 0) {
                return Err(RamError::Rule);
            }
        }
        old.copy_from_slice(&now.to_be_bytes());
        Ok(())
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
        let end = address.checked_add(out.len()).ok_or(RamError::Range)?;
        if end > self.page_size * self.pages.len() {
            return Err(RamError::Range);
        }
        let mut at = address;
        let mut rest = out;
        while !rest.is_empty() {
            let (page, offset) = (at / self.page_size, at % self.page_size);
            let (part, tail) = rest.split_at_mut(rest.len().min(self.page_size - offset));
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(content) => {
                    part.copy_from_slice(content.get(offset..offset + part.len()).ok_or(RamError::Range)?)
                }
                None => part.fill(0xFF),
            }
            at += part.len();
            rest = tail;
        }
        Ok(())
    }

    /// Inside a page that has been written: its pages are apart in memory, so that blank ones take none.
    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        if self.is_off {
            return None;
        }
        let page = self.pages.get(range.start / self.page_size)?.as_deref()?;
        let offset = range.start % self.page_size;
        page.get(offset..offset.checked_add(range.len())?)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), RamError> {
        let (words, rest) = bytes.as_chunks::<WORD>();
        let end = address.checked_add(bytes.len()).ok_or(RamError::Range)?;
        if !rest.is_empty() || !address.is_multiple_of(WORD) || end > self.page_size * self.pages.len() {
            return Err(RamError::Range);
        }
        let cut = self.start(words.len())?;
        for (index, word) in words.iter().enumerate() {
            let tear = (cut == Some(index)).then(|| self.tear());
            self.write_word(address + index * WORD, *word, tear)?;
            if tear.is_some() {
                break;
            }
        }
        if cut.is_some() {
            Err(RamError::PowerCut)
        } else {
            Ok(())
        }
    }

    fn erase(&mut self, page: usize) -> Result<(), RamError> {
        let is_cut = self.start(1)?.is_some();
        let is_changed = if is_cut {
            self.tear_page(page)?
        } else {
            *self.pages.get_mut(page).ok_or(RamError::Range)? = None;
            true
        };
        if let Some(count) = self.erasures.get_mut(page) {
            *count += 1;
        }
        if let Some(writes) = self.writes.get_mut(page).filter(|_| is_changed) {
            // Half erased words have been neither written nor left alone; only erasing them again is right.
            writes.fill(if is_cut { 2 } else { 0 });
        }
        if is_cut { Err(RamError::PowerCut) } else { Ok(()) }
    }
}
