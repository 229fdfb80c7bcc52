//! The flash without its type: what all of the operating system but [`SecureElement`](crate::SecureElement) itself knows of it.

use core::ops::Range;

use sekisho_nvm::Flash;

/// The flash failed, or was asked for what is outside it. Why is its own affair: whatever it says is answered with 6581.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlashFault;

/// [`Flash`] as an object; every flash is one.
trait FlashObject {
    fn page_size(&self) -> usize;
    fn pages(&self) -> usize;
    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), FlashFault>;
    fn mapped(&self, range: Range<usize>) -> Option<&[u8]>;
    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), FlashFault>;
    fn erase(&mut self, page: usize) -> Result<(), FlashFault>;
}

impl<F: Flash> FlashObject for F {
    fn page_size(&self) -> usize {
        Flash::page_size(self)
    }

    fn pages(&self) -> usize {
        Flash::pages(self)
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), FlashFault> {
        Flash::read(self, address, out).map_err(|_| FlashFault)
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        Flash::mapped(self, range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), FlashFault> {
        Flash::write(self, address, bytes).map_err(|_| FlashFault)
    }

    fn erase(&mut self, page: usize) -> Result<(), FlashFault> {
        Flash::erase(self, page).map_err(|_| FlashFault)
    }
}

/// A flash, whichever it is. It is a [`Flash`] itself, so that the store's code is there once for all of them.
pub struct AnyFlash<'a>(&'a mut dyn FlashObject);

impl<'a> AnyFlash<'a> {
    /// A flash without its type.
    pub fn new(flash: &'a mut impl Flash) -> Self {
        Self(flash)
    }

    /// The same flash for a shorter time.
    pub const fn reborrow(&mut self) -> AnyFlash<'_> {
        AnyFlash(self.0)
    }
}

impl Flash for AnyFlash<'_> {
    type Error = FlashFault;

    fn page_size(&self) -> usize {
        self.0.page_size()
    }

    fn pages(&self) -> usize {
        self.0.pages()
    }

    fn read(&self, address: usize, out: &mut [u8]) -> Result<(), FlashFault> {
        self.0.read(address, out)
    }

    fn mapped(&self, range: Range<usize>) -> Option<&[u8]> {
        self.0.mapped(range)
    }

    fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), FlashFault> {
        self.0.write(address, bytes)
    }

    fn erase(&mut self, page: usize) -> Result<(), FlashFault> {
        self.0.erase(page)
    }
}
