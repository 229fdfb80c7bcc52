//! A chip in QEMU: starts one, speaks to its ports, ends it.
//!
//! The chip's flash is a file of 16 MiB that QEMU maps: what the chip has written is in it, whatever becomes of the emulator. Its first bytes are the flash,
//! its last page the option page, which says how the flash is divided.
//!
//! Of the standard library alone: tests of the card and of the firmware include this file.

#![allow(unreachable_pub, reason = "the tests of the card run it too: tests/card")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes of the file.
const FILE_LEN: u64 = 16 << 20;
/// Bytes of a page of the flash.
const FLASH_PAGE: usize = 4096;
/// What the option page begins with.
const OPTIONS_MARK: [u8; 4] = *b"SKO1";
/// The UART that is the source of randomness.
const RANDOM_UART: usize = 4;
/// How long the chip may take for its start, and for one command.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the flash is divided and what the chip may use, as its option page says: bytes, but for the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub store: usize,
    pub slot: usize,
    pub area: usize,
    pub area_quota: usize,
    /// Logical channels of an interface.
    pub channels: u8,
    pub stack: usize,
    pub shallow: usize,
    /// RAM for OS parts, beside the SE's own state.
    pub part_ram: usize,
}

impl Options {
    fn page(&self, flash: usize) -> Vec<u8> {
        let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let words = [
            flash,
            self.store,
            self.slot,
            self.area,
            self.area_quota,
            self.channels.into(),
            self.stack,
            self.shallow,
            self.part_ram,
        ];
        [OPTIONS_MARK]
            .into_iter()
            .chain(words.map(word))
            .flatten()
            .collect()
    }
}

/// The flash of a chip that is off.
pub struct BoardFlash {
    file: File,
}

impl BoardFlash {
    /// Opens it; `None` if there is no such file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) if file.metadata()?.len() == FILE_LEN => Ok(Some(Self { file })),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is no flash of an emulated chip, which has 16 MiB",
                    path.display()
                ),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the file, with this content; it is readable by its owner alone.
    pub fn make(path: &Path, image: &[u8], options: &Options) -> io::Result<Self> {
        let mut file = OpenOptions::new();
        file.read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        let file = file.open(path)?;
        file.set_len(FILE_LEN)?;
        let flash = Self { file };
        flash.file.write_all_at(image, 0)?;
        flash
            .file
            .write_all_at(&options.page(image.len()), FILE_LEN - FLASH_PAGE as u64)?;
        Ok(flash)
    }

    /// All bytes of the flash.
    pub fn image(&self) -> io::Result<Vec<u8>> {
        let mut head = [0; 8];
        self.file.read_exact_at(&mut head, FILE_LEN - FLASH_PAGE as u64)?;
        let [m0, m1, m2, m3, len @ ..] = head;
        let len = u32::from_le_bytes(len);
        if [m0, m1, m2, m3] != OPTIONS_MARK || u64::from(len) > FILE_LEN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the flash has no option page",
            ));
        }
        let mut image = vec![0; len as usize];
        self.file.read_exact_at(&mut image, 0)?;
        Ok(image)
    }
}

/// Where the chip's randomness comes from.
pub enum Randomness {
    /// The machine.
    System,
    /// Whoever holds the other end of [`Emulator::random`].
    Given,
}

/// What to start.
pub struct Setup<'a> {
    /// The firmware, an ELF file.
    pub firmware: &'a Path,
    pub flash: &'a Path,
    /// Ports that are connected: 1 to 4.
    pub ports: usize,
    pub randomness: Randomness,
    /// Further arguments of QEMU.
    pub arguments: &'a [&'a str],
}

/// A chip that runs. It ends when this is dropped, as if its power were taken away.
pub struct Emulator {
    child: Child,
    ports: Vec<UnixStream>,
    random: Option<UnixStream>,
}

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A folder of our own, removed with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sekisho-chip-{}-{number}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Emulator {
    /// Starts the chip.
    ///
    /// # Errors
    /// When QEMU is not there, or does not start.
    pub fn start(setup: &Setup<'_>) -> io::Result<Self> {
        let folder = Folder::new()?;
        // With its own process the chip ends too, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-arm"]);
        let memory = format!(
            "memory-backend-file,id=psram,size=16M,share=on,mem-path={}",
            quoted(setup.flash)?
        );
        command
            .args(["-machine", "mps2-an386,memory-backend=psram", "-object", &memory])
            .args(["-nodefaults", "-display", "none", "-kernel"])
            .arg(setup.firmware)
            .args(setup.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut listeners = Vec::new();
        for uart in 0..=RANDOM_UART {
            let is_random = uart == RANDOM_UART;
            if uart < setup.ports || is_random {
                let path = folder.0.join(uart.to_string());
                listeners.push(UnixListener::bind(&path)?);
                let device = format!("socket,id=uart{uart},path={}", quoted(&path)?);
                command.args(["-chardev", &device, "-serial", &format!("chardev:uart{uart}")]);
            } else {
                command.args(["-serial", "null"]);
            }
        }
        let mut child = command.spawn()?;
        let ports = listeners
            .iter()
            .map(|listener| accept(listener, &mut child))
            .collect::<io::Result<Vec<_>>>();
        let mut ports = match ports {
            Ok(ports) => ports,
            Err(error) => {
                end(&mut child);
                return Err(error);
            }
        };
        let random = ports.pop();
        let random = match setup.randomness {
            Randomness::Given => random,
            Randomness::System => {
                let random = random.ok_or(io::ErrorKind::NotConnected)?;
                thread::spawn(move || pump(random));
                None
            }
        };
        Ok(Self { child, ports, random })
    }

    /// A port, 0 to 3: contacts, SPI, SWP, APDU gate.
    pub fn port(&mut self, number: usize) -> io::Result<&mut UnixStream> {
        self.ports
            .get_mut(number)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Where the chip takes its randomness from, if it is given to it.
    pub fn random(&mut self) -> Option<&mut UnixStream> {
        self.random.as_mut()
    }

    /// Sends a frame.
    pub fn send(&mut self, port: usize, body: &[u8]) -> io::Result<()> {
        let len = u16::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let frame = [&len.to_be_bytes(), body].concat();
        self.port(port)?.write_all(&frame)
    }

    /// Receives one.
    pub fn receive(&mut self, port: usize) -> io::Result<Vec<u8>> {
        let stream = self.port(port)?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut body = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Sends a C-APDU, or a control code, and receives its answer.
    pub fn ask(&mut self, port: usize, body: &[u8]) -> io::Result<Vec<u8>> {
        self.send(port, body)?;
        self.receive(port)
    }

    /// Takes the power away: what has not been written never will be.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A path as a value of an option of QEMU, which doubles commas.
fn quoted(path: &Path) -> io::Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path of QEMU's is UTF-8"))?;
    Ok(text.replace(',', ",,"))
}

/// Waits for QEMU's connection; what QEMU says instead, if it ends.
#[allow(clippy::disallowed_methods, reason = "the edge is where one waits")]
fn accept(listener: &UnixListener, child: &mut Child) -> io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    for _ in 0..PATIENCE.as_millis() / 5 {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if child.try_wait()?.is_some() {
            let mut text = String::new();
            if let Some(stderr) = &mut child.stderr {
                stderr.read_to_string(&mut text)?;
            }
            return Err(io::Error::other(format!(
                "the emulator ended (it is qemu-system-arm, of Debian's package of the same name): {}",
                text.trim()
            )));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Gives the chip the machine's randomness until it is gone.
fn pump(mut to: UnixStream) {
    let _ = to.set_write_timeout(None);
    let mut piece = [0; 256];
    let Ok(mut random) = File::open("/dev/urandom") else {
        return;
    };
    while random.read_exact(&mut piece).is_ok() && to.write_all(&piece).is_ok() {}
}
