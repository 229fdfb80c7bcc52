//! A secure element on an emulated chip, for readers.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use sekisho_nvm::Flash;
use sekisho_os::{Interface, Profile};
use sekisho_transport::{CardSide, Chip};

use super::element::VirtualSe;
use super::emulator::{BoardFlash, Emulator, Options, Randomness, Setup};
use super::file_flash::PAGE;
use super::ram_flash::RamFlash;

/// Bytes of the heap that the image with modules has (`firmware/mps2/src/heap.rs`).
const HEAP: usize = 96 << 10;
/// The longest flash that the chip has beside its option page.
const LARGEST: usize = (16 << 20) - PAGE;

/// The UART of the contacts.
const CONTACTS: usize = port(Interface::Iso7816Contact);
/// How long a chip that has answered elsewhere may take for its ATR.
const ATR: Duration = Duration::from_secs(10);

/// The flash of a chip that is off: what it holds, or blank flash of `len` bytes where there is no file.
pub(crate) fn flash(path: &Path, len: usize) -> Result<RamFlash> {
    let image = match BoardFlash::open(path)? {
        Some(flash) => flash.image()?,
        None => vec![0xFF; len],
    };
    if image.len() > LARGEST {
        bail!("an emulated chip has at most {LARGEST} bytes of flash");
    }
    let mut flash = RamFlash::new(PAGE, image.len() / PAGE);
    for (at, page) in (0..).step_by(PAGE).zip(image.chunks(PAGE)) {
        if page.iter().any(|byte| *byte != 0xFF) {
            let written = flash.write(at, page);
            written.map_err(|error| anyhow!("{error:?}"))?;
        }
    }
    Ok(flash)
}

/// Writes what an SE has been made of to the file of a new chip.
pub(crate) fn make(path: &Path, flash: &RamFlash, profile: &Profile) -> Result<()> {
    let mut image = vec![0; flash.page_size() * flash.pages()];
    flash.read(0, &mut image).map_err(|error| anyhow!("{error:?}"))?;
    let options = Options {
        store: profile.store_bytes,
        slot: profile.slot_bytes,
        area: profile.area_bytes,
        area_quota: profile.area_quota,
        channels: profile.logical_channels,
        stack: profile.stack,
        shallow: profile.shallow,
        part_ram: VirtualSe::<RamFlash>::part_ram(profile).min(HEAP),
    };
    BoardFlash::make(path, &image, &options)
        .map(drop)
        .with_context(|| format!("cannot make the flash {}", path.display()))
}

/// One chip behind several sockets.
#[derive(Clone)]
pub(crate) struct Board(Arc<Mutex<Running>>);

struct Running {
    firmware: PathBuf,
    flash: PathBuf,
    /// None when it has gone silent: the next reset gives it its power again.
    emulator: Option<Emulator>,
}

impl Running {
    fn start(&mut self) -> Result<&mut Emulator> {
        let emulator = Emulator::start(&Setup {
            firmware: &self.firmware,
            flash: &self.flash,
            ports: Interface::COUNT,
            randomness: Randomness::System,
            arguments: &[],
        })
        .with_context(|| format!("{} does not start", self.firmware.display()))?;
        Ok(self.emulator.insert(emulator))
    }

    fn with<T>(&mut self, ask: impl FnOnce(&mut Emulator) -> std::io::Result<T>) -> Option<T> {
        let answer = ask(self.emulator.as_mut()?).ok();
        if answer.is_none() {
            self.emulator = None;
        }
        answer
    }
}

/// Its UART.
const fn port(interface: Interface) -> usize {
    match interface {
        Interface::Spi => 1,
        Interface::Swp => 2,
        Interface::ApduGate => 3,
        _ => 0,
    }
}

impl Board {
    /// Starts the chip, whose contacts speak T=1 themselves if that is said.
    pub(crate) fn start(firmware: &Path, flash: &Path, speaks: bool) -> Result<Self> {
        let mut chip = Running {
            firmware: firmware.to_owned(),
            flash: flash.to_owned(),
            emulator: None,
        };
        let emulator = chip.start()?;
        let asked = if speaks {
            Interface::Spi
        } else {
            Interface::Iso7816Contact
        };
        let atr = emulator.ask(port(asked), &[4])?;
        if speaks {
            let contacts = emulator.port(CONTACTS)?;
            contacts.set_read_timeout(Some(ATR))?;
            let mut first = [0];
            if contacts.read_exact(&mut first).is_err() {
                bail!(
                    "{} does not speak T=1 on its contacts; t1.elf does",
                    firmware.display()
                );
            }
        }
        if atr != Profile::default().atr {
            bail!(
                "the chip starts and finds no secure element in {} that it can be",
                flash.display()
            );
        }
        Ok(Self(Arc::new(Mutex::new(chip))))
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the power away while this command comes on an interface; the next reset gives it back.
    pub(crate) fn cut_power(&self, interface: Interface, capdu: &[u8]) {
        let mut chip = self.lock();
        chip.with(|chip| chip.send(port(interface), capdu));
        chip.emulator = None;
    }

    /// The contacts of a chip that speaks T=1 on them. It has one reset, that of its power, which ends what is selected and proved on its other interfaces too.
    pub(crate) fn contacts(&self) -> Chip {
        let board = self.clone();
        Box::new(move || {
            let mut chip = board.lock();
            chip.emulator = None;
            chip.start()
                .map_err(io::Error::other)?
                .port(CONTACTS)?
                .try_clone()
        })
    }

    /// The chip as seen on one of its interfaces.
    pub(crate) fn on(&self, interface: Interface) -> OnBoard {
        OnBoard {
            board: self.clone(),
            port: port(interface),
        }
    }
}

/// A chip on one of its interfaces.
pub(crate) struct OnBoard {
    board: Board,
    port: usize,
}

impl CardSide for OnBoard {
    fn atr(&mut self) -> Vec<u8> {
        let port = self.port;
        self.board
            .lock()
            .with(|chip| chip.ask(port, &[4]))
            .unwrap_or_default()
    }

    fn reset(&mut self) {
        let mut chip = self.board.lock();
        let port = self.port;
        if chip.with(|chip| chip.send(port, &[2])).is_none() {
            // Without it every command is answered 6F00, until a reset starts it.
            let _ = chip.start();
        }
    }

    fn transmit(&mut self, capdu: &[u8], out: &mut [u8]) -> usize {
        let port = self.port;
        let answer = self.board.lock().with(|chip| chip.ask(port, capdu));
        let answer = answer.unwrap_or_default();
        match out.get_mut(..answer.len()) {
            Some(out) => {
                out.copy_from_slice(&answer);
                answer.len()
            }
            None => 0,
        }
    }
}
