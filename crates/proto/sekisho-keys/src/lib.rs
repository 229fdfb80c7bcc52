//! Key types that zeroize, key derivation, and the AES/CMAC engine.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
