//! Commands and answers of a session, however it ends; and how many there may be.

use core::time::Duration;

use sekisho_gateway::{AcceptError, Credentials, Gateway, GatewayError, Lost, Outcome, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

#[tokio::test]
async fn a_script_is_one_record_a_command_and_the_se_is_known() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    assert_eq!(session.identity().names, ["element.example"]);
    assert_eq!(session.identity().certificate, world.element.3);
    assert_eq!(session.identity().to_string(), "element.example");
    assert_eq!(session.protocol(), "TLS 1.3");
    let commands = [vec![0, 0xA4, 4, 0], vec![0xB0; 1024], vec![0, 0xB0, 0, 0, 4]];
    let card = async {
        for (number, expected) in (1..).zip(&commands) {
            assert_eq!(&command(&mut element).await, expected);
            answer(&mut element, &[number, 0x90, 0]).await;
        }
        assert_eq!(command(&mut element).await, [0; 0]);
        element.shutdown().await.unwrap();
    };
    let script = async {
        let (outcomes, lost) = session.run(&commands, |_, _| true).await;
        assert!(lost.is_none());
        let done = (1..4).map(|number| Outcome::Done(vec![number, 0x90, 0]));
        assert_eq!(outcomes, done.collect::<Vec<_>>());
        let tally = session.counts();
        assert_eq!((tally.commands, tally.sent, tally.received), (3, 4 + 1024 + 5, 9));
        session.end().await;
    };
    tokio::join!(card, script);
}

#[tokio::test]
async fn a_script_ends_where_an_answer_is_not_to_go_on_with() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    let commands = [[0, 0xA4, 4, 0]; 3];
    let (.., (outcomes, lost)) = tokio::join!(
        async {
            command(&mut element).await;
            answer(&mut element, &[0x6A, 0x82]).await;
        },
        session.run(&commands, |_, answer| answer == [0x90, 0]),
    );
    assert!(lost.is_none());
    assert_eq!(
        outcomes,
        [
            Outcome::Done(vec![0x6A, 0x82]),
            Outcome::NotSent,
            Outcome::NotSent
        ]
    );
}

/// The first command has its answer, the second was sent and the SE vanished, the third was never sent: and that is what is said of them.
#[tokio::test]
async fn what_is_done_not_sent_and_unknown() {
    let world = World::new(SOON).await;
    let commands = [[0, 0xA4, 4, 0], [0, 0xD6, 0, 0], [0, 0xB0, 0, 0]];
    for vanishes in [true, false] {
        let (mut session, mut element) = world.session().await;
        let card = async move {
            command(&mut element).await;
            answer(&mut element, &[0x90, 0]).await;
            assert_eq!(command(&mut element).await, commands[1]);
            (!vanishes).then_some(element)
        };
        let (kept, (outcomes, lost)) = tokio::join!(card, session.run(&commands, |_, _| true));
        assert_eq!(
            outcomes,
            [Outcome::Done(vec![0x90, 0]), Outcome::Unknown, Outcome::NotSent]
        );
        match lost.unwrap() {
            Lost::Slow => assert!(!vanishes),
            Lost::CutOff | Lost::Connection(_) => assert!(vanishes),
            other => panic!("{other}"),
        }
        // A late answer is no answer to the next command: nothing is sent any more.
        if let Some(mut element) = kept {
            answer(&mut element, &[0x90, 0]).await;
        }
        let error = session.send(&commands[2]).await.unwrap_err();
        assert!(matches!(error.why, Lost::Over) && !error.is_unknown);
    }
}

/// Who is stopped sends nothing more, and does not know of the command that waits for its answer.
#[tokio::test]
async fn a_script_that_is_stopped() {
    let world = World::new(Settings::DEFAULT).await;
    let commands = [[0, 0xA4, 4, 0], [0, 0xD6, 0, 0], [0, 0xB0, 0, 0]];
    let (mut session, mut element) = world.session().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let card = async {
        command(&mut element).await;
        answer(&mut element, &[0x90, 0]).await;
        assert_eq!(command(&mut element).await, commands[1]);
        stop.send(()).unwrap();
    };
    let stopped = async { stopped.await.unwrap() };
    let ((), (outcomes, lost)) = tokio::join!(card, session.run_until(&commands, |_, _| true, stopped));
    assert_eq!(
        outcomes,
        [Outcome::Done(vec![0x90, 0]), Outcome::Unknown, Outcome::NotSent]
    );
    assert!(matches!(lost, Some(Lost::Stopped)));
    let (mut session, mut element) = world.session().await;
    let (outcomes, lost) = session
        .run_until(&commands, |_, _| true, std::future::ready(()))
        .await;
    assert_eq!(outcomes, [const { Outcome::NotSent }; 3]);
    assert!(matches!(lost, Some(Lost::Stopped)));
    // It was not sent, so the session goes on.
    let (sent, ()) = tokio::join!(session.send(&commands[2]), async {
        assert_eq!(command(&mut element).await, commands[2]);
        answer(&mut element, &[0x90, 0]).await;
    });
    assert_eq!(sent.unwrap(), [0x90, 0]);
}

#[tokio::test]
async fn a_session_that_ended_before_a_command_has_not_sent_it() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    element.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = session.send(&[0, 0xB0, 0, 0]).await.unwrap_err();
    assert!(matches!(error.why, Lost::Closed) && !error.is_unknown);
    let (outcomes, _) = session.run(&[[0, 0xB0, 0, 0]], |_, _| true).await;
    assert_eq!(outcomes, [Outcome::NotSent]);
}

/// Only the SE can say that it ended the session: a connection that ends without its word is told as that, before a command and behind one, in both versions of TLS.
#[tokio::test]
async fn a_connection_that_is_cut_is_not_the_secure_elements_word() {
    let world = World::new(Settings::DEFAULT).await;
    for (says_goodbye, is_asked) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut session, mut element) = world.session().await;
        let ends = async move {
            if is_asked {
                command(&mut element).await;
            }
            if says_goodbye {
                element.shutdown().await.unwrap();
            } else {
                // A FIN of the connection below, as any device can send one.
                element.get_mut().0.shutdown().await.unwrap();
            }
            element
        };
        let (mut kept, mut sent) = (None, None);
        if is_asked {
            let (element, answer) = tokio::join!(ends, session.send(&[0, 0xB0, 0, 0]));
            (kept, sent) = (Some(element), Some(answer));
        } else {
            kept.replace(ends.await);
            tokio::time::sleep(Duration::from_millis(50)).await;
            sent.replace(session.send(&[0, 0xB0, 0, 0]).await);
        }
        let error = sent.unwrap().unwrap_err();
        assert_eq!(error.is_unknown, is_asked);
        let word = if says_goodbye { "closed" } else { "cut off" };
        assert_eq!(error.why.word(), word, "{}", error.why);
        drop(kept);
    }
}

#[tokio::test]
async fn a_command_given_up_ends_the_session() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), session.send(&[0, 0xB0, 0, 0])).await;
    assert!(given_up.is_err());
    command(&mut element).await;
    answer(&mut element, &[0x90, 0]).await;
    let error = session.send(&[0, 0xB0, 0, 0]).await.unwrap_err();
    assert!(matches!(error.why, Lost::Over));
}

#[tokio::test]
async fn what_is_no_answer_and_what_was_not_asked_for() {
    let world = World::new(Settings::DEFAULT).await;
    let (mut session, mut element) = world.session().await;
    let (.., error) = tokio::join!(answer(&mut element, &[0x90]), session.send(&[0, 0xB0, 0, 0]));
    // It may stand there before the command has gone, and is then unasked.
    assert!(matches!(error.unwrap_err().why, Lost::NoAnswer | Lost::Unasked));
    let (mut session, mut element) = world.session().await;
    answer(&mut element, &[0x90, 0]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = session.send(&[0, 0xB0, 0, 0]).await.unwrap_err();
    assert!(matches!(error.why, Lost::Unasked) && !error.is_unknown);
}

#[tokio::test]
async fn a_command_that_fits_no_record_is_refused_and_the_session_goes_on() {
    let settings = Settings {
        record: 64,
        ..Settings::DEFAULT
    };
    let world = World::new(settings).await;
    let (mut session, mut element) = world.session().await;
    let error = session.send(&[0; 65]).await.unwrap_err();
    assert!(matches!(error.why, Lost::TooLong(65, 64)) && !error.is_unknown);
    let card = async {
        assert_eq!(command(&mut element).await, [0; 64]);
        answer(&mut element, &[0x90, 0]).await;
    };
    let (.., answer) = tokio::join!(card, session.send(&[0; 64]));
    assert_eq!(answer.unwrap(), [0x90, 0]);
}

#[tokio::test]
async fn handshakes_and_sessions_are_counted_apart() {
    let settings = Settings {
        handshakes: 2,
        sessions: 2,
        ..Settings::DEFAULT
    };
    let world = World::new(settings).await;
    let first = world.session().await;
    // Two that prove nothing take no session's place.
    let rooms = [
        world.gateway.room(HERE).unwrap(),
        world.gateway.room(HERE).unwrap(),
    ];
    drop(rooms);
    let second = world.session().await;
    let (third, _element) = world.both(Some(&world.element)).await;
    assert!(matches!(third.err(), Some(AcceptError::Full)));
    drop(first);
    let _third = world.session().await;
    drop(second);
}

/// Connections that say nothing hold every room, for as long as they may: an SE is served all the same, and they are gone one by one.
#[tokio::test]
async fn silent_connections_keep_no_se_waiting() {
    let settings = Settings {
        handshakes: 8,
        ..Settings::DEFAULT
    };
    let world = World::new(settings).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let (stream, accepted) = tokio::join!(world.connect(), world.listener.accept());
        let (gateway, room) = (world.gateway.clone(), world.gateway.room(HERE).unwrap());
        let accepted = accepted.unwrap().0;
        let task = tokio::spawn(async move { gateway.accept(room, accepted).await.err() });
        silent.push((stream, task));
    }
    // Longer than all of them together would have taken if any had to be waited for.
    let served = async {
        for _ in 0..8 {
            drop(world.session().await);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), served)
        .await
        .unwrap();
    // The first one gave way to the first SE; behind it there was its room.
    let (mut stream, task) = silent.remove(0);
    assert!(matches!(task.await.unwrap(), Some(AcceptError::GaveWay)));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(silent.iter().all(|(_, task)| !task.is_finished()));
}

#[test]
fn what_is_no_gateway() {
    let authority = authority();
    let good = credentials(&authority);
    let of = |change: &dyn Fn(&mut Credentials)| {
        let mut credentials = good.clone();
        change(&mut credentials);
        Gateway::new(&credentials, Settings::DEFAULT).err()
    };
    assert!(of(&|_| {}).is_none());
    assert!(matches!(
        of(&|c| c.authorities.clear()),
        Some(GatewayError::NoAuthority)
    ));
    assert!(matches!(of(&|c| c.key.clear()), Some(GatewayError::Pem(_))));
    for lists in [&b"a list"[..], b""] {
        assert!(matches!(
            of(&|c| c.revoked = Some(lists.to_vec())),
            Some(GatewayError::Pem(_))
        ));
    }
    assert!(matches!(
        of(&|c| c.chain.clear()),
        Some(GatewayError::Certificates(_))
    ));
    for record in [31, 16_385] {
        let settings = Settings {
            record,
            ..Settings::DEFAULT
        };
        assert!(matches!(
            Gateway::new(&good, settings).err(),
            Some(GatewayError::Record)
        ));
    }
    assert!(!format!("{good:?}").contains("BEGIN"));
}
