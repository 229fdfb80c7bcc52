//! The agent between a secure element and a server that behave, fail and lie.

use crate::support;
use std::io;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use sekisho_device::{Agent, AgentError, Event, HandOver, MemorySpool, Permission, Turn};
use sekisho_link::{
    Access, AuthorisationHead, Campaign, Outcome, Proof, Refusal, SeId, Staging, Verdict, Version, Wants,
};
use support::{BLOCKS, CAMPAIGN, P_MOB, Reader, SE_ID, Shared, authorisation, delivery, head, refusal};

pub(crate) const LIMIT: u32 = 1 << 20;

fn agent(server: &Shared) -> Agent<Shared, MemorySpool> {
    Agent::new(server.clone(), MemorySpool::new(), LIMIT, None)
}

pub(crate) fn ended(turn: Turn) -> (Outcome, Access, u16) {
    match turn {
        Turn::Ended {
            status,
            verdict,
            resumed_at,
        } => (status.outcome, verdict.access, resumed_at),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_update_goes_through_in_one_turn() {
    let (server, reader) = (Shared::new(), Reader::new());
    let mut events = Vec::new();
    let turn = agent(&server)
        .turn(&mut reader.clone(), &mut |event| events.push(event))
        .unwrap();
    assert_eq!(ended(turn), (Outcome::Activated, Access::Allowed, 0));
    let se = reader.0.borrow();
    assert_eq!(
        (se.state.version, se.activations, se.writes),
        (2, 1, BLOCKS.into())
    );
    let server = server.0.borrow();
    assert_eq!(server.reports.len(), 1);
    assert_eq!(server.reports[0].receipt(), se.receipt);
    assert_eq!(server.equs[0].kvn, 0x30);
    assert_eq!(
        (server.equs[0].scp_parameter, server.equs[0].sequence_counter),
        (0x70, 7)
    );
    let played = events
        .iter()
        .filter(|event| matches!(event, Event::Played(..)))
        .count();
    assert_eq!(played, 3 + usize::from(BLOCKS) + 1 + 1);
}

#[test]
fn nothing_offered_is_nothing_done() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().offer = None;
    assert_eq!(
        agent(&server).turn(&mut reader.clone(), &mut |_| ()).unwrap(),
        Turn::Nothing
    );
    assert_eq!(reader.0.borrow().counter, 7, "the SE was only looked at");
}

#[test]
fn a_power_cut_at_any_command_is_made_good_and_activates_once() {
    for is_executed in [false, true] {
        for command in 0..200 {
            let (server, reader) = (Shared::new(), Reader::new());
            reader.0.borrow_mut().fails_in = Some((command, is_executed));
            let mut agent = agent(&server);
            let mut result = agent.turn(&mut reader.clone(), &mut |_| ());
            if result.is_err() {
                // It failed while the SE was being read; the next turn does it.
                result = agent.turn(&mut reader.clone(), &mut |_| ());
            }
            let (outcome, _, resumed_at) = ended(result.unwrap());
            assert_eq!(outcome, Outcome::Activated, "command {command}");
            let se = reader.0.borrow();
            assert_eq!((se.activations, se.state.version), (1, 2), "command {command}");
            assert_eq!(se.writes, u32::from(BLOCKS), "no block was written twice");
            // Where the blocks are: 11 commands read the SE, whose key information comes in two templates, 3 open the channels.
            if (16..32).contains(&command) {
                assert!(resumed_at > 0, "command {command}");
            }
            if se.fails_in.is_some() {
                return; // beyond the last command
            }
        }
    }
}

#[test]
fn an_se_that_stays_away_is_reported_and_updated_later() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().verdict = Verdict {
        access: Access::Retry,
        retry_after: 9,
    };
    let mut agent = agent(&server);
    let its_reader = reader.clone();
    let turn = agent.turn(&mut reader.clone(), &mut |event| {
        if matches!(event, Event::Played(10, ..)) {
            its_reader.0.borrow_mut().is_there = false;
        }
    });
    assert_eq!(ended(turn.unwrap()), (Outcome::DeviceFailed, Access::Retry, 0));
    assert!(matches!(
        agent.turn(&mut reader.clone(), &mut |_| ()),
        Err(AgentError::Card(_))
    ));
    reader.0.borrow_mut().is_there = true;
    server.0.borrow_mut().verdict.access = Access::Allowed;
    assert_eq!(
        ended(agent.turn(&mut reader.clone(), &mut |_| ()).unwrap()),
        (Outcome::Activated, Access::Allowed, 7)
    );
}

#[test]
fn a_refusal_is_reported_with_its_step() {
    let (server, reader) = (Shared::new(), Reader::new());
    reader.0.borrow_mut().refuses = Some(0x9503);
    server.0.borrow_mut().verdict = Verdict {
        access: Access::Blocked,
        retry_after: 0,
    };
    let turn = agent(&server).turn(&mut reader.clone(), &mut |_| ()).unwrap();
    assert_eq!(ended(turn), (Outcome::Refused, Access::Blocked, 0));
    let status = server.0.borrow().reports[0];
    assert_eq!(
        (status.sw.0, usize::from(status.step)),
        (0x9503, 3 + usize::from(BLOCKS) + 1)
    );
    let proof = reader.0.borrow().refusal.map(Proof::Refusal);
    assert!(
        proof.is_some() && status.proof == proof,
        "the SE's own word goes with it"
    );
}

/// What the SE refused some time ago, in another session or campaign, is not said again.
#[test]
fn only_a_refusal_of_this_session_is_reported() {
    let other = |campaign, counter| Refusal {
        campaign,
        ..refusal(counter, 0x9503)
    };
    for (kept, is_sent) in [
        (other(CAMPAIGN, 8), true),
        (other(CAMPAIGN, 7), false),
        (other(CAMPAIGN, 9), false),
        (other(Campaign(1), 8), false),
    ] {
        let (server, reader) = (Shared::new(), Reader::new());
        reader.0.borrow_mut().refusal = Some(kept);
        // It refuses a block, and its power goes before it can write that down.
        let its_reader = reader.clone();
        let turn = agent(&server).turn(&mut reader.clone(), &mut |event| {
            if matches!(event, Event::Played(10, ..)) {
                its_reader.0.borrow_mut().state.next_block = 0;
            }
        });
        let (outcome, ..) = ended(turn.unwrap());
        assert_eq!(outcome, Outcome::Refused);
        let status = server.0.borrow().reports[0];
        assert_eq!(status.proof.is_some(), is_sent, "{kept:?}");
    }
}

#[test]
fn an_image_that_is_there_already_is_not_sent_again() {
    let (server, reader) = (Shared::new(), Reader::new());
    {
        let mut se = reader.0.borrow_mut();
        (se.state.staging, se.state.campaign, se.state.next_block) = (Staging::Complete, CAMPAIGN, BLOCKS);
    }
    let turn = agent(&server).turn(&mut reader.clone(), &mut |_| ()).unwrap();
    assert_eq!(ended(turn).0, Outcome::Activated);
    assert_eq!(reader.0.borrow().writes, 0);
}

#[test]
fn an_se_that_was_updated_before_only_shows_its_receipt() {
    let (server, reader) = (Shared::new(), Reader::new());
    agent(&server).turn(&mut reader.clone(), &mut |_| ()).unwrap();
    let sent = server.0.borrow().sent;
    // The spool is lost, and the server has forgotten: it offers the same again.
    let turn = agent(&server).turn(&mut reader.clone(), &mut |_| ()).unwrap();
    assert_eq!(ended(turn).0, Outcome::Activated);
    assert_eq!(server.0.borrow().sent, sent, "nothing was downloaded");
    assert_eq!(reader.0.borrow().activations, 1);
}

#[test]
fn a_used_counter_is_counted_up() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().permissions = vec![Permission::CounterUsed, Permission::CounterUsed];
    let turn = agent(&server).turn(&mut reader.clone(), &mut |_| ()).unwrap();
    assert_eq!(ended(turn).0, Outcome::Activated);
    let counters: Vec<u32> = server
        .0
        .borrow()
        .equs
        .iter()
        .map(|equ| equ.sequence_counter)
        .collect();
    assert_eq!(counters, [7, 8, 9]);
    server.0.borrow_mut().permissions = vec![Permission::CounterUsed; 10];
    let other = Reader::new();
    assert!(matches!(
        agent(&server).turn(&mut other.clone(), &mut |_| ()),
        Err(AgentError::Counters)
    ));
    assert!(
        other.0.borrow().counter < 12,
        "a server cannot use an SE's counter up"
    );
}

#[test]
fn waiting_and_being_blocked_end_the_turn() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().permissions = vec![Permission::Blocked("lost".to_owned()), Permission::NotYet(30)];
    let mut agent = agent(&server);
    assert_eq!(
        agent.turn(&mut reader.clone(), &mut |_| ()).unwrap(),
        Turn::NotYet(30)
    );
    let sent = server.0.borrow().sent;
    assert_eq!(
        agent.turn(&mut reader.clone(), &mut |_| ()).unwrap(),
        Turn::Blocked("lost".to_owned())
    );
    assert_eq!(
        ended(agent.turn(&mut reader.clone(), &mut |_| ()).unwrap()).0,
        Outcome::Activated
    );
    assert_eq!(server.0.borrow().sent, sent, "the bulk was loaded once, ahead");
}

/// Authorisations of which the agent has asked for none, and what is said of each.
fn foreign() -> Vec<(Vec<u8>, &'static str)> {
    let right = head(SE_ID, CAMPAIGN, 8);
    let of = |head: AuthorisationHead<'_>| authorisation(&head);
    vec![
        (
            authorisation(&head(SeId([9; 10]), CAMPAIGN, 8)),
            "another secure element",
        ),
        (authorisation(&head(SE_ID, Campaign(1), 8)), "another campaign"),
        (authorisation(&head(SE_ID, CAMPAIGN, 7)), "sequence counter"),
        (authorisation(&head(SE_ID, CAMPAIGN, 9)), "sequence counter"),
        (
            of(AuthorisationHead {
                version: Version::One,
                ..right
            }),
            "another version",
        ),
        (
            of(AuthorisationHead { target: 2, ..right }),
            "a target that was not asked for",
        ),
        (
            of(AuthorisationHead {
                wants: Wants::LOAD,
                ..right
            }),
            "what was not asked for",
        ),
        (
            of(AuthorisationHead {
                wants: Wants::ACTIVATE,
                splices: &[],
                ..right
            }),
            "what was not asked for",
        ),
        (
            of(AuthorisationHead {
                wants: Wants(0x83),
                ..right
            }),
            "what was not asked for",
        ),
        (
            of(AuthorisationHead {
                splices: &[],
                ..right
            }),
            "the pauses",
        ),
        (
            of(AuthorisationHead {
                splices: &[3, 5],
                ..right
            }),
            "the pauses",
        ),
        (Vec::new(), "malformed"),
        (vec![0; 300], "malformed"),
    ]
}

#[test]
fn an_authorisation_that_is_not_ours_is_never_played() {
    for (p_aut, words) in foreign() {
        let (server, reader) = (Shared::new(), Reader::new());
        server.0.borrow_mut().permissions = vec![Permission::Granted(p_aut)];
        let result = agent(&server).turn(&mut reader.clone(), &mut |_| ());
        let Err(AgentError::Authorisation(why)) = result else {
            panic!("{words}: {result:?}");
        };
        assert!(why.contains(words), "{why}");
        assert_eq!(reader.0.borrow().counter, 7);
    }
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().breaks_after = Some(1500);
    let mut agent = agent(&server);
    let mut turns = 0;
    loop {
        turns += 1;
        match agent.turn(&mut reader.clone(), &mut |_| ()) {
            Err(AgentError::Backend(_)) if turns < 10 => {}
            result => break assert_eq!(ended(result.unwrap()).0, Outcome::Activated),
        }
    }
    let server = server.0.borrow();
    assert_eq!(server.sent, server.delivery.len(), "no byte came twice");
    assert!(turns > 2);
}

#[test]
fn a_delivery_that_changed_meanwhile_is_loaded_from_the_beginning() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().breaks_after = Some(1500);
    let mut agent = agent(&server);
    assert!(agent.turn(&mut reader.clone(), &mut |_| ()).is_err());
    server.0.borrow_mut().etag = "\"two\"";
    server.0.borrow_mut().breaks_after = None;
    assert_eq!(
        ended(agent.turn(&mut reader.clone(), &mut |_| ()).unwrap()).0,
        Outcome::Activated
    );
    let server = server.0.borrow();
    assert_eq!(server.sent, 1500 + server.delivery.len());
}

#[test]
fn a_false_delivery_is_thrown_away_and_loaded_again() {
    for tampered in [0, 5, 100, 3000] {
        let (server, reader) = (Shared::new(), Reader::new());
        server.0.borrow_mut().delivery[tampered] ^= 1;
        let mut agent = agent(&server);
        assert!(matches!(
            agent.turn(&mut reader.clone(), &mut |_| ()),
            Err(AgentError::Delivery(_))
        ));
        assert_eq!(reader.0.borrow().counter, 7, "the SE was only looked at");
        server.0.borrow_mut().delivery[tampered] ^= 1;
        assert_eq!(
            ended(agent.turn(&mut reader.clone(), &mut |_| ()).unwrap()).0,
            Outcome::Activated
        );
    }
}

#[test]
fn a_delivery_with_the_right_digest_and_wrong_content_is_refused() {
    let wrong: [fn(&mut Vec<u8>); 4] = [
        |d| *d = delivery(Campaign(7)),
        |d| d[13] ^= 1,
        |d| d.truncate(100),
        |d| *d.last_mut().unwrap() ^= 1,
    ];
    for change in wrong {
        let (server, reader) = (Shared::new(), Reader::new());
        change(&mut server.0.borrow_mut().delivery);
        server.0.borrow_mut().offer_it();
        let result = agent(&server).turn(&mut reader.clone(), &mut |_| ());
        assert!(matches!(result, Err(AgentError::Delivery(_))), "{result:?}");
    }
}

#[test]
fn a_server_cannot_fill_the_spool() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().surplus = 5_000_000;
    let result = agent(&server).turn(&mut reader.clone(), &mut |_| ());
    assert!(matches!(result, Err(AgentError::Delivery("longer than offered"))));
    let mut small = Agent::new(server.clone(), MemorySpool::new(), 4000, None);
    assert!(matches!(
        small.turn(&mut reader.clone(), &mut |_| ()),
        Err(AgentError::TooLong { .. })
    ));
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().wrong_offset = Some(77);
    assert!(matches!(
        agent(&server).turn(&mut reader.clone(), &mut |_| ()),
        Err(AgentError::Delivery(_))
    ));
}

/// There is nothing to load, and nothing of what is kept goes for it.
#[test]
fn an_offer_of_no_bytes_is_none() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().offer.as_mut().unwrap().bytes = 0;
    let refused = agent(&server)
        .turn(&mut reader.clone(), &mut |event| {
            assert!(!matches!(event, Event::Offered(_)));
        })
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "server: its answer is not an offer: its delivery has no bytes"
    );
    assert!(!refused.is_temporary());
}

#[test]
fn a_status_that_could_not_be_sent_is_sent_next_time() {
    let (server, reader) = (Shared::new(), Reader::new());
    let mut agent = agent(&server);
    // Offer, delivery, EQU succeed; ST does not.
    server.0.borrow_mut().fails_in = Some(3);
    assert!(matches!(
        agent.turn(&mut reader.clone(), &mut |_| ()),
        Err(AgentError::Backend(_))
    ));
    assert_eq!(reader.0.borrow().activations, 1);
    assert!(server.0.borrow().reports.is_empty());
    assert_eq!(
        ended(agent.turn(&mut reader.clone(), &mut |_| ()).unwrap()).0,
        Outcome::Activated
    );
    assert_eq!(server.0.borrow().reports.len(), 1);
    assert_eq!(reader.0.borrow().activations, 1);
}

#[test]
fn the_network_may_fail_at_any_request() {
    for request in 0..4 {
        let (server, reader) = (Shared::new(), Reader::new());
        server.0.borrow_mut().fails_in = Some(request);
        let mut agent = agent(&server);
        assert!(agent.turn(&mut reader.clone(), &mut |_| ()).is_err());
        assert_eq!(
            ended(agent.turn(&mut reader.clone(), &mut |_| ()).unwrap()).0,
            Outcome::Activated
        );
        assert_eq!(reader.0.borrow().activations, 1, "request {request}");
    }
}

#[test]
fn p_mob_is_handed_over_once() {
    let (server, reader) = (Shared::new(), Reader::new());
    server.0.borrow_mut().permissions = vec![Permission::NotYet(1), Permission::NotYet(1)];
    let got = Arc::new(Mutex::new(Vec::new()));
    let its = Arc::clone(&got);
    let take: HandOver = Box::new(move |campaign, p_mob| {
        its.lock().unwrap().push((campaign, p_mob.to_vec()));
        if its.lock().unwrap().len() == 1 {
            Err(io::Error::other("disk full"))
        } else {
            Ok(())
        }
    });
    let mut agent = Agent::new(server.clone(), MemorySpool::new(), LIMIT, Some(take));
    assert!(matches!(
        agent.turn(&mut reader.clone(), &mut |_| ()),
        Err(AgentError::HandOver(_))
    ));
    for _ in 0..3 {
        agent.turn(&mut reader.clone(), &mut |_| ()).unwrap();
    }
    assert_eq!(
        *got.lock().unwrap(),
        vec![(CAMPAIGN, P_MOB.to_vec()); 2],
        "failed, then once"
    );
}

proptest! {
    #[test]
    fn no_delivery_and_no_authorisation_makes_the_agent_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        p_aut in proptest::collection::vec(any::<u8>(), 0..300),
        keep in 0_usize..400,
    ) {
        let (server, reader) = (Shared::new(), Reader::new());
        // Random bytes behind a true beginning, with the digest that makes them worth reading.
        let kept = keep.min(server.0.borrow().delivery.len());
        server.0.borrow_mut().delivery.truncate(kept);
        server.0.borrow_mut().delivery.extend(&bytes);
        server.0.borrow_mut().offer_it();
        prop_assert!(agent(&server).turn(&mut reader.clone(), &mut |_| ()).is_err());
        let server = Shared::new();
        let beginning = authorisation(&head(SE_ID, CAMPAIGN, 8))[..keep.min(31)].to_vec();
        server.0.borrow_mut().permissions = vec![Permission::Granted([beginning, p_aut].concat())];
        let _ = agent(&server).turn(&mut reader.clone(), &mut |_| ());
    }
}
