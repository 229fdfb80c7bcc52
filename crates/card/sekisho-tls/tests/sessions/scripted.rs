//! A device on a TCP connection, and commands that OpenSSL's server sends one after the other.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::ControlFlow;

use sekisho_bridge::{Ended, Settings, Why, ins};
use sekisho_tls::Version;

use crate::drive::{Sides, with_device};
use crate::openssl::{OpenSsl, connect};

/// In the certificates' time.
const NOW: u64 = 1_800_000_000;

struct Connected<C, N> {
    card: C,
    stream: TcpStream,
    next: N,
    answered: usize,
}

impl<C: FnMut(&[u8]) -> Vec<u8>, N: FnMut(usize) -> Option<Why>> Sides for Connected<C, N> {
    fn command(&mut self, command: &[u8]) -> Vec<u8> {
        let answer = (self.card)(command);
        self.answered += usize::from(command[..2] == [0xA4, ins::APPLICATION_DATA] && answer.len() > 2);
        answer
    }

    fn send(&mut self, record: &[u8]) -> ControlFlow<()> {
        self.stream.write_all(record).unwrap();
        ControlFlow::Continue(())
    }

    fn receive(&mut self, space: &mut [u8]) -> Result<usize, Why> {
        if let Some(why) = (self.next)(self.answered) {
            return Err(why);
        }
        match self.stream.read(space).unwrap() {
            0 => Err(Why::Disconnected),
            len => Ok(len),
        }
    }
}

/// Carries one session between a card and the server of a row. `next` is asked how to go on when there is nothing to do but to read: it knows how many records of application
/// data the SE has answered.
pub(crate) fn carry(
    card: impl FnMut(&[u8]) -> Vec<u8>,
    (row, stream): (u16, TcpStream),
    next: impl FnMut(usize) -> Option<Why>,
) -> Ended {
    let mut sides = Connected {
        card,
        stream,
        next,
        answered: 0,
    };
    with_device(Settings::DEFAULT, (row, Some(NOW)), |device| {
        device.run(&mut sides).unwrap()
    })
}

/// A session with row 0001 in which the server sends these commands, each when the one before is answered; how it ended, and what the server has shown.
pub(crate) fn with_script(
    mut server: OpenSsl,
    version: Version,
    commands: &[&[u8]],
    card: impl FnMut(&[u8]) -> Vec<u8>,
) -> (Ended, Vec<u8>) {
    // In TLS 1.3 the SE's flight answers application data too.
    let flight = usize::from(version == Version::Tls13);
    let mut asked = 0;
    if flight == 0 {
        server.stdin.write_all(commands[0]).unwrap();
    }
    let stream = connect(server.port);
    let ended = carry(card, (1, stream), |answered| {
        if answered == asked {
            return None;
        }
        asked += 1;
        match commands.get(asked - flight) {
            Some(command) => server.stdin.write_all(command).unwrap(),
            None => return Some(Why::Asked),
        }
        None
    });
    let _ = server.child.wait();
    (ended, server.said.take().unwrap().join().unwrap())
}
