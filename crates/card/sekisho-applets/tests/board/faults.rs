//! What the chip does when it fails (docs/decisions/0018-firmware.md), where `SEKISHO_FIRMWARE` names an image: too deep a stack, an access that is refused,
//! code that comes where it cannot be, a random source that is none. The chip's registers are spoilt from outside, by the emulator's debugger; the image is
//! the one that everything else is played to.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::common::board::{
    BoardFlash, Emulator, Randomness, START, Setup, firmware, flash_path, options, symbol,
};
use crate::common::debugger::Debugger;
use crate::common::{SeededRng, new_card_of, profile};
use sekisho_keys::Rng as _;
use sekisho_os::ResetCounts;
use sekisho_scp::ScpParameter;

/// Registers of the debugger's protocol.
const SP: u32 = 13;
const PC: u32 = 15;
/// Random bytes before a source fails: eight windows of its tests.
const LATER: usize = 1024;
/// An address at which nothing is.
const NOWHERE: u32 = 0xE800_0000;
/// Hardly any stack (`firmware/mps2/memory.x`).
const NO_STACK: u32 = 0x2000_0010;

/// MANAGE CHANNEL, open.
const OPEN: &[u8] = &[0x00, 0x70, 0x00, 0x00, 0x01];
/// INITIALIZE UPDATE, whose answer has a random challenge.
const INITIALIZE: &[u8] = b"\x80\x50\x00\x00\x08hostrand\x00";
const NO_PRECISE_DIAGNOSIS: &[u8] = &[0x6F, 0x00];
/// ATR of a chip that does not start.
const DEAD: &[u8] = &[0x3B, 0x00];

/// One of the counts.
type Count = fn(&mut ResetCounts) -> &mut u16;

/// A chip, with a debugger where one is wanted.
struct Chip {
    emulator: Emulator,
    flash: PathBuf,
    debugger: Option<Debugger>,
}

impl Chip {
    /// Starts what this flash holds; `random` writes what the source says.
    fn start(flash: PathBuf, is_debugged: bool, random: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let socket = Debugger::socket(&flash);
        let device = format!("unix:{},server=on,wait=off", socket.display());
        let debugging = ["-gdb", &device];
        let mut emulator = Emulator::start(&Setup {
            firmware: &firmware().unwrap(),
            flash: &flash,
            ports: 2,
            randomness: Randomness::Given,
            arguments: if is_debugged { &debugging } else { &[] },
        })
        .unwrap();
        let to = emulator.random().unwrap().try_clone().unwrap();
        to.set_write_timeout(None).unwrap();
        thread::spawn(move || random(to));
        let debugger = is_debugged.then(|| {
            // It listens when the chip runs.
            emulator.ask(0, &[4]).unwrap();
            Debugger::attach(&flash)
        });
        Self {
            emulator,
            flash,
            debugger,
        }
    }

    fn atr(&mut self) -> Vec<u8> {
        self.emulator.ask(0, &[4]).unwrap()
    }

    /// The same of a chip that may reset itself while the question comes: a reset loses what the port has received, and half a frame is forgotten
    /// after two seconds.
    fn atr_in_the_end(&mut self) -> Vec<u8> {
        for _ in 0..4 {
            let port = self.emulator.port(0).unwrap();
            port.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            if let Ok(atr) = self.emulator.ask(0, &[4]) {
                return atr;
            }
        }
        panic!("no answer to reset");
    }

    /// GET DATA DF25.
    fn resets(&mut self) -> ResetCounts {
        let answer = self.emulator.ask(0, &[0x00, 0xCA, 0xDF, 0x25, 0x00]).unwrap();
        ResetCounts::decode(answer.strip_suffix(&[0x90, 0x00]).unwrap()).unwrap()
    }

    fn image(&self) -> Vec<u8> {
        BoardFlash::open(&self.flash).unwrap().unwrap().image().unwrap()
    }

    /// Sends a command, and when the chip comes to it sets a register. What is answered.
    fn spoil(&mut self, port: usize, command: &[u8], at: u32, (register, value): (u32, u32)) -> Vec<u8> {
        let debugger = self.debugger.as_mut().unwrap();
        debugger.stop();
        debugger.breakpoint(at, true);
        debugger.send("c");
        self.emulator.send(port, command).unwrap();
        debugger.trapped();
        debugger.breakpoint(at, false);
        let value = hex::encode(value.to_le_bytes());
        assert_eq!(debugger.ask(&format!("P{register:x}={value}")), "OK");
        debugger.send("c");
        self.emulator.receive(port).unwrap()
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        self.emulator.kill();
        let _ = fs::remove_file(Debugger::socket(&self.flash));
    }
}

/// The flash of a new card whose challenges are random: parameter "i" 60.
fn new_flash() -> PathBuf {
    let path = flash_path();
    let card = new_card_of(ScpParameter::new(0x60).unwrap());
    BoardFlash::make(&path, &card.into_flash().image(), &options(&profile())).unwrap();
    path
}

/// So many random bytes behind what the chip tests its source with, then `stuck` for ever.
fn random_then(count: usize, stuck: Vec<u8>) -> impl FnOnce(UnixStream) + Send + 'static {
    move |mut to| {
        let mut good = vec![0; count];
        SeededRng(7).fill(&mut good);
        if to.write_all(&good).is_ok() {
            while to.write_all(&stuck).is_ok() {}
        }
    }
}

fn random(mut to: UnixStream) {
    let (mut rng, mut piece) = (SeededRng(5), [0; START]);
    rng.fill(&mut piece);
    while to.write_all(&piece).is_ok() {
        rng.fill(&mut piece);
    }
}

/// A command at which the chip fails is answered 6F00 once it has started again, and not run again; the failure is counted; everything else goes on.
#[test]
fn a_failure_costs_one_command() {
    let Some(image) = firmware() else { return };
    let transmit = symbol(
        &image,
        "SecureElement<P> as sekisho_firmware::frames::Card>::transmit",
    );
    let panic = symbol(&image, " core::panicking::panic_fmt");
    let mut chip = Chip::start(new_flash(), true, random);
    assert_eq!(chip.atr(), profile().atr);
    let before = chip.image();
    let mut wanted = ResetCounts::default();
    assert_eq!(chip.resets(), wanted);
    let failures: [(Count, (u32, u32)); 6] = [
        (|counts| &mut counts.panics, (PC, panic)),
        (|counts| &mut counts.faults, (PC, NOWHERE)),
        (|counts| &mut counts.stack, (SP, NO_STACK)),
        (|counts| &mut counts.faults, (SP, 0)),
        (|counts| &mut counts.panics, (PC, panic)),
        (|counts| &mut counts.stack, (SP, NO_STACK)),
    ];
    for (number, (cause, register)) in failures.into_iter().enumerate() {
        let port = number % 2;
        assert_eq!(chip.emulator.ask(port, OPEN).unwrap(), [1, 0x90, 0]);
        let answer = chip.spoil(port, OPEN, transmit, register);
        assert_eq!(answer, NO_PRECISE_DIAGNOSIS, "{number}");
        *cause(&mut wanted) += 1;
        assert_eq!(chip.resets(), wanted, "{number}");
        // It is started anew, and the command has not been run: the channel is the first on either interface.
        for port in 0..2 {
            assert_eq!(chip.emulator.ask(port, OPEN).unwrap(), [1, 0x90, 0]);
            assert_eq!(chip.emulator.ask(port, &[0, 0x70, 0x80, 1]).unwrap(), [0x90, 0]);
        }
        assert!(chip.image() == before, "{number}: the flash has changed");
    }
    fs::remove_file(&chip.flash).unwrap();
}

/// With a source that is stuck, biased or says the same again the chip does not start, and stops within two windows of the tests (256 bytes) when it becomes
/// so. It starts again with a good one.
#[test]
fn a_source_that_is_not_random_starts_nothing() {
    if firmware().is_none() {
        return;
    }
    let flash = new_flash();
    let mut biased = vec![0; 4096];
    SeededRng(3).fill(&mut biased);
    for at in 0..biased.len() - 2 {
        biased[at] &= biased[at + 1] & biased[at + 2];
    }
    for stuck in [vec![0; 8], vec![0xFF; 8], b"SEKISHO!".to_vec(), biased] {
        let mut chip = Chip::start(flash.clone(), false, random_then(0, stuck.clone()));
        assert_eq!(chip.atr_in_the_end(), DEAD);
        for command in [OPEN, INITIALIZE] {
            assert_eq!(chip.emulator.ask(1, command).unwrap(), NO_PRECISE_DIAGNOSIS);
        }
        drop(chip);
        // The same, with a source that fails later.
        let mut chip = Chip::start(flash.clone(), false, random_then(START + LATER, stuck));
        assert_eq!(chip.atr(), profile().atr);
        let mut answered = 0;
        loop {
            let answer = chip.emulator.ask(0, INITIALIZE).unwrap();
            if answer == NO_PRECISE_DIAGNOSIS {
                break;
            }
            assert!(answer.ends_with(&[0x90, 0]), "{answer:02X?}");
            answered += 1;
        }
        assert!(
            (LATER / 8 - 8..=(LATER + 2 * START) / 8).contains(&answered),
            "{answered}"
        );
        assert_eq!(chip.emulator.ask(0, INITIALIZE).unwrap(), NO_PRECISE_DIAGNOSIS);
        assert_eq!(chip.atr(), DEAD);
    }
    let mut chip = Chip::start(flash.clone(), false, random);
    assert_eq!(chip.atr(), profile().atr);
    drop(chip);
    fs::remove_file(&flash).unwrap();
}
