//! Errors. None of them says anything about a secret but that it was wrong.

use core::fmt;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident: $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($text)
            }
        }

        impl core::error::Error for $name {}
    )*};
}

errors! {
    /// An AES key has 16, 24 or 32 bytes.
    KeyLengthError: "an AES key has 16, 24 or 32 bytes";
    /// A buffer has not the length that the operation asks for.
    LengthError: "buffer length does not fit the operation";
    /// The bytes do not end with padding 80 00..00 of at most one block.
    PaddingError: "malformed padding";
    /// A wrapped key has a wrong length, or its integrity check failed.
    UnwrapError: "the wrapped key does not unwrap";
}
