//! Power cuts at every flash operation of a key change and of a load that leaves broadcast mode and comes back, and of the starts behind them:
//! the state before or the state after, it can be finished, and no key that is gone stands in the flash.

#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use std::collections::BTreeSet;

use common::ByValue as _;
use common::host::Host;
use common::update::{
    Broadcast, Change, Custody, KVN, Keys, LEAVE, NEW_K_MAC, NEW_KOS, V2, key_state, long_v2, manifest,
    update_state,
};
use common::{Card, PAGE, SeededRng, profile, send, sw};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{BootError, Interface, Profile};
use sekisho_scp::{MacMode, SecurityLevel};

const BOTH: [Custody; 2] = [Custody::Design, Custody::Hsm];
const SEEDS: u64 = 2;

fn small() -> Profile {
    Profile {
        store_bytes: 4 * PAGE,
        slot_bytes: 3 * PAGE,
        ..profile()
    }
}

fn made(keys: &Keys) -> RamFlash {
    keys.card(RamFlash::strict(PAGE, 10), &small()).into_flash()
}

fn boot(flash: RamFlash) -> Result<Card, (BootError, RamFlash)> {
    Card::booted(flash, SeededRng(5), &small()).map_err(|failure| (failure.error, failure.flash))
}

/// Starts an SE after a cut, with further cuts at each seventh operation of its starts, another seventh for each seed.
fn recover(mut flash: RamFlash, seed: u64, starts: &mut u64) -> Card {
    for cut in (seed % 7..).step_by(7) {
        flash.power_on();
        flash.cut_after(cut, seed);
        flash = boot(flash).map_or_else(|(_, flash)| flash, Card::into_flash);
        *starts += 1;
        if !flash.is_off() {
            break;
        }
    }
    flash.power_on();
    boot(flash).unwrap()
}

fn open(card: &mut Card, keys: &Keys) -> Option<Host> {
    let contact = Interface::Iso7816Contact;
    Host::open_on(card, contact, 0, KVN, &keys.scp, SecurityLevel::FULL, MacMode::S8).ok()
}

/// What a sweep has seen.
#[derive(Default)]
struct Seen {
    cases: u64,
    starts: u64,
    before: u64,
    after: u64,
    resumed: u64,
    words: BTreeSet<u16>,
}

impl Seen {
    fn print(&self, what: &str) {
        let Self {
            cases,
            starts,
            before,
            after,
            resumed,
            words,
        } = self;
        println!(
            "{what}: {cases} cuts, {starts} starts; before {before}, after {after}, gone on from a checkpoint {resumed}; {words:04X?}"
        );
        assert!(
            *before > 0 && *after > 0 && *resumed > 0,
            "{what}: an outcome never came up"
        );
        assert!(
            words.contains(&0x9000) && words.contains(&0x6581),
            "{what}: {words:04X?}"
        );
    }

    /// The status words of a device that plays, up to the first that is not 9000.
    fn played(&mut self, card: &mut Card, host: &mut Host, broadcast: &Broadcast, from: usize) {
        let entered = send(card, &host.wrap(&broadcast.change_mode));
        let mut last = sw(&entered);
        if last == 0x9000 {
            host.unwrap(&entered);
            for command in broadcast.commands.iter().skip(from) {
                last = sw(&send(card, command));
                if last != 0x9000 {
                    break;
                }
            }
        }
        if last == 0x9000 {
            last = sw(&send(card, &host.wrap(&broadcast.activate)));
        }
        self.words.insert(last);
    }
}

fn holds(card: &Card, secret: &[u8]) -> bool {
    card.flash()
        .image()
        .windows(secret.len())
        .any(|bytes| bytes == secret)
}

/// Whether these keys' design system brings an update to this SE.
fn obeys(flash: RamFlash, keys: &Keys, custody: Custody) -> bool {
    let mut card = boot(flash).unwrap();
    let update = Broadcast::new(keys, custody, &manifest(2, 1, V2), V2, 239);
    let mut host = open(&mut card, keys).unwrap();
    update.play(&mut card, &mut host, 0) == 0x9000 && sw(&host.send(&mut card, &update.activate)) == 0x9000
}

/// The keys of before or of after, all of them, and nothing of the others.
fn check_keys(card: Card, custody: Custody, change: Change, new: &Keys, why: &str) -> RamFlash {
    let old = Keys::new();
    let mut card = card;
    card.reset(Interface::Iso7816Contact);
    let version = key_state(&mut card).0;
    let receipt = send(&mut card, &[0x80, 0xCA, 0xDF, 0x21, 0x00]);
    let is_new = version == 2;
    assert_eq!(sw(&receipt), if is_new { 0x9000 } else { 0x6A88 }, "{why}");
    assert_eq!(update_state(&mut card), (1, 0, 0), "{why}");
    let (obeyed, other) = if is_new { (new, &old) } else { (&old, new) };
    let pairs: [&[u8]; 4] = [old.kos.as_bytes(), old.k_mac.as_bytes(), &NEW_KOS, &NEW_K_MAC];
    for (at, secret) in pairs.into_iter().enumerate() {
        let is_kept = if change.pair { (at < 2) != is_new } else { at < 2 };
        assert_eq!(
            holds(&card, secret),
            is_kept,
            "{why}: key {at} of version {version}"
        );
    }
    if is_new {
        assert!(!holds(&card, b"SKKC"), "{why}: the image stands in the slot");
    }
    let mut flash = card.into_flash();
    flash.power_on();
    assert!(obeys(flash.clone(), obeyed, custody), "{why}: version {version}");
    assert!(!obeys(flash.clone(), other, custody), "{why}: version {version}");
    flash
}

fn sweep_key_change(custody: Custody, change: Change) {
    let old = Keys::new();
    let new = old.changed(change);
    let rotation = Broadcast::of_keys(custody, &old, &new, change);
    let made = made(&old);
    let mut seen = Seen::default();
    for seed in 0..SEEDS {
        for cut in common::cuts(seed) {
            let why = format!("{custody:?} {change:?} cut {cut} seed {seed}");
            let mut flash = made.clone();
            flash.cut_after(cut, seed);
            let mut card = boot(flash).unwrap();
            if let Some(mut host) = open(&mut card, &old) {
                seen.played(&mut card, &mut host, &rotation, 0);
            }
            if !card.flash().is_off() {
                check_keys(card, custody, change, &new, &why);
                break;
            }
            seen.cases += 1;
            let mut card = recover(card.into_flash(), seed ^ cut, &mut seen.starts);
            let (version, _, next) = key_state(&mut card);
            let flash = check_keys(card, custody, change, &new, &why);
            if version == 2 {
                seen.after += 1;
                continue;
            }
            seen.before += 1;
            seen.resumed += u64::from(next > 0);
            // It can be finished from where it stands.
            let mut card = boot(flash).unwrap();
            let mut host = open(&mut card, &old).unwrap();
            assert_eq!(rotation.play(&mut card, &mut host, next.into()), 0x9000, "{why}");
            assert_eq!(sw(&host.send(&mut card, &rotation.activate)), 0x9000, "{why}");
            card.reset(Interface::Iso7816Contact);
            assert_eq!(key_state(&mut card), (2, 0, 0), "{why}");
        }
    }
    seen.print(&format!("key change, {custody:?}, {change:?}"));
}

#[test]
fn a_key_change_of_custody_03() {
    for change in Change::ALL {
        sweep_key_change(Custody::Design, change);
    }
}

#[test]
fn a_key_change_of_custody_04() {
    for change in Change::ALL {
        sweep_key_change(Custody::Hsm, change);
    }
}

/// Loads in one session with a pause behind each second block, and activates: the last status word.
fn load_with_pauses(card: &mut Card, host: &mut Host, broadcast: &Broadcast, from: usize) -> u16 {
    let (back, blocks) = broadcast.commands.split_last().unwrap();
    let mut individual = |card: &mut Card, command: &[u8]| {
        let answer = send(card, &host.wrap(command));
        if sw(&answer) == 0x9000 {
            host.unwrap(&answer);
        }
        sw(&answer)
    };
    let mut rest = blocks.get(from..).unwrap_or_default();
    loop {
        let entered = individual(card, &broadcast.change_mode);
        if entered != 0x9000 {
            return entered;
        }
        let (now, later) = rest.split_at(rest.len().min(2));
        for command in now {
            let written = sw(&send(card, command));
            if written != 0x9000 {
                return written;
            }
        }
        rest = later;
        if rest.is_empty() {
            break;
        }
        let left = individual(card, &LEAVE);
        if left != 0x9000 {
            return left;
        }
    }
    let returned = sw(&send(card, back));
    if returned != 0x9000 {
        return returned;
    }
    individual(card, &broadcast.activate)
}

#[test]
fn leaving_and_coming_back() {
    let keys = Keys::new();
    let image = long_v2();
    for custody in BOTH {
        let broadcast = Broadcast::new(&keys, custody, &manifest(2, 1, &image), &image, 1000);
        let made = made(&keys);
        let mut seen = Seen::default();
        let mut positions = BTreeSet::new();
        for seed in 0..SEEDS {
            for cut in common::cuts(seed) {
                let why = format!("{custody:?} cut {cut} seed {seed}");
                let mut flash = made.clone();
                flash.cut_after(cut, seed);
                let mut card = boot(flash).unwrap();
                if let Some(mut host) = open(&mut card, &keys) {
                    let last = load_with_pauses(&mut card, &mut host, &broadcast, 0);
                    seen.words.insert(last);
                }
                if !card.flash().is_off() {
                    card.reset(Interface::Iso7816Contact);
                    assert_eq!(update_state(&mut card), (2, 0, 0), "{why}");
                    break;
                }
                seen.cases += 1;
                let mut card = recover(card.into_flash(), seed ^ cut, &mut seen.starts);
                let (version, _, next) = update_state(&mut card);
                assert_eq!(key_state(&mut card), (1, 0, 0), "{why}");
                if version == 2 {
                    seen.after += 1;
                    continue;
                }
                assert_eq!(version, 1, "{why}");
                seen.before += 1;
                seen.resumed += u64::from(next > 0);
                positions.insert(next);
                let mut host = open(&mut card, &keys).unwrap();
                let last = load_with_pauses(&mut card, &mut host, &broadcast, next.into());
                assert_eq!(last, 0x9000, "{why} from {next}");
                card.reset(Interface::Iso7816Contact);
                assert_eq!(update_state(&mut card), (2, 0, 0), "{why}");
            }
        }
        seen.print(&format!(
            "leaving and coming back, {custody:?}, from {positions:?}"
        ));
        // Block boundaries where broadcast mode was left are among them, not pages' alone.
        assert!(
            [2, 4, 6, 8].iter().all(|at| positions.contains(at)),
            "{positions:?}"
        );
    }
}
