//! Paging datagrams and both state machines.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
