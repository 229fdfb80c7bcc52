//! Sekisho: a secure-element platform in one binary.

fn main() {}
