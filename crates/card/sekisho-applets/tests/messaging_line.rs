//! Somebody stands in the line between reader and card. He changes, drops, repeats and swaps every byte of what passes from GET CHALLENGE to the last answer, loses whole
//! messages, sends them twice and puts old ones in their place, in every mode. Nothing is carried out that was not sent, and nothing is read that was not meant
//! for the reader.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use crate::common;

use std::collections::BTreeMap;

use common::files::{self, Reader, keys_of, select};
use common::host::encode;
use common::{Card, SeededRng, key, places, send};
use sekisho_apdu::{CApdu, Cla, StatusWord};
use sekisho_applets::file_system::image::test_key;
use sekisho_messaging::reader::{MAX_WRONG_ANSWERS, ReaderMessaging};
use sekisho_messaging::schedule::{Lanes, Schedule};
use sekisho_messaging::setup::{KeysOpening, Mode, Opened, RatchetOpening, refresh_command, refresh_secret};
use sekisho_messaging::{EphemeralKey, SmError};
use sekisho_os::Interface;

const CONTACTS: Interface = Interface::Iso7816Contact;
/// GET CHALLENGE, SESSION KEY DECRYPTION, UPDATE BINARY, in the ratchet REFRESH KEYS, READ BINARY.
const fn stages(mode: Mode) -> usize {
    if matches!(mode, Mode::Ratchet) { 5 } else { 4 }
}

/// What is done to one message, once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Nothing,
    Change(usize),
    Set(usize, u8),
    Drop(usize),
    Repeat(usize),
    /// With the byte behind it.
    Swap(usize),
    Lose,
    /// The card hears it twice, and the reader the second answer.
    Twice,
    /// The message before, of the same direction, in its place.
    Old,
}

impl Deed {
    /// `None` where it changes nothing.
    fn to(self, bytes: &[u8], old: &[u8]) -> Option<Vec<u8>> {
        let mut changed = bytes.to_vec();
        match self {
            Self::Change(at) => *changed.get_mut(at)? ^= 1 << (at % 8),
            Self::Set(at, value) => *changed.get_mut(at)? = value,
            Self::Drop(at) => drop(changed.remove(at)),
            Self::Repeat(at) => changed.insert(at, bytes[at]),
            Self::Swap(at) => changed.swap(at, at + 1),
            Self::Old => changed = old.to_vec(),
            Self::Nothing | Self::Lose | Self::Twice => {}
        }
        (changed != bytes || matches!(self, Self::Lose | Self::Twice)).then_some(changed)
    }
}

/// The line, with the attacker in it. Messages are counted from 0: the command of stage n is 2n, its first answer 2n + 1.
struct Line<'c> {
    card: &'c mut Card,
    message: usize,
    deed: Deed,
    /// Each time the message passes, not the first time alone.
    always: bool,
    /// Whether it has been done; also when it would have changed nothing.
    done: bool,
    idle: bool,
    /// The last message of either direction.
    old: [Vec<u8>; 2],
    /// Status words that the card gave in the clear.
    words: Vec<Word>,
    lengths: Vec<usize>,
}

impl Line<'_> {
    fn passes(&mut self, number: usize, bytes: &[u8]) -> Vec<u8> {
        let direction = number % 2;
        if self.lengths.len() == number {
            self.lengths.push(bytes.len());
        }
        let mut passed = bytes.to_vec();
        if number == self.message && !self.done {
            self.done = !self.always;
            match self.deed.to(bytes, &self.old[direction]) {
                Some(changed) => passed = changed,
                None => self.idle = true,
            }
        }
        self.old[direction] = bytes.to_vec();
        passed
    }

    /// What the reader hears; nothing when a message is lost.
    fn send(&mut self, stage: usize, capdu: &[u8]) -> Option<Vec<u8>> {
        let (first, deed) = (!self.done && self.message / 2 == stage, self.deed);
        let command = self.passes(2 * stage, capdu);
        let mine = first && self.message.is_multiple_of(2);
        if mine && deed == Deed::Lose {
            return None;
        }
        if mine && deed == Deed::Twice {
            send(self.card, &command);
        }
        let answer = send(self.card, &command);
        if stage >= 2 {
            let clear = answer.windows(4).any(|window| window == VALUE_MARK);
            assert!(!clear, "the card says in the clear what was written");
            if answer.len() == 2 {
                self.words.push(Word(common::sw(&answer)));
            }
        }
        let mine = first && !self.message.is_multiple_of(2);
        let heard = self.passes(2 * stage + 1, &answer);
        (!(mine && deed == Deed::Lose)).then_some(heard)
    }
}

/// First bytes of every value that is written: nothing else on the line has them.
const VALUE_MARK: [u8; 4] = *b"SECR";

/// A status word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Word(u16);

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

/// How a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Done,
    DoneAfterAskingAgain,
    NoChallenge,
    /// The opening was answered with this, or with nothing.
    Refused(Option<Word>),
    /// The reader did not believe the answer to the opening.
    NotConfirmed,
    /// No right answer to a protected command.
    Closed,
}

struct Talk<'l, 'c> {
    line: &'l mut Line<'c>,
    reader: ReaderMessaging<Schedule>,
    rng: SeededRng,
    again: bool,
}

impl Talk<'_, '_> {
    /// What the reader's user gets: data and status word.
    fn exchange(&mut self, stage: usize, capdu: &[u8]) -> Option<Vec<u8>> {
        let selector = self.reader.propose(&mut self.rng);
        let mut out = [0; 200];
        let command = CApdu::parse(capdu).unwrap();
        let sent = self.reader.protect(&command, selector, &mut out).unwrap();
        for sending in 0..MAX_WRONG_ANSWERS {
            self.again |= sending > 0;
            let heard = self.line.send(stage, sent);
            let Some(heard) = heard else { continue };
            let mut plain = [0; 200];
            match self.reader.receive(&heard, &mut plain) {
                Ok(answer) => return Some([answer.data, &answer.sw.bytes()].concat()),
                Err(SmError::Closed) => break,
                Err(_) => {}
            }
        }
        None
    }
}

impl Talk<'_, '_> {
    /// REFRESH KEYS; false when no right answer came.
    fn refresh(&mut self, stage: usize) -> bool {
        let own = EphemeralKey::generate(&mut self.rng).unwrap();
        let public = own.public_key();
        let Some(answer) = self.exchange(stage, &encode(&refresh_command(&public))) else {
            return false;
        };
        let (card_key, sw) = answer.split_last_chunk().unwrap();
        assert_eq!(*sw, [0x90, 0x00], "the answer to the refresh");
        let secret = refresh_secret(&key(&test_key::MKEY), own, &public, card_key).unwrap();
        self.reader.refresh(secret.as_ref()).unwrap();
        true
    }
}

fn opened(line: &mut Line<'_>, mode: Mode, lanes: Lanes, challenge: [u8; 16]) -> Result<Opened, End> {
    let mkey = key(&test_key::MKEY);
    let heard = |line: &mut Line<'_>, command: &CApdu<'_>| {
        let heard = line.send(1, &encode(command)).unwrap_or_default();
        match heard.split_last_chunk() {
            Some((data, [0x90, 0x00])) => Ok(data.to_vec()),
            Some((_, sw)) => Err(End::Refused(Some(Word(u16::from_be_bytes(*sw))))),
            None => Err(End::Refused(None)),
        }
    };
    let opened = if mode == Mode::Ratchet {
        let own = EphemeralKey::generate(&mut SeededRng(7)).unwrap();
        let opening = RatchetOpening::new(own, lanes, Cla::GP, 256);
        let answer = heard(line, &opening.command())?;
        opening.finish(&mkey, challenge, &answer)
    } else {
        let keys = keys_of(mode, lanes);
        let opening = KeysOpening::new(&mkey, (mode, lanes), Cla::GP, &keys, challenge).unwrap();
        let answer = heard(line, &opening.command())?;
        opening.finish(&answer)
    };
    opened.map_err(|_| End::NotConfirmed)
}

/// A reader writes `value` and reads it back. Gives the end, and whether the write was sent.
fn talk(line: &mut Line<'_>, mode: Mode, lanes: Lanes, value: &[u8; 8]) -> (End, bool) {
    let heard = line.send(0, &[0x00, 0x84, 0x00, 0x00, 0x10]).unwrap_or_default();
    let Some((Ok(challenge), [0x90, 0x00])) = heard
        .split_last_chunk()
        .map(|(data, sw)| (<[u8; 16]>::try_from(data), *sw))
    else {
        return (End::NoChallenge, false);
    };
    let Opened { schedule, ssc } = match opened(line, mode, lanes, challenge) {
        Ok(opened) => opened,
        Err(end) => return (end, false),
    };
    let mut talk = Talk {
        line,
        reader: ReaderMessaging::new(schedule, ssc),
        rng: SeededRng(9),
        again: false,
    };
    let write = [&[0x00, 0xD6, 0x81, 0x00, 8], &value[..]].concat();
    match talk.exchange(2, &write) {
        Some(answer) => assert_eq!(answer, StatusWord::NO_ERROR.bytes(), "the answer to the write"),
        None => return (End::Closed, true),
    }
    if mode == Mode::Ratchet && !talk.refresh(3) {
        return (End::Closed, true);
    }
    match talk.exchange(stages(mode) - 1, &[0x00, 0xB0, 0x81, 0x00, 8]) {
        Some(answer) => assert_eq!(answer, [&value[..], &[0x90, 0x00]].concat(), "what was read"),
        None => return (End::Closed, true),
    }
    let end = if talk.again {
        End::DoneAfterAskingAgain
    } else {
        End::Done
    };
    (end, true)
}

/// One case: the conversation with the deed, and what the file holds afterwards.
struct Bench {
    card: Card,
    mode: Mode,
    lanes: Lanes,
    cases: u32,
    ends: BTreeMap<End, u32>,
    words: BTreeMap<Word, u32>,
}

impl Bench {
    fn value(number: u32) -> [u8; 8] {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&VALUE_MARK);
        value[4..].copy_from_slice(&number.to_be_bytes());
        value
    }

    /// Lengths of the messages.
    fn run(&mut self, message: usize, deed: Deed) -> Vec<usize> {
        self.run_with(message, deed, false)
    }

    fn run_with(&mut self, message: usize, deed: Deed, always: bool) -> Vec<usize> {
        let before = self.held();
        self.cases += 1;
        let value = Self::value(self.cases);
        self.card.reset(CONTACTS);
        select(&mut self.card, CONTACTS);
        let mut line = Line {
            card: &mut self.card,
            message,
            deed,
            always,
            done: false,
            idle: false,
            old: [vec![0; 5], vec![0x90, 0x00]],
            words: Vec::new(),
            lengths: Vec::new(),
        };
        let (end, sent) = talk(&mut line, self.mode, self.lanes, &value);
        let (lengths, idle) = (line.lengths.clone(), line.idle);
        for word in &line.words {
            *self.words.entry(*word).or_default() += 1;
        }
        let held = self.held();
        let at = format!(
            "{} {:?} message {message} {deed:?}: {end:?}",
            self.mode.name(),
            self.lanes
        );
        match (&end, sent) {
            (End::Done | End::DoneAfterAskingAgain, _) => assert_eq!(held, value, "{at}"),
            (_, true) => assert!(
                held == value || held == before,
                "{at}: the file holds {held:02X?}"
            ),
            (_, false) => assert_eq!(held, before, "{at}: nothing was sent"),
        }
        assert!(deed != Deed::Nothing || end == End::Done, "{at}");
        if !idle {
            *self.ends.entry(end).or_default() += 1;
        }
        lengths
    }

    /// What the file holds, as its owner reads it.
    fn held(&mut self) -> [u8; 8] {
        self.card.reset(CONTACTS);
        select(&mut self.card, CONTACTS);
        let mut reader = Reader::open(&mut self.card, CONTACTS, Mode::Fixed, Lanes::Shared, 1).unwrap();
        let read = reader.send(&mut self.card, &[0x00, 0xB0, 0x81, 0x00, 8]);
        read[..8].try_into().unwrap()
    }
}

/// The sweep of one mode.
fn sweep(mode: Mode, lanes: Lanes) -> Bench {
    let mut bench = Bench {
        card: files::card(),
        mode,
        lanes,
        cases: 0,
        ends: BTreeMap::new(),
        words: BTreeMap::new(),
    };
    let lengths = bench.run(usize::MAX, Deed::Nothing);
    assert_eq!(lengths.len(), 2 * stages(mode));
    for (message, length) in lengths.into_iter().enumerate() {
        for deed in [Deed::Lose, Deed::Twice, Deed::Old] {
            // What the reader hears twice it takes for the answer to the next command: an old one.
            if message.is_multiple_of(2) || deed != Deed::Twice {
                bench.run(message, deed);
            }
        }
        for at in places(length) {
            for deed in [Deed::Change(at), Deed::Drop(at), Deed::Repeat(at), Deed::Swap(at)] {
                if deed != Deed::Swap(length - 1) {
                    bench.run(message, deed);
                }
            }
            if message > 3 {
                bench.run_with(message, Deed::Change(at), true);
            }
        }
    }
    // CLA, P1 and P2 of the opening: every other logical channel, mode, version and lanes.
    for at in [0, 2, 3] {
        for value in places(0x100) {
            bench.run(2, Deed::Set(at, u8::try_from(value).unwrap()));
        }
    }
    bench
}

#[test]
fn every_byte_from_the_challenge_to_the_last_answer() {
    let mut ends = BTreeMap::<End, u32>::new();
    let mut words = BTreeMap::<Word, u32>::new();
    let mut cases = 0;
    for mode in Mode::ALL {
        for lanes in [Lanes::Shared, Lanes::Separate] {
            let bench = sweep(mode, lanes);
            cases += bench.cases;
            println!(
                "{:>18} {lanes:?}: {} cases, {:?}",
                mode.name(),
                bench.cases,
                bench.ends
            );
            for (end, count) in bench.ends {
                *ends.entry(end).or_default() += count;
            }
            for (word, count) in bench.words {
                *words.entry(word).or_default() += count;
            }
        }
    }
    println!("{cases} cases: {ends:?}");
    println!("in the clear under secure messaging: {words:?}");
    for end in [
        End::Done,
        End::DoneAfterAskingAgain,
        End::NoChallenge,
        End::Refused(None),
        End::Refused(Some(Word(0x6985))),
        End::Refused(Some(Word(0x6A80))),
        End::NotConfirmed,
        End::Closed,
    ] {
        assert!(ends.contains_key(&end), "{end:?} never came up");
    }
    let words: Vec<_> = words.into_keys().collect();
    for word in [0x6700, 0x6982, 0x6987, 0x6988] {
        assert!(words.contains(&Word(word)), "{word:04X} never came up");
    }
}

/// What was selected in the clear, by whoever is in the line, has no say in what protected commands work on: no EF is current, and the DF is that of the MKEY.
#[test]
fn nothing_selected_in_the_clear_counts_under_secure_messaging() {
    let mut card = files::card();
    select(&mut card, CONTACTS);
    files::authenticate(&mut card, CONTACTS);
    // A DF of the attacker's liking that has no MKEY of its own.
    let create = [
        0x00, 0xE0, 0x00, 0x00, 0x10, 0x62, 0x0E, 0x82, 0x01, 0x38, 0x83, 0x02, 0x70, 0x00,
    ];
    let create = [&create[..], &[0x8C, 0x05, 0x47, 0, 0, 0, 0]].concat();
    assert_eq!(send(&mut card, &create), [0x90, 0x00]);
    let selected = |card: &mut Card, fid: [u8; 2]| {
        card.reset(CONTACTS);
        select(card, CONTACTS);
        let chosen = send(card, &[0x00, 0xA4, 0x00, 0x0C, 0x02, fid[0], fid[1]]);
        assert_eq!(chosen, [0x90, 0x00]);
        Reader::open(card, CONTACTS, Mode::Ratchet, Lanes::Shared, 9)
    };
    let mut reader = selected(&mut card, [0x70, 0x00]).unwrap();
    assert_eq!(
        reader.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x01]),
        [0, 0x90, 0x00],
        "0011 of the MF"
    );
    let mut reader = selected(&mut card, [0x00, 0x11]).unwrap();
    assert_eq!(
        reader.send(&mut card, &[0x00, 0xB0, 0x00, 0x00, 0x01]),
        [0x69, 0x86],
        "no EF is current"
    );
}

/// The attacker moves the challenge and the opening to a logical channel of his own.
#[test]
fn an_opening_is_for_its_logical_channel() {
    for mode in Mode::ALL {
        let mut card = files::card();
        select(&mut card, CONTACTS);
        assert_eq!(send(&mut card, &[0x00, 0x70, 0x00, 0x00, 0x01]), [1, 0x90, 0x00]);
        let aid = sekisho_applets::file_system::AID;
        assert!(send(&mut card, &[&[0x01, 0xA4, 0x04, 0x00, 0x07], aid].concat()).ends_with(&[0x90, 0x00]));
        let mkey = key(&test_key::MKEY);
        let (keys, how) = (keys_of(mode, Lanes::Shared), (mode, Lanes::Shared));
        for (cla, is_for_it) in [(Cla::GP, false), (Cla(0x81), true)] {
            let challenge: [u8; 16] = send(&mut card, &[0x01, 0x84, 0, 0, 16])[..16].try_into().unwrap();
            let moved = |command: &CApdu<'_>| {
                encode(&CApdu {
                    cla: Cla(0x81),
                    ..*command
                })
            };
            let opened = if mode == Mode::Ratchet {
                let own = EphemeralKey::generate(&mut SeededRng(7)).unwrap();
                let opening = RatchetOpening::new(own, Lanes::Shared, cla, 256);
                let answer = send(&mut card, &moved(&opening.command()));
                opening.finish(&mkey, challenge, &answer[..answer.len() - 2])
            } else {
                let opening = KeysOpening::new(&mkey, how, cla, &keys, challenge).unwrap();
                let answer = send(&mut card, &moved(&opening.command()));
                opening.finish(&answer[..answer.len() - 2])
            };
            assert_eq!(opened.is_ok(), is_for_it, "{}", mode.name());
            if mode == Mode::Ratchet {
                // It is open on channel 1 now, for nobody.
                assert_eq!(send(&mut card, &[0x01, 0x84, 0, 0, 16]), [0x69, 0x87]);
            }
        }
    }
}
