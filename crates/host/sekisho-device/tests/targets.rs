//! Both targets, a bulk in pieces, and SEs and servers of which one is older than the other.

use crate::support;
use core::num::NonZeroU16;

use sekisho_device::{Agent, Event, MemorySpool, Pace, Spool, Turn};
use sekisho_link::{Access, Equ, Outcome, Staging, Status, Version, Wants};
use support::{BLOCKS, CAMPAIGN, Reader, SE_ID, Shared};

const LIMIT: u32 = 1 << 20;

fn agent(server: &Shared, blocks: u16, pauses: u8) -> Agent<Shared, MemorySpool> {
    Agent::new(server.clone(), MemorySpool::new(), LIMIT, None).at_pace(Pace {
        blocks: NonZeroU16::new(blocks),
        pauses,
    })
}

fn is_activated(turn: &Turn) -> bool {
    matches!(
        turn,
        Turn::Ended { status, verdict, .. } if status.outcome == Outcome::Activated && verdict.access == Access::Allowed
    )
}

fn offer(server: &Shared, target: u8) {
    let mut server = server.0.borrow_mut();
    server.target = target;
    server.offer_it();
}

#[test]
fn the_keys_are_carried_as_the_os_part_is() {
    let (server, reader) = (Shared::new(), Reader::new());
    reader.0.borrow_mut().target = 2;
    offer(&server, 2);
    let turn = agent(&server, 0, 0)
        .turn(&mut reader.clone(), &mut |_| ())
        .unwrap();
    assert!(is_activated(&turn), "{turn:?}");
    let se = reader.0.borrow();
    assert_eq!((se.keys.unwrap().version, se.state.version), (2, 1));
    let server = server.0.borrow();
    let equ = server.equs[0];
    assert_eq!(
        (equ.version, equ.wants, equ.states.iter().count()),
        (Version::Two, Wants::BOTH, 2)
    );
    assert_eq!(server.reports[0].receipt().unwrap().target, 2);
}

/// An SE of 0.1 says nothing of keys and refusals.
#[test]
fn an_se_of_0_1_is_asked_for_with_one_state() {
    let (server, reader) = (Shared::new(), Reader::new());
    reader.0.borrow_mut().keys = None;
    let turn = agent(&server, 0, 0)
        .turn(&mut reader.clone(), &mut |_| ())
        .unwrap();
    assert!(is_activated(&turn), "{turn:?}");
    let states: Vec<_> = server.0.borrow().equs[0]
        .states
        .iter()
        .map(|state| state.target)
        .collect();
    assert_eq!(states, [1]);
}

#[test]
fn a_turn_sends_no_more_blocks_than_it_may_and_the_last_one_activates() {
    for blocks in 1..=BLOCKS + 1 {
        let (server, reader) = (Shared::new(), Reader::new());
        let mut agent = agent(&server, blocks, 0);
        let mut turns = 0;
        loop {
            let before = reader.0.borrow().writes;
            let turn = agent.turn(&mut reader.clone(), &mut |_| ()).unwrap();
            let sent = reader.0.borrow().writes - before;
            assert!(sent <= u32::from(blocks), "{sent} of {blocks}");
            turns += 1;
            if is_activated(&turn) {
                break;
            }
            let next_block = reader.0.borrow().state.next_block;
            let expected = Turn::Loading {
                campaign: CAMPAIGN,
                next_block,
                blocks: BLOCKS,
            };
            assert_eq!(turn, expected);
            assert_eq!(sent, u32::from(blocks));
        }
        assert_eq!(turns, BLOCKS.div_ceil(blocks), "{blocks} blocks a turn");
        let se = reader.0.borrow();
        assert_eq!((se.writes, se.activations), (BLOCKS.into(), 1));
        let server = server.0.borrow();
        let wants: Vec<_> = server.equs.iter().map(|equ| equ.wants).collect();
        assert_eq!(wants.last(), Some(&Wants::BOTH));
        assert!(wants.iter().rev().skip(1).all(|wants| *wants == Wants::LOAD));
        assert_eq!(server.reports.len(), 1, "a load that went well is no report");
    }
}

#[test]
fn a_power_cut_in_a_turn_of_few_blocks_sends_none_twice_and_no_more_than_it_may() {
    for is_executed in [false, true] {
        for command in 0..60 {
            let (server, reader) = (Shared::new(), Reader::new());
            let mut agent = agent(&server, 7, 0);
            reader.0.borrow_mut().fails_in = Some((command, is_executed));
            for _ in 0..12 {
                let before = reader.0.borrow().writes;
                let turn = agent.turn(&mut reader.clone(), &mut |_| ());
                assert!(reader.0.borrow().writes - before <= 7, "command {command}");
                if turn.is_ok_and(|turn| is_activated(&turn)) {
                    break;
                }
            }
            let se = reader.0.borrow();
            assert_eq!(
                (se.writes, se.activations),
                (BLOCKS.into(), 1),
                "command {command}, executed {is_executed}"
            );
        }
    }
}

#[test]
fn within_a_session_the_se_leaves_broadcast_mode_and_comes_back() {
    for pauses in 0..=20 {
        let (server, reader) = (Shared::new(), Reader::new());
        let mut paused = Vec::new();
        let turn = agent(&server, 0, pauses)
            .turn(&mut reader.clone(), &mut |event| {
                if let Event::Paused(block) = event {
                    paused.push(block);
                }
            })
            .unwrap();
        assert!(is_activated(&turn), "{turn:?}");
        let se = reader.0.borrow();
        assert_eq!(se.left_at, paused, "{pauses} pauses");
        assert_eq!(paused.len(), usize::from(pauses.min(Equ::PAUSES_MAX)));
        let mut pieces = paused.clone();
        pieces.insert(0, 0);
        pieces.push(BLOCKS);
        let sizes: Vec<_> = pieces.windows(2).map(|ends| ends[1] - ends[0]).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 1, "{sizes:?}");
        assert_eq!((se.writes, se.activations), (BLOCKS.into(), 1));
    }
    // No more pauses than there are blocks left, and none where all is there.
    let (server, reader) = (Shared::new(), Reader::new());
    {
        let mut se = reader.0.borrow_mut();
        (se.state.staging, se.state.campaign, se.state.next_block) = (Staging::Begun, CAMPAIGN, BLOCKS - 1);
    }
    let turn = agent(&server, 0, 8)
        .turn(&mut reader.clone(), &mut |_| ())
        .unwrap();
    assert!(is_activated(&turn));
    assert_eq!(server.0.borrow().equs[0].pauses, 0);
}

/// A status that 0.1 has left in the spool goes out in today's version.
#[test]
fn a_report_of_version_1_in_the_spool_is_sent_on() {
    let (server, reader) = (Shared::new(), Reader::new());
    agent(&server, 0, 0)
        .turn(&mut reader.clone(), &mut |_| ())
        .unwrap();
    let status = Status {
        version: Version::One,
        step: 0xFF,
        ..server.0.borrow().reports[0]
    };
    let mut bytes = [0; Status::MAX_LEN];
    let mut out = sekisho_apdu::Writer::new(&mut bytes);
    status.encode(&mut out).unwrap();
    let mut spool = MemorySpool::new();
    spool.set_report(Some(out.written())).unwrap();
    let turn = Agent::new(server.clone(), spool, LIMIT, None)
        .turn(&mut reader.clone(), &mut |_| ())
        .unwrap();
    assert!(is_activated(&turn), "{turn:?}");
    let sent = server.0.borrow().reports[1];
    let expected = Status {
        version: Version::Two,
        ..status
    };
    assert_eq!((sent, sent.se_id), (expected, SE_ID));
}
