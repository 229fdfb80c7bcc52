//! `sekisho card` as a process, and a host to talk to it.
#![allow(dead_code, unreachable_pub)] // each test program uses a part
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)] // test support

#[cfg(target_os = "linux")]
pub mod memory;
pub mod reader;

use core::time::Duration;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use sekisho_apdu::{CApdu, RApdu, Writer};
use sekisho_keys::{AesKey, KeySet, kcv_aes};
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse, SessionKeys, encrypt_sensitive};
use sekisho_scp::{MacMode, SecurityLevel};
use sekisho_transport::{Card, SocketCard};

/// The binary under test.
pub const SEKISHO: &str = env!("CARGO_BIN_EXE_sekisho");

/// An empty directory that goes with its owner.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A running `sekisho card`.
pub struct CardProcess {
    child: Child,
    pub address: String,
    pub screen: Vec<String>,
}

impl CardProcess {
    /// Starts it on a port (0: any) and waits until it listens.
    pub fn start(flash: &Path, port: u16, more: &[&str]) -> Self {
        Self::start_by(Command::new(SEKISHO).stderr(Stdio::null()), flash, port, more)
    }

    /// Starts it by a command that begins with the binary, or with something that becomes it.
    pub fn start_by(command: &mut Command, flash: &Path, port: u16, more: &[&str]) -> Self {
        command
            .args(["card", "--listen", &format!("127.0.0.1:{port}"), "--flash"])
            .arg(flash)
            .args(more);
        let mut card = Self::run(command);
        card.address = card
            .screen
            .iter()
            .find_map(|line| line.strip_prefix("Listening on ")?.split(',').next())
            .unwrap_or_else(|| panic!("the card did not start: {:?}", card.screen))
            .to_owned();
        card
    }

    /// Starts it on these lines, `PROTOCOL=ENDPOINT` each.
    pub fn start_on(flash: &Path, lines: &[&str], more: &[&str]) -> Self {
        let mut command = Command::new(SEKISHO);
        command.stderr(Stdio::null()).args(["card", "--flash"]).arg(flash);
        for line in lines {
            command.args(["--on", line]);
        }
        Self::run(command.args(more))
    }

    /// Runs it and reads its first screen.
    pub fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut screen = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let is_last = line.starts_with("It keeps its state");
            screen.push(line);
            if is_last {
                break;
            }
        }
        let address = String::new();
        Self {
            child,
            address,
            screen,
        }
    }

    /// What the first screen says after a name.
    pub fn says(&self, name: &str) -> String {
        let found = self.screen.iter().find_map(|line| line.trim().strip_prefix(name));
        found.expect(name).trim().to_owned()
    }

    /// Where the listener of a protocol is.
    pub fn at(&self, protocol: &str) -> String {
        let said = self.says(protocol);
        let address = said.strip_prefix("vpcd+tcp:").expect("a listener");
        address.split(',').next().unwrap_or_default().to_owned()
    }

    pub fn reader_on(&self, protocol: &str) -> SocketCard {
        SocketCard::open(&self.at(protocol), Duration::from_secs(20)).unwrap()
    }

    pub fn reader(&self) -> SocketCard {
        SocketCard::open(&self.address, Duration::from_secs(20)).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// kill -9, as a loss of power.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for CardProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a child process whose test failed.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a command and splits the answer; the status word has to be there.
pub fn send(card: &mut dyn Card, capdu: &[u8]) -> (Vec<u8>, u16) {
    let answer = sekisho_transport::exchange(card, capdu).unwrap();
    (answer.data, answer.sw)
}

/// The same in one piece: what waits is fetched, as on T=0.
pub fn whole(card: &mut dyn Card, capdu: &[u8]) -> Vec<u8> {
    let (mut answer, sw) = send(card, capdu);
    answer.extend(sw.to_be_bytes());
    answer
}

/// One key in all three places.
pub fn key_set(byte: u8) -> KeySet {
    let key = AesKey::new(&[byte; 16]).unwrap();
    KeySet {
        enc: key.clone(),
        mac: key.clone(),
        dek: key,
    }
}

/// The initial keys, 40 to 4F.
pub fn initial_keys() -> KeySet {
    let key = AesKey::new(&(0x40..=0x4F).collect::<Vec<u8>>()).unwrap();
    KeySet {
        enc: key.clone(),
        mac: key.clone(),
        dek: key,
    }
}

/// The sequence counter that an INITIALIZE UPDATE reports; `None` when it has no answer, because the card is dead.
pub fn count(card: &mut dyn Card) -> Option<u32> {
    let rapdu = card
        .transmit(&[0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0])
        .ok()?;
    let response = RApdu::parse(&rapdu).unwrap();
    assert!(response.sw.is_success(), "{}", response.sw);
    InitializeUpdateResponse::parse(response.data)
        .unwrap()
        .sequence_counter
}

/// Opens a secure channel at level 33; `None` when the keys are not the card's.
pub fn open_channel(card: &mut dyn Card, kvn: u8, keys: &KeySet) -> Option<HostChannel> {
    let (data, sw) = send(card, &[0x80, 0x50, kvn, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    if sw != 0x9000 {
        return None;
    }
    let response = InitializeUpdateResponse::parse(&data).unwrap();
    let challenge = Challenge::try_from(&[1, 2, 3, 4, 5, 6, 7, 8][..]).unwrap();
    let session = SessionKeys::derive(keys, &challenge, &response.card_challenge).unwrap();
    if session
        .card_cryptogram(&challenge, &response.card_challenge)
        .unwrap()
        != response.card_cryptogram
    {
        return None;
    }
    let cryptogram = session
        .host_cryptogram(&challenge, &response.card_challenge)
        .unwrap();
    let mut channel = HostChannel::new(session, MacMode::S8);
    let mut buffer = [0; 64];
    let mut out = Writer::new(&mut buffer);
    channel
        .external_authenticate(SecurityLevel::from_p1(0x33).unwrap(), &cryptogram, &mut out)
        .unwrap();
    assert_eq!(send(card, out.written()).1, 0x9000);
    Some(channel)
}

/// PUT KEY of a whole set (GPC 11.8), as protected bytes.
pub fn put_keys(channel: &mut HostChannel, dek: &AesKey, replaced: u8, kvn: u8, new: &KeySet) -> Vec<u8> {
    let mut data = vec![kvn];
    for key in [&new.enc, &new.mac, &new.dek] {
        let mut wrapped = key.as_bytes().to_vec();
        encrypt_sensitive(dek, &mut wrapped).unwrap();
        data.extend([0x88, 0x10]);
        data.extend(wrapped);
        data.push(3);
        data.extend(kcv_aes(key));
    }
    let head = [0x80, 0xD8, replaced, 0x81, u8::try_from(data.len()).unwrap()];
    let plain = [&head[..], &data, &[0]].concat();
    let mut buffer = [0; 400];
    let mut out = Writer::new(&mut buffer);
    channel.wrap(&CApdu::parse(&plain).unwrap(), &mut out).unwrap();
    out.written().to_vec()
}

/// `wasm` with a custom section of `length` zeros, so that it takes longer to send.
pub fn padded(wasm: &[u8], length: u32) -> Vec<u8> {
    let leb = |mut n: u32| {
        let mut bytes = Vec::new();
        while n > 0x7F {
            bytes.push(n.to_le_bytes()[0] | 0x80);
            n >>= 7;
        }
        bytes.push(n.to_le_bytes()[0]);
        bytes
    };
    let name = b"\x03pad";
    let size = leb(length + 4);
    [wasm, &[0], &size, name, &vec![0; length as usize]].concat()
}

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A wire between agent and card that counts commands and tells when one is on its way that is to be the last.
pub struct Wire {
    pub address: String,
    /// A message for each cut; the connection is held until it is answered.
    pub cuts: mpsc::Receiver<mpsc::Sender<()>>,
}

impl Wire {
    /// A wire to the card at `target`, that is cut at these commands, counted over all connections. The last command is delivered, its
    /// answer is not.
    pub fn new(target: String, mut cut_at: Vec<u32>) -> Self {
        cut_at.reverse();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, cuts) = mpsc::channel();
        thread::spawn(move || {
            let mut count = 0;
            while let Ok((mut reader, _)) = listener.accept() {
                let Ok(mut card) = TcpStream::connect(&target) else {
                    continue;
                };
                while let Some(frame) = frame(&mut reader) {
                    card.write_all(&frame).unwrap_or_default();
                    count += u32::from(frame.len() > 3);
                    if cut_at.last() == Some(&count) {
                        cut_at.pop();
                        let (done, wait) = mpsc::channel();
                        if tell.send(done).is_err() || wait.recv().is_err() {
                            return;
                        }
                        break;
                    }
                    if frame.len() > 3 || frame[2] == 4 {
                        let Some(answer) = self::frame(&mut card) else {
                            break;
                        };
                        reader.write_all(&answer).unwrap_or_default();
                    }
                }
            }
        });
        Self { address, cuts }
    }
}

/// A length-prefixed frame, with its length.
fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 2];
    stream.read_exact(&mut frame).ok()?;
    frame.resize(2 + usize::from(u16::from_be_bytes([frame[0], frame[1]])), 0);
    stream.read_exact(&mut frame[2..]).ok()?;
    Some(frame)
}
