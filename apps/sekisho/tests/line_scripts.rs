//! The conversations of `tests/scripts` with `sekisho card` behind its socket: every answer is the one that the same card gives in its own
//! process. Those that go to several interfaces are left to that.

use crate::process;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use process::CardProcess;
use sekisho_card_tests::script::{CardUnderTest, InProcess, Line, Runner};
use sekisho_card_tests::{Card, PAGE, files, new_card_of};
use sekisho_os::Interface;
use sekisho_scp::ScpParameter;
use sekisho_transport::{
    Card as _, CardLine, CardSide, DeviceLine, Lines, LinkAddress, LinkCard, LinkListener, NodeAddress,
    SocketCard, Stop, serve_link,
};

/// The first bytes of a flash file, in a page of their own; behind it stands the complement of the flash.
const MARK: &[u8; 16] = b"sekisho flash 1\n";

/// `sekisho card` and a reader of it.
struct Process {
    flash: PathBuf,
    running: Option<(CardProcess, SocketCard)>,
    _folder: tempfile::TempDir,
}

impl Process {
    fn new(card: Card) -> Self {
        let folder = process::scratch();
        let mut new = Self {
            flash: folder.path().join("card.flash"),
            running: None,
            _folder: folder,
        };
        new.put(card);
        new
    }

    /// Writes the card's flash to the file and starts it.
    fn put(&mut self, card: Card) {
        self.running = None;
        let mut file = vec![0; PAGE];
        file[..MARK.len()].copy_from_slice(MARK);
        file.extend(card.into_flash().image().iter().map(|byte| !byte));
        std::fs::write(&self.flash, file).unwrap();
        self.start();
    }

    fn start(&mut self) {
        let card = CardProcess::start(&self.flash, 0, &[]);
        let reader = card.reader();
        self.running = Some((card, reader));
    }

    fn reader(&mut self) -> &mut SocketCard {
        &mut self.running.as_mut().unwrap().1
    }
}

impl Line for Process {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        assert_eq!(interface, Interface::Iso7816Contact, "it has no other");
        self.reader().transmit(capdu).unwrap()
    }
}

impl CardUnderTest for Process {
    fn reset(&mut self, _: Interface) {
        self.reader().reset().unwrap();
    }

    fn restart(&mut self) {
        if let Some((card, _)) = self.running.take() {
            card.kill();
        }
        self.start();
    }

    fn replace_with_files(&mut self) {
        self.put(files::card());
    }
}

#[test]
fn every_script_of_one_interface_is_answered_alike_behind_a_socket() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scripts");
    let mut played = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".apdu") {
            continue;
        }
        let script = std::fs::read_to_string(&path).unwrap();
        // A command of one byte is a control code of the socket's framing.
        let framed = |line: &str| line.starts_with("> ") && line[2..].trim().len() == 2;
        if script.contains("! interface") || script.lines().any(framed) {
            println!("{name}: in process alone");
            continue;
        }
        let parameter = if name.contains("s16") {
            ScpParameter::FULL_S16
        } else {
            ScpParameter::FULL_S8
        };
        let card = Process::new(new_card_of(parameter));
        Runner::new(card, parameter.mac_mode()).run(&name, &script);
        played += 1;
    }
    println!("{played} scripts played to sekisho card");
    assert!(played >= 15, "{played}");
}

/// The SE in this process, on the interface of a line.
struct Side {
    card: Arc<Mutex<InProcess>>,
    interface: Interface,
}

impl CardSide for Side {
    fn atr(&mut self) -> Vec<u8> {
        sekisho_os::Profile::default().atr.to_vec()
    }

    fn reset(&mut self) {
        self.card.lock().unwrap().reset(self.interface);
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        let answer = self.card.lock().unwrap().transmit(self.interface, capdu);
        out[..answer.len()].copy_from_slice(&answer);
        answer.len()
    }
}

/// The SE behind a protocol's own frames, and a reader of it.
struct Linked {
    card: Arc<Mutex<InProcess>>,
    line: DeviceLine,
    address: LinkAddress,
    reader: Option<LinkCard>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Linked {
    fn new(card: InProcess, line: DeviceLine) -> Self {
        let card = Arc::new(Mutex::new(card));
        let (wire, interface) = match line {
            DeviceLine::T0 => (CardLine::T0, Interface::Iso7816Contact),
            DeviceLine::T1 => (CardLine::T1, Interface::Iso7816Contact),
            DeviceLine::Spi(_) => (CardLine::Spi, Interface::Spi),
            DeviceLine::I2c(_) => (CardLine::I2c, Interface::Spi),
            // What is open to readers is another matter than what carries them.
            DeviceLine::ApduGate | DeviceLine::SwpA | DeviceLine::SwpB => {
                (CardLine::Swp, Interface::ApduGate)
            }
        };
        let side = |_| -> Box<dyn CardSide + Send> {
            Box::new(Side {
                card: Arc::clone(&card),
                interface,
            })
        };
        let lines = Lines {
            line: wire,
            sides: (0..wire.sides()).map(side).collect(),
            fresh: *b"a script",
            tap: None,
            chip: None,
        };
        let mut listener = LinkListener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let stop = Stop::new();
        let stopped = stop.clone();
        let thread = thread::spawn(move || serve_link(&mut listener, lines, &stopped, &mut |_| ()).unwrap());
        let mut new = Self {
            card,
            line,
            address,
            reader: None,
            stop,
            thread: Some(thread),
        };
        new.connect();
        new
    }

    fn connect(&mut self) {
        self.reader = None;
        let patience = Duration::from_secs(20);
        self.reader = Some(LinkCard::open(self.line, &self.address, patience).unwrap());
    }

    fn send(&mut self, capdu: &[u8]) -> Vec<u8> {
        self.reader.as_mut().unwrap().transmit(capdu).unwrap()
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

impl Line for Linked {
    /// On T=0 a command that asks for no data and has some is answered 61XX or 6CXX; a host that expects them all the same fetches them.
    fn transmit(&mut self, _: Interface, capdu: &[u8]) -> Vec<u8> {
        let answer = self.send(capdu);
        let parsed = sekisho_apdu::CApdu::parse(capdu);
        match (self.line, parsed, &answer[..]) {
            (DeviceLine::T0, Ok(parsed), [0x61, more]) if parsed.ne.is_none() => {
                let class = sekisho_apdu::Cla::ISO.with_logical_channel(parsed.cla.logical_channel());
                self.send(&[class.unwrap().0, 0xC0, 0x00, 0x00, *more])
            }
            (DeviceLine::T0, Ok(parsed), [0x6C, len]) if parsed.ne.is_none() && parsed.data.is_empty() => {
                self.send(&[capdu, &[*len]].concat())
            }
            _ => answer,
        }
    }
}

impl CardUnderTest for Linked {
    fn reset(&mut self, _: Interface) {
        self.reader.as_mut().unwrap().reset().unwrap();
    }

    fn restart(&mut self) {
        self.reader = None;
        self.card.lock().unwrap().restart();
        self.connect();
    }

    fn replace_with_files(&mut self) {
        self.reader = None;
        self.card.lock().unwrap().replace_with_files();
        self.connect();
    }
}

/// Whether T=0 carries all commands of a script as they are: not what is no C-APDU, and in the extended form only what needs it, or a MAC over Lc does not hold.
fn is_for_t0(script: &str) -> bool {
    let commands = script.lines().filter_map(|line| line.split_once("> "));
    let mut plain = commands
        .filter(|(verb, _)| verb.is_empty())
        .map(|(_, digits)| digits);
    plain.all(|digits| {
        let capdu = hex::decode(digits.split_whitespace().collect::<String>()).unwrap();
        sekisho_apdu::CApdu::parse(&capdu).is_ok_and(|capdu| !capdu.extended || capdu.data.len() > 255)
    })
}

#[test]
fn every_script_of_one_interface_is_answered_alike_over_every_protocol() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scripts");
    let lines = [
        DeviceLine::T0,
        DeviceLine::T1,
        DeviceLine::Spi(NodeAddress::Ese),
        DeviceLine::I2c(NodeAddress::Euicc),
        DeviceLine::ApduGate,
        DeviceLine::SwpB,
    ];
    let play = &|line: DeviceLine| {
        let mut played = 0;
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".apdu") {
                continue;
            }
            let script = std::fs::read_to_string(&path).unwrap();
            let short = |line: &str| line.starts_with("> ") && line[2..].trim().len() < 8;
            if script.contains("! interface") || script.lines().any(short) {
                continue;
            }
            if line == DeviceLine::T0 && !is_for_t0(&script) {
                println!("{name}: not on T=0");
                continue;
            }
            let parameter = if name.contains("s16") {
                ScpParameter::FULL_S16
            } else {
                ScpParameter::FULL_S8
            };
            let card = InProcess::new(new_card_of(parameter), sekisho_card_tests::profile());
            Runner::new(Linked::new(card, line), parameter.mac_mode()).run(&name, &script);
            played += 1;
        }
        (line, played)
    };
    let played = thread::scope(|scope| {
        let threads = lines.map(|line| scope.spawn(move || play(line)));
        threads.map(|thread| thread.join())
    });
    for played in played {
        let (line, played) = played.unwrap();
        println!("{played} scripts over {}", line.name());
        assert!(played >= 12, "{line:?}: {played}");
    }
}
