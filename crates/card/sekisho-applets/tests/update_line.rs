//! Somebody in the line to the SE, while keys change and while a load is left and gone on with: every byte of every command changed, each command
//! left out, doubled or exchanged, and each recorded session in each state that there is now (broadcast-update.md, 2.1, 2.3, 3.1).

#![allow(clippy::unwrap_used, clippy::panic)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use std::collections::BTreeSet;

use common::ByValue as _;
use common::tables::Page;
use common::update::{
    Broadcast, Change, Custody, Keys, LEAVE, Plan, key_manifest, key_state, manifest, update_state,
};
use common::{Card, SeededRng, disturbed, flash, key, profile, send, sw};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;
use sekisho_scp::SecurityLevel;

const PAGE: Page = Page::new(include_str!("../../../../docs/spec/broadcast-update.md"));
const BOTH: [Custody; 2] = [Custody::Design, Custody::Hsm];

/// What a device sends: through the individual channel, or as P_SE has it.
enum Step {
    Individual(Vec<u8>),
    Raw(Vec<u8>),
}

use Step::{Individual, Raw};

fn boot(made: &RamFlash) -> Card {
    Card::booted(made.clone(), SeededRng(3), &profile()).unwrap()
}

fn made() -> RamFlash {
    Keys::new().card(flash(), &profile()).into_flash()
}

/// Opens a session on a card and plays; all that went over the line, each command with its protection. All of it is answered 9000.
fn session(card: &mut Card, steps: &[Step]) -> Vec<Vec<u8>> {
    let mut host = Keys::new().open(card, SecurityLevel::FULL);
    let mut sent = host.opening.to_vec();
    for step in steps {
        let command = match step {
            Individual(plain) => host.wrap(plain),
            Raw(command) => command.clone(),
        };
        let answer = send(card, &command);
        assert_eq!(sw(&answer), 0x9000, "{command:02X?}");
        if let Individual(_) = step {
            host.unwrap(&answer);
        }
        sent.push(command);
    }
    sent
}

/// A small OS part as version 2.
fn update(custody: Custody) -> Broadcast {
    let module = PAGE.block("module");
    Broadcast::new(&Keys::new(), custody, &manifest(2, 1, &module), &module, 40)
}

/// A key set in a command of its own, a load with a pause, activation.
fn with_pause(custody: Custody) -> Vec<Step> {
    let update = update(custody);
    let [first, second, third, fourth, back] = &update.commands[..] else {
        panic!("three blocks of the image")
    };
    vec![
        Individual(update.keep.clone()),
        Individual(update.change_mode_kept.clone()),
        Raw(first.clone()),
        Raw(second.clone()),
        Individual(LEAVE.to_vec()),
        Individual(update.change_mode.clone()),
        Raw(third.clone()),
        Raw(fourth.clone()),
        Raw(back.clone()),
        Individual(update.activate.clone()),
    ]
}

/// A key change in one go.
fn rotation(custody: Custody, change: Change) -> Vec<Step> {
    let (old, new) = (Keys::new(), Keys::new().changed(change));
    let broadcast = Broadcast::of_keys(custody, &old, &new, change);
    let mut steps = vec![Individual(broadcast.change_mode.clone())];
    steps.extend(broadcast.commands.iter().cloned().map(Raw));
    steps.push(Individual(broadcast.activate.clone()));
    steps
}

/// All that is changed here.
fn scripts() -> Vec<(String, Vec<Step>)> {
    let mut all = Vec::new();
    for custody in BOTH {
        all.push((format!("{custody:?}, pause"), with_pause(custody)));
        for change in [Change::of(true, true, false), Change::of(true, false, true)] {
            all.push((format!("{custody:?}, {change:?}"), rotation(custody, change)));
        }
    }
    all
}

/// Versions of part and keys, in the clear after a reset.
fn versions(card: &mut Card) -> (u32, u32) {
    card.reset(Interface::Iso7816Contact);
    (update_state(card).0, key_state(card).0)
}

/// Plays until a status other than 9000: its step and status.
fn play(card: &mut Card, commands: &[Vec<u8>]) -> Option<(usize, u16)> {
    commands.iter().enumerate().find_map(|(step, command)| {
        let sw = sw(&send(card, command));
        (sw != 0x9000).then_some((step, sw))
    })
}

#[test]
fn any_changed_byte_is_refused_and_changes_nothing() {
    let made = made();
    let (mut cases, mut words) = (0, BTreeSet::new());
    for (what, steps) in scripts() {
        let commands = session(&mut boot(&made), &steps);
        assert_eq!(
            play(&mut boot(&made), &commands),
            None,
            "{what}: the recording itself"
        );
        for (step, command) in commands.iter().enumerate() {
            // The class says more than the others: another kind, another logical channel.
            let bits = (0..command.len())
                .map(|at| (at, 0x08))
                .chain([(0, 0x20), (0, 0x01)]);
            for (at, bit) in bits {
                let why = format!("{what}: step {step}, byte {at} of {}", command.len());
                let mut changed = commands.clone();
                changed[step][at] ^= bit;
                let mut card = boot(&made);
                let refused = play(&mut card, &changed);
                cases += 1;
                // Le stands outside the C-MAC: answers are then cut or whole, and nothing else.
                let is_le = at + 1 == command.len() && [0, commands.len() - 1].contains(&step);
                let Some((_, word)) = refused.filter(|_| !is_le) else {
                    assert!(is_le, "{why}: it is taken");
                    continue;
                };
                words.insert(word);
                // The next command of the channel, were it still open, would be accepted. On another logical channel it has not come at all, and
                // then broadcast mode may be left, one block earlier.
                let next = commands.get(step + 1).map(|next| sw(&send(&mut card, next)));
                assert!(
                    next != Some(0x9000) || word == 0x6881,
                    "{why}: a secure channel is left"
                );
                assert_eq!(versions(&mut card), (1, 1), "{why}");
            }
        }
    }
    println!("{cases} changed bytes: {words:04X?}");
    for word in [0x6300, 0x6700, 0x6881, 0x6982, 0x6A86, 0x6A88, 0x6D00, 0x6E00] {
        assert!(words.contains(&word), "{word:04X} never came up: {words:04X?}");
    }
}

#[test]
fn commands_left_out_doubled_or_exchanged_are_refused() {
    let made = made();
    let (mut cases, mut words) = (0, BTreeSet::new());
    for (what, steps) in scripts() {
        let commands = session(&mut boot(&made), &steps);
        for step in 2..commands.len() {
            let is_last = step + 1 == commands.len();
            for (how, changed) in disturbed(&commands, step) {
                let why = format!("{what}: step {step} {how}");
                let mut card = boot(&made);
                let refused = play(&mut card, &changed);
                cases += 1;
                // The last one left out is no error, only no activation; doubled, its second time is refused after the activation.
                assert!(refused.is_some() || (is_last && how == "left out"), "{why}");
                words.extend(refused.map(|(_, word)| word));
                let is_active = versions(&mut card) != (1, 1);
                assert_eq!(is_active, is_last && how == "doubled", "{why}");
            }
        }
    }
    println!("{cases} commands left out, doubled or exchanged: {words:04X?}");
    assert!(words.contains(&0x6982), "{words:04X?}");
}

/// The states that there are now: the script and how much of it leads there, and whether the SE is switched off and on behind it.
const STATES: [(&str, bool, usize, bool); 10] = [
    ("kept", false, 1, false),
    ("loading", false, 4, false),
    ("left", false, 5, false),
    ("left, later", false, 5, true),
    ("come back", false, 6, false),
    ("keys loading", true, 2, false),
    ("keys staged", true, 4, false),
    ("keys staged, later", true, 4, true),
    ("keys changed", true, 5, false),
    ("keys changed, later", true, 5, true),
];

/// A card in a state, with the session that led there still open.
fn enter(custody: Custody, (_, is_keys, steps, is_later): (&str, bool, usize, bool)) -> Card {
    let mut script = if is_keys {
        rotation(custody, Change::of(true, true, false))
    } else {
        with_pause(custody)
    };
    script.truncate(steps);
    let mut card = boot(&made());
    session(&mut card, &script);
    if is_later {
        card = Card::booted(card.into_flash(), SeededRng(4), &profile()).unwrap();
    }
    card
}

/// What was recorded before: sessions of the same SE with campaigns of their own, to their end and to somewhere on the way.
fn recordings(custody: Custody) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let made = made();
    // An earlier campaign has broadcast keys of its own.
    let earlier = Keys {
        bk_enc: key(b"BK-ENC earlier 1"),
        bk_mac: key(b"BK-MAC earlier 1"),
        ..Keys::new()
    };
    let module = PAGE.block("module");
    let plan = Plan {
        campaign: 1,
        ..Plan::new(custody, 40)
    };
    let part = Broadcast::planned(plan, &earlier, &manifest(2, 1, &module), &module);
    let change = Change::of(true, true, false);
    let image = earlier.key_image(&earlier.changed(change), change);
    let plan = Plan {
        campaign: 2,
        ..Plan::of_keys(custody)
    };
    let keys = Broadcast::planned(plan, &earlier, &key_manifest(2, 1, &image), &image);
    let of = |broadcast: &Broadcast, leaves: bool, discards: bool| {
        let mut steps = vec![
            Individual(broadcast.keep.clone()),
            Individual(broadcast.change_mode_kept.clone()),
        ];
        let (back, blocks) = broadcast.commands.split_last().unwrap();
        steps.extend(blocks.iter().cloned().map(Raw));
        steps.push(if leaves {
            Individual(LEAVE.to_vec())
        } else {
            Raw(back.clone())
        });
        steps.push(Individual(if discards {
            broadcast.discard.clone()
        } else {
            broadcast.activate.clone()
        }));
        session(&mut boot(&made), &steps)
    };
    vec![
        ("an update", of(&part, false, false)),
        ("an update that was left", of(&part, true, false)),
        ("an update that was discarded", of(&part, true, true)),
        ("a key change", of(&keys, false, false)),
        ("a key change that was left", of(&keys, true, false)),
        ("a key change that was discarded", of(&keys, false, true)),
    ]
}

#[test]
fn nothing_recorded_is_taken_in_any_state() {
    let (mut cases, mut words) = (0, BTreeSet::new());
    for custody in BOTH {
        let recordings = recordings(custody);
        for state in STATES {
            for (recording, commands) in &recordings {
                // The whole session, and each command alone in the session that is open.
                for from in 0..commands.len() {
                    let mut card = enter(custody, state);
                    let why = format!("{custody:?}, {}: {recording} from {from}", state.0);
                    let before = {
                        let mut copy = boot(card.flash());
                        versions(&mut copy)
                    };
                    for (step, command) in commands.iter().enumerate().skip(from) {
                        let word = sw(&send(&mut card, command));
                        words.insert(word);
                        cases += 1;
                        // INITIALIZE UPDATE is anybody's; it counts up, and the host cryptogram is another one's.
                        assert!(word != 0x9000 || step == 0, "{why}: step {step} is taken");
                        if from > 0 {
                            break;
                        }
                    }
                    assert_eq!(versions(&mut card), before, "{why}");
                }
            }
        }
    }
    println!("{cases} recorded commands in new states: {words:04X?}");
    for word in [0x6300, 0x6982, 0x6D00, 0x9000] {
        assert!(words.contains(&word), "{word:04X} never came up: {words:04X?}");
    }
}
