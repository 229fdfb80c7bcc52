//! The card manager and the native applets.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
