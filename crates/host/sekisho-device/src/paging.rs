//! Polling: the agent carries SecApp's datagrams and timers, and hears what SecApp has verified (`docs/spec/secapp.md`).
//!
//! [`Pager`] is a state machine in the caller's time: [`Pager::turn`] never blocks. It knows no key; a datagram that SecApp refuses changes
//! nothing, however many there are.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use sekisho_paging::message::{Action, Message};
use sekisho_paging::recovery::{GRANT, PUBLIC_KEY, REQUEST};
use sekisho_transport::{Card, exchange};

use crate::error::AgentError;

/// AID of SecApp.
pub const SEC_APP: [u8; 7] = *b"\xF0SKOS\x03\x01";

/// Status words that SecApp gives to what it does not take.
const WRONG_DATA: u16 = 0x6A80;
const NOT_THERE: u16 = 0x6A88;

/// Why the device polls (`docs/spec/paging.md`, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It has been switched on.
    PowerOn = 0x00,
    /// Its interval is over.
    Periodic = 0x01,
    /// Something has happened.
    Event = 0x02,
    /// It has come back over HTTPS.
    Recovered = 0x03,
}

/// Datagrams to and from the paging server. Neither call blocks.
pub trait Link {
    /// Sends one. That it cannot be sent is as if it were lost.
    fn send(&mut self, datagram: &[u8]);

    /// One that has come, if there is one: its length. It may be anything.
    fn receive(&mut self, out: &mut [u8]) -> Option<usize>;

    /// No answer is waited for until the next [`Link::send`]: what was held for one is let go.
    fn rest(&mut self);

    /// The last poll got no answer: another source port, and the next server's address if there are several.
    fn turn_away(&mut self);
}

/// SecApp, selected, on some card.
pub struct SecApp<'c>(&'c mut dyn Card);

/// What SecApp says to a message that it has verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The message.
    pub message: Message,
    /// Sent: how many answers the server has sent to this identity.
    pub sent: u8,
}

/// A key pair that SecApp has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// The public key, uncompressed.
    pub public_key: [u8; PUBLIC_KEY],
    /// Signature by the new key over SE-id and public key: r and s.
    pub signature: [u8; 64],
    /// The SE's proof that it made it.
    pub proof: [u8; 16],
}

impl<'c> SecApp<'c> {
    /// Selects SecApp.
    ///
    /// # Errors
    /// [`AgentError`] when the card does not answer, or has none.
    pub fn select(card: &'c mut dyn Card) -> Result<Self, AgentError> {
        let [a, b, c, d, e, f, g] = SEC_APP;
        let capdu = [0x00, 0xA4, 0x04, 0x00, 0x07, a, b, c, d, e, f, g, 0x00];
        let response = exchange(card, &capdu)?;
        if response.is_ok() {
            Ok(Self(card))
        } else {
            Err(refused("SELECT of SecApp", response.sw))
        }
    }

    fn send(&mut self, ins: u8, p1: u8, data: &[u8]) -> Result<(Vec<u8>, u16), AgentError> {
        let mut capdu = vec![0x80, ins, p1, 0x00];
        if !data.is_empty() {
            capdu.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
            capdu.extend_from_slice(data);
        }
        capdu.push(0x00);
        let response = exchange(self.0, &capdu)?;
        Ok((response.data, response.sw))
    }

    fn ask<const N: usize>(
        &mut self,
        name: &'static str,
        ins: u8,
        p1: u8,
        data: &[u8],
    ) -> Result<[u8; N], AgentError> {
        let (data, sw) = self.send(ins, p1, data)?;
        if sw != 0x9000 {
            return Err(refused(name, sw));
        }
        data.try_into().map_err(|_| AgentError::Data(name))
    }

    /// The next poll.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn poll(&mut self, reason: Reason) -> Result<[u8; sekisho_paging::DATAGRAM], AgentError> {
        self.ask("POLL", 0x20, reason as u8, &[])
    }

    /// Shows it a datagram: what it says, or `None` when it is not the answer to the latest poll.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn answer(&mut self, datagram: &[u8]) -> Result<Option<Heard>, AgentError> {
        if datagram.len() != sekisho_paging::DATAGRAM {
            return Ok(None);
        }
        match self.send(0x22, 0, datagram)? {
            (_, WRONG_DATA) => Ok(None),
            (data, 0x9000) => {
                let data: [u8; 10] = data.try_into().map_err(|_| AgentError::Data("ANSWER"))?;
                let [message @ .., sent] = data;
                Ok(Some(Heard {
                    message: read_message(message),
                    sent,
                }))
            }
            (_, sw) => Err(refused("ANSWER", sw)),
        }
    }

    /// How long to wait from now, and whether to try recovery too.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn wait(&mut self) -> Result<(Duration, bool), AgentError> {
        let [a, b, c, d, recover] = self.ask("WAIT", 0x24, 0, &[])?;
        let millis = u32::from_be_bytes([a, b, c, d]);
        Ok((Duration::from_millis(millis.into()), recover != 0))
    }

    /// A message has been acted on. That it is no longer pending is no error.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn done(&mut self, order: u32) -> Result<(), AgentError> {
        match self.send(0x26, 0, &order.to_be_bytes())? {
            (_, 0x9000 | NOT_THERE) => Ok(()),
            (_, sw) => Err(refused("DONE", sw)),
        }
    }

    /// The message that is still to be acted on.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn pending(&mut self) -> Result<Option<Message>, AgentError> {
        let status: [u8; 18] = self.ask("STATUS", 0x28, 0, &[])?;
        let mut message = [0; 9];
        message.copy_from_slice(&status[..9]);
        let message = read_message(message);
        Ok((message != Message::NOTHING).then_some(message))
    }

    /// A recovery request.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn recover(&mut self) -> Result<[u8; REQUEST], AgentError> {
        self.ask("RECOVER", 0x2A, 0, &[])
    }

    /// The grant to the latest request; false when it is not.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn grant(&mut self, grant: &[u8; GRANT]) -> Result<bool, AgentError> {
        match self.send(0x2C, 0, grant)? {
            (_, 0x9000) => Ok(true),
            (_, WRONG_DATA) => Ok(false),
            (_, sw) => Err(refused("GRANT", sw)),
        }
    }

    /// Has it make a key pair.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn new_key(&mut self) -> Result<NewKey, AgentError> {
        let made: [u8; 145] = self.ask("GENERATE KEY PAIR", 0x46, 0, &[])?;
        let mut key = NewKey {
            public_key: [0; PUBLIC_KEY],
            signature: [0; 64],
            proof: [0; 16],
        };
        key.public_key.copy_from_slice(&made[..65]);
        key.signature.copy_from_slice(&made[65..129]);
        key.proof.copy_from_slice(&made[129..]);
        Ok(key)
    }

    /// Brings it the server's word on the new key's certificate.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn certified(&mut self, digest: &[u8; 32], proof: &[u8; 16]) -> Result<(), AgentError> {
        let _: [u8; 0] = self.ask("CERTIFIED", 0x48, 0, &[&digest[..], proof].concat())?;
        Ok(())
    }
}

const fn refused(command: &'static str, sw: u16) -> AgentError {
    AgentError::Answer { command, sw }
}

const fn read_message(bytes: [u8; 9]) -> Message {
    let [kind, o0, o1, o2, o3, a0, a1, a2, a3] = bytes;
    Message {
        order: u32::from_be_bytes([o0, o1, o2, o3]),
        action: Action::from_parts(kind, u32::from_be_bytes([a0, a1, a2, a3])),
    }
}

/// What a turn of a [`Pager`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do before this time, unless a datagram comes.
    Wait(Duration),
    /// No answer came to the poll that was out, in the time that SecApp gave it; the next turn polls again, and another server if there are several.
    Silent,
    /// A verified message. What is not done with by itself (KIND 01, 02, 04, 05) is to be acted on and then reported with [`SecApp::done`].
    Act(Message),
    /// The server does not answer: try this request over HTTPS, and bring the grant to [`SecApp::grant`].
    Recover([u8; REQUEST]),
}

/// Polls for one SE. Times are durations since any moment that does not change.
#[derive(Debug)]
pub struct Pager {
    /// When to poll next, or to give the poll that is out up.
    due: Option<Duration>,
    /// A poll is out.
    is_out: bool,
    reason: Reason,
    /// Recovery has been proposed for the present wait.
    proposed: bool,
}

impl Default for Pager {
    fn default() -> Self {
        Self::new()
    }
}

impl Pager {
    /// A pager of a device that has just been switched on.
    pub const fn new() -> Self {
        Self {
            due: None,
            is_out: false,
            reason: Reason::PowerOn,
            proposed: false,
        }
    }

    /// Whether a poll is out: it has been asked and not been answered.
    pub const fn is_out(&self) -> bool {
        self.is_out
    }

    /// Polls at the next turn, whatever the time.
    pub const fn poll_now(&mut self, reason: Reason) {
        self.due = None;
        self.is_out = false;
        self.reason = reason;
    }

    /// Waits no longer for an answer to the poll that is out, whatever SecApp says: the next turn takes one that has come, or is silent.
    pub const fn give_up(&mut self) {
        if self.is_out {
            self.due = Some(Duration::ZERO);
        }
    }

    /// Goes as far as it can at `now`: takes what has come, and polls when it is time.
    ///
    /// # Errors
    /// [`AgentError`]: the SE. What is out stays out.
    pub fn turn(
        &mut self,
        card: &mut dyn Card,
        link: &mut dyn Link,
        now: Duration,
    ) -> Result<Step, AgentError> {
        let mut app = SecApp::select(card)?;
        if self.reason == Reason::PowerOn
            && self.due.is_none()
            && !self.is_out
            && let Some(message) = app.pending()?
        {
            // Left over from before the power went.
            self.reason = Reason::Periodic;
            return Ok(Step::Act(message));
        }
        if let Some(heard) = self.take(&mut app, link)? {
            self.is_out = false;
            link.rest();
            self.proposed = false;
            self.reason = Reason::Periodic;
            self.due = Some(now + app.wait()?.0);
            if heard.message.action != Action::Nothing {
                return Ok(Step::Act(heard.message));
            }
        }
        if let Some(due) = self.due
            && now < due
        {
            return Ok(Step::Wait(due - now));
        }
        if self.is_out {
            self.is_out = false;
            link.turn_away();
            return Ok(Step::Silent);
        }
        let datagram = app.poll(self.reason)?;
        link.send(&datagram);
        self.is_out = true;
        let (wait, recover) = app.wait()?;
        self.due = Some(now + wait);
        if recover && !self.proposed {
            self.proposed = true;
            return Ok(Step::Recover(app.recover()?));
        }
        Ok(Step::Wait(wait))
    }

    /// Shows SecApp what has come until it takes one.
    fn take(&self, app: &mut SecApp<'_>, link: &mut dyn Link) -> Result<Option<Heard>, AgentError> {
        // One byte more than an answer, so that what is too long is seen to be.
        let mut room = [0; sekisho_paging::DATAGRAM + 1];
        while let Some(len) = link.receive(&mut room) {
            if !self.is_out {
                continue;
            }
            if let Some(heard) = app.answer(room.get(..len).unwrap_or_default())? {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }
}

/// The way to one of several servers over UDP. It has a socket while an answer is waited for, and none in between: each poll has a port of its own.
#[derive(Debug)]
pub struct UdpLink {
    servers: Vec<SocketAddr>,
    at: usize,
    socket: Option<UdpSocket>,
    failure: Option<io::Error>,
}

impl UdpLink {
    /// A link to the first of these servers, and to the others in turn when one does not answer.
    ///
    /// # Errors
    /// That of a socket, and [`io::ErrorKind::InvalidInput`] without a server.
    pub fn new(servers: Vec<SocketAddr>) -> io::Result<Self> {
        let first = servers.first().ok_or(io::ErrorKind::InvalidInput)?;
        // What is wrong with the network of this machine is better known now than taken for a loss later.
        drop(open(*first)?);
        Ok(Self {
            servers,
            at: 0,
            socket: None,
            failure: None,
        })
    }

    /// Goes to the server of this number, from 0 on; false when there is none.
    pub fn use_server(&mut self, number: usize) -> bool {
        if number >= self.servers.len() {
            return false;
        }
        self.at = number;
        self.socket = None;
        true
    }

    /// The server that is asked.
    pub fn server(&self) -> Option<SocketAddr> {
        self.servers.get(self.at).copied()
    }

    /// How many there are.
    pub const fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Why the latest poll had no socket, if it had none.
    pub const fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Waits until a datagram comes, for at most this long: for an agent that has nothing else to do.
    pub fn wait(&self, at_most: Duration) {
        let Some(socket) = &self.socket else {
            sleep(at_most);
            return;
        };
        let wait = || -> io::Result<()> {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(at_most.max(Duration::from_millis(1))))?;
            let _ = socket.peek(&mut [0]);
            socket.set_nonblocking(true)
        };
        // What goes wrong with the socket is seen when it is used.
        let _ = wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "an agent that has nothing else to do")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

fn open(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    // Datagrams from anybody else do not arrive at all.
    socket.connect(server)?;
    Ok(socket)
}

impl Link for UdpLink {
    fn send(&mut self, datagram: &[u8]) {
        if self.socket.is_none()
            && let Some(server) = self.servers.get(self.at)
        {
            match open(*server) {
                Ok(socket) => (self.socket, self.failure) = (Some(socket), None),
                Err(error) => self.failure = Some(error),
            }
        }
        if let Some(socket) = &self.socket {
            let _ = socket.send(datagram);
        }
    }

    fn receive(&mut self, out: &mut [u8]) -> Option<usize> {
        let socket = self.socket.as_ref()?;
        loop {
            match socket.recv(out) {
                Ok(len) => return Some(len),
                // What ICMP says of an earlier datagram.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    fn rest(&mut self) {
        self.socket = None;
    }

    fn turn_away(&mut self) {
        self.at = (self.at + 1) % self.servers.len().max(1);
        self.socket = None;
    }
}
