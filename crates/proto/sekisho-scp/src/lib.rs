//! GlobalPlatform SCP03 in both roles, and broadcast mode.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
