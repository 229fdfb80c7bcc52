//! A flash that is read from its beginning to its end, in larger pieces than are asked for: what opening the store does.

use core::cell::RefCell;
use core::ops::Range;

use zeroize::Zeroizing;

use crate::flash::Flash;

/// Bytes read at once.
const WINDOW: usize = 512;

/// The bytes of the flash that are known, from `at` on.
struct Window {
    bytes: Zeroizing<[u8; WINDOW]>,
    at: usize,
    len: usize,
}

impl Window {
    fn get(&self, address: usize, len: usize) -> Option<&[u8]> {
        let offset = address.checked_sub(self.at)?;
        self.bytes.get(..self.len)?.get(offset..offset.checked_add(len)?)
    }
}

/// Reads ahead. What stands before the piece that is known is read by itself, so that a look back does not cost the piece.
pub(crate) struct Ahead<'f, F: Flash> {
    flash: &'f mut F,
    window: RefCell<Window>,
}

impl<'f, F: Flash> Ahead<'f, F> {
    pub(crate) fn new(flash: &'f mut F) -> Self {
        Self {
            flash,
            window: RefCell::new(Window {
                bytes: Zeroizing::new([0; WINDOW]),
                at: 0,
                len: 0,
            }),
        }
    }

    /// Begins anew, from wherever is read next.
    pub(crate) fn rewind(&self) {
        if let Ok(mut window) = self.window.try_borrow_mut() {
            (window.at, window.len) = (0, 0);
        }
    }
}

impl<F: Flash> Flash for Ahead<'_, F> {
    type Error = F::Error;

    fn page_size(&self) -> usize {
        self.flash.page_size()
    }

    fn pages(&self) -> usize {
        self.flash.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), F::Error> {
        let Ok(mut window) = self.window.try_borrow_mut() else {
            return self.flash.read(address, out);
        };
        if window.get(address, out.len()).is_none() {
            let end = self.flash.page_size().saturating_mul(self.flash.pages());
            let len = WINDOW.min(end.saturating_sub(address));
            if out.len() > len || address < window.at {
                return self.flash.read(address, out);
            }
            window.len = 0;
            self.flash
                .read(address, window.bytes.get_mut(..len).unwrap_or_default())?;
            (window.at, window.len) = (address, len);
        }
        out.copy_from_slice(window.get(address, out.len()).unwrap_or_default());
        Ok(())
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        self.flash.mapped(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), F::Error> {
        self.rewind();
        self.flash.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), F::Error> {
        self.rewind();
        self.flash.erase(page)
    }
}
