//! One room for the records of all sessions (docs/spec/tls-manager.md, 4): sessions whose commands come mixed do each other no harm, and what they take of the heap stands on the page.

use std::io::{Read as _, Write as _};

use rcgen::CustomExtension;
use rustls::ServerConnection;
use sekisho_bridge::{Bridge, Buffers, Ended, Settings, Step, Why};
use sekisho_keys::Rng as _;
use sekisho_os::Interface;
use sekisho_tls::{PATIENCE, Proof, Version};

use crate::common::script::Line;
use crate::common::{SeededRng, send_on, sw};
use crate::device::{NOW, server, talking};
use crate::pki::Pki;
use crate::se::{FILES, PORT, Se, with};
use crate::servers::{READ, select};

const CONTACTS: Interface = Interface::Iso7816Contact;

/// What a bridge works in; commands carry so few bytes that most records take many.
pub(crate) struct Memory(Vec<u8>, Vec<u8>, Vec<u8>);

impl Memory {
    pub(crate) fn new() -> Self {
        Self(
            vec![0; Buffers::RECORD],
            vec![0; 4096],
            vec![0; 20 + Buffers::COMMAND],
        )
    }
}

/// A session of its own: bridge and server.
pub(crate) struct Side<'m> {
    bridge: Bridge<'m>,
    pub(crate) server: ServerConnection,
    interface: Interface,
    /// Commands asked, and the answers.
    asked: usize,
    pub(crate) answers: Vec<Vec<u8>>,
    pub(crate) over: Option<Ended>,
    /// How often its record had to be sent again.
    again: usize,
}

impl<'m> Side<'m> {
    pub(crate) fn new(memory: &'m mut Memory, pki: &Pki, version: Version, place: (Interface, u8)) -> Self {
        Self::of(memory, server(pki, version), place)
    }

    /// With a server of its own kind.
    pub(crate) fn of(
        memory: &'m mut Memory,
        server: ServerConnection,
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
            server,
            interface,
            asked: 0,
            answers: vec![],
            over: None,
            again: 0,
        }
    }

    /// Goes on until one command has gone to the SE; whether it was the first of a chain. `None` when the session is over.
    pub(crate) fn go_on(&mut self, se: &mut dyn Line, commands: &[&[u8]]) -> Option<bool> {
        while self.over.is_none() {
            if let Some(chained) = self.step(se, commands) {
                return Some(chained);
            }
        }
        None
    }

    /// Until its server has proved the SE, and no command has gone.
    pub(crate) fn open(&mut self, se: &mut dyn Line) {
        while self.server.is_handshaking() {
            assert_eq!(self.over, None);
            self.step(se, &[]);
        }
    }

    /// One step of the bridge: of a command, whether it was the first of a chain.
    fn step(&mut self, se: &mut dyn Line, commands: &[&[u8]]) -> Option<bool> {
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
                    // It ends with what the SE says of an end.
                    let _ = self.server.process_new_packets();
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
            Step::Over(ended) => self.over = Some(ended),
        }
        None
    }

    /// Until a chain has begun and not ended.
    fn begin_a_record(&mut self, se: &mut dyn Line, commands: &[&[u8]]) {
        while self.go_on(se, commands) != Some(true) {
            assert_eq!(self.over, None);
        }
    }

    fn finish(&mut self, se: &mut dyn Line, commands: &[&[u8]]) {
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

pub(crate) const PLACES: [(Interface, u8); 4] = [(PORT, 0), (CONTACTS, 0), (PORT, 1), (CONTACTS, 1)];

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
                side.go_on(&mut *se, &commands);
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
        slow.begin_a_record(&mut *se, &commands);
        quick.finish(&mut *se, &commands);
        assert_eq!((quick.over, quick.answers.len()), (Some(Ended::BySe), 2));
        assert_eq!((quick.again, slow.again), (usize::from(PATIENCE), 0));
        slow.finish(&mut *se, &commands);
        assert_eq!((slow.over, slow.answers.len()), (Some(Ended::BySe), 2));
        assert_eq!(slow.again, 1);
        // One that goes on is not disturbed, however many ask: each of its commands counts anew.
        let (mut one, mut other) = (Memory::new(), Memory::new());
        let mut slow = Side::new(&mut one, &pki, version, PLACES[0]);
        let mut quick = Side::new(&mut other, &pki, version, PLACES[1]);
        while slow.answers.is_empty() {
            assert_eq!((slow.over, quick.over), (None, None));
            if slow.go_on(&mut *se, &commands) == Some(true) && slow.answers.is_empty() {
                for _ in 0..PATIENCE {
                    quick.go_on(&mut *se, &commands);
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
        quick.finish(&mut *se, &commands);
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
    sides[0].begin_a_record(&mut *se, &[]);
    for side in &mut sides[1..] {
        side.go_on(&mut *se, &[]);
    }
    assert_eq!(sw(&send_on(&mut *se, PORT, &[0xA4, 0x2A, 0, 0, 0])), 0x6985);
    for side in &mut sides[1..] {
        side.finish(&mut *se, &[]);
        assert_eq!((side.over, side.again), (Some(Ended::BySe), 0));
    }
}

/// A device whose server's messages have no end: OPEN, and then pieces of one of 8,000 bytes, so many in all, each a record of 205.
fn hog(se: &mut Se, (interface, channel): (Interface, u8), pieces: usize) -> Vec<u16> {
    let mut said = vec![];
    let open = [0xA4 | channel, 0x28, 0, 1, 8, 0, 0, 0, 0, 0x6B, 0x49, 0xD2, 0, 0];
    // The hello of a row with a ticket is longer than an answer.
    let hello = sw(&send_on(se, interface, &open));
    let is_more = hello.to_be_bytes()[0] == 0x61;
    said.push(if is_more {
        sw(&send_on(se, interface, &[channel, 0xC0, 0, 0, 0]))
    } else {
        hello
    });
    said.extend((0..pieces).map(|number| hog_on(se, (interface, channel), number == 0)));
    said
}

/// The next piece of it.
fn hog_on(se: &mut Se, (interface, channel): (Interface, u8), first: bool) -> u16 {
    let mut piece = vec![0x5A; 200];
    if first {
        piece[..4].copy_from_slice(&[2, 0, 0x1F, 0x40]);
    }
    let command = [&[0xA4 | channel, 0x21, 0, 200, 200][..], &piece, &[0]].concat();
    sw(&send_on(se, interface, &command))
}

/// All handshakes that are under way have together what one may have: one that takes more than others is the one that goes, whether it came before them or comes behind, and they
/// open their sessions. Who is gone is told so, and whoever is open is not asked for anything.
#[test]
fn a_handshake_that_takes_most_makes_room_for_others() {
    let pki = Pki::new();
    let file = select(FILES);
    let commands = [&file[..], READ];
    for version in [Version::Tls12, Version::Tls13] {
        let mut se = channels(&pki);
        let mut memories = [(); 2].map(|()| Memory::new());
        let [one, two] = &mut memories;
        let mut open = Side::new(one, &pki, version, PLACES[3]);
        open.open(&mut *se);
        if version == Version::Tls12 {
            // The server's last words: change_cipher_spec, and Finished in two commands.
            let last = [(); 3].map(|()| open.go_on(&mut *se, &[]));
            assert_eq!(last, [Some(false), Some(true), Some(false)]);
        }
        // 38 records of 205 bytes leave 402 of what all have: another handshake, some 700 in TLS 1.2, does not fit beside them.
        assert_eq!(hog(&mut se, PLACES[0], 38), [0x9000; 39]);
        let mut side = Side::new(two, &pki, version, PLACES[1]);
        side.finish(&mut *se, &commands);
        assert_eq!(
            (side.over, side.answers.len()),
            (Some(Ended::BySe), 2),
            "{version:?}"
        );
        assert_eq!(hog_on(&mut se, PLACES[0], false), 0x6985);
        // The other way round: one that has taken some, and one that comes behind it and would take all.
        assert_eq!(hog(&mut se, PLACES[1], 8), [0x9000; 9]);
        let said = hog(&mut se, PLACES[0], 40);
        let ended = said.iter().position(|sw| *sw != 0x9000).unwrap();
        assert_eq!((ended, &said[ended..][..2]), (32, &[0x6285, 0x6985][..]));
        assert_eq!(hog_on(&mut se, PLACES[1], false), 0x9000);
        open.finish(&mut *se, &commands);
        assert_eq!(
            (open.over, open.answers.len()),
            (Some(Ended::BySe), 2),
            "{version:?}"
        );
    }
    // Two of the kind: the one that has less goes on to its bound.
    let mut se = channels(&pki);
    assert_eq!(hog(&mut se, PLACES[0], 30), [0x9000; 31]);
    assert_eq!(hog(&mut se, PLACES[1], 5), [0x9000; 6]);
    let said: Vec<_> = (0..40).map(|_| hog_on(&mut se, PLACES[1], false)).collect();
    assert_eq!(hog_on(&mut se, PLACES[0], false), 0x6985);
    assert_eq!(
        said.iter().position(|sw| *sw != 0x9000),
        Some(34),
        "39 records in all, as for one alone"
    );
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
    let proof = i64::try_from(size_of::<Proof>()).unwrap();
    let sessions = sessions - proof;
    assert!(sessions <= 136 + 64, "{sessions}");
    assert_eq!(
        page,
        [
            ("the room for records".to_owned(), room),
            ("a session".to_owned(), sessions),
            ("the proof of its peer".to_owned(), proof),
            ("four open sessions with the room".to_owned(), held[3]),
        ]
    );
    for (at, (interface, channel)) in PLACES.into_iter().enumerate() {
        let (answer, left) = measured(interface, &[0xA4 | channel, 0x2A, 0, 0, 0], &mut se);
        assert_eq!(sw(&answer), 0x6285);
        let open = i64::try_from(3 - at).unwrap();
        assert_eq!(
            left,
            if open == 0 {
                0
            } else {
                room + open * (sessions + proof)
            }
        );
    }
}

/// A server's certificate with so many bytes for nothing.
pub(crate) fn filled(len: usize) -> Pki {
    Pki::with("authority", |params| {
        let nothing = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![0x5A; len]);
        params.custom_extensions.push(nothing);
    })
}

/// So many bytes for nothing that four handshakes at once have what all may have together, but for some.
const FOUR: usize = 1050;

/// The heap that four handshakes take whose commands come one of each in turn, with chains so long that they have what all may have: what stands on the page, and not four times what one takes.
#[test]
fn what_all_handshakes_take_of_the_heap_stands_on_the_page() {
    /// An SE whose heap is counted.
    struct Counted<'s> {
        se: &'s mut Se,
        held: i64,
        most: i64,
    }
    impl Line for Counted<'_> {
        fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
            let mut out = [0; 1100];
            let mut len = 0;
            let used = allocation_counter::measure(|| len = self.se.transmit(interface, capdu, &mut out));
            self.most = self.most.max(self.held + i64::try_from(used.bytes_max).unwrap());
            self.held += used.bytes_current;
            out[..len].to_vec()
        }
    }
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    let mut found = vec![];
    for version in [Version::Tls12, Version::Tls13] {
        let pki = filled(FOUR);
        let mut se = channels(&pki);
        let mut counted = Counted {
            se: &mut se,
            held: 0,
            most: 0,
        };
        let mut memories = [(); 4].map(|()| Memory::new());
        let mut sides: Vec<_> = memories
            .iter_mut()
            .zip(PLACES)
            .map(|(memory, place)| Side::new(memory, &pki, version, place))
            .collect();
        while sides.iter().any(|side| side.over.is_none()) {
            for side in sides.iter_mut().filter(|side| side.over.is_none()) {
                side.go_on(&mut counted, &[]);
            }
        }
        let ended: Vec<_> = sides.iter().map(|side| side.over).collect();
        assert_eq!(ended, [Some(Ended::BySe); 4], "{version:?}");
        found.push(counted.most);
    }
    println!("four handshakes at once: {found:?}");
    let rows = page
        .split("```tls-handshakes\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    for (row, most) in rows.lines().zip(&found) {
        let (_, said) = row.rsplit_once(' ').unwrap();
        let said: i64 = said.replace(',', "").parse().unwrap();
        assert!((said - 1000..=said).contains(most), "{row}: {most}");
    }
    assert_eq!(rows.lines().count(), found.len());
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
