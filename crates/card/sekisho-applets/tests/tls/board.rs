//! The TLS Manager on the emulated chip, where `SEKISHO_FIRMWARE_TLS` names its image (`cargo xtask firmware play`): whole sessions with OpenSSL's server, each answer compared with that of the same
//! SE in this process; what the chip takes for them, and what it has in its RAM of them.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::iter;
use std::path::Path;
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConnection};
use sekisho_applets::{DOMAINS, Standard, WithTls};
use sekisho_bridge::{Ended, ins};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{AllInterfaces, Containers, Interface, InterfacesWithTls, Platform, SecureElement};
use sekisho_tls::Version;

use crate::common::board::{Board, count, measure};
use crate::common::script::Line;
use crate::common::{ByValue as _, SeededRng, profile, sw};
use crate::in_memory;
use crate::openssl::OpenSsl;
use crate::pki::Pki;
use crate::room::{Memory, PLACES, Side, filled};
use crate::scripted::with_script;
use crate::se::{FILES, with};
use crate::servers::{READ, select};

/// What the image is, on this machine.
struct Chip;

impl Platform for Chip {
    type Flash = RamFlash;
    type Rng = SeededRng;
    type Applications = WithTls<Standard<1, 0, DOMAINS>>;
    type Interfaces = InterfacesWithTls<AllInterfaces>;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

/// By UART.
const PORTS: [Interface; 2] = [Interface::Iso7816Contact, Interface::Spi];
/// The chip's RAM, stack and heap included (`firmware/mps2/memory.x`).
const RAM: (u32, usize) = (0x2000_0000, 0x6_0000);
/// Commands of the session.
const COMMANDS: usize = 10;

/// The secrets of a session that the server has written down: the last field of each line (NSS key log).
fn secrets(log: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let log = std::fs::read_to_string(log).unwrap();
    let lines = log.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split(' ');
            let name = fields.next().unwrap().to_owned();
            (name, hex::decode(fields.next_back().unwrap()).unwrap())
        })
        .collect()
}

fn found<'s>(ram: &[u8], secrets: &'s [(String, Vec<u8>)]) -> Vec<&'s str> {
    // Half of one is enough to find the rest.
    let is_there = |secret: &[u8]| {
        let halves = secret.chunks(16).filter(|half| half.len() == 16);
        halves
            .into_iter()
            .any(|half| ram.windows(16).any(|bytes| bytes == half))
    };
    secrets
        .iter()
        .filter(|(_, secret)| is_there(secret))
        .map(|(name, _)| &**name)
        .collect()
}

/// A session in which the server sends its commands, the chip beside the same SE in this process.
struct Session<'a> {
    image: &'a Path,
    flash: &'a RamFlash,
    pki: &'a Pki,
}

/// What the chip took for it.
#[derive(Default)]
struct Took {
    /// Instructions of all commands until the session is open.
    handshake: u64,
    /// Of the command inside that took most.
    command: u64,
    heap: u32,
    /// 0 where its stack is wiped.
    stack: usize,
}

/// The chip beside the same SE in this process: their answers are the same.
struct Both {
    se: Box<SecureElement<Chip>>,
    board: Board,
}

impl Both {
    fn start(image: &Path, flash: &RamFlash) -> Self {
        let rng = SeededRng(31);
        let se = SecureElement::<Chip>::booted(flash.clone(), rng.clone(), &profile());
        Self {
            se: Box::new(se.unwrap()),
            board: Board::start(image, flash, rng, &profile()),
        }
    }
}

impl Line for Both {
    fn transmit(&mut self, interface: Interface, command: &[u8]) -> Vec<u8> {
        let ours = Line::transmit(&mut *self.se, interface, command);
        let port = PORTS.iter().position(|own| *own == interface).unwrap();
        let theirs = self.board.ask(port, command);
        assert_eq!(
            hex::encode_upper(&theirs),
            hex::encode_upper(&ours),
            "chip (left) and process differ: {interface:?} {}",
            hex::encode_upper(command)
        );
        ours
    }
}

impl Session<'_> {
    fn run(&self, version: Version) -> Took {
        let mut both = Both::start(self.image, self.flash);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("keys");
        let server = OpenSsl::new(self.pki, version, &["-keylogfile", log.to_str().unwrap()]);
        let commands: Vec<_> = iter::once(select(FILES))
            .chain(iter::repeat_n(READ.to_vec(), COMMANDS - 1))
            .collect();
        let commands: Vec<_> = commands.iter().map(Vec::as_slice).collect();
        // In TLS 1.3 the SE's flight is a record of application data too.
        let flight = usize::from(version == Version::Tls13);
        let (mut took, mut records) = (Took::default(), 0);
        let (ended, said) = with_script(server, version, &commands, |command| {
            let answer = both.transmit(PORTS[0], command);
            let instructions = both.board.figures().instructions;
            records += usize::from(command[..2] == [0xA4, ins::APPLICATION_DATA] && answer.len() > 2);
            match records.checked_sub(1 + flight) {
                None => took.handshake += instructions,
                Some(before) => {
                    took.command = took.command.max(instructions);
                    if before == 0 {
                        let mut others = secrets(&log);
                        // What a KeyUpdate needs stays with the session.
                        others.retain(|(name, _)| !name.ends_with("_TRAFFIC_SECRET_0"));
                        assert!(!others.is_empty());
                        Self::has_nothing_of(&both.board, &others);
                    }
                }
            }
            answer
        });
        assert_eq!(ended, Ended::BySe);
        let mut all = secrets(&log);
        all.push(("private key".to_owned(), self.pki.element.scalar().to_vec()));
        Self::has_nothing_of(&both.board, &all);
        both.transmit(PORTS[0], &select(FILES));
        let read = both.transmit(PORTS[0], READ);
        assert_eq!((read.len(), sw(&read)), (18, 0x9000));
        let answered = said.windows(read.len()).filter(|bytes| **bytes == read);
        assert_eq!((records, answered.count()), (COMMANDS + flight, COMMANDS - 1));
        took.heap = both.board.figures().heap;
        took.stack = both.board.stack();
        took
    }

    /// Where the stack is measured it is not wiped.
    fn has_nothing_of(board: &Board, secrets: &[(String, Vec<u8>)]) {
        if board.stack() == 0 {
            assert_eq!(found(&board.memory(RAM.0, RAM.1), secrets), Vec::<&str>::new());
        }
    }
}

#[test]
fn a_handshake_and_ten_commands_are_the_same_on_the_chip() {
    let Some(image) = std::env::var_os("SEKISHO_FIRMWARE_TLS") else {
        return;
    };
    count(true);
    let pki = Pki::new();
    let session = Session {
        image: Path::new(&image),
        flash: &with(&pki).into_flash(),
        pki: &pki,
    };
    let (mut lines, mut heap) = (String::new(), 0);
    for version in [Version::Tls12, Version::Tls13] {
        let name = match version {
            Version::Tls12 => "TLS 1.2",
            Version::Tls13 => "TLS 1.3",
        };
        let took = session.run(version);
        writeln!(lines, "handshake of {name}, instructions\t{}", took.handshake).unwrap();
        writeln!(lines, "a command inside {name}, instructions\t{}", took.command).unwrap();
        heap = heap.max(took.heap);
    }
    // That of TLS 1.2 goes deeper.
    count(false);
    measure(true);
    let stack = session.run(Version::Tls12).stack;
    measure(false);
    writeln!(lines, "a session, heap\t{heap}").unwrap();
    writeln!(lines, "a session, stack\t{stack}").unwrap();
    tell(&lines);
}

/// As long as a certificate can be, but for some bytes, beside what a certificate has anyway (docs/spec/tls-manager.md, 4).
const LONG: usize = 7_200;

/// The longest chain comes while three sessions are open that have had no command yet, on two interfaces: the chip has the heap for it.
#[test]
fn the_chip_has_the_heap_for_the_longest_chain_beside_open_sessions() {
    let Some(image) = std::env::var_os("SEKISHO_FIRMWARE_TLS") else {
        return;
    };
    let pki = filled(LONG);
    let mut both = Both::start(Path::new(&image), &with(&pki).into_flash());
    for interface in PORTS {
        assert_eq!(both.transmit(interface, &[0, 0x70, 0, 0, 1]), [1, 0x90, 0]);
    }
    let mut memories = [(); 4].map(|()| Memory::new());
    let mut sides: Vec<_> = memories
        .iter_mut()
        .zip(PLACES)
        .enumerate()
        .map(|(number, (memory, place))| {
            // What waits for a ticket waits in TLS 1.3; the longest chain takes more in TLS 1.2.
            let version = if number == 3 {
                Version::Tls12
            } else {
                Version::Tls13
            };
            let mut config = in_memory::config(&pki, version, 0, &[]);
            config.max_fragment_size = Some(4000);
            Side::of(memory, ServerConnection::new(Arc::new(config)).unwrap(), place)
        })
        .collect();
    for side in &mut sides {
        side.open(&mut both);
    }
    for side in &mut sides {
        while side.go_on(&mut both, &[READ]).is_some() {}
        assert_eq!((side.over, side.answers.len()), (Some(Ended::BySe), 1));
    }
    tell(&format!(
        "the longest chain beside three open sessions, heap\t{}\n",
        both.board.figures().heap
    ));
}

/// The second session of a row is resumed, and the third with the ticket of the second; the power ends that.
#[test]
fn a_second_session_is_resumed_on_the_chip() {
    let Some(image) = std::env::var_os("SEKISHO_FIRMWARE_TLS") else {
        return;
    };
    let pki = Pki::new();
    let flash = with(&pki).into_flash();
    let config = Arc::new(in_memory::config(&pki, Version::Tls13, 1, &[]));
    let mut took = [0; 2];
    for _ in 0..2 {
        count(true);
        let mut both = Both::start(Path::new(&image), &flash);
        for (number, kind) in [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ]
        .into_iter()
        .enumerate()
        {
            let mut memory = Memory::new();
            let server = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut side = Side::of(&mut memory, server, PLACES[0]);
            let mut counted = Counted {
                both: &mut both,
                instructions: 0,
            };
            side.open(&mut counted);
            took[number.min(1)] = counted.instructions;
            while side.go_on(&mut counted, &[&select(FILES), READ]).is_some() {}
            assert_eq!((side.over, side.answers.len()), (Some(Ended::BySe), 2));
            assert_eq!(side.server.handshake_kind(), Some(kind));
        }
        count(false);
    }
    assert!(took[1] * 2 < took[0], "{took:?}");
    tell(&format!("resumption of TLS 1.3, instructions\t{}\n", took[1]));
}

/// A line whose instructions are counted.
struct Counted<'a> {
    both: &'a mut Both,
    instructions: u64,
}

impl Line for Counted<'_> {
    fn transmit(&mut self, interface: Interface, command: &[u8]) -> Vec<u8> {
        let answer = self.both.transmit(interface, command);
        self.instructions += self.both.board.figures().instructions;
        answer
    }
}

/// For `cargo xtask firmware` to hold to `firmware/budget.toml`.
#[allow(clippy::print_stdout, reason = "whoever runs it by hand sees them")]
fn tell(lines: &str) {
    print!("{lines}");
    if let Some(file) = std::env::var_os("SEKISHO_FIRMWARE_FIGURES") {
        let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}
