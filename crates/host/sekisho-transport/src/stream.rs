//! A TCP connection that carries frames without waiting for nothing.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Instant;

use crate::error::TransportError;
use crate::frame::BODY_MAX;

/// Bytes before a frame's body.
const LENGTH: usize = 2;

/// A connection with its two buffers of one frame each.
pub(crate) struct Framed {
    stream: TcpStream,
    /// Received bytes that make no whole frame yet, or follow one.
    received: Vec<u8>,
    chunk: Box<[u8]>,
    sent: Box<[u8]>,
    /// How long a frame may take once it has begun, and how long the peer may refuse to read.
    whole: Duration,
}

impl Framed {
    /// Takes a connection. `idle` is how long [`Framed::receive`] waits for a frame to begin, `whole` how long the frame may take then.
    pub(crate) fn new(stream: TcpStream, idle: Duration, whole: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(idle))?;
        stream.set_write_timeout(Some(whole))?;
        let buffer = || vec![0; LENGTH + BODY_MAX].into_boxed_slice();
        Ok(Self {
            stream,
            received: Vec::new(),
            chunk: buffer(),
            sent: buffer(),
            whole,
        })
    }

    /// Sends one frame, whose body `write` puts into the buffer that it gets. Returns what `write` said is its length.
    pub(crate) fn send_with(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Result<(), TransportError> {
        let (length, body) = self.sent.split_at_mut(LENGTH);
        let len = write(body).min(BODY_MAX);
        length.copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        self.stream
            .write_all(&self.sent[..LENGTH + len])
            .map_err(timeout_or_io)
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, body: &[u8]) -> Result<(), TransportError> {
        if body.len() > BODY_MAX {
            return Err(TransportError::CommandLength(body.len()));
        }
        self.send_with(|out| {
            out[..body.len()].copy_from_slice(body);
            body.len()
        })
    }

    /// Waits for one frame and returns its body; `None` when none has begun in the idle time.
    pub(crate) fn receive(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        let mut begun: Option<Instant> = None;
        loop {
            if let Some(body) = self.take_frame() {
                return Ok(Some(body));
            }
            if !self.received.is_empty() && begun.get_or_insert_with(now).elapsed() > self.whole {
                return Err(TransportError::Timeout);
            }
            // Debian's vpcd sends length and body with two calls. Its kernel holds the second back until we acknowledge the first, which ours would
            // put off by 40 ms; the option lasts for one acknowledgement only.
            quick_acknowledge(&self.stream);
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(TransportError::Closed),
                Ok(n) => self.received.extend_from_slice(&self.chunk[..n]),
                Err(error) if is_timeout(&error) && self.received.is_empty() => return Ok(None),
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_hang_up(&error) => return Err(TransportError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Drops the whole frames that have come unasked so far.
    pub(crate) fn discard_arrived(&mut self) -> Result<(), TransportError> {
        self.stream.set_nonblocking(true)?;
        let read = loop {
            match self.stream.read(&mut self.chunk) {
                Ok(0) => break Err(TransportError::Closed),
                Ok(n) => self.received.extend_from_slice(&self.chunk[..n]),
                Err(error) if is_timeout(&error) => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(timeout_or_io(error)),
            }
        };
        self.stream.set_nonblocking(false)?;
        read?;
        while self.take_frame().is_some() {}
        Ok(())
    }

    fn take_frame(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.received.split_first_chunk::<LENGTH>()?;
        let body = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
        self.received.drain(..LENGTH + body.len());
        Some(body)
    }
}

/// Connects to the first address that answers.
pub(crate) fn connect(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("'{address}' has no address"));
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[expect(clippy::disallowed_methods, reason = "this ring does the waiting")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn quick_acknowledge(stream: &TcpStream) {
    // A kernel that refuses is slower, not wrong.
    let _ = socket2::SockRef::from(stream).set_tcp_quickack(true);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn quick_acknowledge(_: &TcpStream) {}

/// What a socket with a timeout says when it has passed: either, by platform.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn timeout_or_io(error: io::Error) -> TransportError {
    match error {
        error if is_timeout(&error) => TransportError::Timeout,
        error if is_hang_up(&error) => TransportError::Closed,
        error => error.into(),
    }
}
