//! Power-loss-safe, wiping, transactional store on flash.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
