//! The virtual secure element: flash in a file, keys from a file, sockets for readers.

pub(crate) mod board;
pub(crate) mod element;
// Tests of the card include it, and give the chip its randomness.
#[allow(dead_code)]
pub(crate) mod emulator;
pub(crate) mod file_flash;
pub(crate) mod kind;
pub(crate) mod line;
pub(crate) mod perso;
pub(crate) mod ram_flash;
pub(crate) mod screen;
pub(crate) mod side;
pub(crate) mod test_card;
pub(crate) mod tls_perso;
