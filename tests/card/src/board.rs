//! The card of the tests: an SE in this process, and, where `SEKISHO_FIRMWARE` names an image, the same SE on an emulated chip beside it. Each R-APDU of the
//! chip is compared with that of this process, and its flash at each start and at the end.
//!
//! What cannot be compared leaves the chip out from there on, and is counted: a power cut that is simulated in the flash of this process, a profile that the image
//! has not, another protocol, whatever reaches past [`Card`] for the SE itself. `SEKISHO_FIRMWARE_LOG` names a file to which each card appends what it has compared,
//! and, where `SEKISHO_FIRMWARE_STACK` is set, how much of its stack the chip has used: its option page then says that nothing of it is to be wiped, since what
//! is wiped is as deep as the profile says and not as a command goes. That changes no answer.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use sekisho_keys::Rng as _;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{BootError, Interface, Personalisation, Profile, Protocol, SecureElement};

use super::by_value::{BootFailure, ByValue};
use super::debugger::Debugger;
use super::script::Line;
use super::{PAGE, SeededRng, Virtual};

#[path = "../../../apps/sekisho/src/card/emulator.rs"]
#[allow(dead_code, reason = "the product takes more of it")]
mod emulator;

pub use emulator::{BoardFlash, Emulator, Options, Randomness, Setup};

/// The interfaces of the image's ports.
const PORTS: [Interface; 4] = [
    Interface::Iso7816Contact,
    Interface::Spi,
    Interface::Swp,
    Interface::ApduGate,
];
/// Random bytes with which the chip tests its source (`sekisho_firmware::Checked::start`).
pub const START: usize = 128;

/// The chip's stack, from its lowest address on (`firmware/mps2/memory.x`), and what its start fills it with (`cortex-m-rt`, `paint-stack`).
const STACK: (u32, usize) = (0x2000_0000, 0x2_0000);
const PAINT: u8 = 0xCC;

/// The emulator's clock goes on by so many nanoseconds with each instruction, two to this power, and the chip's timer counts in so many
/// (`firmware/mps2/src/uart.rs`): fine enough to tell single instructions.
const INSTRUCTION: (&str, u64) = ("shift=10", 1 << 10);
const TICK: u64 = 40;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static MEASURED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the chips that this thread starts from now on count instructions. They are slower.
pub fn count(is_counted: bool) {
    COUNTED.set(is_counted);
}

/// Whether the stack of the chips that this thread starts from now on is measured, as where `SEKISHO_FIRMWARE_STACK` is set: nothing of it is wiped.
pub fn measure(is_measured: bool) {
    MEASURED.set(is_measured);
}

/// Whether the chips that this thread starts from now on are stopped before each operation of their flash ([`Card::cuts`]).
pub fn watch(is_watched: bool) {
    WATCHED.set(is_watched);
}

/// What a chip was about to do to its flash.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// To store a word: it clears bits alone.
    Word {
        /// Offset in the flash.
        at: usize,
        /// What is to stand there.
        word: u32,
    },
    /// To erase a page.
    Erase {
        /// Its offset.
        at: usize,
    },
}

/// The flash as it stood before an operation: what is left when the power goes there.
#[derive(Clone, Debug)]
pub struct Cut {
    /// All bytes.
    pub image: Vec<u8>,
    /// What would have come.
    pub operation: Operation,
}

/// Where the chip's flash begins, and the functions that change it (`firmware/mps2/src/flash.rs`).
const FLASH_BASE: u32 = 0x2100_0000;
const FUNCTIONS: [&str; 2] = [" sekisho_flash_word", " sekisho_flash_erase"];
/// The program counter.
const PC: u32 = 15;
/// How long the chip is waited for before it is looked whether it has answered.
const MOMENT: Duration = Duration::from_millis(2);

/// Stops a chip before each operation of its flash.
struct Watch {
    debugger: Debugger,
    /// Of the two functions.
    addresses: [u32; 2],
    cuts: Vec<Cut>,
}

impl Watch {
    fn new(image: &Path, flash: &Path) -> Self {
        let mut debugger = Debugger::attach(flash);
        let addresses = FUNCTIONS.map(|name| symbol(image, name));
        debugger.stop();
        for at in addresses {
            debugger.breakpoint(at, true);
        }
        debugger.send("c");
        Self {
            debugger,
            addresses,
            cuts: Vec::new(),
        }
    }

    /// Notes what the chip does until it has answered.
    fn until(&mut self, flash: &Path, has_answered: impl Fn() -> bool) {
        loop {
            let is_over = has_answered();
            if self.debugger.trapped_within(MOMENT) {
                self.note(flash);
            } else if is_over {
                return;
            }
        }
    }

    fn note(&mut self, flash: &Path) {
        let [at, pc] = [0, PC].map(|number| self.debugger.register(number));
        let offset = (at - FLASH_BASE) as usize;
        let operation = if pc == self.addresses[0] {
            let word = self.debugger.register(1);
            Operation::Word { at: offset, word }
        } else {
            Operation::Erase { at: offset }
        };
        let image = BoardFlash::open(flash).unwrap().unwrap().image().unwrap();
        self.cuts.push(Cut { image, operation });
        self.debugger.step_on(pc);
    }
}

/// What a chip tells of its last command (`sekisho_figures` in `firmware/mps2/src/main.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// That the command took.
    pub instructions: u64,
    /// Written to the flash since the start.
    pub words: u32,
    /// Pages of the flash, since the start.
    pub erases: u32,
    /// Bytes of the heap in use at once, the most since the start.
    pub heap: u32,
}

/// Where a symbol of the image stands, by a part of its name.
pub fn symbol(image: &Path, name: &str) -> u32 {
    let output = Command::new("arm-none-eabi-nm")
        .arg("-C")
        .arg(image)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains(name));
    let (address, _) = line
        .unwrap_or_else(|| panic!("{name} is nowhere"))
        .split_once(' ')
        .unwrap();
    u32::from_str_radix(address, 16).unwrap() & !1
}

/// Whether the stack is to be measured.
fn is_measured() -> bool {
    MEASURED.get() || std::env::var_os("SEKISHO_FIRMWARE_STACK").is_some()
}

/// The image that cards run on too.
pub fn firmware() -> Option<PathBuf> {
    std::env::var_os("SEKISHO_FIRMWARE").map(PathBuf::from)
}

/// Of how many cases of a sweep a test takes one: of `sample` where each of them starts a chip too, unless `SEKISHO_FIRMWARE_SWEEPS=all` (`scripts/nightly`); all of them in this
/// process alone.
pub fn one_of(sample: usize) -> usize {
    let takes_all = std::env::var_os("SEKISHO_FIRMWARE_SWEEPS").is_some_and(|value| value == "all");
    match firmware() {
        Some(_) if !takes_all => sample,
        _ => 1,
    }
}

/// Appends a line to `SEKISHO_FIRMWARE_LOG`, if there is a chip: what cards have compared, and how much of a sweep a test took.
pub fn note(line: &str) {
    if let Some(log) = std::env::var_os("SEKISHO_FIRMWARE_LOG").filter(|_| firmware().is_some()) {
        let mut log = OpenOptions::new().append(true).create(true).open(log).unwrap();
        // In one write, as other tests write too.
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// What has been compared.
#[derive(Default)]
struct Compared {
    answers: u64,
    images: u64,
    left_out: u64,
    /// Bytes of the chip's stack, if it is measured.
    stack: usize,
}

/// A chip, the SE's other self.
pub struct Board {
    emulator: Emulator,
    flash: PathBuf,
    image: PathBuf,
    /// Where the chip has its figures, once somebody has asked.
    figures: Cell<Option<u32>>,
    watch: Option<Watch>,
}

impl Board {
    fn monitor(flash: &Path) -> PathBuf {
        flash.with_extension("monitor")
    }

    /// Bytes of the chip's memory.
    pub fn memory(&self, from: u32, len: usize) -> Vec<u8> {
        let memory = self.flash.with_extension("memory");
        let mut monitor = UnixStream::connect(Self::monitor(&self.flash)).unwrap();
        // The file is whole when the monitor asks for the next command.
        writeln!(monitor, "pmemsave {from:#x} {len:#x} \"{}\"", memory.display()).unwrap();
        let mut said = Vec::new();
        let mut piece = [0; 256];
        while said.windows(6).filter(|window| *window == b"(qemu)").count() < 2 {
            let len = monitor.read(&mut piece).unwrap();
            assert!(len > 0, "the monitor ended");
            said.extend_from_slice(&piece[..len]);
        }
        let bytes = fs::read(&memory).unwrap();
        fs::remove_file(&memory).unwrap();
        assert_eq!(bytes.len(), len);
        bytes
    }

    /// Bytes of stack that have been used since the start; 0 where nobody measures it.
    pub fn stack(&self) -> usize {
        if !is_measured() {
            return 0;
        }
        let (from, len) = STACK;
        let bytes = self.memory(from, len);
        len - bytes.iter().take_while(|byte| **byte == PAINT).count()
    }

    /// What it tells of its last command; of instructions nothing where they are not counted.
    pub fn figures(&self) -> Figures {
        let at = self.figures.get();
        let at = at.unwrap_or_else(|| symbol(&self.image, " sekisho_figures"));
        self.figures.set(Some(at));
        let memory = self.memory(at, 5 * 4);
        let [_, ticks, words, erases, heap] =
            [0, 1, 2, 3, 4].map(|n| u32::from_le_bytes(memory[4 * n..][..4].try_into().unwrap()));
        let (_, instruction) = INSTRUCTION;
        Figures {
            instructions: (u64::from(ticks) * TICK + instruction / 2) / instruction,
            words,
            erases,
            heap,
        }
    }
}

/// The name of a new flash's file.
pub fn flash_path() -> PathBuf {
    static FLASHES: AtomicU32 = AtomicU32::new(0);
    let number = FLASHES.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("sekisho-flash-{}-{number}", std::process::id()))
}

impl Board {
    /// Starts the image on what this flash holds.
    pub fn start(image: &Path, flash: &RamFlash, rng: SeededRng, profile: &Profile) -> Self {
        let path = flash_path();
        let mut options = options(profile);
        let monitor = format!("unix:{},server=on,wait=off", Self::monitor(&path).display());
        let mut arguments = vec!["-monitor", &monitor];
        if is_measured() {
            (options.stack, options.shallow) = (0, 0);
        }
        let gdb = format!("unix:{},server=on,wait=off", Debugger::socket(&path).display());
        let is_watched = WATCHED.get();
        if is_watched {
            arguments.extend(["-gdb", &gdb]);
        }
        if COUNTED.get() {
            arguments.extend(["-icount", INSTRUCTION.0]);
        }
        BoardFlash::make(&path, &flash.image(), &options).unwrap();
        let mut emulator = Emulator::start(&Setup {
            firmware: image,
            flash: &path,
            ports: PORTS.len(),
            randomness: Randomness::Given,
            arguments: &arguments,
        })
        .unwrap();
        let random = emulator.random().unwrap().try_clone().unwrap();
        thread::spawn(move || feed(random, rng));
        let atr = emulator.ask(0, &[4]).unwrap();
        assert_eq!(atr, profile.atr, "the chip does not start");
        Self {
            emulator,
            watch: is_watched.then(|| Watch::new(image, &path)),
            flash: path,
            image: image.to_owned(),
            figures: Cell::new(None),
        }
    }
}

impl Board {
    /// The answer to a C-APDU, or to a control code, on a port.
    pub fn ask(&mut self, port: usize, body: &[u8]) -> Vec<u8> {
        let Some(watch) = &mut self.watch else {
            return self.emulator.ask(port, body).unwrap();
        };
        self.emulator.send(port, body).unwrap();
        let mut line = self.emulator.port(port).unwrap().try_clone().unwrap();
        let answer = thread::spawn(move || {
            let mut len = [0; 2];
            line.read_exact(&mut len).unwrap();
            let mut body = vec![0; u16::from_be_bytes(len).into()];
            line.read_exact(&mut body).unwrap();
            body
        });
        watch.until(&self.flash, || answer.is_finished());
        answer.join().unwrap()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.emulator.kill();
        let _ = fs::remove_file(Debugger::socket(&self.flash));
        let _ = fs::remove_file(&self.flash);
        let _ = fs::remove_file(Self::monitor(&self.flash));
    }
}

/// Gives the chip what its test throws away, then the bytes of `rng`.
fn feed(mut to: UnixStream, mut rng: SeededRng) {
    let mut piece = [0; START];
    SeededRng(99).fill(&mut piece);
    to.set_write_timeout(None).unwrap();
    while to.write_all(&piece).is_ok() {
        rng.fill(&mut piece);
    }
}

pub fn options(profile: &Profile) -> Options {
    Options {
        store: profile.store_bytes,
        slot: profile.slot_bytes,
        area: profile.area_bytes,
        area_quota: profile.area_quota,
        channels: profile.logical_channels,
        stack: profile.stack,
        shallow: profile.shallow,
        part_ram: SecureElement::<Virtual>::part_ram(profile),
    }
}

/// Whether the image can be of this profile: the option page has its sizes, all else is the product's.
fn is_of_the_product(profile: &Profile) -> bool {
    let product = Profile::default();
    let sized = Profile {
        logical_channels: profile.logical_channels,
        store_bytes: profile.store_bytes,
        slot_bytes: profile.slot_bytes,
        area_bytes: profile.area_bytes,
        area_quota: profile.area_quota,
        stack: profile.stack,
        shallow: profile.shallow,
        ram: profile.ram,
        ..product
    };
    format!("{sized:?}") == format!("{profile:?}")
}

/// The card of the tests.
pub struct Card {
    /// None when it has been taken apart.
    se: Option<SecureElement<Virtual>>,
    board: Option<Board>,
    compared: Compared,
}

impl Card {
    /// `flash` is what the SE has started from, if that is known.
    fn of(se: SecureElement<Virtual>, flash: Option<RamFlash>, rng: SeededRng, profile: &Profile) -> Self {
        let mut card = Self {
            se: Some(se),
            board: None,
            compared: Compared::default(),
        };
        card.start_board(flash, rng, profile);
        card
    }

    fn start_board(&mut self, flash: Option<RamFlash>, rng: SeededRng, profile: &Profile) {
        let Some(image) = firmware() else { return };
        let flash = flash.as_ref().unwrap_or(self.se().flash());
        if sekisho_nvm::Flash::page_size(flash) != PAGE || !is_of_the_product(profile) {
            self.compared.left_out += 1;
            return;
        }
        self.board = Some(Board::start(&image, flash, rng, profile));
        // Starting has changed the flash of both, or of none.
        self.compare_images();
    }

    fn se(&self) -> &SecureElement<Virtual> {
        self.se.as_ref().unwrap()
    }

    fn leave_board(&mut self) {
        self.measure();
        self.compared.left_out += u64::from(self.board.take().is_some());
    }

    fn measure(&mut self) {
        if let Some(board) = &self.board {
            self.compared.stack = self.compared.stack.max(board.stack());
        }
    }

    fn compare_images(&mut self) {
        let Some(board) = &self.board else { return };
        let theirs = BoardFlash::open(&board.flash).unwrap().unwrap().image().unwrap();
        let ours = self.se().flash().image();
        assert_eq!(ours.len(), theirs.len());
        if ours != theirs {
            let at = (0..ours.len()).find(|at| ours[*at] != theirs[*at]);
            panic!("the flash of the chip differs from that of this process from {at:06X?} on");
        }
        self.compared.images += 1;
    }

    /// What the chip tells of its last command, where there is one.
    pub fn figures(&self) -> Option<Figures> {
        self.board.as_ref().map(Board::figures)
    }

    /// The operations of the chip's flash since the last call; none where it is not watched.
    pub fn cuts(&mut self) -> Vec<Cut> {
        let watch = self.board.as_mut().and_then(|board| board.watch.as_mut());
        watch
            .map(|watch| std::mem::take(&mut watch.cuts))
            .unwrap_or_default()
    }

    pub fn part_ram(profile: &Profile) -> usize {
        SecureElement::<Virtual>::part_ram(profile)
    }

    pub fn transmit(&mut self, interface: Interface, capdu: &[u8], out: &mut [u8]) -> usize {
        let se = self.se.as_mut().unwrap();
        let len = se.transmit(interface, capdu, out);
        // What the frames cannot carry, or is cut short by the room that a test gives, is not the chip's to say.
        if se.has_failed() || se.flash().is_off() || capdu.len() < 2 || out.len() < 258 {
            self.leave_board();
        }
        if let Some(board) = &mut self.board {
            let port = PORTS.iter().position(|own| *own == interface).unwrap();
            let answer = board.ask(port, capdu);
            assert_eq!(
                hex::encode_upper(&answer),
                hex::encode_upper(&out[..len]),
                "chip (left) and process differ: {interface:?} {}",
                hex::encode_upper(capdu)
            );
            self.compared.answers += 1;
        }
        len
    }

    pub fn reset(&mut self, interface: Interface) {
        self.se.as_mut().unwrap().reset(interface);
        if let Some(board) = &mut self.board {
            let port = PORTS.iter().position(|own| *own == interface).unwrap();
            board.emulator.send(port, &[2]).unwrap();
            let atr = board.emulator.ask(port, &[4]).unwrap();
            assert_eq!(atr, self.se.as_ref().unwrap().atr());
        }
    }

    pub fn reset_to(&mut self, interface: Interface, protocol: Protocol) -> bool {
        self.leave_board();
        self.se.as_mut().unwrap().reset_to(interface, protocol)
    }

    pub fn into_flash(mut self) -> RamFlash {
        self.end();
        self.se.take().unwrap().into_flash()
    }

    /// Compares what is left and writes down what has been.
    fn end(&mut self) {
        self.compare_images();
        self.measure();
        self.board = None;
        let compared = std::mem::take(&mut self.compared);
        let Compared {
            answers,
            images,
            left_out,
            stack,
        } = compared;
        note(&format!(
            "answers {answers} images {images} left-out {left_out} stack {stack}"
        ));
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if self.se.is_some() && !thread::panicking() {
            self.end();
        }
    }
}

/// What looks at the SE alone.
impl Deref for Card {
    type Target = SecureElement<Virtual>;

    fn deref(&self) -> &Self::Target {
        self.se()
    }
}

/// What changes it where the chip cannot follow.
impl DerefMut for Card {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.leave_board();
        self.se.as_mut().unwrap()
    }
}

impl Line for Card {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 4096];
        let len = Self::transmit(self, interface, capdu, &mut out);
        assert!(len >= 2, "the card did not answer");
        out.truncate(len);
        out
    }
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.se().fmt(f)
    }
}

impl ByValue<Virtual> for Card {
    fn booted(flash: RamFlash, rng: SeededRng, profile: &Profile) -> Result<Self, BootFailure<RamFlash>> {
        let before = firmware().map(|_| flash.clone());
        let se = SecureElement::booted(flash, rng.clone(), profile)?;
        Ok(Self::of(se, before, rng, profile))
    }

    fn made_all(
        flash: RamFlash,
        rng: SeededRng,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<Self, BootFailure<RamFlash>> {
        let se = SecureElement::made_all(flash, rng.clone(), profile, personalisations)?;
        Ok(Self::of(se, None, rng, profile))
    }
}

/// In place.
impl Card {
    pub fn boot(&mut self, profile: &Profile) -> Result<(), BootError> {
        self.leave_board();
        self.se.as_mut().unwrap().boot(profile)
    }
}
