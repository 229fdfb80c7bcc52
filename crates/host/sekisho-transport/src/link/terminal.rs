//! A line of characters as a pseudo terminal, without records: who opens its path is a device, opening is power on, closing is power off.
//!
//! Each device gets a terminal of its own, and the path, a symbolic link, leads to the next one as soon as somebody has opened it: nothing that an earlier device has said or not read is here for the next one, and none is passed over that closes and opens at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use super::address::WRITE;

/// Bytes that a terminal may hold before its card looks at it: more than the kernel keeps.
const MOST_BEFORE: usize = 1 << 16;

/// Terminals that nobody has opened yet, one after the other, under one path.
#[derive(Debug)]
pub(super) struct Terminals {
    path: PathBuf,
    next: Next,
}

#[derive(Debug)]
struct Next {
    card: File,
    opened: Inotify,
}

impl Next {
    /// A terminal, raw, and its device's name.
    fn new() -> io::Result<(Self, String)> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let card = posix_openpt(flags)?;
        grantpt(&card)?;
        unlockpt(&card)?;
        let name = ptsname_r(&card)?;
        raw(&card)?;
        let opened = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        opened.add_watch(name.as_str(), AddWatchFlags::IN_OPEN)?;
        let card = File::from(OwnedFd::from(card));
        Ok((Self { card, opened }, name))
    }
}

impl Terminals {
    /// The path becomes a link to the first one. A link to a terminal that is no more is replaced.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        if let Ok(target) = std::fs::read_link(path) {
            if !target.starts_with("/dev/pts") || target.exists() {
                let why =
                    "it leads elsewhere, perhaps to another card's terminal; remove it when that is gone";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
        } else if std::fs::symlink_metadata(path).is_ok() {
            let why = "there is a file of that name, which is no terminal";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        let (next, name) = Next::new()?;
        lead(path, &name)?;
        let path = path.to_owned();
        Ok(Self { path, next })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that somebody has opened, without waiting; the path leads to another one from here on.
    pub(super) fn accept(&mut self) -> Option<File> {
        self.next.opened.read_events().ok()?;
        let (next, name) = Next::new().ok()?;
        lead(&self.path, &name).ok()?;
        let card = core::mem::replace(&mut self.next, next).card;
        // Before its ATR a card is told nothing: this is of one that has opened it, said something and gone before anybody looked.
        let mut before = [0; 256];
        for _ in 0..MOST_BEFORE / before.len() {
            if !matches!((&card).read(&mut before), Ok(1..)) {
                break;
            }
        }
        Some(card)
    }
}

impl AsFd for Terminals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.next.opened.as_fd()
    }
}

impl Drop for Terminals {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next card.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The link leads there, in one step.
fn lead(path: &Path, to: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".next");
    let beside = path.with_file_name(name);
    let _ = std::fs::remove_file(&beside);
    symlink(to, &beside)?;
    std::fs::rename(&beside, path)
}

/// Bytes come and go as they are, at once.
fn raw(terminal: impl AsFd) -> io::Result<()> {
    let mut settings = tcgetattr(&terminal)?;
    cfmakeraw(&mut settings);
    tcsetattr(&terminal, SetArg::TCSANOW, &settings)?;
    Ok(())
}

/// Opens a card's terminal, as its device.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits())
        .open(path)?;
    // One of ours that comes at the same moment has the same terminal.
    if terminal.try_lock().is_err() {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another reader is there",
        ));
    }
    raw(&terminal)?;
    Ok(terminal)
}

/// Writes all of it; who does not read for so long is given up.
pub(super) fn send(mut terminal: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match terminal.write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(terminal.as_fd(), PollFlags::POLLOUT)];
                let time = PollTimeout::try_from(WRITE).unwrap_or(PollTimeout::MAX);
                match poll(&mut polled, time) {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what has come; 0 when the other end is closed.
pub(super) fn receive(mut terminal: &File, into: &mut [u8]) -> io::Result<usize> {
    match terminal.read(into) {
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::Interrupted.into()),
        read => read,
    }
}
