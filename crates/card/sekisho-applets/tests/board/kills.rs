//! kill -9 of the emulator in mixed traffic, where `SEKISHO_FIRMWARE` names an image: 25 times, or as often as `SEKISHO_FIRMWARE_KILLS` says (`scripts/nightly`). Nothing that was
//! answered is lost, what was not answered has been done once or not at all, and what comes on two interfaces is not mixed.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use std::{fs, io};

use sekisho_keys::Rng as _;

use crate::common::board::{BoardFlash, Emulator, Randomness, Setup, firmware, flash_path, options};
use crate::common::update::Keys;
use crate::common::{SeededRng, flash, profile};

/// Kills in CI.
const KILLS: usize = 25;
/// The longest that a chip runs before it is killed, in microseconds.
const LONGEST: u32 = 300_000;

const SELECT_METER: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01\x00";
const SELECT_ROOT: &[u8] = &[0x00, 0xA4, 0x04, 0x00, 0x00];
const READ: &[u8] = &[0x80, 0x20, 0x00, 0x00, 0x04];
const COUNT: &[u8] = &[0x80, 0x22, 0x00, 0x00, 0x02, 0x00, 0x01, 0x00];
const SEQUENCE_COUNTER: &[u8] = &[0x00, 0xCA, 0x00, 0xC1, 0x00];
const INITIALIZE: &[u8] = b"\x80\x50\x00\x00\x08hostrand\x00";

/// One of the two lines of traffic, each on its own port: what counts something, and how often that was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Line {
    answered: u32,
    /// A command has gone out that has no answer.
    is_out: bool,
}

impl Line {
    /// Takes what the chip says: what was answered, or one more if a command was out. Whether that was done.
    fn settle(&mut self, found: u32, what: &str) -> bool {
        let was_out = std::mem::take(&mut self.is_out);
        let is_one_more = found == self.answered + 1;
        assert!(
            found == self.answered || (was_out && is_one_more),
            "{what}: {} were answered, the chip has {found}",
            self.answered
        );
        self.answered = found;
        is_one_more
    }
}

/// A chip with contacts and SPI.
pub(crate) fn start(image: &Path, flash: &Path) -> Emulator {
    Emulator::start(&Setup {
        firmware: image,
        flash,
        ports: 2,
        randomness: Randomness::System,
        arguments: &[],
    })
    .unwrap()
}

fn good(answer: &[u8]) -> &[u8] {
    answer
        .strip_suffix(&[0x90, 0x00])
        .unwrap_or_else(|| panic!("{answer:02X?}"))
}

/// What both lines have counted, asked on the other's port.
fn counted(chip: &mut Emulator) -> [u32; 2] {
    let mut ask = |port, command: &[u8]| chip.ask(port, command).unwrap();
    good(&ask(1, SELECT_METER));
    let register = u32::from_be_bytes(good(&ask(1, READ)).try_into().unwrap());
    good(&ask(1, SELECT_ROOT));
    let counter = ask(0, SEQUENCE_COUNTER);
    let [a, b, c] = good(&counter) else {
        panic!("{counter:02X?}");
    };
    [register, u32::from_be_bytes([0, *a, *b, *c])]
}

/// Sends the command of a line again and again until the chip is gone.
fn talk(mut to: UnixStream, command: &'static [u8], line: &Mutex<Line>) -> io::Result<()> {
    use std::io::{Read as _, Write as _};
    let mut frame = u16::try_from(command.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(command);
    loop {
        line.lock().unwrap().is_out = true;
        to.write_all(&frame)?;
        let mut len = [0; 2];
        to.read_exact(&mut len)?;
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        to.read_exact(&mut answer)?;
        good(&answer);
        let mut line = line.lock().unwrap();
        *line = Line {
            answered: line.answered + 1,
            is_out: false,
        };
    }
}

fn new_flash() -> PathBuf {
    let path = flash_path();
    let card = Keys::new().card(flash(), &profile());
    BoardFlash::make(&path, &card.into_flash().image(), &options(&profile())).unwrap();
    path
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the moment of the kill")]
fn nothing_is_lost_or_mixed_when_the_emulator_is_killed() {
    let Some(image) = firmware() else { return };
    let kills = std::env::var("SEKISHO_FIRMWARE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let flash = new_flash();
    let mut lines = [Line::default(); 2];
    let mut rng = SeededRng(11);
    let (mut commands, mut outstanding, mut done) = (0, 0, 0);
    let mut chip = start(&image, &flash);
    lines[1].answered = counted(&mut chip)[1];
    for _ in 0..kills {
        good(&chip.ask(0, SELECT_METER).unwrap());
        let before = lines.map(|line| line.answered);
        let shared = lines.map(|line| Arc::new(Mutex::new(line)));
        let talkers = [COUNT, INITIALIZE].map(|command| {
            let port = usize::from(command == INITIALIZE);
            let (to, line) = (
                chip.port(port).unwrap().try_clone().unwrap(),
                shared[port].clone(),
            );
            thread::spawn(move || talk(to, command, &line))
        });
        let mut random = [0; 4];
        rng.fill(&mut random);
        thread::sleep(Duration::from_micros(
            (u32::from_be_bytes(random) % LONGEST).into(),
        ));
        chip.kill();
        for talker in talkers {
            assert!(talker.join().unwrap().is_err(), "the chip is gone");
        }
        lines = shared.map(|line| *line.lock().unwrap());
        let answered = lines
            .iter()
            .zip(before)
            .map(|(line, before)| line.answered - before);
        commands += answered.sum::<u32>();
        chip = start(&image, &flash);
        for ((line, found), what) in lines.iter_mut().zip(counted(&mut chip)).zip(["meter", "counter"]) {
            outstanding += u32::from(line.is_out);
            done += u32::from(line.settle(found, what));
        }
    }
    println!(
        "kills: {kills} of the emulator in {commands} commands that were answered; of {outstanding} that were not, {done} had been done"
    );
    assert!(commands > 0 && outstanding > 0);
    drop(chip);
    fs::remove_file(&flash).unwrap();
}
