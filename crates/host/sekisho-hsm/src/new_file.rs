//! New files, in the place of no other.

use std::fs::File;
use std::io::{Error, ErrorKind, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::{HsmError, Result};

/// Refuses a name that a file has, before anything is made for it.
///
/// # Errors
/// [`HsmError::File`] when there is such a file.
pub fn check(path: &Path) -> Result<()> {
    // A link that leads nowhere is a name as well.
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(taken(path));
    }
    Ok(())
}

/// Writes a file that only its owner may read, whole or not at all. One that is there stays, and so does whatever stands beside it.
///
/// # Errors
/// [`HsmError::File`], also when there is such a file already.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    check(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let write = || {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(Error::from)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            taken(path)
        } else {
            HsmError::File(path.to_owned(), error)
        }
    })
}

fn taken(path: &Path) -> HsmError {
    let words = "there is such a file already; it is not replaced";
    HsmError::File(path.to_owned(), Error::new(ErrorKind::AlreadyExists, words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn of_writers_at_once_one_has_the_name() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..100 {
            let path = folder.path().join(format!("{round}"));
            let start = std::sync::Barrier::new(8);
            let won: Vec<u8> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..8)
                    .map(|writer| {
                        let (path, start) = (&path, &start);
                        scope.spawn(move || {
                            start.wait();
                            write(path, &[writer]).is_ok().then_some(writer)
                        })
                    })
                    .collect();
                writers
                    .into_iter()
                    .filter_map(|writer| writer.join().unwrap())
                    .collect()
            });
            assert_eq!(won.len(), 1, "round {round}");
            assert_eq!(fs::read(&path).unwrap(), won);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 100);
    }

    #[test]
    fn nothing_that_is_there_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // The name that a first half would have been written under.
        fs::write(path("new.tmp"), "of somebody").unwrap();
        fs::write(path("old"), "old").unwrap();
        symlink(path("nowhere"), path("link")).unwrap();
        write(&path("new.sealed"), b"bytes").unwrap();
        for name in ["old", "link"] {
            let error = write(&path(name), b"bytes").unwrap_err().to_string();
            assert!(
                error.ends_with("there is such a file already; it is not replaced"),
                "{error}"
            );
        }
        assert!(write(&path("missing/new"), b"bytes").is_err());
        let read = |name| fs::read_to_string(path(name)).unwrap();
        assert_eq!(
            ["new.tmp", "old", "new.sealed"].map(read),
            ["of somebody", "old", "bytes"]
        );
        let mode = fs::metadata(path("new.sealed")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
