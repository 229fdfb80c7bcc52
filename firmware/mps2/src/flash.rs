//! The flash: the board's PSRAM, which QEMU keeps in a file, so that what has been written survives the emulator.
//!
//! It behaves like NOR: a write clears bits, an erasure sets a page's. The last page is the option page, which whoever builds or starts the board has written
//! ([`Options`]).
#![allow(unsafe_code)]

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{Ordering::Relaxed, compiler_fence};

use sekisho_nvm::Flash;
use sekisho_os::Profile;

use crate::FIGURES;

const BASE: usize = 0x2100_0000;
const LEN: usize = 16 << 20;
const PAGE: usize = 4096;
const WORD: usize = 4;

/// Outside the flash, or not whole words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutOfRange;

/// The flash; there is one.
#[derive(Debug)]
pub(crate) struct Nor;

impl Nor {
    fn bytes(range: Range<usize>) -> Result<&'static [u8], OutOfRange> {
        let len = range.end.checked_sub(range.start).ok_or(OutOfRange)?;
        if range.end > LEN {
            return Err(OutOfRange);
        }
        // SAFETY: inside the PSRAM, which nothing else uses. It changes in `put` alone, which takes `&mut Nor`: no slice of a `&Nor` is alive then.
        Ok(unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(BASE + range.start), len) })
    }

    fn option(index: usize) -> u32 {
        let at = LEN - PAGE + index * WORD;
        match Self::bytes(at..at + WORD).map(<[u8; WORD]>::try_from) {
            Ok(Ok(word)) => u32::from_le_bytes(word),
            _ => 0,
        }
    }
}

/// Stores a word: the one step that the flash does at once. Never inlined: who takes the power away between two of them looks for its name.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sekisho_flash_word(address: usize, word: u32) {
    if (BASE..BASE + LEN).contains(&address) && address.is_multiple_of(WORD) {
        // SAFETY: an aligned word of the PSRAM; see `bytes` for who reads it.
        unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(address), word) }
    }
}

/// Erases a page; never inlined, as [`sekisho_flash_word`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sekisho_flash_erase(address: usize) {
    for at in (address..address + PAGE).step_by(WORD) {
        if (BASE..BASE + LEN).contains(&at) {
            // SAFETY: as in `sekisho_flash_word`.
            unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(at), u32::MAX) }
        }
    }
}

impl Flash for Nor {
    type Error = OutOfRange;

    fn page_size(&self) -> usize {
        PAGE
    }

    fn pages(&self) -> usize {
        Options::read().map_or(LEN - PAGE, |options| options.flash) / PAGE
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), OutOfRange> {
        let end = address.checked_add(out.len()).ok_or(OutOfRange)?;
        out.copy_from_slice(Self::bytes(address..end)?);
        Ok(())
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        Self::bytes(range).ok()
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let end = address.checked_add(bytes.len()).ok_or(OutOfRange)?;
        let (words, rest) = bytes.as_chunks::<WORD>();
        if !rest.is_empty() || !address.is_multiple_of(WORD) || end > self.pages() * PAGE {
            return Err(OutOfRange);
        }
        for (at, word) in (address..).step_by(WORD).zip(words) {
            let mut old = [0; WORD];
            old.copy_from_slice(Self::bytes(at..at + WORD)?);
            sekisho_flash_word(BASE + at, u32::from_le_bytes(old) & u32::from_le_bytes(*word));
            FIGURES.words.fetch_add(1, Relaxed);
        }
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        Ok(())
    }

    fn erase(&mut self, page: usize) -> Result<(), OutOfRange> {
        if page >= self.pages() {
            return Err(OutOfRange);
        }
        sekisho_flash_erase(BASE + page * PAGE);
        FIGURES.erases.fetch_add(1, Relaxed);
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

/// What the option page says: words, least significant byte first, in this order behind the mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Bytes of the flash.
    flash: usize,
    store: usize,
    slot: usize,
    area: usize,
    area_quota: usize,
    channels: u8,
    stack: usize,
    shallow: usize,
    /// RAM for OS parts, beside the SE's own state.
    part_ram: usize,
}

/// Bytes of stack that the deepest command of this chip takes at most (`budget.toml`). An unoptimised build in a test's process takes three times as many, for which the option page is written.
const STACK: usize = 12 * 1024;

/// "SKO1".
const MARK: u32 = u32::from_le_bytes(*b"SKO1");

impl Options {
    /// None: the page is blank.
    pub(crate) fn read() -> Option<Self> {
        let word = |index| Nor::option(index) as usize;
        (Nor::option(0) == MARK).then(|| Self {
            flash: word(1).min(LEN - PAGE),
            store: word(2),
            slot: word(3),
            area: word(4),
            area_quota: word(5),
            channels: Nor::option(6).to_le_bytes()[0],
            stack: word(7),
            shallow: word(8),
            part_ram: word(9),
        })
    }

    /// The product's profile with these sizes, for an SE whose own state has `state` bytes.
    pub(crate) fn apply(self, profile: &mut Profile, state: usize) {
        profile.store_bytes = self.store;
        profile.slot_bytes = self.slot;
        profile.area_bytes = self.area;
        profile.area_quota = self.area_quota;
        profile.logical_channels = self.channels;
        profile.stack = self.stack.min(STACK);
        profile.shallow = self.shallow.min(STACK);
        profile.ram = self.part_ram.saturating_add(state);
    }
}
