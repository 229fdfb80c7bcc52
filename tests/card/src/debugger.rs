//! The remote protocol of GDB (GDB manual, appendix E), as much as is needed: the emulated chip is stopped, and changed, from outside.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Why the chip has stopped: signals 2 and 5.
const INTERRUPTED: &str = "T02";
const TRAPPED: &str = "T05";

/// A debugger of a chip that was started with QEMU's option `-gdb`.
#[derive(Debug)]
pub struct Debugger(UnixStream);

impl Debugger {
    /// The socket's name, beside a flash.
    pub fn socket(flash: &Path) -> std::path::PathBuf {
        flash.with_extension("gdb")
    }

    /// Takes hold of a chip that runs, and lets it run on.
    pub fn attach(flash: &Path) -> Self {
        let mut debugger = Self(UnixStream::connect(Self::socket(flash)).unwrap());
        // The emulator lets nobody write single registers who has not read what there are.
        assert!(
            debugger
                .ask("qXfer:features:read:target.xml:0,fff")
                .contains("<target>")
        );
        debugger.send("c");
        debugger
    }

    pub fn send(&mut self, body: &str) {
        let sum = body.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.0, "${body}#{sum:02x}").unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    fn receive(&mut self) -> String {
        // Acknowledgements come before.
        while self.byte() != b'$' {}
        self.rest()
    }

    /// What stands behind the beginning of a packet.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        loop {
            match self.byte() {
                b'#' => break,
                other => text.push(other.into()),
            }
        }
        self.0.read_exact(&mut [0; 2]).unwrap();
        self.0.write_all(b"+").unwrap();
        text
    }

    /// The answer to a request; the chip may say more than once that it has stopped.
    pub fn ask(&mut self, body: &str) -> String {
        self.send(body);
        loop {
            let answer = self.receive();
            if !answer.starts_with('T') {
                return answer;
            }
        }
    }

    fn stops(&mut self, signal: &str) {
        while !self.receive().starts_with(signal) {}
    }

    /// Stops it wherever it is.
    pub fn stop(&mut self) {
        self.0.write_all(&[3]).unwrap();
        self.stops(INTERRUPTED);
    }

    /// Waits until it stops at a breakpoint.
    pub fn trapped(&mut self) {
        self.stops(TRAPPED);
    }

    /// Whether it has stopped at a breakpoint, or does within this time.
    pub fn trapped_within(&mut self, patience: Duration) -> bool {
        self.0.set_read_timeout(Some(patience)).unwrap();
        let mut first = [0];
        let has_come = loop {
            match self.0.read(&mut first) {
                Ok(1) if first[0] == b'$' => break true,
                Ok(1) => {}
                Ok(_) => panic!("the emulator ended"),
                Err(_) => break false,
            }
        };
        self.0.set_read_timeout(None).unwrap();
        has_come && self.rest().starts_with(TRAPPED)
    }

    /// Sets a breakpoint in a chip that is stopped, or takes it away.
    pub fn breakpoint(&mut self, at: u32, is_set: bool) {
        let letter = if is_set { 'Z' } else { 'z' };
        assert_eq!(self.ask(&format!("{letter}0,{at:x},2")), "OK");
    }

    /// A register of a chip that is stopped.
    pub fn register(&mut self, number: u32) -> u32 {
        let text = self.ask(&format!("p{number:x}"));
        let bytes: [u8; 4] = hex::decode(&text).unwrap().try_into().unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Lets a chip that has come to a breakpoint run on from it.
    pub fn step_on(&mut self, at: u32) {
        self.breakpoint(at, false);
        self.send("s");
        self.trapped();
        self.breakpoint(at, true);
        self.send("c");
    }
}
