//! A device without an operating system that carries TLS sessions between its connection and a secure element: all that it needs is this crate and some 24 KB of RAM.
//!
//! The step `nostd` of `scripts/test` compiles it for a Cortex-M and looks at what it is linked of (`tests/device.sh`): no engine of TLS, no cryptography, no heap.
#![no_std]
#![forbid(unsafe_code)]

use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};

/// The line to the SE.
pub trait Card {
    /// Sends a command and gives back how long the answer is; `None` when the SE is gone.
    fn transmit(&mut self, command: &[u8], answer: &mut [u8]) -> Option<usize>;
}

/// The connection to the server.
pub trait Connection {
    /// Sends all of it; false when the connection is gone.
    fn write(&mut self, bytes: &[u8]) -> bool;
    /// Reads what there is, some bytes at least; `None` when the connection is gone.
    fn read(&mut self, into: &mut [u8]) -> Option<usize>;
}

/// Bytes of a whole flight of the SE.
const FLIGHT: usize = 4096;

/// The memory of a session. It can be a `static`.
#[derive(Debug)]
pub struct Memory {
    record: [u8; Buffers::RECORD],
    flight: [u8; FLIGHT],
    command: [u8; 255 + Buffers::COMMAND],
    answer: [u8; 258],
}

impl Memory {
    /// Nothing in it.
    pub const NEW: Self = Self {
        record: [0; Buffers::RECORD],
        flight: [0; FLIGHT],
        command: [0; 255 + Buffers::COMMAND],
        answer: [0; 258],
    };
}

/// Carries a session with the peer in this row of the SE's table until it ends; `None` when the SE is gone.
pub fn session(
    memory: &mut Memory,
    card: &mut dyn Card,
    connection: &mut dyn Connection,
    peer: u16,
    time: Option<u64>,
) -> Option<Ended> {
    let buffers = Buffers {
        record: &mut memory.record,
        answer: &mut memory.flight,
        command: &mut memory.command,
    };
    let mut bridge = Bridge::new(Settings::DEFAULT, buffers)?;
    bridge.open(peer, time);
    loop {
        match bridge.step() {
            Step::Command(command) => {
                let len = card.transmit(command, &mut memory.answer)?;
                bridge.answered(memory.answer.get(..len)?);
            }
            Step::Send(record) => {
                if !connection.write(record.header()) || !connection.write(record.body) {
                    bridge.close(Why::Disconnected);
                }
            }
            Step::Receive => match connection.read(bridge.space()) {
                Some(len) => bridge.received(len),
                None => bridge.close(Why::Disconnected),
            },
            Step::Over(ended) => return Some(ended),
        }
    }
}
