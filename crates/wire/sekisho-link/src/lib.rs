//! Messages between management server, device and design system: package, authorisation, receipt.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
