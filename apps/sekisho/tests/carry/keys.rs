//! The change of the design system's keys, carried as an update is.

use super::*;
use crate::se::Deed;
use sekisho_hsm::{IndividualKey, KVN_SCP, Renewal};
use sekisho_link::codes;

/// After a change an update of the new designer's reaches the SE, and one of the old designer's is refused, which the SE proves.
#[test]
fn after_the_change_the_new_designer_is_obeyed_and_the_old_one_is_not() {
    for custody in [Custody::Hsm, Custody::DesignSystem] {
        for renewal in [Renewal::All, Renewal::Keys, Renewal::Designer] {
            let mut world = World::new();
            let mut agent = world.agent(whole());
            let next = world.ceremony.successor(renewal).unwrap();
            let change = world.ceremony.key_change(&next, how(custody), None).unwrap();
            world.server.offer(&change);
            world.until_updated(&mut agent);
            assert_eq!(world.socket.versions(), (1, 2), "the OS part is what it was");

            let old = world.ceremony.pack(METER_2, options(2, custody)).unwrap();
            world.server.offer(&old);
            let turn = agent.turn(&mut world.socket, &mut |_| ()).unwrap();
            let Turn::Ended { status, verdict, .. } = turn else {
                panic!("{turn:?}");
            };
            assert_eq!(
                (status.outcome, verdict.access),
                (Outcome::Refused, Access::Retry)
            );
            assert_eq!(world.socket.versions(), (1, 2));
            let refusal = world.server.0.borrow().refusals.last().copied();
            let refused = refusal.map(|refusal| (refusal.action, refusal.sw.0));
            let expected = match (renewal, custody) {
                // The broadcast keys are wrapped under the Kos that it had: it never comes to a broadcast, and there is no refusal to keep.
                (Renewal::All | Renewal::Keys, Custody::DesignSystem) => None,
                // The manifest's signature is the new designer's to make.
                (Renewal::All, Custody::Hsm) | (Renewal::Designer, _) => Some((codes::ACTION_LOAD, 0x9501)),
                // Deciphered under another Kos the image is another one.
                (Renewal::Keys, Custody::Hsm) => Some((codes::ACTION_ACTIVATE, 0x9503)),
            };
            assert_eq!(refused, expected, "{renewal:?} {custody:?}");
            assert_eq!(status.sw.0, expected.map_or(0x6A80, |(_, sw)| sw));

            let new = next.pack(METER_2, options(2, custody)).unwrap();
            world.server.offer(&new);
            world.until_updated(&mut agent);
            assert_eq!(world.socket.versions(), (2, 2));
        }
    }
}

/// For one SE the new keys are wrapped under a key of its own, which only the HSM can make.
#[test]
fn a_change_for_one_se_reaches_it_alone() {
    let mut world = World::new();
    let individual = IndividualKey::new(&*world.hsm, SE_ID, KVN_SCP).unwrap();
    let next = world.ceremony.successor(Renewal::All).unwrap();
    let change = world
        .ceremony
        .key_change(&next, how(Custody::Hsm), Some(&individual))
        .unwrap();
    world.server.offer(&change);
    let mut agent = world.agent(whole());
    world.until_updated(&mut agent);
    assert_eq!(world.socket.versions(), (1, 2));
    // Another SE of the same product cannot unwrap them, and says so.
    let other = SeId([0, 0, 0, 0, 0, 0, 0, 0, 1, 8]);
    world.socket = Socket::new(&world.hsm, &world.ceremony, other);
    world.server.offer(&change);
    let turn = world.agent(whole()).turn(&mut world.socket, &mut |_| ()).unwrap();
    assert!(
        matches!(turn, Turn::Ended { status, .. } if status.outcome == Outcome::Refused),
        "{turn:?}"
    );
    let refusal = *world.server.0.borrow().refusals.last().unwrap();
    assert_eq!(
        (refusal.action, refusal.sw.0, refusal.target),
        (codes::ACTION_ACTIVATE, 0x9505, 2)
    );
    assert_eq!(world.socket.versions(), (1, 1));
}

#[test]
fn a_key_change_survives_power_cuts_and_a_line_that_meddles() {
    let mut cases = 0;
    let deeds = [
        Deed::CutBefore,
        Deed::CutAfter,
        Deed::Drop,
        Deed::Repeat,
        Deed::Swap,
        Deed::Change,
    ];
    for deed in deeds {
        for command in 0.. {
            let mut world = World::new();
            let next = world.ceremony.successor(Renewal::All).unwrap();
            let change = world.ceremony.key_change(&next, how(Custody::Hsm), None).unwrap();
            world.server.offer(&change);
            let mut agent = world.agent(of_blocks(1, 0));
            world.socket.deed = Some((command, deed));
            world.until_updated(&mut agent);
            let is_beyond = world.socket.deed.is_some();
            assert_eq!(world.socket.versions(), (1, 2), "command {command} {deed:?}");
            cases += 1;
            if is_beyond {
                break;
            }
        }
    }
    for operation in 0.. {
        let mut world = World::new();
        let next = world.ceremony.successor(Renewal::All).unwrap();
        let change = world.ceremony.key_change(&next, how(Custody::Hsm), None).unwrap();
        world.server.offer(&change);
        let mut agent = world.agent(of_blocks(1, 0));
        world.socket.cut_flash(operation, operation + 11);
        world.until_updated(&mut agent);
        assert_eq!(world.socket.versions(), (1, 2), "operation {operation}");
        cases += 1;
        if world.socket.cycles == 0 {
            break; // beyond the last operation
        }
    }
    println!("{cases} key changes disturbed");
    assert!(cases > 200, "{cases}");
}
