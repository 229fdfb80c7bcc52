//! The secure element's operating system.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
