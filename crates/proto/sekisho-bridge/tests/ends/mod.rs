//! A stand-in for an SE that puts pieces together as the page says, and a run of a bridge between it and bytes of a server.
#![allow(dead_code, reason = "each program uses a part")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

use sekisho_bridge::{Bridge, Buffers, Correspondence, Ended, Row, Settings, Step, Why};

pub(crate) const PAGE: &str = include_str!("../../../../../docs/spec/tls-apdu.md");

const fn row(handshake_type: u8, ins: u8) -> Row {
    Row { handshake_type, ins }
}

/// The seed's table: its text names 00 and 02.
pub(crate) const SEED: [Row; 9] = [
    row(1, 0),
    row(2, 2),
    row(11, 11),
    row(12, 12),
    row(13, 13),
    row(14, 14),
    row(15, 15),
    row(16, 16),
    row(20, 20),
];

/// The cells of a page's table rows.
pub(crate) fn rows(section: &str) -> impl Iterator<Item = Vec<&str>> {
    section.lines().filter_map(|line| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(cells.split('|').map(str::trim).collect())
    })
}

pub(crate) fn record(content_type: u8, minor: u8, content: &[u8]) -> Vec<u8> {
    let [a, b] = (content.len() as u16).to_be_bytes();
    [&[content_type, 3, minor, a, b], content].concat()
}

pub(crate) struct Memory {
    record: Vec<u8>,
    answer: Vec<u8>,
    command: Vec<u8>,
}

impl Memory {
    pub(crate) fn new(command_data: u16) -> Self {
        Self {
            record: vec![0; Buffers::RECORD],
            answer: vec![0; 4096],
            command: vec![0; usize::from(command_data) + Buffers::COMMAND],
        }
    }

    pub(crate) fn bridge<'b>(&'b mut self, settings: Settings<'b>) -> Bridge<'b> {
        let buffers = Buffers {
            record: &mut self.record,
            answer: &mut self.answer,
            command: &mut self.command,
        };
        Bridge::new(settings, buffers).unwrap()
    }
}

/// An SE that understands nothing: it keeps what it hears and says what it is told to.
pub(crate) struct Element<'t> {
    table: Correspondence<'t>,
    /// What it has heard: INS, more, data.
    pub(crate) pieces: Vec<(u8, bool, Vec<u8>)>,
    chain: Option<([u8; 3], Vec<u8>)>,
    /// What it says, once it has heard so many records.
    says: Vec<(usize, u8, Vec<u8>)>,
    waiting: Vec<u8>,
    records: usize,
    pub(crate) closed: Option<u8>,
    channel: Option<u8>,
    /// For the next commands that carry pieces, whether another session's record is in the way.
    pub(crate) in_the_way: Vec<bool>,
}

impl<'t> Element<'t> {
    pub(crate) const fn new(table: Correspondence<'t>) -> Self {
        Self {
            table,
            pieces: Vec::new(),
            chain: None,
            says: Vec::new(),
            waiting: Vec::new(),
            records: 0,
            closed: None,
            channel: None,
            in_the_way: Vec::new(),
        }
    }

    pub(crate) fn say(&mut self, heard: usize, content_type: u8, content: &[u8]) {
        self.says.push((heard, content_type, content.to_vec()));
    }

    /// The records that it puts together of what it heard.
    pub(crate) fn heard_records(&self) -> Vec<u8> {
        let (mut all, mut content) = (Vec::new(), Vec::new());
        for (ins, more, data) in &self.pieces {
            let content_type = match ins {
                0x20 => 23,
                0x21 => 22,
                0x22 => 20,
                0x23 => 21,
                ins => {
                    let [_, a, b, c] = (data.len() as u32).to_be_bytes();
                    content.extend([self.table.handshake_type(*ins).unwrap(), a, b, c]);
                    22
                }
            };
            content.extend(data);
            if !more {
                all.extend(record(content_type, 3, &content));
                content.clear();
            }
        }
        all
    }

    pub(crate) fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let (cla, ins, p1, p2) = (command[0], command[1], command[2], command[3]);
        if ins == 0xC0 {
            let most = if command[4] == 0 {
                256
            } else {
                usize::from(command[4])
            };
            assert_eq!((cla, p1, p2, command.len()), (self.channel.unwrap() & 3, 0, 0, 5));
            return self.answer(most, 0x9000);
        }
        let channel = *self.channel.get_or_insert(cla);
        assert_eq!(cla & !0x10, channel);
        // Case 2 or 4, short or extended.
        let (data, ne) = match &command[4..] {
            [0] => (&[][..], 256),
            [0, a, b, rest @ ..] => {
                let lc = usize::from(u16::from_be_bytes([*a, *b]));
                assert_eq!(rest[lc..], [0, 0]);
                (&rest[..lc], 65_536)
            }
            [lc, rest @ ..] => {
                assert_eq!(rest[usize::from(*lc)..], [0]);
                (&rest[..usize::from(*lc)], 256)
            }
            [] => panic!("no Le"),
        };
        match ins {
            0x28 => {
                assert!([0, 8].contains(&data.len()));
                return self.speak(ne);
            }
            0x2A => {
                assert_eq!((p2, data.len()), (0, 0));
                self.closed = Some(p1);
                self.waiting.extend([channel, 0x23, 0, 2, 2, 1, p1]);
                return self.answer(ne, 0x6285);
            }
            _ => {}
        }
        if self.in_the_way.pop() == Some(true) {
            // What it has of the record is gone.
            self.chain = None;
            let begun = self.pieces.iter().rev().take_while(|(_, more, _)| *more).count();
            self.pieces.truncate(self.pieces.len() - begun);
            return vec![0x64, 0];
        }
        let head = [ins, p1, p2];
        let (begun, mut all) = self.chain.take().unwrap_or((head, Vec::new()));
        assert_eq!(begun, head);
        all.extend(data);
        let extent = u16::from_be_bytes([p1, p2]);
        let len = usize::from(extent & 0x7FFF);
        if cla & 0x10 != 0 {
            assert!(all.len() < len && !data.is_empty());
            self.chain = Some((head, all));
            return vec![0x90, 0];
        }
        assert_eq!(all.len(), len);
        let more = extent > 0x7FFF;
        self.pieces.push((ins, more, all));
        self.records += usize::from(!more);
        self.speak(ne)
    }

    fn speak(&mut self, ne: usize) -> Vec<u8> {
        let (now, later) = self
            .says
            .drain(..)
            .partition(|(heard, ..)| *heard <= self.records);
        self.says = later;
        let now: Vec<(usize, u8, Vec<u8>)> = now;
        for (_, content_type, content) in now {
            let (ins, body) = match content_type {
                20 => (0x22, &content[..]),
                21 => (0x23, &content[..]),
                22 if content.len() > 40 => (self.table.ins(content[0]).unwrap(), &content[4..]),
                22 => (0x21, &content[..]),
                _ => (0x20, &content[..]),
            };
            let [a, b] = (body.len() as u16).to_be_bytes();
            self.waiting.extend([self.channel.unwrap(), ins, a, b]);
            match (a, b) {
                (0, 0) => {}
                (0, b) => self.waiting.push(b),
                (a, b) => self.waiting.extend([0, a, b]),
            }
            self.waiting.extend(body);
        }
        self.answer(ne, 0x9000)
    }

    fn answer(&mut self, most: usize, sw: u16) -> Vec<u8> {
        let rest = self.waiting.split_off(self.waiting.len().min(most));
        let mut answer = core::mem::replace(&mut self.waiting, rest);
        match self.waiting.len() {
            0 => answer.extend(sw.to_be_bytes()),
            left => answer.extend([0x61, if left > 255 { 0 } else { left as u8 }]),
        }
        answer
    }
}

/// Runs a session: what the server sends comes in these portions, then the connection ends. What the server gets, and how it ended.
pub(crate) fn run(settings: Settings<'_>, element: &mut Element<'_>, server: &[&[u8]]) -> (Vec<u8>, Ended) {
    let mut memory = Memory::new(settings.command_data);
    let mut bridge = memory.bridge(settings);
    let mut sent = Vec::new();
    let mut portions = server.iter().copied();
    let mut portion = &[][..];
    bridge.open(1, Some(1));
    loop {
        match bridge.step() {
            Step::Command(command) => {
                let answer = element.transmit(command);
                bridge.answered(&answer);
            }
            Step::Send(record) => sent.extend([record.header(), record.body].concat()),
            Step::Receive => {
                while portion.is_empty() {
                    match portions.next() {
                        Some(next) => portion = next,
                        None => break,
                    }
                }
                let space = bridge.space();
                assert!(!space.is_empty());
                let len = portion.len().min(space.len());
                space[..len].copy_from_slice(&portion[..len]);
                portion = &portion[len..];
                match len {
                    0 => bridge.close(Why::Disconnected),
                    len => bridge.received(len),
                }
            }
            Step::Over(ended) => return (sent, ended),
        }
    }
}
