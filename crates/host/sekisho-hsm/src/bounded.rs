//! Files and streams that others made, read up to a bound: one without an end is refused in place of filling the memory.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result as IoResult};
use std::path::Path;

use zeroize::Zeroizing;

use crate::{HsmError, Result};

/// Most that is made room for before it has been read: a file's length is not believed, and a secret's bytes are not moved while it is read.
const ROOM: u64 = 64 << 10;

/// Reads a stream to its end, `most` bytes at most.
///
/// # Errors
/// [`ErrorKind::FileTooLarge`] when there is more.
pub fn read_from(stream: impl Read, most: u64) -> IoResult<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(most.min(ROOM)).unwrap_or(0) + 1,
    ));
    stream.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let words = format!("it is longer than {most} bytes, and no such file is");
        return Err(Error::new(ErrorKind::FileTooLarge, words));
    }
    Ok(bytes)
}

/// Reads a file, `most` bytes at most.
///
/// # Errors
/// [`HsmError::File`].
pub fn read(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>> {
    File::open(path)
        .and_then(|file| read_from(file, most))
        .map_err(|error| HsmError::File(path.to_owned(), error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused_at_the_bound() {
        assert_eq!(read_from(&b"12345678"[..], 8).unwrap().as_slice(), b"12345678");
        let error = |stream: &mut dyn Read| read_from(stream, 8).unwrap_err().kind();
        assert_eq!(error(&mut &b"123456789"[..]), ErrorKind::FileTooLarge);
        assert_eq!(error(&mut std::io::repeat(0)), ErrorKind::FileTooLarge);
    }
}
