//! ISO 7816-4 secure messaging with fixed and rolling keys, in both roles.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
