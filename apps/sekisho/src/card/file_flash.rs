//! Flash in a file.
//!
//! A page with a mark, by which no other file is taken for a flash, and with what the card was made as, then the flash: the complement of each byte, so that blank flash is zero.
//! The file of a new card is written from end to end before the card is made: it has its room on disk from then on.
//!
//! What has been written is with the kernel when the call returns: it survives a kill -9 of the process at any moment, though not
//! a failure of the machine's own power. What cannot be written is said once on standard error, and so is that it can again.

use core::ops::Range;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sekisho_nvm::Flash;
use zeroize::Zeroizing;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// What the file begins with; the rest of its first page is zero.
const MARK: &[u8; 16] = b"sekisho flash 1\n";

/// Where behind the mark it stands what the card was made as, zero in files of before there were products.
const KIND_AT: u64 = MARK.len() as u64;

/// Bytes that say what a card was made as.
pub(crate) const KIND_LEN: usize = 3;

/// Bytes of a word (see [`Flash`]).
const WORD: usize = 4;

/// Bytes written in one piece when a flash is made.
const PIECE: usize = 64 << 10;

/// A flash whose content is in a file, locked against a second process. Reads come from memory.
#[derive(Debug)]
pub(crate) struct FileFlash {
    file: File,
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
    kind: [u8; KIND_LEN],
    /// The last write failed, and that has been said.
    is_failing: bool,
}

impl FileFlash {
    /// Opens the flash, or makes one of `new_len` bytes if there is no such file. `new_len` of an existing file must be its length. One that cannot
    /// be made leaves no file. A blank flash is of `new_kind`.
    pub(crate) fn open(
        path: &Path,
        new_len: Option<usize>,
        default_len: usize,
        new_kind: [u8; KIND_LEN],
    ) -> Result<Self> {
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
        // A file that is empty, or has its mark alone, is what a kill in `make` leaves.
        let len = match file_len.checked_sub(PAGE) {
            None if file_len == 0 || (is_marked && file_len == MARK.len()) => new_len.unwrap_or(default_len),
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
        let content = match file_len.checked_sub(PAGE) {
            Some(len) => {
                read_content(&file, len).with_context(|| format!("cannot read {}", path.display()))?
            }
            None => vec![0xFF; len].into(),
        };
        // So is a blank flash: a kill may have come before all of it had its room.
        let is_blank = content.iter().all(|byte| *byte == 0xFF);
        if is_blank && let Err(error) = make(&file, len, new_kind) {
            remove(&file, path);
            return Err(error).with_context(|| {
                format!(
                    "cannot make the flash {} of {} KiB; no file was left",
                    path.display(),
                    len / 1024
                )
            });
        }
        let mut kind = [0; KIND_LEN];
        file.read_exact_at(&mut kind, KIND_AT)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            content,
            kind,
            is_failing: false,
        })
    }

    /// The same flash, as the file has it now: what a write that failed has left there, nobody knows. The lock is the same one.
    pub(crate) fn opened_anew(&self) -> io::Result<Self> {
        let file = self.file.try_clone()?;
        let content = read_content(&file, self.len())?;
        Ok(Self {
            file,
            path: self.path.clone(),
            content,
            kind: self.kind,
            is_failing: self.is_failing,
        })
    }

    /// What the card was made as.
    pub(crate) const fn kind(&self) -> [u8; KIND_LEN] {
        self.kind
    }

    /// Bytes of the flash.
    pub(crate) fn len(&self) -> usize {
        self.content.len()
    }

    /// Writes to the file; says once that it cannot be, and once that it can again.
    fn put(&mut self, address: usize, complement: &[u8]) -> io::Result<()> {
        let result = self.file.write_all_at(complement, (PAGE + address) as u64);
        if result.is_err() != self.is_failing {
            self.is_failing = result.is_err();
            let path = self.path.display();
            // A card does not end because nobody reads what it says.
            let _ = match &result {
                Err(error) => writeln!(
                    io::stderr(),
                    "flash: {path} cannot be written: {error}. The card answers 6581 until a reader resets it, and goes on from there when the file can be written"
                ),
                Ok(()) => writeln!(io::stderr(), "flash: {path} can be written again"),
            };
        }
        result
    }
}

/// What the card in a file was made as; `None` where there is no such file, or it is no flash.
pub(crate) fn kind_of(path: &Path) -> Option<[u8; KIND_LEN]> {
    let file = File::open(path)
        .ok()
        .filter(|file| has_mark(file).unwrap_or(false))?;
    let mut kind = [0; KIND_LEN];
    file.read_exact_at(&mut kind, KIND_AT).ok().map(|()| kind)
}

/// The flash that a file holds.
fn read_content(file: &File, len: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content: Zeroizing<Vec<u8>> = vec![0; len].into();
    file.read_exact_at(&mut content, PAGE as u64)?;
    content.iter_mut().for_each(|byte| *byte = !*byte);
    Ok(content)
}

/// Makes the file of a blank flash, with all the room that it will ever need. The mark comes first: without it no file is touched again.
fn make(file: &File, len: usize, kind: [u8; KIND_LEN]) -> io::Result<()> {
    file.write_all_at(MARK, 0)?;
    file.set_len((PAGE + len) as u64)?;
    let zeros = vec![0; PIECE];
    let end = PAGE + len;
    let mut at = MARK.len();
    while at < end {
        let piece = zeros.get(..PIECE.min(end - at)).unwrap_or_default();
        file.write_all_at(piece, at as u64)?;
        at += piece.len();
    }
    file.write_all_at(&kind, KIND_AT)
}

/// Removes a file that holds nothing; a device is none.
fn remove(file: &File, path: &Path) {
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let _ = fs::canonicalize(path).and_then(fs::remove_file);
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
        let content = self.content.get(address..end).ok_or_else(range_error)?;
        // Like any flash: a written zero stays one until the page is erased.
        let new: Zeroizing<Vec<u8>> = content
            .iter()
            .zip(bytes)
            .map(|(old, new)| old & new)
            .collect::<Vec<_>>()
            .into();
        let complement: Zeroizing<Vec<u8>> = new.iter().map(|byte| !byte).collect::<Vec<_>>().into();
        self.put(address, &complement)?;
        if let Some(content) = self.content.get_mut(address..end) {
            content.copy_from_slice(&new);
        }
        Ok(())
    }

    fn erase(&mut self, page: usize) -> io::Result<()> {
        let address = page.checked_mul(PAGE).ok_or_else(range_error)?;
        let range = address..address.checked_add(PAGE).ok_or_else(range_error)?;
        self.content.get(range.clone()).ok_or_else(range_error)?;
        self.put(address, &[0; PAGE])?;
        self.content.get_mut(range).unwrap_or_default().fill(0xFF);
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
        let mut flash = FileFlash::open(&path, None, 2 * PAGE, [0; KIND_LEN]).unwrap();
        let mut word = [0; 4];
        flash.read(PAGE, &mut word).unwrap();
        assert_eq!(word, [0xFF; 4], "new flash is blank");
        flash.write(PAGE, &[0xF0, 0x0F, 0xFF, 0x00]).unwrap();
        flash.write(PAGE, &[0xFF, 0xFF, 0x81, 0x55]).unwrap();
        flash.write(0, &[1, 2, 3, 4]).unwrap();
        flash.erase(0).unwrap();
        drop(flash);
        let flash = FileFlash::open(&path, None, 9 * PAGE, [0; KIND_LEN]).unwrap();
        assert_eq!(flash.pages(), 2, "the file says how long it is");
        flash.read(PAGE, &mut word).unwrap();
        assert_eq!(word, [0xF0, 0x0F, 0x81, 0x00], "bits only fall");
        assert_eq!(flash.mapped(PAGE..PAGE + 4), Some(&word[..]));
        assert_eq!(flash.mapped(2 * PAGE - 1..2 * PAGE + 1), None);
        flash.read(0, &mut word).unwrap();
        assert_eq!(word, [0xFF; 4]);
        std::fs::remove_file(&path).unwrap();
    }

    /// A card is what it was made as, whatever is asked for later; a flash that is still blank is what is asked for last.
    #[test]
    fn what_a_card_was_made_as_stays() {
        let path = scratch("kind");
        let kind = |asked| FileFlash::open(&path, None, 2 * PAGE, asked).unwrap().kind();
        assert_eq!(kind([1, 2, 0]), [1, 2, 0]);
        assert_eq!(kind([5, 0x81, 9]), [5, 0x81, 9]);
        let mut flash = FileFlash::open(&path, None, 0, [3, 2, 0]).unwrap();
        flash.write(0, &[1, 2, 3, 4]).unwrap();
        assert_eq!(flash.opened_anew().unwrap().kind(), [3, 2, 0]);
        drop(flash);
        assert_eq!(kind([0, 0, 0]), [3, 2, 0]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nothing_outside_it_and_no_half_words() {
        let path = scratch("range");
        let mut flash = FileFlash::open(&path, Some(2 * PAGE), 0, [0; KIND_LEN]).unwrap();
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

    /// From its making on, so that no later write is refused for want of room; after a kill in the making too.
    #[test]
    fn a_new_flash_has_all_its_room_on_disk() {
        let path = scratch("room");
        let room = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512;
        let whole = (301 * PAGE) as u64;
        drop(FileFlash::open(&path, None, 300 * PAGE, [0; KIND_LEN]).unwrap());
        assert!(room(&path) >= whole, "{}", room(&path));
        for unfinished in [0, MARK.len(), 301 * PAGE] {
            fs::write(&path, &MARK[..unfinished.min(MARK.len())]).unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(unfinished as u64)
                .unwrap();
            assert!(room(&path) < whole);
            let flash = FileFlash::open(&path, None, 300 * PAGE, [0; KIND_LEN]).unwrap();
            assert_eq!((flash.pages(), room(&path) >= whole), (300, true), "{unfinished}");
        }
        fs::remove_file(&path).unwrap();
    }

    /// A write that fails may have written anything: what is opened anew has what the file has.
    #[test]
    fn what_is_opened_anew_is_what_stands_in_the_file() {
        let path = scratch("anew");
        let mut flash = FileFlash::open(&path, None, 2 * PAGE, [0; KIND_LEN]).unwrap();
        flash.write(0, &[1, 2, 3, 4]).unwrap();
        flash.file.write_all_at(&[!5], (PAGE + PAGE) as u64).unwrap();
        let mut anew = flash.opened_anew().unwrap();
        let mut word = [0; 4];
        anew.read(PAGE, &mut word).unwrap();
        assert_eq!(word, [5, 0xFF, 0xFF, 0xFF]);
        anew.read(0, &mut word).unwrap();
        assert_eq!(word, [1, 2, 3, 4]);
        drop(flash);
        assert!(
            FileFlash::open(&path, None, PAGE, [0; KIND_LEN]).is_err(),
            "the lock is held"
        );
        anew.write(0, &[0; 4]).unwrap();
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_second_card_and_a_wrong_size_are_refused() {
        let path = scratch("lock");
        let first = FileFlash::open(&path, Some(PAGE), 0, [0; KIND_LEN]).unwrap();
        let error = FileFlash::open(&path, None, PAGE, [0; KIND_LEN])
            .unwrap_err()
            .to_string();
        assert!(error.contains("another card"), "{error}");
        drop(first);
        assert!(
            FileFlash::open(&path, Some(2 * PAGE), 0, [0; KIND_LEN])
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
            let error = FileFlash::open(&path, None, PAGE, [0; KIND_LEN])
                .unwrap_err()
                .to_string();
            assert!(error.contains("left alone"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), other);
        }
        for unfinished in [&[][..], MARK] {
            std::fs::write(&path, unfinished).unwrap();
            assert_eq!(
                FileFlash::open(&path, None, PAGE, [0; KIND_LEN]).unwrap().pages(),
                1
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
}
