//! Where a link is, and the streams that come of it.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::terminal::{self, Terminals};

/// How long a peer may refuse to read.
pub(super) const WRITE: Duration = Duration::from_secs(10);

/// Where a link is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkAddress {
    /// `tcp:HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`, a Unix socket.
    Unix(PathBuf),
    /// `pty:PATH`, a pseudo terminal: a line's characters as they are, no records.
    Terminal(PathBuf),
}

impl LinkAddress {
    /// Where a line is, by its name; a terminal is nowhere for one that is not of characters.
    ///
    /// # Errors
    /// What is wrong, in words for whoever wrote it.
    pub fn of_line(text: &str, line: &str, is_characters: bool) -> Result<Self, String> {
        let address: Self = text.parse()?;
        if address.is_raw() && !is_characters {
            return Err(format!(
                "{address}: a terminal carries characters, which t0 and t1 have, and {line} has not"
            ));
        }
        Ok(address)
    }

    /// Whether it carries a line's characters alone, and so T=0 and T=1 alone.
    #[must_use]
    pub const fn is_raw(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Terminal(path) => write!(f, "pty:{}", path.display()),
        }
    }
}

impl FromStr for LinkAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tcp", address)) => match address.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Self::Tcp(address.to_owned()))
                }
                _ => Err(format!("'{text}': write tcp:HOST:PORT")),
            },
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("pty", path)) if !path.is_empty() => Ok(Self::Terminal(path.into())),
            _ => Err(format!("'{text}': write tcp:HOST:PORT, unix:PATH or pty:PATH")),
        }
    }
}

/// A listener for links. The file of a Unix socket, and a terminal's link, go with it.
#[derive(Debug)]
pub struct LinkListener(Listens);

#[derive(Debug)]
enum Listens {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Terminal(Terminals),
}

impl LinkListener {
    /// Listens there; on a TCP port of this machine alone. The file of a Unix socket on which nobody listens any more is replaced, and so is a link to a terminal that is gone.
    ///
    /// # Errors
    /// When that cannot be, or the address is open to others.
    pub fn bind(address: &LinkAddress) -> io::Result<Self> {
        let listener = match address {
            LinkAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                if !listener.local_addr()?.ip().is_loopback() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "it is open to others, and whoever connects holds the card; listen on 127.0.0.1",
                    ));
                }
                listener.set_nonblocking(true)?;
                Listens::Tcp(listener)
            }
            LinkAddress::Unix(path) => {
                remove_if_dead(path)?;
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Listens::Unix(listener, path.clone())
            }
            LinkAddress::Terminal(path) => Listens::Terminal(Terminals::bind(path)?),
        };
        Ok(Self(listener))
    }

    /// Where it listens, with the port that it has got.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<LinkAddress> {
        Ok(match &self.0 {
            Listens::Tcp(listener) => LinkAddress::Tcp(listener.local_addr()?.to_string()),
            Listens::Unix(_, path) => LinkAddress::Unix(path.clone()),
            Listens::Terminal(terminals) => LinkAddress::Terminal(terminals.path().to_owned()),
        })
    }

    /// Whoever has come, without waiting.
    pub(super) fn accept(&mut self) -> Option<Stream> {
        let stream = match &mut self.0 {
            Listens::Tcp(listener) => Stream::Tcp(listener.accept().ok()?.0),
            Listens::Unix(listener, _) => Stream::Unix(listener.accept().ok()?.0),
            Listens::Terminal(terminals) => Stream::Terminal(terminals.accept()?),
        };
        stream.prepared().ok()
    }
}

impl AsFd for LinkListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Listens::Tcp(listener) => listener.as_fd(),
            Listens::Unix(listener, _) => listener.as_fd(),
            Listens::Terminal(terminals) => terminals.as_fd(),
        }
    }
}

impl Drop for LinkListener {
    fn drop(&mut self) {
        if let Listens::Unix(_, path) = &self.0 {
            // What cannot be removed is replaced by the next one.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket's file outlives whoever listened, if that was killed.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// A stream that carries a link.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Terminal(File),
}

impl Stream {
    pub(super) fn connect(address: &LinkAddress, patience: Duration) -> io::Result<Self> {
        match address {
            LinkAddress::Tcp(address) => Self::Tcp(crate::stream::connect(address, patience)?),
            LinkAddress::Unix(path) => Self::Unix(UnixStream::connect(path)?),
            LinkAddress::Terminal(path) => Self::Terminal(terminal::open(path)?),
        }
        .prepared()
    }

    /// Each record goes out at once; whoever does not read is given up.
    fn prepared(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE))?;
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_write_timeout(Some(WRITE))?;
            }
            Self::Terminal(_) => {}
        }
        Ok(self)
    }

    /// Whether it carries characters alone: power is its beginning and its end.
    pub(super) const fn is_raw(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Terminal(file) => terminal::send(file, bytes),
        }
    }

    /// Reads what has come; 0 at the end.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
            Self::Terminal(file) => terminal::receive(file, into),
        }
    }

    pub(super) fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => stream
                .peer_addr()
                .map_or_else(|_| "somebody".to_owned(), |peer| peer.to_string()),
            Self::Unix(_) | Self::Terminal(_) => "a local one".to_owned(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Terminal(file) => file.as_fd(),
        }
    }
}

/// Waits until one of these has something to read, for so many microseconds at the most; says which have.
pub(super) fn wait<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], micros: u64) -> io::Result<[bool; N]> {
    let mut polled: Vec<_> = fds
        .iter()
        .flatten()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let time = TimeSpec::from(Duration::from_micros(micros));
    match ppoll(&mut polled, Some(time), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut results = polled.iter().map(|fd| fd.any().unwrap_or(false));
    Ok(fds.map(|fd| fd.is_some() && results.next().unwrap_or(false)))
}
