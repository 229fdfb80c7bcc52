//! Broadcast mode is left at any block and come back to, in the same session or a later one, with the key set again or with one that was kept
//! (broadcast update, 2.1).

#![allow(clippy::unwrap_used, clippy::panic)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use crate::common;

use common::ByValue as _;
use common::host::Host;
use common::update::{Broadcast, Custody, Keys, LEAVE, long_v2, manifest, update_state};
use common::{Card, SeededRng, flash, profile, send, sw};
use sekisho_os::Interface;
use sekisho_scp::SecurityLevel;

const FULL: SecurityLevel = SecurityLevel::FULL;
const BOTH: [Custody; 2] = [Custody::Design, Custody::Hsm];
const LEVEL: [u8; 5] = [0x80, 0xCA, 0x00, 0xD3, 0x00];

struct Setup {
    keys: Keys,
    card: Card,
    broadcast: Broadcast,
}

/// Three pages in blocks that end inside them.
fn setup(custody: Custody) -> Setup {
    let keys = Keys::new();
    let card = keys.card(flash(), &profile());
    let image = long_v2();
    let broadcast = Broadcast::new(&keys, custody, &manifest(2, 1, &image), &image, 700);
    Setup {
        keys,
        card,
        broadcast,
    }
}

impl Setup {
    fn write(&mut self, blocks: std::ops::Range<usize>) {
        for command in &self.broadcast.commands[blocks] {
            assert_eq!(sw(&send(&mut self.card, command)), 0x9000);
        }
    }

    fn enter(&mut self, host: &mut Host) {
        assert_eq!(
            sw(&host.send(&mut self.card, &self.broadcast.change_mode)),
            0x9000
        );
    }

    fn leave(&mut self, host: &mut Host) {
        assert_eq!(sw(&host.send(&mut self.card, &LEAVE)), 0x9000);
    }

    /// CHANGE MODE back, and AUTHORIZE ACTION.
    fn finish(&mut self, host: &mut Host, from: usize) {
        let end = self.broadcast.commands.len();
        self.write(from..end);
        assert_eq!(sw(&host.send(&mut self.card, &self.broadcast.activate)), 0x9000);
        self.card.reset(Interface::Iso7816Contact);
        assert_eq!(update_state(&mut self.card), (2, 0, 0));
    }

    fn next(&mut self, host: &mut Host) -> (u8, u16) {
        let state = host.send(&mut self.card, &[0x00, 0xCA, 0xDF, 0x20, 0x00]);
        (state[8], u16::from_be_bytes([state[17], state[18]]))
    }
}

/// At every block boundary, in both custodies and at every level, and back in the same session and in a later one.
#[test]
fn at_any_block_and_back() {
    let levels = ["03", "13", "33"].map(|level| {
        let level = u8::from_str_radix(level, 16).unwrap();
        (level, SecurityLevel::from_p1(level).unwrap())
    });
    let mut left = 0;
    for custody in BOTH {
        let blocks = setup(custody).broadcast.commands.len() - 1;
        for (p1, level) in levels {
            for at in 0..=blocks {
                for later in [false, true] {
                    let mut setup = setup(custody);
                    let mut host = setup.keys.open(&mut setup.card, level);
                    setup.enter(&mut host);
                    setup.write(0..at);
                    setup.leave(&mut host);
                    left += 1;
                    // The individual channel goes on where it was, and says how far the load has come.
                    assert_eq!(
                        host.send(&mut setup.card, &LEVEL),
                        [0xD3, 1, 0x80 | p1, 0x90, 0x00]
                    );
                    let next = u16::try_from(at).unwrap();
                    let staging = match at {
                        0 => 0,
                        _ if at == blocks => 2,
                        _ => 1,
                    };
                    assert_eq!(setup.next(&mut host), (staging, next), "{custody:?} at {at}");
                    if later {
                        let flash = setup.card.into_flash();
                        setup.card = Card::booted(flash, SeededRng(9), &profile()).unwrap();
                        host = setup.keys.open(&mut setup.card, level);
                    }
                    setup.enter(&mut host);
                    setup.finish(&mut host, at);
                }
            }
        }
    }
    println!("left and came back {left} times");
}

/// After the last block there is nothing to come back for.
#[test]
fn what_is_whole_when_broadcast_mode_is_left_is_activated_at_once() {
    for custody in BOTH {
        let mut setup = setup(custody);
        let mut host = setup.keys.open(&mut setup.card, FULL);
        setup.enter(&mut host);
        let blocks = setup.broadcast.commands.len() - 1;
        setup.write(0..blocks);
        setup.leave(&mut host);
        assert_eq!(sw(&host.send(&mut setup.card, &setup.broadcast.activate)), 0x9000);
    }
}

/// As often as the device likes: a step of the load is one block, and a leave without a block writes nothing.
#[test]
fn after_each_block_and_for_nothing() {
    for custody in BOTH {
        let mut setup = setup(custody);
        let mut host = setup.keys.open(&mut setup.card, FULL);
        let end = setup.broadcast.commands.len();
        for at in 0..end - 1 {
            setup.enter(&mut host);
            setup.leave(&mut host);
            let before = setup.card.flash().image();
            for _ in 0..3 {
                setup.enter(&mut host);
                setup.leave(&mut host);
            }
            assert_eq!(
                setup.card.flash().image(),
                before,
                "a leave without a block writes"
            );
            setup.enter(&mut host);
            setup.write(at..at + 1);
            setup.leave(&mut host);
        }
        setup.enter(&mut host);
        setup.finish(&mut host, end - 1);
    }
}

/// Makes a command in a session that is in broadcast mode.
type Making<'a> = &'a dyn Fn(&Setup, &mut Host) -> Vec<u8>;

/// The saved channel is there once; whatever is not its own next command ends both, and what was written stays.
#[test]
fn anything_but_the_saved_channels_own_command_ends_both() {
    for custody in BOTH {
        let recorded = {
            let mut setup = setup(custody);
            let mut host = setup.keys.open(&mut setup.card, FULL);
            setup.enter(&mut host);
            let command = host.wrap(&LEAVE);
            assert_eq!(sw(&send(&mut setup.card, &command)), 0x9000);
            // Again, as it went: the individual channel has gone on.
            assert_eq!(sw(&send(&mut setup.card, &command)), 0x6982);
            assert_eq!(sw(&send(&mut setup.card, &host.wrap(&LEVEL))), 0x6982);
            command
        };
        let by_broadcast = |setup: &Setup| {
            // The return command of P_SE with another P2: the broadcast channel's MAC, or none at all.
            let mut command = setup.broadcast.commands.last().unwrap().clone();
            command[3] = 1;
            command
        };
        let cases: [(&str, Making<'_>); 6] = [
            ("in the clear", &|_, _| LEAVE.to_vec()),
            ("by the broadcast channel", &|setup, _| by_broadcast(setup)),
            ("of another session", &|_, _| recorded.clone()),
            ("with a byte changed", &|_, host| {
                let mut command = host.wrap(&LEAVE);
                *command.last_mut().unwrap() ^= 1;
                command
            }),
            ("with a command left out before it", &|_, host| {
                host.wrap(&LEVEL);
                host.wrap(&LEAVE)
            }),
            ("with a data field", &|_, host| {
                host.wrap(&[0x80, 0x3A, 0, 1, 1, 0])
            }),
        ];
        for (why, command) in cases {
            let mut setup = setup(custody);
            // The recorded session's counter was 1 as well, so this one is another.
            setup.keys.open(&mut setup.card, FULL);
            let mut host = setup.keys.open(&mut setup.card, FULL);
            setup.enter(&mut host);
            setup.write(0..2);
            let command = command(&setup, &mut host);
            let answer = sw(&send(&mut setup.card, &command));
            let expected = if why == "with a data field" {
                0x6700
            } else {
                0x6982
            };
            assert_eq!(answer, expected, "{why}");
            let next = setup.broadcast.commands[2].clone();
            assert_eq!(sw(&send(&mut setup.card, &next)), 0x6982, "{why}");
            assert_eq!(sw(&send(&mut setup.card, &host.wrap(&LEVEL))), 0x6982, "{why}");
            // Nothing of it was written behind block 0, which the next session goes on from.
            assert_eq!(update_state(&mut setup.card), (1, 1, 1), "{why}");
            let mut host = setup.keys.open(&mut setup.card, FULL);
            setup.enter(&mut host);
            setup.finish(&mut host, 1);
        }
    }
}

/// Outside broadcast mode there is nothing to leave.
#[test]
fn outside_broadcast_mode_it_is_refused() {
    let mut setup = setup(Custody::Hsm);
    assert_eq!(sw(&send(&mut setup.card, &LEAVE)), 0x6982);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    assert_eq!(sw(&host.send(&mut setup.card, &LEAVE)), 0x6982);
    assert_eq!(sw(&host.send(&mut setup.card, &LEVEL)), 0x9000);
}

/// A key set in a command of its own is used once, for its campaign and custody, in its channel.
#[test]
fn a_key_set_that_comes_before() {
    for (custody, other) in [(Custody::Design, Custody::Hsm), (Custody::Hsm, Custody::Design)] {
        let mut setup = setup(custody);
        let kept = setup.broadcast.change_mode_kept.clone();
        let mut host = setup.keys.open(&mut setup.card, FULL);
        let send =
            |setup: &mut Setup, host: &mut Host, command: &[u8]| sw(&host.send(&mut setup.card, command));
        assert_eq!(send(&mut setup, &mut host, &kept), 0x6985, "nothing is kept");
        let keep = setup.broadcast.keep.clone();
        assert_eq!(send(&mut setup, &mut host, &keep), 0x9000);
        assert_eq!(setup.next(&mut host), (0, 0), "nothing has begun");
        let mut wrong = kept.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(send(&mut setup, &mut host, &wrong), 0x6985, "another campaign");
        let mut wrong = kept.clone();
        wrong[3] = other as u8;
        assert_eq!(send(&mut setup, &mut host, &wrong), 0x6985, "another custody");
        // What is wrong replaces nothing.
        let mut wrong = keep.clone();
        wrong.pop();
        wrong[4] -= 1;
        assert_eq!(send(&mut setup, &mut host, &wrong), 0x6700);
        assert_eq!(send(&mut setup, &mut host, &kept), 0x9000);
        setup.write(0..3);
        setup.leave(&mut host);
        assert_eq!(send(&mut setup, &mut host, &kept), 0x6985, "used once");
        // Entering with keys wipes what is kept, and a later channel does not have it.
        assert_eq!(send(&mut setup, &mut host, &keep), 0x9000);
        setup.enter(&mut host);
        setup.leave(&mut host);
        assert_eq!(send(&mut setup, &mut host, &kept), 0x6985, "wiped by another");
        assert_eq!(send(&mut setup, &mut host, &keep), 0x9000);
        let mut host = setup.keys.open(&mut setup.card, FULL);
        assert_eq!(send(&mut setup, &mut host, &kept), 0x6985, "another channel");
        assert_eq!(send(&mut setup, &mut host, &keep), 0x9000);
        assert_eq!(send(&mut setup, &mut host, &kept), 0x9000);
        setup.finish(&mut host, 3);
    }
    // As for CHANGE MODE with keys: enciphered, and the keys are in the SE.
    let mut setup = setup(Custody::Design);
    let keep = setup.broadcast.keep.clone();
    assert_eq!(sw(&send(&mut setup.card, &keep)), 0x6982);
    let mut host = setup.keys.open(&mut setup.card, SecurityLevel::C_MAC);
    assert_eq!(sw(&host.send(&mut setup.card, &keep)), 0x6982);
    let mut host = setup.keys.open(&mut setup.card, FULL);
    let mut wrong = keep;
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(sw(&host.send(&mut setup.card, &wrong)), 0x6A80);
}
