//! The door of the device port: so many connections, and for one more the one gives way from which nothing has come for longest.
//!
//! Anybody may connect there, and TLS asks nobody who it is. What an idle connection costs is a file, of which the process has so many: the others are administration's and the database's.

use core::future::{Ready, ready};
use core::pin::Pin;
use core::task::{Context, Poll};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum_server::accept::Accept;
use sekisho_store::OpenFiles;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Files that devices leave to administration, to the database and to what else the server opens; a quarter where there are few.
const KEPT: usize = 128;
/// As many connections as there may be, however many files there are; and as few.
const MOST: usize = 8192;
const LEAST: usize = 16;

/// All connections of the port.
#[derive(Clone)]
pub(crate) struct Door(Arc<Shared>);

struct Shared {
    most: usize,
    /// Counts what has been heard, from whomever.
    heard: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    guests: BTreeMap<u64, Guest>,
    next: u64,
}

struct Guest {
    /// When something came or went last, in the count of all that did.
    heard: Arc<AtomicU64>,
    leave: oneshot::Sender<()>,
}

impl Door {
    /// For as many connections as the process has files for, less what is kept.
    pub(crate) fn of_the_process() -> Self {
        let left = OpenFiles::count().map_or(0, |files| files.left());
        Self::new((left - KEPT.min(left / 4)).clamp(LEAST, MOST))
    }

    fn new(most: usize) -> Self {
        Self(Arc::new(Shared {
            most,
            heard: AtomicU64::new(0),
            table: Mutex::default(),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.0.heard.fetch_add(1, Ordering::Relaxed)
    }

    fn let_in<S>(&self, stream: S) -> Guarded<S> {
        let (leave, left) = oneshot::channel();
        let heard = Arc::new(AtomicU64::new(self.tick()));
        let mut table = self.table();
        if table.guests.len() >= self.0.most {
            let last_heard = |(_, guest): &(&u64, &Guest)| guest.heard.load(Ordering::Relaxed);
            let idlest = table.guests.iter().min_by_key(last_heard);
            let idlest = idlest.map(|(number, _)| *number);
            if let Some(guest) = idlest.and_then(|number| table.guests.remove(&number)) {
                // It may be gone already.
                let _ = guest.leave.send(());
            }
        }
        let number = table.next;
        table.next += 1;
        table.guests.insert(
            number,
            Guest {
                heard: Arc::clone(&heard),
                leave,
            },
        );
        drop(table);
        Guarded {
            stream,
            door: self.clone(),
            number,
            heard,
            left: Some(left),
        }
    }
}

impl<S> Accept<TcpStream, S> for Door {
    type Stream = Guarded<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(Ok((self.let_in(stream), service)))
    }
}

/// A connection that may have to give way.
pub(crate) struct Guarded<S> {
    stream: S,
    door: Door,
    number: u64,
    heard: Arc<AtomicU64>,
    /// `None` once it has given way.
    left: Option<oneshot::Receiver<()>>,
}

impl<S> Guarded<S> {
    fn gives_way(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(left) = &mut self.left
            && Pin::new(left).poll(context).is_pending()
        {
            return Ok(());
        }
        self.left = None;
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn moved(&self) {
        self.heard.store(self.door.tick(), Ordering::Relaxed);
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.door.table().guests.remove(&self.number);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.gives_way(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gives_way(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.moved();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// The silent one goes, also where it came later than one that speaks; who has gone by himself leaves room.
    #[tokio::test]
    async fn the_idlest_gives_way() {
        let door = Door::new(2);
        let [(mut a, a_in), (_b, b_in), (_c, c_in)] = [(); 3].map(|()| duplex(64));
        let mut first = door.let_in(a_in);
        let mut second = door.let_in(b_in);
        let waiting =
            tokio::spawn(async move { second.read(&mut [0; 8]).await.map_err(|error| error.kind()) });
        a.write_all(b"here").await.unwrap();
        assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 4);
        let third = door.let_in(c_in);
        assert_eq!(waiting.await.unwrap(), Err(io::ErrorKind::ConnectionAborted));
        a.write_all(b"still").await.unwrap();
        assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 5);
        drop(third);
        let (_d, d_in) = duplex(64);
        let _fourth = door.let_in(d_in);
        a.write_all(b"!").await.unwrap();
        assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 1, "there was room");
        assert_eq!(door.table().guests.len(), 2);
    }
}
