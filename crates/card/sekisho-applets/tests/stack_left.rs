//! What a command leaves on the stack, over every conversation of `tests/scripts`: nothing, however deep it went.

#![allow(clippy::unwrap_used, clippy::panic)] // test support
#![cfg(target_os = "linux")]

use sekisho_card_tests as common;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::ByValue as _;
use common::files::Reader;
use common::script::{CardUnderTest, Line, Runner};
use common::stack::{LOOKED_AT, PAINT, below};
use common::{Card, PAGE, SeededRng, Virtual, files, flash, new_card, profile, send_on, sw};
use sekisho_applets::Standard;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{Mode, Policy};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{AllInterfaces, BootError, Containers, Interface, Platform, Profile, SecureElement};
use sekisho_scp::ScpParameter;

/// Bytes of the stack just below the command that belong to the test's own functions.
const CALLERS: usize = 8 * 1024;
/// Words of a KiB that the wiping itself needs: four of each of its pieces, where it returns to, and a KiB may have the ends of two.
const OF_THE_WIPE: usize = 8;

/// A card whose stack is looked at behind each command.
struct Watched {
    card: Option<Card>,
    /// By class, instruction, P1 and P2: how deep something else than paint stands, and the most words of a KiB that are neither zero nor paint.
    seen: BTreeMap<String, (usize, usize)>,
}

impl Watched {
    const fn new(card: Card) -> Self {
        Self {
            card: Some(card),
            seen: BTreeMap::new(),
        }
    }
}

impl Line for Watched {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let card = self.card.as_mut().unwrap();
        let mut answer = Vec::new();
        let (before, after) = below(|| answer = send_on(card, interface, capdu));
        let deepest = before
            .iter()
            .zip(&after)
            .position(|(before, after)| before != after);
        let left = most_left(&after[..LOOKED_AT - CALLERS]);
        let name = capdu.iter().take(4).map(|byte| format!("{byte:02X}")).collect();
        let seen = self.seen.entry(name).or_default();
        seen.0 = seen.0.max(LOOKED_AT - deepest.unwrap());
        seen.1 = seen.1.max(left);
        answer
    }
}

impl CardUnderTest for Watched {
    fn reset(&mut self, interface: Interface) {
        self.card.as_mut().unwrap().reset(interface);
    }

    fn restart(&mut self) {
        let flash = self.card.take().unwrap().into_flash();
        self.card = Some(Card::booted(flash, SeededRng(2), &profile()).unwrap());
    }

    fn replace_with_files(&mut self) {
        self.card = Some(files::card());
    }
}

/// Words of each KiB that are neither zero nor paint: the most.
fn most_left(stack: &[u8]) -> usize {
    let left = stack.chunks(1024).map(|piece| {
        let words = piece.chunks(8);
        words
            .filter(|word| ![[0; 8], [PAINT; 8]].contains((*word).try_into().unwrap()))
            .count()
    });
    left.max().unwrap()
}

/// With room for what is looked at.
fn on_a_large_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(4 << 20).spawn(run);
    thread.unwrap().join().unwrap()
}

fn nothing_is_left(seen: &BTreeMap<String, (usize, usize)>) {
    for (command, (depth, left)) in seen {
        assert!(
            *left <= OF_THE_WIPE,
            "{command}: {left} words of a KiB, {depth} bytes deep"
        );
    }
}

#[test]
fn no_command_of_any_conversation_leaves_anything_however_deep_it_went() {
    let seen = on_a_large_stack(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/scripts");
        let mut all = BTreeMap::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // These two are for other parameters of SCP03.
            if !name.ends_with(".apdu") || ["gp_s16.apdu", "parameters.apdu"].contains(&&*name) {
                continue;
            }
            let script = std::fs::read_to_string(&path).unwrap();
            let runner = Runner::new(Watched::new(new_card()), ScpParameter::FULL_S8.mac_mode());
            for (command, (depth, left)) in runner.run(&name, &script).seen {
                let most: &mut (usize, usize) = all.entry(command).or_default();
                *most = (most.0.max(depth), most.1.max(left));
            }
        }
        all
    });
    let Profile { stack, shallow, .. } = Profile::default();
    let within = |from: usize, to: usize| {
        seen.values()
            .filter(|(depth, _)| (from..to).contains(depth))
            .count()
    };
    println!(
        "{} kinds of commands: {} wiped to {shallow} at most, {} to {stack}",
        seen.len(),
        within(0, shallow + CALLERS),
        within(stack, LOOKED_AT)
    );
    nothing_is_left(&seen);
    assert!(seen.len() > 200, "{}", seen.len());
    assert!(within(0, shallow + CALLERS) > 50 && within(stack, LOOKED_AT) > 50);
}

/// Until the store has been compacted several times, which is part of a command that happens to find it full.
#[test]
fn an_update_leaves_nothing_when_it_compacts_the_store() {
    let (seen, erasures) = on_a_large_stack(|| {
        // One that counts.
        let strict = RamFlash::strict(PAGE, 16);
        let mut card = Watched::new(files::card_on(strict, &profile(), Policy::every_mode()));
        let interface = Interface::Iso7816Contact;
        for _ in 0..3 {
            card.reset(interface);
            files::select(&mut card, interface);
            let mut reader = Reader::open(&mut card, interface, Mode::Ratchet, Lanes::Separate, 256).unwrap();
            for n in 0..200 {
                let update = [&[0x00, 0xD6, 0x81, 0x00, 0x20][..], &[n; 32]].concat();
                assert_eq!(reader.send(&mut card, &update), [0x90, 0x00]);
            }
        }
        let erasures: u32 = card.card.take().unwrap().flash().erasures().iter().sum();
        (card.seen, erasures)
    });
    println!("{seen:?}, {erasures} erasures");
    nothing_is_left(&seen);
    assert!(erasures > 2);
    // The update is one of those that say that they take little.
    let (depth, _) = seen["0CD68100"];
    assert!(depth < Profile::default().shallow + CALLERS, "{depth}");
}

/// The lowest address of a stack that a test bounds.
static LOW: AtomicUsize = AtomicUsize::new(0);

/// An SE on a stack whose end it is told.
struct Bounded;

impl Platform for Bounded {
    type Flash = RamFlash;
    type Rng = SeededRng;
    type Applications = Standard;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;

    fn stack_low() -> usize {
        LOW.load(Ordering::Relaxed)
    }
}

#[test]
fn nothing_is_wiped_beyond_the_end_of_the_stack() {
    const END: usize = 24 * 1024;
    let (deepest, error) = on_a_large_stack(|| {
        let mut card: SecureElement<Bounded> =
            files::element_on(flash(), SeededRng(1), &profile(), Policy::every_mode());
        // GET CHALLENGE of the issuer security domain, which an application refuses: wiped as deep as the profile says, if there is so much.
        let challenge = [0x00, 0x84, 0x00, 0x00, 0x08];
        let mut out = [0; 300];
        let mut len = 0;
        let (before, after) = below(|| {
            let here = 0u64;
            LOW.store(std::ptr::from_ref(&here).addr() - END, Ordering::Relaxed);
            len = card.transmit(Interface::Iso7816Contact, &challenge, &mut out);
        });
        assert_eq!(sw(&out[..len]), 0x6D00);
        let deepest = before
            .iter()
            .zip(&after)
            .position(|(before, after)| before != after);
        LOW.store(std::ptr::from_ref(&out).addr() - END, Ordering::Relaxed);
        let started = SecureElement::<Bounded>::booted(card.into_flash(), SeededRng(2), &profile());
        (LOOKED_AT - deepest.unwrap(), started.map(drop).unwrap_err().error)
    });
    println!("{deepest} bytes of {END}");
    assert!((END - 4096..END).contains(&deepest), "{deepest}");
    assert_eq!(error, BootError::StackTooSmall);
}

/// A start and a making read and write records, keys among them: what they leave is zero, or paint where they have not been.
#[test]
fn a_start_leaves_nothing() {
    let all = on_a_large_stack(|| {
        let (keys, k_aut) = (common::initial_keys(), common::key(&[0xA0; 16]));
        let personalisation = common::personalisation(0xFF, &keys, &k_aut);
        let profile = profile();
        let mut blank = SecureElement::<Virtual>::new(flash(), SeededRng(1));
        let mut made = SecureElement::<Virtual>::new(files::card().into_flash(), SeededRng(2));
        let measured = |start: &mut dyn FnMut()| {
            let (before, after) = below(start);
            let deepest = before
                .iter()
                .zip(&after)
                .position(|(before, after)| before != after);
            (
                LOOKED_AT - deepest.unwrap(),
                most_left(&after[..LOOKED_AT - CALLERS]),
            )
        };
        [
            measured(&mut || blank.manufacture(&profile, &[&personalisation]).unwrap()),
            measured(&mut || made.boot(&profile).unwrap()),
            measured(&mut || made.boot(&profile).unwrap()),
        ]
    });
    println!("deepest byte, words left of a KiB: {all:?}");
    for (_, left) in all {
        assert!(left <= OF_THE_WIPE, "{left}");
    }
}
