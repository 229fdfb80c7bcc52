//! A bulk in pieces.

use std::collections::BTreeSet;

use super::*;
use crate::se::Deed;
use sekisho_link::Wants;

/// Bytes that make the bulk some 45 blocks and two and a half pages long.
const SIZE: usize = 9_000;

#[test]
fn a_load_fits_the_idle_minutes_of_a_device() {
    for custody in [Custody::Hsm, Custody::DesignSystem] {
        for (blocks, pauses) in [(7, 0), (16, 3), (1, 0), (100, 8)] {
            let mut world = World::new();
            let package = world
                .ceremony
                .pack(&filled_up(SIZE), options(2, custody))
                .unwrap();
            world.server.offer(&package);
            let mut agent = world.agent(of_blocks(blocks, pauses));
            let mut turns = 0;
            loop {
                let before = world.socket.writes;
                let turn = agent.turn(&mut world.socket, &mut |_| ()).unwrap();
                assert!(world.socket.writes - before <= u32::from(blocks), "{turn:?}");
                turns += 1;
                // The power goes between two turns.
                world.socket.power_cycle();
                match turn {
                    Turn::Loading { .. } => assert_eq!(world.socket.versions(), (1, 1)),
                    Turn::Ended { verdict, .. } => break assert_eq!(verdict.access, Access::Allowed),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(world.socket.versions(), (2, 1));
            let office = world.server.0.borrow();
            assert_eq!(office.granted.len(), turns, "one authorisation a turn");
            assert_eq!(office.granted.last().unwrap().0, Wants::BOTH);
            assert!(office.refusals.is_empty());
            // Left at the block, not at the page: none is written twice.
            let all = world.socket.writes;
            assert_eq!(
                usize::from(blocks) * (turns - 1) + last(all, blocks),
                all as usize
            );
        }
    }
}

/// Blocks of the last turn.
fn last(all: u32, blocks: u16) -> usize {
    match all % u32::from(blocks) {
        0 => usize::from(blocks),
        rest => rest as usize,
    }
}

/// Within one session the SE leaves and comes back, and whoever has the device meanwhile may talk to the SE on another logical channel.
#[test]
fn pauses_are_whole_pauses() {
    let mut world = World::new();
    let package = world
        .ceremony
        .pack(&filled_up(SIZE), options(2, Custody::Hsm))
        .unwrap();
    world.server.offer(&package);
    let mut agent = world.agent(of_blocks(1000, 5));
    let mut paused = Vec::new();
    let turn = agent
        .turn(&mut world.socket, &mut |event| {
            if let Event::Paused(block) = event {
                paused.push(block);
            }
        })
        .unwrap();
    assert!(matches!(turn, Turn::Ended { verdict, .. } if verdict.access == Access::Allowed));
    assert_eq!(paused.len(), 5);
    assert!(paused.is_sorted() && paused[0] > 0, "{paused:?}");
    assert_eq!(world.socket.versions(), (2, 1));
    assert_eq!(world.server.0.borrow().granted, [(Wants::BOTH, 5)]);
}

/// Each command of a paced load in turn: the power goes before it or before its answer.
#[test]
fn power_cuts_at_every_command_cost_blocks_and_nothing_else() {
    let mut outcomes = BTreeSet::new();
    let mut cases = 0;
    for deed in [Deed::CutBefore, Deed::CutAfter] {
        for command in 0.. {
            let mut world = World::new();
            let package = world
                .ceremony
                .pack(&filled_up(SIZE), options(2, Custody::Hsm))
                .unwrap();
            world.server.offer(&package);
            let mut agent = world.agent(of_blocks(12, 2));
            world.socket.deed = Some((command, deed));
            let turns = world.until_updated(&mut agent);
            let is_beyond = world.socket.deed.is_some();
            assert_eq!(world.socket.versions(), (2, 1), "command {command} {deed:?}");
            assert!(
                world.server.0.borrow().refusals.is_empty(),
                "nobody refused anything"
            );
            outcomes.insert(turns);
            cases += 1;
            if is_beyond {
                break;
            }
        }
    }
    println!("{cases} power cuts between commands, ended in {outcomes:?} turns");
    assert!(cases > 200 && outcomes.len() > 1);
}

/// The power goes inside the flash's operations.
#[test]
fn power_cuts_in_the_flash_cost_blocks_and_nothing_else() {
    let mut cases = 0;
    for (blocks, pauses) in [(12, 0), (60, 4)] {
        for operation in (0..).step_by(3) {
            let mut world = World::new();
            let package = world
                .ceremony
                .pack(&filled_up(SIZE), options(2, Custody::Hsm))
                .unwrap();
            world.server.offer(&package);
            let mut agent = world.agent(of_blocks(blocks, pauses));
            world.socket.cut_flash(operation, operation * 7 + 1);
            world.until_updated(&mut agent);
            assert_eq!(world.socket.versions(), (2, 1), "operation {operation}");
            cases += 1;
            if world.socket.cycles == 0 {
                break; // beyond the last operation
            }
        }
    }
    println!("{cases} power cuts in the flash");
    assert!(cases > 100, "{cases}");
}

/// Somebody between agent and SE drops, repeats, swaps or changes one command: it is refused, by name where the SE can prove it, and done again.
#[test]
fn a_line_that_meddles_costs_a_try() {
    let (mut proved, mut cases) = (0, 0);
    let mut words = BTreeSet::new();
    for deed in [Deed::Drop, Deed::Repeat, Deed::Swap, Deed::Change] {
        for command in 0.. {
            let mut world = World::new();
            let package = world
                .ceremony
                .pack(&filled_up(3_000), options(2, Custody::Hsm))
                .unwrap();
            world.server.offer(&package);
            let mut agent = world.agent(of_blocks(9, 1));
            world.socket.deed = Some((command, deed));
            world.until_updated(&mut agent);
            let is_beyond = world.socket.deed.is_some();
            assert_eq!(world.socket.versions(), (2, 1), "command {command} {deed:?}");
            let office = world.server.0.borrow();
            proved += usize::from(!office.refusals.is_empty());
            for refusal in &office.refusals {
                // Of a manifest that is not signed as it stands nothing is said.
                let said = (refusal.target, refusal.version);
                assert!([(1, 1), (0, 0)].contains(&said), "{refusal:?}");
                words.insert(format!("{:04X}", refusal.sw.0));
            }
            cases += 1;
            if is_beyond {
                break;
            }
        }
    }
    println!("{cases} commands meddled with, {proved} of them proved as refused with {words:?}");
    assert!(cases > 150 && proved > 40, "{cases} {proved}");
    assert_eq!(
        words.into_iter().collect::<Vec<_>>(),
        ["6982"],
        "what a line can bring about"
    );
}
