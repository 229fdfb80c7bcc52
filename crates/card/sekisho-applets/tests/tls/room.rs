//! One room for the records of all sessions (docs/spec/tls-manager.md, 4): sessions whose commands come mixed do each other no harm, and what they take of the heap stands on the page.

use std::io::{Read as _, Write as _};

use rustls::ServerConnection;
use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};
use sekisho_keys::Rng as _;
use sekisho_os::Interface;
use sekisho_tls::{PATIENCE, Version};

use crate::common::{SeededRng, send_on, sw};
use crate::device::{NOW, server, talking};
use crate::pki::Pki;
use crate::se::{FILES, PORT, Se, with};
use crate::servers::{READ, select};

const CONTACTS: Interface = Interface::Iso7816Contact;

/// What a bridge works in; commands carry so few bytes that most records take many.
struct Memory(Vec<u8>, Vec<u8>, Vec<u8>);

impl Memory {
    fn new() -> Self {
        Self(
            vec![0; Buffers::RECORD],
            vec![0; 4096],
            vec![0; 20 + Buffers::COMMAND],
        )
    }
}

/// A session of its own: bridge and server.
struct Side<'m> {
    bridge: Bridge<'m>,
    server: ServerConnection,
    interface: Interface,
    /// Commands asked, and the answers.
    asked: usize,
    answers: Vec<Vec<u8>>,
    over: Option<Ended>,
    /// How often its record had to be sent again.
    again: usize,
}

impl<'m> Side<'m> {
    fn new(
        memory: &'m mut Memory,
        pki: &Pki,
        version: Version,
        (interface, channel): (Interface, u8),
    ) -> Self {
        let Memory(record, answer, command) = memory;
        let buffers = Buffers {
            record,
            answer,
            command,
        };
        let settings = Settings {
            channel,
            command_data: 20,
            ..Settings::DEFAULT
        };
        let mut bridge = Bridge::new(settings, buffers).unwrap();
        bridge.open(1, Some(NOW));
        Self {
            bridge,
            server: server(pki, version),
            interface,
            asked: 0,
            answers: vec![],
            over: None,
            again: 0,
        }
    }

    /// Goes on until one command has gone to the SE; whether it was the first of a chain. `None` when the session is over.
    fn go_on(&mut self, se: &mut Se, commands: &[&[u8]]) -> Option<bool> {
        loop {
            match self.bridge.step() {
                Step::Command(command) => {
                    let chained = command[0] & 0x10 != 0;
                    let answer = send_on(se, self.interface, command);
                    self.again += usize::from(answer == [0x64, 0]);
                    self.bridge.answered(&answer);
                    return Some(chained);
                }
                Step::Send(record) => {
                    let bytes = [record.header(), record.body].concat();
                    let mut rest = &bytes[..];
                    while !rest.is_empty() && self.server.read_tls(&mut rest).is_ok() {
                        self.server.process_new_packets().unwrap();
                    }
                    let mut got = vec![0; 4096];
                    if let Ok(len @ 1..) = self.server.reader().read(&mut got) {
                        self.answers.push(got[..len].to_vec());
                    }
                }
                Step::Receive => {
                    let ready = !self.server.is_handshaking() && self.answers.len() == self.asked;
                    if let Some(command) = commands.get(self.asked).filter(|_| ready) {
                        self.server.writer().write_all(command).unwrap();
                        self.asked += 1;
                    }
                    match self.server.write_tls(&mut self.bridge.space()) {
                        Ok(len @ 1..) => self.bridge.received(len),
                        _ => self.bridge.close(Why::Asked),
                    }
                }
                Step::Over(ended) => {
                    self.over = Some(ended);
                    return None;
                }
            }
        }
    }

    /// Until a chain has begun and not ended.
    fn begin_a_record(&mut self, se: &mut Se, commands: &[&[u8]]) {
        while self.go_on(se, commands) != Some(true) {
            assert_eq!(self.over, None);
        }
    }

    fn finish(&mut self, se: &mut Se, commands: &[&[u8]]) {
        while self.go_on(se, commands).is_some() {}
    }
}

/// With logical channel 1 on two interfaces.
fn channels(pki: &Pki) -> Box<Se> {
    let mut se = with(pki);
    for interface in [PORT, CONTACTS] {
        assert_eq!(send_on(&mut *se, interface, &[0, 0x70, 0, 0, 1]), [1, 0x90, 0]);
    }
    se
}

const PLACES: [(Interface, u8); 4] = [(PORT, 0), (CONTACTS, 0), (PORT, 1), (CONTACTS, 1)];

/// Four sessions, whose commands come one of each in turn, or in any order: all of them come to their ends with the answers that they have alone.
#[test]
fn sessions_whose_commands_come_mixed_do_each_other_no_harm() {
    let pki = Pki::new();
    let mut se = channels(&pki);
    let file = select(FILES);
    let commands = [&file[..], READ, READ];
    let truth = [&file[..], READ, READ].map(|command| send_on(&mut *se, Interface::Spi, command));
    let mut again = 0;
    for seed in 0..6_u8 {
        let mut memories = [(); 4].map(|()| Memory::new());
        let mut sides: Vec<_> = memories
            .iter_mut()
            .zip(PLACES)
            .enumerate()
            .map(|(at, (memory, place))| {
                let version = [Version::Tls12, Version::Tls13][(at / 2 + usize::from(seed)) % 2];
                Side::new(memory, &pki, version, place)
            })
            .collect();
        let mut order = SeededRng(u64::from(seed) + 1);
        for turn in 0..20_000 {
            let mut random = [0];
            order.fill(&mut random);
            let next = if seed < 2 { turn } else { usize::from(random[0]) };
            let side = &mut sides[next % 4];
            if side.over.is_none() {
                side.go_on(&mut se, &commands);
            }
        }
        for side in sides {
            assert_eq!(side.over, Some(Ended::BySe), "{seed} {:?}", side.interface);
            assert_eq!(side.answers, truth);
            again += side.again;
        }
    }
    println!("records sent again: {again}");
    assert!(again > 100);
}

/// A session that goes no further with its record loses the room to one that has asked so often as the page says; its record is not lost, it is sent again.
#[test]
fn a_record_that_does_not_go_on_makes_room() {
    let pki = Pki::new();
    let mut se = channels(&pki);
    let file = select(FILES);
    let commands = [&file[..], READ];
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    assert!(page.contains(&format!("{PATIENCE} times")));
    for version in [Version::Tls12, Version::Tls13] {
        let (mut one, mut other) = (Memory::new(), Memory::new());
        let mut slow = Side::new(&mut one, &pki, version, PLACES[0]);
        let mut quick = Side::new(&mut other, &pki, version, PLACES[1]);
        slow.begin_a_record(&mut se, &commands);
        quick.finish(&mut se, &commands);
        assert_eq!((quick.over, quick.answers.len()), (Some(Ended::BySe), 2));
        assert_eq!((quick.again, slow.again), (usize::from(PATIENCE), 0));
        slow.finish(&mut se, &commands);
        assert_eq!((slow.over, slow.answers.len()), (Some(Ended::BySe), 2));
        assert_eq!(slow.again, 1);
        // One that goes on is not disturbed, however many ask: each of its commands counts anew.
        let (mut one, mut other) = (Memory::new(), Memory::new());
        let mut slow = Side::new(&mut one, &pki, version, PLACES[0]);
        let mut quick = Side::new(&mut other, &pki, version, PLACES[1]);
        while slow.answers.is_empty() {
            assert_eq!((slow.over, quick.over), (None, None));
            if slow.go_on(&mut se, &commands) == Some(true) && slow.answers.is_empty() {
                for _ in 0..PATIENCE {
                    quick.go_on(&mut se, &commands);
                }
            }
        }
        assert_eq!(slow.again, 0);
        assert!(quick.again > 10 * usize::from(PATIENCE));
        // A session that ends gives the room back at once: it is in its second command, of which a part has come.
        let before = quick.again;
        assert_eq!((slow.asked, slow.answers.len()), (2, 1));
        match version {
            Version::Tls12 => assert_eq!(sw(&send_on(&mut *se, PORT, &[0xA4, 0x2A, 1, 0, 0])), 0x6285),
            Version::Tls13 => se.reset(PORT),
        }
        quick.finish(&mut se, &commands);
        assert_eq!((quick.over, quick.again), (Some(Ended::BySe), before));
    }
}

/// A handshake that makes room for a session while its record has begun leaves the room for records too.
#[test]
fn who_makes_room_for_a_session_makes_room_for_its_records() {
    let pki = Pki::new();
    let mut se = channels(&pki);
    let mut memories = [(); 5].map(|()| Memory::new());
    let places = PLACES.into_iter().chain([(Interface::ApduGate, 0)]);
    let mut sides: Vec<_> = memories
        .iter_mut()
        .zip(places)
        .map(|(memory, place)| Side::new(memory, &pki, Version::Tls13, place))
        .collect();
    sides[0].begin_a_record(&mut se, &[]);
    for side in &mut sides[1..] {
        side.go_on(&mut se, &[]);
    }
    assert_eq!(sw(&send_on(&mut *se, PORT, &[0xA4, 0x2A, 0, 0, 0])), 0x6985);
    for side in &mut sides[1..] {
        side.finish(&mut se, &[]);
        assert_eq!((side.over, side.again), (Some(Ended::BySe), 0));
    }
}

/// What a block of the page says.
fn figures() -> Vec<(String, i64)> {
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    let block = page.split("```tls-heap\n").nth(1).unwrap();
    let lines = block.split("```").next().unwrap().lines();
    lines
        .map(|line| {
            let (what, bytes) = line.rsplit_once(' ').unwrap();
            (what.to_owned(), bytes.replace(',', "").parse().unwrap())
        })
        .collect()
}

/// The heap that one to four open sessions take, none with their ends, and none for a command.
#[test]
fn what_open_sessions_take_of_the_heap_stands_on_the_page() {
    let pki = Pki::new();
    let mut se = channels(&pki);
    let mut total = 0;
    let mut measured = |interface: Interface, command: &[u8], se: &mut Se| {
        let mut out = [0; 1100];
        let mut len = 0;
        let used = allocation_counter::measure(|| len = se.transmit(interface, command, &mut out));
        total += used.bytes_current;
        (out[..len].to_vec(), total)
    };
    let mut held = vec![];
    for (interface, channel) in PLACES {
        // Tickets have a row of their own (resume.rs).
        let mut server = crate::in_memory::server(&pki, Version::Tls13, 0);
        let mut line = |_: usize, command: &[u8], se: &mut Se| measured(interface, command, se).0;
        talking(&mut se, &mut server, channel, &mut line, |talk| {
            talk.ask(&select(FILES)).unwrap();
            talk.ask(READ).unwrap();
        });
        // Any command tells how much there is now.
        held.push(measured(interface, &[0, 0xB0, 0x9E, 0, 0x10], &mut se).1);
    }
    let page = figures();
    let (sessions, room) = (held[1] - held[0], 2 * held[0] - held[1]);
    println!("sessions {held:?}: each {sessions}, room {room}");
    assert!(
        held.windows(2).all(|pair| pair[1] - pair[0] == sessions),
        "{held:?}"
    );
    assert!(sessions <= 136 + 64, "{sessions}");
    assert_eq!(
        page,
        [
            ("the room for records".to_owned(), room),
            ("a session".to_owned(), sessions),
            ("four open sessions with the room".to_owned(), held[3]),
        ]
    );
    for (at, (interface, channel)) in PLACES.into_iter().enumerate() {
        let (answer, left) = measured(interface, &[0xA4 | channel, 0x2A, 0, 0, 0], &mut se);
        assert_eq!(sw(&answer), 0x6285);
        let open = i64::try_from(3 - at).unwrap();
        assert_eq!(left, if open == 0 { 0 } else { room + open * sessions });
    }
}

/// A command of a session takes nothing of the heap.
#[test]
fn a_command_takes_nothing_of_the_heap() {
    let pki = Pki::new();
    let mut se = channels(&pki);
    for version in [Version::Tls12, Version::Tls13] {
        let mut server = server(&pki, version);
        let used = std::cell::Cell::new(0);
        let mut line = |_: usize, command: &[u8], se: &mut Se| {
            let mut out = [0; 1100];
            let mut len = 0;
            let took = allocation_counter::measure(|| len = se.transmit(PORT, command, &mut out));
            used.set(used.get() + took.bytes_total);
            out[..len].to_vec()
        };
        talking(&mut se, &mut server, 0, &mut line, |talk| {
            talk.ask(&select(FILES)).unwrap();
            assert!(used.replace(0) > 0, "{version:?}: the handshake takes some");
            for _ in 0..10 {
                talk.ask(READ).unwrap();
            }
            assert_eq!(used.get(), 0, "{version:?}");
        });
    }
}
