//! Links: each protocol's own frames over sockets, both ends of this crate, and each end against what no end should send.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sekisho_transport::{
    Card, CardLine, CardSide, DeviceLine, Lines, LinkAddress, LinkCard, LinkListener, NodeAddress, Stop,
    TransportError, serve_link,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with its number, the command in reverse order, and 9000; counts what it ran, and says what else was done to it.
struct Echo {
    number: u8,
    log: Arc<Mutex<Vec<String>>>,
    takes: Duration,
}

impl Echo {
    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{what} {}", self.number));
    }
}

impl CardSide for Echo {
    fn atr(&mut self) -> Vec<u8> {
        vec![0x3B, 0x02, 0x80, 0x31]
    }

    fn reset(&mut self) {
        self.note("reset");
    }

    fn power_off(&mut self) {
        self.note("off");
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        self.note("run");
        thread::sleep(self.takes);
        // INS E0: no data, for T=0's cases 1 and 3.
        let data: Vec<u8> = if capdu[1] == 0xE0 {
            Vec::new()
        } else {
            [&[self.number], capdu].concat().into_iter().rev().collect()
        };
        let answer = [&data[..], &[0x90, 0x00]].concat();
        out[..answer.len()].copy_from_slice(&answer);
        answer.len()
    }
}

struct Served {
    address: LinkAddress,
    stop: Stop,
    log: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
    _folder: Option<tempfile::TempDir>,
}

impl Served {
    fn new(line: CardLine, takes: Duration) -> Self {
        Self::at(line, takes, &"tcp:127.0.0.1:0".parse().unwrap())
    }

    fn at(line: CardLine, takes: Duration, address: &LinkAddress) -> Self {
        let mut listener = LinkListener::bind(address).unwrap();
        let address = listener.address().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let side = |number: usize| -> Box<dyn CardSide + Send> {
            Box::new(Echo {
                number: u8::try_from(number).unwrap(),
                log: log.clone(),
                takes,
            })
        };
        let lines = Lines {
            line,
            sides: (0..line.sides()).map(side).collect(),
            fresh: *b"a number",
            tap: None,
            chip: None,
        };
        let stop = Stop::new();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            serve_link(&mut listener, lines, &stopped, &mut |_| ()).unwrap();
        });
        Self {
            address,
            stop,
            log,
            thread: Some(thread),
            _folder: None,
        }
    }

    fn ran(&self) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|what| what.starts_with("run")).count()
    }

    fn raw(&self) -> TcpStream {
        let LinkAddress::Tcp(address) = &self.address else {
            panic!("no port")
        };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

const LINES: [(DeviceLine, CardLine, u8); 9] = [
    (DeviceLine::T0, CardLine::T0, 0),
    (DeviceLine::T1, CardLine::T1, 0),
    (DeviceLine::Spi(NodeAddress::Ese), CardLine::Spi, 0),
    (DeviceLine::Spi(NodeAddress::Euicc), CardLine::Spi, 1),
    (DeviceLine::I2c(NodeAddress::Ese), CardLine::I2c, 0),
    (DeviceLine::I2c(NodeAddress::Euicc), CardLine::I2c, 1),
    (DeviceLine::ApduGate, CardLine::Swp, 0),
    (DeviceLine::SwpA, CardLine::Swp, 1),
    (DeviceLine::SwpB, CardLine::Swp, 2),
];

fn mirrored(number: u8, capdu: &[u8]) -> Vec<u8> {
    let data = [&[number], capdu].concat();
    data.into_iter().rev().chain([0x90, 0x00]).collect()
}

/// Short and long commands and answers over every line: each once, each with the same answer, also after a reset and from a new connection.
#[test]
fn every_line_carries_every_command_once() {
    let folder = tempfile::tempdir().unwrap();
    let terminal = LinkAddress::Terminal(folder.path().join("tty"));
    let ports = LINES.map(|line| (line, "tcp:127.0.0.1:0".parse().unwrap()));
    let terminals = [LINES[0], LINES[1]].map(|line| (line, terminal.clone()));
    for ((device, line, number), address) in ports.into_iter().chain(terminals) {
        let served = Served::at(line, Duration::ZERO, &address);
        let mut sent = 0;
        for _ in 0..2 {
            let mut card = LinkCard::open(device, &served.address, PATIENCE).unwrap();
            for _ in 0..2 {
                for len in [1_usize, 2, 30, 200, 254] {
                    let data = vec![0x5A; len];
                    let lc = u8::try_from(len).unwrap();
                    let case_3 = [&[0x00, 0xE0, 0x00, 0x00, lc][..], &data].concat();
                    assert_eq!(card.transmit(&case_3).unwrap(), [0x90, 0x00], "{device:?}");
                    let case_4 = [&[0x00, 0xA4, 0x00, 0x00, lc][..], &data, &[0x00]].concat();
                    let answer = card.transmit(&case_4).unwrap();
                    // T=0 carries no Le behind data, and no more than 256 bytes where 256 are wanted.
                    let run = if device == DeviceLine::T0 {
                        &case_4[..case_4.len() - 1]
                    } else {
                        &case_4
                    };
                    let whole = mirrored(number, run);
                    assert_eq!(
                        answer[..answer.len() - 2],
                        whole[..answer.len() - 2],
                        "{device:?} {len}"
                    );
                    sent += 2;
                }
                let data = vec![0xA5; 900];
                let extended = [
                    &[0x00, 0xA4, 0x00, 0x00, 0x00, 0x03, 0x84][..],
                    &data,
                    &[0x00, 0x00],
                ]
                .concat();
                let answer = card.transmit(&extended).unwrap();
                // The whole inner command came by ENVELOPE on T=0.
                assert_eq!(answer, mirrored(number, &extended), "{device:?}");
                sent += 1;
                card.reset().unwrap();
            }
        }
        assert_eq!(served.ran(), sent, "{device:?}");
    }
}

/// A command that takes longer than the protocol's waiting time is given time, whatever the protocol.
#[test]
fn a_slow_command_is_given_time() {
    let threads: Vec<_> = LINES
        .into_iter()
        .map(|(device, line, _)| {
            thread::spawn(move || {
                let served = Served::new(line, Duration::from_millis(2_300));
                let mut card = LinkCard::open(device, &served.address, PATIENCE).unwrap();
                let answer = card.transmit(&[0x00, 0xE0, 0x00, 0x00]).unwrap();
                assert_eq!((answer, served.ran()), (vec![0x90, 0x00], 1), "{device:?}");
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A device that goes while its command runs: the answer is nobody's, and not that of the next device's command.
#[test]
fn an_answer_of_an_earlier_power_cycle_is_nobodys() {
    let check = |(device, line, number): (DeviceLine, CardLine, u8)| {
        let served = Served::new(line, Duration::from_millis(1_200));
        let mut gone = LinkCard::open(device, &served.address, Duration::from_millis(700)).unwrap();
        let lost = gone.transmit(&[0, 0xE0, 0, 1]).unwrap_err();
        assert!(lost.is_outcome_unknown(), "{device:?}");
        drop(gone);
        let mut card = LinkCard::open(device, &served.address, PATIENCE).unwrap();
        let answer = card
            .transmit(&[0x00, 0xA4, 0x00, 0x00, 0x01, number, 0x00])
            .unwrap();
        assert!(
            answer.len() > 6 && answer.ends_with(&[0x90, 0x00]),
            "{device:?}: {answer:02X?}"
        );
        assert_eq!(served.ran(), 2, "{device:?}");
    };
    let threads = LINES.map(|line| thread::spawn(move || check(line)));
    for thread in threads {
        thread.join().unwrap();
    }
}

/// One device at a time: who comes second is hung up on, the first does not notice, and the next is served when it has gone.
#[test]
fn a_second_device_is_hung_up_on() {
    let folder = tempfile::tempdir().unwrap();
    let address = LinkAddress::Unix(folder.path().join("t1.socket"));
    let served = Served::at(CardLine::T1, Duration::ZERO, &address);
    let mut first = LinkCard::open(DeviceLine::T1, &address, PATIENCE).unwrap();
    let second = LinkCard::open(DeviceLine::T1, &address, PATIENCE);
    assert!(matches!(second, Err(TransportError::Closed)));
    assert_eq!(first.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    drop(first);
    let mut third = LinkCard::open(DeviceLine::T1, &address, PATIENCE).unwrap();
    assert_eq!(third.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    assert_eq!(served.ran(), 2);
    // A listener that was killed leaves its file, which the next one replaces; one that lives is left alone.
    assert!(LinkListener::bind(&address).is_err());
    let dead = folder.path().join("dead.socket");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(LinkListener::bind(&LinkAddress::Unix(dead)).is_ok());
    assert!(LinkListener::bind(&"tcp:0.0.0.0:0".parse().unwrap()).is_err());
}

fn record(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).ok()?;
    let mut body = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut body).ok()?;
    Some([&len[..], &body].concat())
}

fn says(stream: &mut TcpStream, text: &str) {
    stream.write_all(&hex::decode(text).unwrap()).unwrap();
}

/// What a foreign device would send, byte by byte, in virtual time: T=1's first block is a block when a microsecond has passed.
#[test]
fn a_foreign_device_speaks_by_the_page_alone() {
    let served = Served::new(CardLine::T1, Duration::from_millis(300));
    let mut stream = served.raw();
    says(&mut stream, "000101");
    let atr = record(&mut stream).unwrap();
    assert_eq!(hex::encode(&atr[..5]), "000b003b92");
    says(&mut stream, "00060000C101FE3E");
    says(&mut stream, "00051000000001");
    assert_eq!(
        hex::encode_upper(record(&mut stream).unwrap()),
        "00060000E101FE1E"
    );
    assert_eq!(hex::encode_upper(record(&mut stream).unwrap()), "000111");
    // A command takes no virtual time, however long it takes; and nothing happens without time.
    says(&mut stream, "00090000000400E00000E4");
    says(&mut stream, "00051000010000");
    let answer = record(&mut stream).unwrap();
    assert_eq!(hex::encode_upper(answer), "000700000002900092");
    assert_eq!(hex::encode_upper(record(&mut stream).unwrap()), "000111");
}

/// frankmorgner/vsmartcard #252 and #322: a length and a body with a write each, and the second waits 40 ms until the first is acknowledged. A record comes in one piece, and
/// one behind another at once, from both ends.
#[test]
fn reported_14_a_record_is_one_write() {
    let served = Served::new(CardLine::Spi, Duration::ZERO);
    let inner = served.raw();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = LinkAddress::Tcp(listener.local_addr().unwrap().to_string());
    let relay = thread::spawn(move || {
        let (outer, _) = listener.accept().unwrap();
        for stream in [&outer, &inner] {
            stream.set_nodelay(true).unwrap();
        }
        let streams = [(&outer, &inner), (&inner, &outer)];
        thread::scope(|scope| {
            let pass = streams.map(|(from, to)| scope.spawn(move || relayed(from, to)));
            pass.map(|thread| thread.join().unwrap())
        })
    });
    let begun = Instant::now();
    let mut card = LinkCard::open(DeviceLine::Spi(NodeAddress::Ese), &address, PATIENCE).unwrap();
    for _ in 0..50 {
        assert_eq!(card.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    }
    drop(card);
    let broken = relay.join().unwrap();
    assert_eq!(broken, [0, 0], "reads that ended within a record");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Passes on what comes until it ends; how many reads ended within a record.
fn relayed(mut from: &TcpStream, mut to: &TcpStream) -> usize {
    let (mut chunk, mut broken) = ([0; 70_000], 0);
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        let mut rest = &chunk[..n];
        while let Some((len, body)) = rest.split_first_chunk() {
            let Some(behind) = body.get(usize::from(u16::from_be_bytes(*len))..) else {
                break;
            };
            rest = behind;
        }
        broken += usize::from(!rest.is_empty());
        if to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    // The other direction ends with this one.
    let _ = to.shutdown(std::net::Shutdown::Both);
    broken
}

/// What is no record closes the stream, and the next device is served; a device that is gone was power off.
#[test]
fn hostile_devices_are_hung_up_on() {
    let served = Served::new(CardLine::Spi, Duration::ZERO);
    for text in [
        "0000",
        "00020061",
        "0001FF",
        "000103",
        "000101000105",
        "000101000111",
    ] {
        let mut stream = served.raw();
        says(&mut stream, text);
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_ok() || rest.is_empty(), "{text}");
    }
    let device = DeviceLine::Spi(NodeAddress::Ese);
    let mut card = LinkCard::open(device, &served.address, PATIENCE).unwrap();
    assert_eq!(card.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    assert!(served.log.lock().unwrap().iter().any(|what| what == "off 1"));
}

/// A listener that does with the first connection what a closure says, and then nothing.
fn hostile(mut with: impl FnMut(&mut TcpStream) + Send + 'static) -> LinkAddress {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = LinkAddress::Tcp(listener.local_addr().unwrap().to_string());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        with(&mut stream);
    });
    address
}

/// A card that says nothing, or what is no record, or breaks off in the middle of a command: an error in time, and whether the command may have been run.
#[test]
fn hostile_cards_come_to_a_clean_end() {
    let brief = Duration::from_millis(300);
    let address = hostile(|stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
    });
    let begun = Instant::now();
    assert!(matches!(
        LinkCard::open(DeviceLine::T1, &address, brief),
        Err(TransportError::Timeout)
    ));
    assert!(begun.elapsed() < Duration::from_secs(2));
    let address = hostile(|stream| says(stream, "0000"));
    assert!(matches!(
        LinkCard::open(DeviceLine::T0, &address, PATIENCE),
        Err(TransportError::Closed)
    ));
    // NAK on SPI, and DATA that nobody asked for.
    for text in ["000105", "00020055"] {
        let address = hostile(move |stream| says(stream, text));
        let opened = LinkCard::open(DeviceLine::Spi(NodeAddress::Ese), &address, PATIENCE);
        assert!(matches!(opened, Err(TransportError::Closed)), "{text}");
    }
    // T=0: it breaks off behind the header, which is the whole command.
    let address = hostile(|stream| {
        record(stream);
        says(stream, "0003003B00");
        record(stream);
    });
    let mut card = LinkCard::open(DeviceLine::T0, &address, PATIENCE).unwrap();
    let error = card.transmit(&[0, 0xE0, 0, 0]).unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    // The connection is given up: nothing is sent again.
    assert!(matches!(
        card.transmit(&[0, 0xE0, 0, 0]),
        Err(TransportError::GivenUp)
    ));
    // It says nothing more: what it may still say is not waited for, and would be nobody's.
    let address = hostile(|stream| {
        record(stream);
        says(stream, "0003003B00");
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
    });
    let mut card = LinkCard::open(DeviceLine::T0, &address, brief).unwrap();
    let error = card.transmit(&[0, 0xE0, 0, 0]).unwrap_err();
    assert!(
        matches!(error, TransportError::Timeout) && error.is_outcome_unknown(),
        "{error}"
    );
    assert!(matches!(
        card.transmit(&[0, 0xE0, 0, 0]),
        Err(TransportError::GivenUp)
    ));
}

/// A status word and more behind it is no procedure of T=0, which wants a reset before anything else.
#[test]
fn what_breaks_the_protocol_is_an_unknown_outcome() {
    let address = hostile(|stream| {
        record(stream);
        says(stream, "0003003B00");
        record(stream);
        says(stream, "00020033");
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
    });
    let mut card = LinkCard::open(DeviceLine::T0, &address, PATIENCE).unwrap();
    let error = card.transmit(&[0, 0xE0, 0, 0]).unwrap_err();
    assert!(matches!(error, TransportError::Unknown(_)), "{error}");
    // T=0 wants a reset before anything else.
    let error = card.transmit(&[0, 0xE0, 0, 0]).unwrap_err();
    assert!(matches!(error, TransportError::NotRun(_)), "{error}");
    assert!(!error.is_outcome_unknown());
}

/// A terminal as a program knows it that has no part of this platform: it is raw before it is opened, opening it brings the ATR, and closing and opening at once is a reset that no device passes over. What one device has said and not read is not there for the next.
#[test]
fn a_terminal_opened_is_power_and_closed_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.tty");
    let served = Served::at(CardLine::T1, Duration::ZERO, &LinkAddress::Terminal(path.clone()));
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let read = |mut tty: &File, len: usize| {
        let mut bytes = vec![0; len];
        tty.read_exact(&mut bytes).unwrap();
        hex::encode_upper(bytes)
    };
    // T=1: NAD PCB LEN 00E00000 LRC; the carriage return, the interrupt and the end of file are characters as any other.
    let block = [
        &[0x00, 0x00, 0x08, 0x00, 0xE0, 0x00, 0x00, 0x03, 0x0D, 0x03, 0x04][..],
        &[0xE1],
    ]
    .concat();
    assert_eq!(block.iter().fold(0, |lrc, byte| lrc ^ byte), 0);
    let mut ends = Vec::new();
    for turn in 0..12 {
        let mut tty = open();
        let atr = read(&tty, 10);
        assert!(atr.starts_with("3B92") && atr.contains("8031"), "{turn}: {atr}");
        ends.push(atr);
        tty.write_all(&block).unwrap();
        if turn % 3 == 0 {
            assert_eq!(read(&tty, 6), "000002900092");
        }
    }
    assert!(ends.iter().all(|atr| *atr == ends[0]), "{ends:?}");
    // One that says something and goes before the card has looked is nobody; one that is slow to read has the whole answer behind its ATR, and nothing else.
    let mut tty = open();
    tty.write_all(&block[..3]).unwrap();
    drop(tty);
    let mut tty = open();
    read(&tty, 10);
    tty.write_all(&block).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(read(&tty, 6), "000002900092");
    let resets = |log: &[String]| log.iter().filter(|what| *what == "reset 0").count();
    let log = served.log.lock().unwrap().clone();
    assert!((13..=14).contains(&resets(&log)), "{log:?}");
    drop(log);
    drop(tty);
    drop(served);
    // The link goes with the card; one that leads nowhere is replaced, and nothing else is.
    assert!(std::fs::symlink_metadata(&path).is_err());
    std::os::unix::fs::symlink("/dev/pts/99999", &path).unwrap();
    let address = LinkAddress::Terminal(path.clone());
    let bound = LinkListener::bind(&address).unwrap();
    let second = LinkListener::bind(&address).unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AlreadyExists);
    drop(bound);
    std::fs::write(&path, "a file").unwrap();
    assert!(LinkListener::bind(&address).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

/// The ends of one wire take turns on one link: what one has begun stands while the others speak, and what it ends is nobody else's.
#[test]
fn ends_of_one_wire_take_turns() {
    let served = Served::new(CardLine::Swp, Duration::ZERO);
    let mut card = LinkCard::open(DeviceLine::ApduGate, &served.address, PATIENCE).unwrap();
    let run = |line: DeviceLine, card: &mut LinkCard| {
        card.turn_to(line).unwrap();
        assert_eq!(card.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    };
    let [gate, a, b] = [DeviceLine::ApduGate, DeviceLine::SwpA, DeviceLine::SwpB];
    for line in [gate, a, gate, a] {
        run(line, &mut card);
    }
    card.renew().unwrap();
    run(gate, &mut card);
    run(b, &mut card);
    card.turn_to(gate).unwrap();
    card.renew().unwrap();
    run(b, &mut card);
    run(gate, &mut card);
    assert!(card.turn_to(DeviceLine::T0).is_err());
    let done = served.log.lock().unwrap().clone();
    // Behind power, which switches all three off.
    assert_eq!(
        done[3..],
        [
            "run 0", "reset 1", "run 1", "run 0", "run 1", "off 1", "run 0", "reset 2", "run 2", "run 2",
            "reset 0", "run 0"
        ]
    );
}

/// On a terminal too one device at a time: the second one's is hung up, and the first does not notice. A card that goes is a hang-up; one that is not there an error.
#[test]
fn a_second_device_at_a_terminal_is_hung_up_on() {
    let folder = tempfile::tempdir().unwrap();
    let address = LinkAddress::Terminal(folder.path().join("card.tty"));
    let missing = LinkCard::open(DeviceLine::T0, &address, PATIENCE);
    assert!(matches!(missing, Err(TransportError::Io(_))));
    let served = Served::at(CardLine::T0, Duration::ZERO, &address);
    let mut first = LinkCard::open(DeviceLine::T0, &address, PATIENCE).unwrap();
    let second = LinkCard::open(DeviceLine::T0, &address, PATIENCE);
    assert!(matches!(second, Err(TransportError::Closed)));
    assert_eq!(first.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    drop(first);
    let mut third = LinkCard::open(DeviceLine::T0, &address, PATIENCE).unwrap();
    assert_eq!(third.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
    assert_eq!(served.ran(), 2);
    drop(served);
    assert!(third.transmit(&[0, 0xE0, 0, 0]).unwrap_err().is_outcome_unknown());
}

/// A wire: with power all of its sides are switched off; a reader that chooses the card resets the side of its type, and switches it off when the wire goes.
#[test]
fn a_reader_resets_the_side_of_its_type_alone() {
    let served = Served::new(CardLine::Swp, Duration::ZERO);
    for device in [DeviceLine::SwpA, DeviceLine::SwpB, DeviceLine::ApduGate] {
        let mut card = LinkCard::open(device, &served.address, PATIENCE).unwrap();
        for _ in 0..2 {
            assert_eq!(card.transmit(&[0, 0xE0, 0, 0]).unwrap(), [0x90, 0x00]);
        }
    }
    let done = served.log.lock().unwrap().clone();
    let ran: Vec<_> = done.iter().filter(|what| !what.starts_with("off")).collect();
    assert_eq!(
        ran,
        [
            "reset 1", "run 1", "run 1", "reset 2", "run 2", "run 2", "run 0", "run 0"
        ]
    );
    // With power, and when the device goes, all three are switched off.
    let off = ["off 0", "off 1", "off 2"];
    assert_eq!(done[..3], off);
    let gone = done.iter().position(|what| what == "run 1").unwrap() + 2;
    assert_eq!(done[gone..gone + 3], off);
}
