//! A secure element as its reader sees it.

use crate::error::TransportError;

/// A secure element within reach: whole commands out, whole responses back.
pub trait Card {
    /// Sends one C-APDU and waits for its R-APDU, which has at least the two bytes of SW1SW2.
    ///
    /// # Errors
    /// When no response came in time, or the way to the SE is broken. What the SE did is unknown then: [`Card::reset`] before going on.
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError>;

    /// Sends the same C-APDU once more after [`Card::transmit`] brought no answer in time, where the way to the SE allows it. What comes may be the late
    /// answer to the first sending: only for a protocol that tells its answers apart, as secure messaging does.
    ///
    /// # Errors
    /// As of [`Card::transmit`].
    fn transmit_again(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        self.transmit(capdu)
    }

    /// Resets the SE, finding the way to it again if it was lost, and returns the answer to reset.
    ///
    /// # Errors
    /// When the SE is not there, or does not answer.
    fn reset(&mut self) -> Result<Vec<u8>, TransportError>;
}

impl<C: Card + ?Sized> Card for Box<C> {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        (**self).transmit(capdu)
    }

    fn transmit_again(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        (**self).transmit_again(capdu)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        (**self).reset()
    }
}

/// What a reader asks of an SE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A reset: the response is the answer to reset.
    Reset,
    /// A C-APDU: the response is its R-APDU.
    Command(&'a [u8]),
}

/// An SE in the same process, behind a closure.
pub struct InProcessCard<F>(F);

impl<F: FnMut(Request<'_>) -> Result<Vec<u8>, TransportError>> InProcessCard<F> {
    /// Puts a closure in the place of an SE.
    pub const fn new(answer: F) -> Self {
        Self(answer)
    }
}

impl<F: FnMut(Request<'_>) -> Result<Vec<u8>, TransportError>> Card for InProcessCard<F> {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        crate::error::sound_response((self.0)(Request::Command(capdu))?)
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        (self.0)(Request::Reset)
    }
}
