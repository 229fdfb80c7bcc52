//! What the tests of this crate share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part of this module"
)]

use sekisho_apdu::{CApdu, StatusWord};
use sekisho_keys::{AesKey, Rng, sha256};
use sekisho_messaging::card::{CardMessaging, Received};
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{
    Fixed, KeySchedule, KeyTable, Lanes, LegacyList, LegacyOperations, LegacyPair, PATENT_OPERATIONS,
    Ratchet, Schedule, Selector, TURNS, XOR,
};
use sekisho_messaging::{Keys, Ssc};

/// Longest answer of the cards under test.
pub const ANSWER: usize = 700;

pub type Card<S> = CardMessaging<S, ANSWER>;

/// The same bytes for the same seed: SHA-256 in counter mode.
pub struct TestRng {
    seed: u64,
    counter: u64,
}

impl TestRng {
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes) % limit
    }
}

impl Rng for TestRng {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let block = sha256(&[b"test rng", &self.seed.to_be_bytes(), &self.counter.to_be_bytes()]);
            self.counter += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// A generator that gives out what it was told.
pub struct Script(pub Vec<u8>);

impl Rng for Script {
    fn fill(&mut self, out: &mut [u8]) {
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&core::mem::replace(&mut self.0, rest));
    }
}

/// The key called `name`: the first 16 bytes of its name's SHA-256, as in the specification page.
pub fn named(name: &str) -> [u8; 16] {
    sha256(&[name.as_bytes()])[..16].try_into().unwrap()
}

pub fn named_list(prefix: &str, count: usize) -> Vec<[u8; 16]> {
    (1..=count).map(|i| named(&format!("{prefix}{i}"))).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

/// Every kind of schedule, made twice: once for each end.
pub fn pair(kind: &str, lanes: Lanes) -> (Schedule, Schedule) {
    let pairs = if lanes == Lanes::Shared { 2 } else { 4 };
    let list = |prefix: &str, count| KeyTable::new(&named_list(prefix, count)).unwrap();
    let make = || match kind {
        "xor" => Schedule::LegacyXor(LegacyPair::new(XOR, lanes, &named_list("X", pairs)).unwrap()),
        "turns" => Schedule::LegacyTurns(LegacyPair::new(TURNS, lanes, &named_list("X", pairs)).unwrap()),
        "list" => Schedule::LegacyList(LegacyList::new(lanes, list("K", 18))),
        "operations" => Schedule::LegacyOperations(
            LegacyOperations::new(lanes, list("EK", 18), PATENT_OPERATIONS).unwrap(),
        ),
        _ => Schedule::Ratchet(Ratchet::new(
            AesKey::new(&named("chain")).unwrap(),
            lanes,
            u16::MAX,
        )),
    };
    (make(), make())
}

pub const KINDS: [&str; 5] = ["ratchet", "xor", "list", "operations", "turns"];
pub const LANES: [Lanes; 2] = [Lanes::Shared, Lanes::Separate];

pub fn start() -> Ssc {
    Ssc::aes(named("challenge"))
}

pub fn ends<S: KeySchedule>((reader, card): (S, S)) -> (ReaderMessaging<S>, Card<S>) {
    (
        ReaderMessaging::new(reader, start()),
        CardMessaging::new(card, start()),
    )
}

pub fn fixed() -> (Fixed, Fixed) {
    let make = || Fixed::new(Keys::aes(&named("enc"), &named("mac")).unwrap());
    (make(), make())
}

pub fn protect<S: KeySchedule>(reader: &mut ReaderMessaging<S>, plain: &[u8], selector: Selector) -> Vec<u8> {
    let mut out = [0; 1000];
    reader
        .protect(&CApdu::parse(plain).unwrap(), selector, &mut out)
        .unwrap()
        .to_vec()
}

/// What the card decrypts, as plain command bytes.
pub fn receive<S: KeySchedule>(card: &mut Card<S>, command: &[u8]) -> Vec<u8> {
    let mut plain = [0; 1000];
    match card.receive(command, &mut plain).unwrap() {
        Received::Command(command) => encode(&command),
        Received::Again(_) => panic!("repeated"),
    }
}

pub fn encode(command: &CApdu<'_>) -> Vec<u8> {
    let mut out = [0; 1000];
    let mut writer = sekisho_apdu::Writer::new(&mut out);
    command.encode(&mut writer).unwrap();
    writer.written().to_vec()
}

/// Data and status word of the answer that the reader takes.
pub fn accept<S: KeySchedule>(reader: &mut ReaderMessaging<S>, response: &[u8]) -> Vec<u8> {
    let mut plain = [0; 1000];
    let answer = reader.receive(response, &mut plain).unwrap();
    [answer.data, &answer.sw.bytes()].concat()
}

pub fn answer<S: KeySchedule>(card: &mut Card<S>, answer: &[u8]) -> Vec<u8> {
    let (data, sw) = answer.split_last_chunk().unwrap();
    card.answer(data, StatusWord(u16::from_be_bytes(*sw)))
        .unwrap()
        .to_vec()
}

/// One exchange without trouble. Gives the protected command and response.
pub fn exchange<S: KeySchedule>(
    reader: &mut ReaderMessaging<S>,
    card: &mut Card<S>,
    selector: Selector,
    plain: &[u8],
    reply: &[u8],
) -> (Vec<u8>, Vec<u8>) {
    let command = protect(reader, plain, selector);
    assert_eq!(receive(card, &command), plain);
    let response = answer(card, reply);
    assert_eq!(accept(reader, &response), reply);
    (command, response)
}

/// All bytes of an end's state, one string.
pub fn state_of(expose: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Vec<u8> {
    let mut state = Vec::new();
    expose(&mut |bytes| state.extend_from_slice(bytes));
    state
}

/// The protected-command vectors of a file under `tests/vectors`.
pub struct Section<'a> {
    pub name: &'a str,
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Section<'a> {
    pub fn all(text: &'a str) -> Vec<Self> {
        let mut sections: Vec<Self> = Vec::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                sections.push(Self {
                    name,
                    lines: Vec::new(),
                });
            } else {
                let (name, value) = line.split_once(" = ").unwrap();
                sections.last_mut().unwrap().lines.push((name, value));
            }
        }
        sections
    }

    pub fn get(&self, name: &str) -> Vec<u8> {
        unhex(self.lines.iter().find(|(n, _)| *n == name).unwrap().1)
    }

    /// The exchanges: lines from one `plain` to the next.
    pub fn exchanges(&self) -> Vec<Self> {
        let mut exchanges: Vec<Self> = Vec::new();
        for (name, value) in self.lines.iter().skip_while(|(name, _)| *name != "plain") {
            if *name == "plain" {
                exchanges.push(Self {
                    name: self.name,
                    lines: Vec::new(),
                });
            }
            exchanges.last_mut().unwrap().lines.push((name, value));
        }
        exchanges
    }

    pub fn find(&self, name: &str) -> Option<Vec<u8>> {
        self.lines
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| unhex(value))
    }
}
