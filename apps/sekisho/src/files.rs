//! How many files may be open, and who may read them.
//!
//! What the binary writes is for its owner alone, whatever writes it, SQLite and its side files included: the process begins with the umask 077. What is for
//! everybody is published, by name. Files of an earlier version, or of a careless copy, are closed when they are used.

use anyhow::{Context, Result, anyhow};
use nix::sys::stat::{Mode, umask};
use sekisho_hsm::{bounded, new_file};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than any run needs; some machines allow a thousand million, and programs that look at each of them.
const ENOUGH: u64 = 1 << 20;

/// Raises the soft limit to the hard one, as every process may. That it cannot be raised is no reason to end: most runs need far fewer.
pub(crate) fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(ENOUGH)), hard);
    }
}

/// Beyond the size that a file may have (`ulimit -f`), a write fails from now on, and is told like a full disk; it ended the process before.
pub(crate) fn outlive_file_limit() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // The handler stays when the stream of signals, which nobody reads, is dropped.
    signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32)).map(drop)
}

/// Takes a folder, which is made if need be, for this process alone, as long as what it gives is kept: two servers of whichever kind would each hand out
/// what the other counts. What is in the folder is not touched.
///
/// # Errors
/// Another process has it.
pub(crate) fn alone_in(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("server.lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(anyhow!("another server runs in {}", folder.display())),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Says when a server has no files left, and when it has some again: whoever connects meanwhile only sees that nobody answers.
#[allow(clippy::print_stderr)]
pub(crate) async fn say_when_they_run_out() {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    let mut is_told = false;
    loop {
        ticks.tick().await;
        let ran_out = sekisho_store::files_ran_out();
        if ran_out != is_told {
            let what = if ran_out {
                "too many open files (ulimit -n): who connects now has to wait"
            } else {
                "there is room for connections again"
            };
            eprintln!("files          {what}");
            is_told = ran_out;
        }
    }
}

/// The umask that the process was started with.
static UMASK: OnceLock<u32> = OnceLock::new();

/// From here on new files and folders are for their owner alone.
pub(crate) fn keep_private() {
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    UMASK.get_or_init(|| before.bits());
}

/// Lets everybody read a file, or enter a folder, as far as the user's own umask does.
pub(crate) fn publish(path: &Path) -> Result<()> {
    let set = || {
        let most = if fs::metadata(path)?.is_dir() {
            0o755
        } else {
            0o644
        };
        fs::set_permissions(
            path,
            Permissions::from_mode(most & !UMASK.get().copied().unwrap_or(0)),
        )
    };
    set().with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// Writes a file that everybody may read; one that was there is whole until the new one is.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        written_beside(path, bytes)?
            .persist(path)
            .map_err(io::Error::from)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    publish(path)
}

/// Writes a new file that everybody may read. One that is there stays.
pub(crate) fn publish_new(path: &Path, bytes: &[u8]) -> Result<()> {
    new_file::write(path, bytes)?;
    publish(path)
}

/// Longest passphrase, token or key in a file.
const SECRET_MAX: u64 = 64 << 10;
/// Longest of all other files that a user gives: packages and modules, scripts, configurations, certificates.
const GIVEN_MAX: u64 = 16 << 20;

/// Reads a file that the user gives.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    File::open(path)
        .and_then(|file| bounded::read_from(file, GIVEN_MAX))
        .map(|mut bytes| std::mem::take(&mut *bytes))
        .with_context(|| format!("cannot read {}", path.display()))
}

/// Reads the text of a file that the user gives.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| holds_no_text(path))
}

/// Reads text from standard input.
pub(crate) fn read_stdin() -> Result<String> {
    let text = bounded::read_from(io::stdin(), GIVEN_MAX).and_then(|bytes| text_of(&bytes));
    text.map(|text| text.to_string())
        .context("cannot read standard input")
}

fn text_of(bytes: &[u8]) -> io::Result<Zeroizing<String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn holds_no_text(path: &Path) -> anyhow::Error {
    anyhow!("{} holds no text", path.display())
}

/// Reads the text of a file that its user keeps a secret in: a passphrase, a token, a key. It is not closed to others, since it may be a container's
/// secret or a pipe; where others can read it, that is said.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>> {
    text_of(&read_secret_bytes(path)?).map_err(|_| holds_no_text(path))
}

/// The same of a file whose bytes are no text.
pub(crate) fn read_secret_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let read = || {
        let file = File::open(path)?;
        warn_of_readers(path, &file.metadata()?);
        bounded::read_from(file, SECRET_MAX)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// Says that others can read a file with a secret in it, and what to do.
#[allow(clippy::print_stderr)]
pub(crate) fn warn_of_readers(path: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        eprintln!(
            "warning: {} holds a secret and is open to others (mode {mode:04o}): chmod 600 {}",
            path.display(),
            shell_word(path)
        );
    }
}

/// A path as one word of a shell's command line (POSIX, Shell Command Language 2.2.2), and no option.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    let dashed = if text.starts_with('-') { "./" } else { "" };
    if !text.is_empty() && text.chars().all(is_plain) {
        return format!("{dashed}{text}");
    }
    format!("'{dashed}{}'", text.replace('\'', "'\\''"))
}

/// A file with these bytes in the folder of `path`, which goes unless it is given that name.
fn written_beside(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// A folder of secrets: made if need be; the files that are in it, and in folders of its own, are closed to others, but for the public ones.
pub(crate) fn private_folder(path: &Path, public: &[&str]) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    for entry in fs::read_dir(path).with_context(|| format!("cannot look into {}", path.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            private_folder(&entry.path(), &[])?;
        } else if kind.is_file() && !public.iter().any(|name| entry.file_name() == *name) {
            close(&entry.path());
        }
    }
    Ok(())
}

/// Closes a file to others that has been found to be what it should be: whatever else is there is left as it is.
pub(crate) fn close_known(path: &Path) {
    close_ends(path, &[""]);
}

/// Closes a file to others, with the side files that SQLite keeps beside a database. One that is not there needs nothing.
pub(crate) fn close(path: &Path) {
    close_ends(path, &["", "-wal", "-shm"]);
}

#[allow(clippy::print_stderr)]
fn close_ends(path: &Path, ends: &[&str]) {
    for end in ends {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let path = PathBuf::from(name);
        let mode = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata.permissions().mode(),
            _ => continue,
        };
        if mode & 0o077 == 0 {
            continue;
        }
        match fs::set_permissions(&path, Permissions::from_mode(mode & 0o700)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                eprintln!(
                    "warning: others may read {}, and that cannot be changed: {error}",
                    path.display()
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_closed_is_for_its_owner_and_what_is_published_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["database", "database-wal", "other"] {
            fs::write(path(name), b"").unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(0o644)).unwrap();
        }
        close(&path("database"));
        close(&path("missing"));
        assert_eq!(
            ["database", "database-wal", "other"].map(|name| mode(&path(name))),
            [0o600, 0o600, 0o644]
        );
        publish(&path("database")).unwrap();
        assert_eq!(mode(&path("database")), 0o644);
        fs::create_dir(path("inner")).unwrap();
        fs::rename(path("other"), path("inner/other")).unwrap();
        private_folder(folder.path(), &["database"]).unwrap();
        assert_eq!(
            ["database", "inner/other"].map(|name| mode(&path(name))),
            [0o644, 0o600]
        );
        fs::set_permissions(path("inner"), Permissions::from_mode(0o700)).unwrap();
        publish(&path("inner")).unwrap();
        assert_eq!(mode(&path("inner")), 0o755);
        assert!(publish(&path("missing")).is_err());
    }
}
