//! Flash in a file.
//!
//! A page with a mark, by which no other file is taken for a flash, then the flash: the complement of each byte, so that blank flash is zero and a new
//! card's file a hole that takes no room on disk.
//!
//! What has been written is with the kernel when the call returns: it survives a kill -9 of the process at any moment, though not
//! a failure of the machine's own power.

use core::ops::Range;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sekisho_nvm::Flash;
use zeroize::Zeroizing;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// What the file begins with; the rest of its first page is zero.
const MARK: &[u8; 16] = b"sekisho flash 1\n";

/// Bytes of a word (see [`Flash`]).
const WORD: usize = 4;

/// A flash whose content is in a file, locked against a second process. Reads come from memory.
#[derive(Debug)]
pub(crate) struct FileFlash {
    file: File,
    content: Vec<u8>,
}

impl FileFlash {
    /// Opens the flash, or makes one of `new_len` bytes if there is no such file. `new_len` of an existing file must be its length.
    pub(crate) fn open(path: &Path, new_len: Option<usize>, default_len: usize) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the flash {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{} is in use by another card; give this one its own --flash",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the flash"),
        }
        let file_len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let is_marked = has_mark(&file)?;
        // A file that is empty, or has its mark alone, is what a kill in these lines leaves.
        let len = match file_len.checked_sub(PAGE) {
            None if file_len == 0 || (is_marked && file_len == MARK.len()) => {
                let len = new_len.unwrap_or(default_len);
                file.write_all_at(MARK, 0).context("cannot make the flash")?;
                file.set_len((PAGE + len) as u64)
                    .context("cannot make the flash")?;
                len
            }
            Some(len) if is_marked && len.is_multiple_of(PAGE) && (1..=LARGEST).contains(&len) => len,
            _ => bail!(
                "{} is no flash of a card; it is left alone. Name another file with --flash",
                path.display()
            ),
        };
        if new_len.is_some_and(|wanted| wanted != len) {
            bail!(
                "{} was made with {} KiB; leave --nvm away, or start a new card with another --flash",
                path.display(),
                len / 1024
            );
        }
        let mut content = vec![0; len];
        file.read_exact_at(&mut content, PAGE as u64)
            .with_context(|| format!("cannot read {}", path.display()))?;
        content.iter_mut().for_each(|byte| *byte = !*byte);
        Ok(Self { file, content })
    }

    /// Bytes of the flash.
    pub(crate) const fn len(&self) -> usize {
        self.content.len()
    }
}

fn has_mark(file: &File) -> Result<bool> {
    let mut mark = [0; MARK.len()];
    match file.read_exact_at(&mut mark, 0) {
        Ok(()) => Ok(mark == *MARK),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error).context("cannot read the flash"),
    }
}

/// No flash is larger.
pub(crate) const LARGEST: usize = 64 << 20;

fn range_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "outside the flash, or not whole words",
    )
}

impl Flash for FileFlash {
    type Error = io::Error;

    fn page_size(&self) -> usize {
        PAGE
    }

    fn pages(&self) -> usize {
        self.content.len() / PAGE
    }

    fn read(&self, address: usize, out: &mut [u8]) -> io::Result<()> {
        let end = address.checked_add(out.len()).ok_or_else(range_error)?;
        out.copy_from_slice(self.content.get(address..end).ok_or_else(range_error)?);
        Ok(())
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        self.content.get(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> io::Result<()> {
        if !address.is_multiple_of(WORD) || !bytes.len().is_multiple_of(WORD) {
            return Err(range_error());
        }
        let end = address.checked_add(bytes.len()).ok_or_else(range_error)?;
        let content = self.content.get_mut(address..end).ok_or_else(range_error)?;
        // Like any flash: a written zero stays one until the page is erased.
        let new: Zeroizing<Vec<u8>> = content
            .iter()
            .zip(bytes)
            .map(|(old, new)| old & new)
            .collect::<Vec<_>>()
            .into();
        let complement: Zeroizing<Vec<u8>> = new.iter().map(|byte| !byte).collect::<Vec<_>>().into();
        self.file.write_all_at(&complement, (PAGE + address) as u64)?;
        content.copy_from_slice(&new);
        Ok(())
    }

    fn erase(&mut self, page: usize) -> io::Result<()> {
        let address = page.checked_mul(PAGE).ok_or_else(range_error)?;
        let content = self
            .content
            .get_mut(address..address + PAGE)
            .ok_or_else(range_error)?;
        self.file.write_all_at(&[0; PAGE], (PAGE + address) as u64)?;
        content.fill(0xFF);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("sekisho-flash-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn it_behaves_like_flash_and_keeps_what_it_was_told() {
        let path = scratch("keeps");
        let mut flash = FileFlash::open(&path, None, 2 * PAGE).unwrap();
        let mut word = [0; 4];
        flash.read(PAGE, &mut word).unwrap();
        assert_eq!(word, [0xFF; 4], "new flash is blank");
        flash.write(PAGE, &[0xF0, 0x0F, 0xFF, 0x00]).unwrap();
        flash.write(PAGE, &[0xFF, 0xFF, 0x81, 0x55]).unwrap();
        flash.write(0, &[1, 2, 3, 4]).unwrap();
        flash.erase(0).unwrap();
        drop(flash);
        let flash = FileFlash::open(&path, None, 9 * PAGE).unwrap();
        assert_eq!(flash.pages(), 2, "the file says how long it is");
        flash.read(PAGE, &mut word).unwrap();
        assert_eq!(word, [0xF0, 0x0F, 0x81, 0x00], "bits only fall");
        assert_eq!(flash.mapped(PAGE..PAGE + 4), Some(&word[..]));
        assert_eq!(flash.mapped(2 * PAGE - 1..2 * PAGE + 1), None);
        flash.read(0, &mut word).unwrap();
        assert_eq!(word, [0xFF; 4]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nothing_outside_it_and_no_half_words() {
        let path = scratch("range");
        let mut flash = FileFlash::open(&path, Some(2 * PAGE), 0).unwrap();
        for address in [2 * PAGE - 3, 2 * PAGE, usize::MAX - 1] {
            assert!(flash.read(address, &mut [0; 4]).is_err());
            assert!(flash.write(address & !3, &[0; 8]).is_err());
        }
        assert!(flash.write(2, &[0; 4]).is_err());
        assert!(flash.write(0, &[0; 3]).is_err());
        assert!(flash.erase(2).is_err());
        assert!(flash.erase(usize::MAX).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_second_card_and_a_wrong_size_are_refused() {
        let path = scratch("lock");
        let first = FileFlash::open(&path, Some(PAGE), 0).unwrap();
        let error = FileFlash::open(&path, None, PAGE).unwrap_err().to_string();
        assert!(error.contains("another card"), "{error}");
        drop(first);
        assert!(
            FileFlash::open(&path, Some(2 * PAGE), 0)
                .unwrap_err()
                .to_string()
                .contains("--nvm")
        );
        for other in [
            vec![0; 100],
            vec![0; 3 * PAGE],
            vec![0x5A; 2 * PAGE],
            [&MARK[..], &[0; 100]].concat(),
        ] {
            std::fs::write(&path, &other).unwrap();
            let error = FileFlash::open(&path, None, PAGE).unwrap_err().to_string();
            assert!(error.contains("left alone"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), other);
        }
        for unfinished in [&[][..], MARK] {
            std::fs::write(&path, unfinished).unwrap();
            assert_eq!(FileFlash::open(&path, None, PAGE).unwrap().pages(), 1);
        }
        std::fs::remove_file(&path).unwrap();
    }
}
