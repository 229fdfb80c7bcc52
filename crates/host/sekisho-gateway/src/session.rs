//! A session with an SE that has been proved.

use core::future::{Future, pending, poll_fn, ready};
use core::mem;
use core::pin::{Pin, pin};
use core::task::Poll;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::gateway::{Door, Settings};
use crate::identity::Identity;

/// Why a session is over, or a command not taken.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The SE ended the session: it said so under the session's keys (close_notify), which nobody between could.
    #[error("the secure element ended the session")]
    Closed,
    /// The connection ended without that: by the device, by the network, whoever is on the way. The SE has said nothing.
    #[error("the connection was cut off, and the secure element did not end the session")]
    CutOff,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(io::Error),
    /// No answer in time.
    #[error("the secure element did not answer in time")]
    Slow,
    /// An answer has two bytes at least.
    #[error("what the secure element sent is no answer")]
    NoAnswer,
    /// It said something though nothing was asked.
    #[error("the secure element spoke unasked")]
    Unasked,
    /// Whoever gives the commands was stopped.
    #[error("this server was stopped")]
    Stopped,
    /// The lists of what is revoked are others since the session began, and its SE is not vouched for any more.
    #[error("the secure element's certificate is revoked")]
    Revoked,
    /// An earlier command ended it, or was given up before its answer came.
    #[error("the session was over")]
    Over,
    /// The command does not fit one record; the session goes on.
    #[error("a command of {0} bytes does not fit a record of {1}")]
    TooLong(usize, usize),
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct SendError {
    /// Whether it is unknown what became of it: it has been sent, or some of it.
    pub is_unknown: bool,
    /// Why.
    #[source]
    pub why: Lost,
}

impl Lost {
    /// A word for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::CutOff => "cut off",
            Self::Connection(_) => "failed",
            Self::Slow => "slow",
            Self::NoAnswer => "no answer",
            Self::Unasked => "unasked",
            Self::Stopped => "stopped",
            Self::Revoked => "revoked",
            Self::Over => "over",
            Self::TooLong(..) => "too long",
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; its R-APDU.
    Done(Vec<u8>),
    /// It was not sent.
    NotSent,
    /// It was sent, and the session ended before an answer came: the application has run it, or has not. Whoever wants to know asks it.
    Unknown,
}

/// What went through a session, commands and answers in the clear counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that have an answer.
    pub commands: u64,
    /// Bytes of commands that were sent.
    pub sent: u64,
    /// Bytes of answers.
    pub received: u64,
}

/// A session with an SE.
pub struct Session {
    tls: TlsStream<TcpStream>,
    identity: Identity,
    settings: Settings,
    counts: Counts,
    is_over: bool,
    door: watch::Receiver<Arc<Door>>,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    pub(crate) fn new(
        tls: TlsStream<TcpStream>,
        identity: Identity,
        settings: Settings,
        (permit, door): (OwnedSemaphorePermit, watch::Receiver<Arc<Door>>),
    ) -> Self {
        Self {
            tls,
            identity,
            settings,
            counts: Counts {
                commands: 0,
                sent: 0,
                received: 0,
            },
            is_over: false,
            door,
            _permit: permit,
        }
    }

    /// Whose certificate was verified.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The device's address, if it is still connected.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tls.get_ref().0.peer_addr().ok()
    }

    /// TLS 1.2 or 1.3, in words.
    pub fn protocol(&self) -> &'static str {
        match self.tls.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
            _ => "TLS 1.2",
        }
    }

    /// What went through it so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Sends one C-APDU and waits for its R-APDU. After an error other than [`Lost::TooLong`], and when this future is dropped before its end, the
    /// session is over: a late answer would be taken for another command's.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&mut self, command: &[u8]) -> Result<Vec<u8>, SendError> {
        let not_sent = |why| SendError {
            is_unknown: false,
            why,
        };
        if command.len() > self.settings.record {
            return Err(not_sent(Lost::TooLong(command.len(), self.settings.record)));
        }
        if mem::replace(&mut self.is_over, true) {
            return Err(not_sent(Lost::Over));
        }
        if !self.is_vouched_for() {
            return Err(not_sent(Lost::Revoked));
        }
        if let Some(why) = self.said_unasked().await {
            return Err(not_sent(why));
        }
        let answer = timeout(self.settings.answer, self.ask(command)).await;
        let answer = answer.unwrap_or(Err(Lost::Slow)).map_err(|why| SendError {
            is_unknown: true,
            why,
        })?;
        self.counts.commands += 1;
        self.counts.received += answer.len() as u64;
        self.is_over = false;
        Ok(answer)
    }

    /// Sends one after the other until one has no answer, or an answer is not to `go_on` with. One outcome for each command, in their order, and why it
    /// ended early if a command has no answer.
    pub async fn run<C: AsRef<[u8]>>(
        &mut self,
        commands: &[C],
        go_on: impl FnMut(usize, &[u8]) -> bool,
    ) -> (Vec<Outcome>, Option<Lost>) {
        self.run_until(commands, go_on, pending()).await
    }

    /// As [`Session::run`], and no longer than until `stop`: no command is sent then, and one that waits for its answer is unknown.
    pub async fn run_until<C: AsRef<[u8]>>(
        &mut self,
        commands: &[C],
        mut go_on: impl FnMut(usize, &[u8]) -> bool,
        stop: impl Future<Output = ()>,
    ) -> (Vec<Outcome>, Option<Lost>) {
        let mut stop = pin!(stop);
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut lost = None;
        for (number, command) in commands.iter().enumerate() {
            let stopped = |is_unknown| {
                Err(SendError {
                    is_unknown,
                    why: Lost::Stopped,
                })
            };
            let is_stopped = select! {
                biased;
                () = &mut stop => true,
                () = ready(()) => false,
            };
            let sent = match is_stopped {
                true => stopped(false),
                false => select! {
                    biased;
                    sent = self.send(command.as_ref()) => sent,
                    () = &mut stop => stopped(true),
                },
            };
            match sent {
                Ok(answer) => {
                    let ends = !go_on(number, &answer);
                    outcomes.push(Outcome::Done(answer));
                    if ends {
                        break;
                    }
                }
                Err(error) => {
                    if error.is_unknown {
                        outcomes.push(Outcome::Unknown);
                    }
                    lost = Some(error.why);
                    break;
                }
            }
        }
        outcomes.resize(commands.len(), Outcome::NotSent);
        (outcomes, lost)
    }

    /// Says goodbye, and waits until the other end has done so too, for as long as an answer may take.
    pub async fn end(mut self) {
        let goodbye = async {
            self.tls.shutdown().await?;
            while let chunk @ 1.. = self.tls.fill_buf().await?.len() {
                self.tls.consume(chunk);
            }
            io::Result::Ok(())
        };
        // It is over in any case.
        let _ = timeout(self.settings.answer, goodbye).await;
    }

    /// Whether its SE is vouched for by the lists as they are; looked at when they have changed.
    fn is_vouched_for(&mut self) -> bool {
        if !self.door.has_changed().unwrap_or(false) {
            return true;
        }
        let door = Arc::clone(&self.door.borrow_and_update());
        let chain = self.tls.get_ref().1.peer_certificates().unwrap_or_default();
        door.vouches_for(chain).is_ok()
    }

    /// What has come before anything was asked, if something has; does not wait.
    async fn said_unasked(&mut self) -> Option<Lost> {
        let mut look = pin!(self.tls.fill_buf());
        let come = poll_fn(|context| {
            Poll::Ready(match look.as_mut().poll(context) {
                Poll::Ready(come) => Some(come.map(<[u8]>::len)),
                Poll::Pending => None,
            })
        });
        match come.await? {
            Ok(0) => Some(Lost::Closed),
            Ok(_) => Some(Lost::Unasked),
            Err(error) => Some(lost(error)),
        }
    }

    async fn ask(&mut self, command: &[u8]) -> Result<Vec<u8>, Lost> {
        self.counts.sent += command.len() as u64;
        self.tls.write_all(command).await.map_err(lost)?;
        self.tls.flush().await.map_err(lost)?;
        // What one record carried, and no more: rustls keeps records apart.
        let answer = self.tls.fill_buf().await.map_err(lost)?.to_vec();
        Pin::new(&mut self.tls).consume(answer.len());
        match answer.len() {
            0 => Err(Lost::Closed),
            1 => Err(Lost::NoAnswer),
            _ => Ok(answer),
        }
    }
}

fn lost(error: io::Error) -> Lost {
    match error.kind() {
        // What rustls says of an end of the connection without close_notify.
        io::ErrorKind::UnexpectedEof => Lost::CutOff,
        _ => Lost::Connection(error),
    }
}
