//! Every history with up to three commands, however long, over the real state machines: a network that keeps everything it ever
//! saw and delivers what it likes, as often as it likes, whole or damaged. And the same search over naive machines, which must find their faults.

use crate::common;
use std::collections::{HashSet, VecDeque};

use common::*;
use sekisho_apdu::{CApdu, StatusWord};
use sekisho_keys::sha256;
use sekisho_messaging::card::Received;
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Lanes, Schedule};

/// Two ends under test. Commands are numbered from 1, and the answer to a command carries its number.
trait Ends {
    /// The reader builds its next command, if it may.
    fn send(&mut self) -> Option<Vec<u8>>;
    /// The card takes bytes: what it answers, and the number of the command if it carried one out.
    fn card(&mut self, command: &[u8]) -> (Vec<u8>, Option<u8>);
    /// The reader takes bytes: the number of the answer if it accepted one.
    fn reader(&mut self, response: &[u8]) -> Option<u8>;
    fn both_open(&self) -> bool;
    fn fingerprint(&self) -> Vec<u8>;
    /// Whether both ends, at rest, hold the same keys.
    fn same_keys(&self) -> bool;
    /// What identifies the keys of the command just built.
    fn keys_in_use(&self) -> Vec<u8>;
}

struct Real {
    reader: ReaderMessaging<Schedule>,
    card: Card<Schedule>,
    sent: u8,
    rng: TestRng,
}

impl Real {
    fn new(kind: &str, lanes: Lanes) -> Self {
        let (reader, card) = ends(pair(kind, lanes));
        Self {
            reader,
            card,
            sent: 0,
            rng: TestRng::new(7),
        }
    }
}

impl Ends for Real {
    fn send(&mut self) -> Option<Vec<u8>> {
        let plain = [0x00, 0xB0, 0, self.sent + 1, 16];
        let selector = self.reader.propose(&mut self.rng);
        let mut out = [0; 200];
        let bytes = self
            .reader
            .protect(&CApdu::parse(&plain).unwrap(), selector, &mut out)
            .ok()?
            .to_vec();
        self.sent += 1;
        Some(bytes)
    }

    fn card(&mut self, command: &[u8]) -> (Vec<u8>, Option<u8>) {
        let mut plain = [0; 200];
        let number = match self.card.receive(command, &mut plain) {
            Ok(Received::Command(command)) => command.p2,
            Ok(Received::Again(answer)) => return (answer.to_vec(), None),
            Err(error) => return (error.status().bytes().to_vec(), None),
        };
        (
            self.card
                .answer(&[number], StatusWord::NO_ERROR)
                .unwrap()
                .to_vec(),
            Some(number),
        )
    }

    fn reader(&mut self, response: &[u8]) -> Option<u8> {
        let mut plain = [0; 200];
        self.reader
            .receive(response, &mut plain)
            .ok()
            .map(|answer| answer.data[0])
    }

    fn both_open(&self) -> bool {
        self.reader.is_open() && self.card.is_open()
    }

    fn fingerprint(&self) -> Vec<u8> {
        let states = [
            state_of(|sink| self.reader.expose(sink)),
            state_of(|sink| self.card.expose(sink)),
        ];
        sha256(&[&states[0], &states[1], &[self.sent]]).to_vec()
    }

    fn same_keys(&self) -> bool {
        // Both begin with the schedule and the counter; the reader at rest has nothing else.
        state_of(|sink| self.card.expose(sink)).starts_with(&state_of(|sink| self.reader.expose(sink)))
    }

    fn keys_in_use(&self) -> Vec<u8> {
        // The waiting reader exposes the response keys behind schedule and counter. With shared lanes they are the command's.
        let waiting = state_of(|sink| self.reader.expose(sink));
        let ssc = start().to_block();
        let at = waiting.windows(8).position(|window| window == &ssc[..8]).unwrap() + 16;
        waiting[at..at + 32].to_vec()
    }
}

/// What a naive implementation gets wrong. All of them stay open after a wrong MAC.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    /// Nothing: the control.
    None,
    /// The card rolls its key before it knows the MAC to be right.
    RollsFirst,
    /// The card does not keep its answer.
    ForgetsAnswer,
    /// The reader rolls its key when a wrong answer comes.
    ReaderRolls,
    /// The card carries a repeated command out again.
    Repeats,
}

/// Messages are [key number, command number, a MAC of sorts].
struct Naive {
    flaw: Flaw,
    reader_key: u8,
    card_key: u8,
    sent: u8,
    waiting: bool,
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Naive {
    fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            reader_key: 1,
            card_key: 1,
            sent: 0,
            waiting: false,
            last: None,
        }
    }

    /// No damage of one bit keeps it right.
    fn mac(key: u8, number: u8) -> u8 {
        key.wrapping_mul(32) ^ number
    }
}

impl Ends for Naive {
    fn send(&mut self) -> Option<Vec<u8>> {
        if self.waiting {
            return None;
        }
        self.sent += 1;
        self.waiting = true;
        Some(vec![
            self.reader_key,
            self.sent,
            Self::mac(self.reader_key, self.sent),
        ])
    }

    fn card(&mut self, command: &[u8]) -> (Vec<u8>, Option<u8>) {
        if let Some((last, answer)) = &self.last
            && last == command
            && self.flaw != Flaw::ForgetsAnswer
        {
            let again = (self.flaw == Flaw::Repeats).then_some(command[1]);
            return (answer.clone(), again);
        }
        let right = command[0] == self.card_key && command[2] == Self::mac(command[0], command[1]);
        if right || self.flaw == Flaw::RollsFirst {
            self.card_key += 1;
        }
        if !right {
            return (vec![0x69, 0x88], None);
        }
        let answer = command.to_vec();
        self.last = Some((command.to_vec(), answer.clone()));
        (answer, Some(command[1]))
    }

    fn reader(&mut self, response: &[u8]) -> Option<u8> {
        let right = self.waiting
            && response.len() == 3
            && response[0] == self.reader_key
            && response[2] == Self::mac(response[0], response[1]);
        if right || (self.waiting && self.flaw == Flaw::ReaderRolls) {
            self.reader_key += 1;
            self.waiting = false;
        }
        right.then(|| response[1])
    }

    fn both_open(&self) -> bool {
        true
    }

    fn fingerprint(&self) -> Vec<u8> {
        let last = self.last.clone().unwrap_or_default();
        [
            &[self.reader_key, self.card_key, self.sent, u8::from(self.waiting)],
            &last.0[..],
            &last.1[..],
        ]
        .concat()
    }

    fn same_keys(&self) -> bool {
        self.reader_key == self.card_key
    }

    fn keys_in_use(&self) -> Vec<u8> {
        vec![self.reader_key]
    }
}

/// What happens to a message on its way.
#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    Header,
    Mac,
}

impl Damage {
    fn to(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let last = bytes.len() - 1;
        let at = match self {
            Self::None => return bytes,
            Self::Header => 0,
            // The last byte is Le' or SW2; bytes of the MAC stand before it.
            Self::Mac => last.saturating_sub(3).max(last.min(2)),
        };
        bytes[at] ^= 1;
        bytes
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The reader builds a command.
    Send,
    /// The card gets the command with this index, of all ever sent.
    ToCard(usize, Damage),
    /// The reader gets the response with this index.
    ToReader(usize, Damage),
    /// The card gets an unprotected command.
    Plain,
}

/// Two ends and what the network knows.
struct World<E> {
    ends: E,
    commands: Vec<Vec<u8>>,
    responses: Vec<Vec<u8>>,
    executed: Vec<u8>,
    accepted: Vec<u8>,
    keys: Vec<Vec<u8>>,
}

impl<E: Ends> World<E> {
    fn run(ends: E, steps: &[Step]) -> Self {
        let mut world = Self {
            ends,
            commands: vec![],
            responses: vec![],
            executed: vec![],
            accepted: vec![],
            keys: vec![],
        };
        steps.iter().for_each(|step| world.step(*step));
        world
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send => {
                if let Some(command) = self.ends.send() {
                    self.keys.push(self.ends.keys_in_use());
                    self.commands.push(command);
                }
            }
            Step::ToCard(index, damage) => self.deliver(&damage.to(&self.commands[index])),
            Step::ToReader(index, damage) => {
                let number = self.ends.reader(&damage.to(&self.responses[index]));
                self.accepted.extend(number);
            }
            Step::Plain => self.deliver(&[0x00, 0xB0, 0]),
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let (response, executed) = self.ends.card(bytes);
        self.executed.extend(executed);
        if !self.responses.contains(&response) {
            self.responses.push(response);
        }
    }

    /// What must hold after every step.
    fn check(&self) -> Result<(), &'static str> {
        let in_order = |list: &[u8]| list.iter().zip(1..).all(|(got, want)| *got == want);
        if !in_order(&self.executed) {
            return Err("a command was carried out twice or out of order");
        }
        if !in_order(&self.accepted) {
            return Err("an answer was accepted twice, out of order, or for another command");
        }
        let (sent, executed, accepted) = (self.commands.len(), self.executed.len(), self.accepted.len());
        if executed > sent || accepted > executed || executed > accepted + 1 {
            return Err("an end is ahead of the other by more than the exchange under way");
        }
        if self.keys.iter().collect::<HashSet<_>>().len() != self.keys.len() {
            return Err("a key protected two commands");
        }
        if self.ends.both_open() && sent == accepted && !self.ends.same_keys() {
            return Err("both ends at rest and open, with different keys");
        }
        Ok(())
    }

    /// If both are open, sending the outstanding command once more must finish the exchange.
    fn recovers(&mut self) -> Result<(), &'static str> {
        if !self.ends.both_open() || self.commands.len() == self.accepted.len() {
            return Ok(());
        }
        let (response, executed) = self.ends.card(self.commands.last().ok_or("no command")?);
        self.executed.extend(executed);
        self.accepted.extend(self.ends.reader(&response));
        if self.accepted.len() == self.commands.len() && self.ends.same_keys() {
            self.check()
        } else {
            Err("asking again does not finish the exchange")
        }
    }

    fn next_steps(&self, commands: usize) -> Vec<Step> {
        let mut steps = vec![Step::Plain];
        if self.commands.len() < commands {
            steps.push(Step::Send);
        }
        for damage in [Damage::None, Damage::Header, Damage::Mac] {
            steps.extend((0..self.commands.len()).map(|index| Step::ToCard(index, damage)));
            steps.extend((0..self.responses.len()).map(|index| Step::ToReader(index, damage)));
        }
        steps
    }

    fn fingerprint(&self) -> Vec<u8> {
        let mut all = self.ends.fingerprint();
        for list in [&self.commands, &self.responses] {
            all.extend(sha256(&[&list.concat()]));
        }
        all.extend(&self.executed);
        all.push(0);
        all.extend(&self.accepted);
        all
    }
}

/// Breadth first until there is no new state; gives the number of different states, or the shortest history that breaks a rule.
fn search<E: Ends>(new: impl Fn() -> E, commands: usize) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([Vec::new()]);
    while let Some(history) = queue.pop_front() {
        let mut world = World::run(new(), &history);
        let broken = |rule: &str| format!("{rule}: {history:?}");
        world.check().map_err(broken)?;
        if !seen.insert(world.fingerprint()) {
            continue;
        }
        let steps = world.next_steps(commands);
        world.recovers().map_err(broken)?;
        queue.extend(steps.iter().map(|step| [&history[..], &[*step]].concat()));
    }
    Ok(seen.len())
}

#[test]
fn no_history_breaks_a_rule() {
    // The lanes change keys, not steps; one schedule shows it for all.
    let separate = ("ratchet", Lanes::Separate);
    for (kind, lanes) in KINDS
        .map(|kind| (kind, Lanes::Shared))
        .into_iter()
        .chain([separate])
    {
        let states = search(|| Real::new(kind, lanes), 3).unwrap();
        assert!(states > 100, "{kind} {lanes:?}: only {states} states");
    }
}

#[test]
fn the_search_finds_what_is_wrong_with_naive_ends() {
    assert!(search(|| Naive::new(Flaw::None), 3).is_ok());
    let finds = |flaw, rule: &str| {
        let found = search(|| Naive::new(flaw), 3).unwrap_err();
        assert!(found.starts_with(rule), "{found}");
    };
    finds(
        Flaw::RollsFirst,
        "both ends at rest and open, with different keys",
    );
    finds(Flaw::ForgetsAnswer, "asking again does not finish the exchange");
    finds(Flaw::ReaderRolls, "asking again does not finish the exchange");
    finds(Flaw::Repeats, "a command was carried out twice");
}
