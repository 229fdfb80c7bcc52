//! APDU, BER-TLV, status word and AID codecs of a secure element.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
