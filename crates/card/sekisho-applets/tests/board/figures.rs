//! What single commands cost the chip: instructions by the emulator's clock, words written to the flash and pages erased, bytes of heap. Where
//! `SEKISHO_FIRMWARE_FIGURES` names a file they are written there, a line each, for `cargo xtask firmware` to hold to `firmware/budget.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sekisho_apdu::gp::ins;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::Interface;
use sekisho_scp::SecurityLevel;

use crate::common::board::{Figures, count, firmware};
use crate::common::files::{self, Reader};
use crate::common::script::Line;
use crate::common::update::{Broadcast, Custody, Keys, V2, manifest};
use crate::common::{Card, flash, profile, send_on, sw};

const SELECT_ROOT: &[u8] = &[0x00, 0xA4, 0x04, 0x00, 0x00];
const SELECT_METER: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x00\x01";
/// Adds 2 to what the meter has counted.
const COUNT: &[u8] = &[0x80, 0x22, 0x00, 0x00, 0x02, 0x00, 0x02];
const SEQUENCE_COUNTER: &[u8] = &[0x00, 0xCA, 0x00, 0xC1, 0x00];
const UNKNOWN: &[u8] = &[0x00, 0x12, 0x00, 0x00, 0x00];

/// A card that is asked, and what each command has cost its chip.
struct Counted {
    card: Card,
    before: Figures,
    costs: Vec<Figures>,
}

impl Counted {
    fn new(card: Card) -> Self {
        let before = card.figures().unwrap();
        Self {
            card,
            before,
            costs: Vec::new(),
        }
    }

    /// What a command of so many ago has cost; 0 is the last one.
    fn ago(&self, count: usize) -> Figures {
        self.costs[self.costs.len() - 1 - count]
    }

    fn ask(&mut self, capdu: &[u8]) -> Figures {
        let answer = send_on(self, Interface::Iso7816Contact, capdu);
        assert_eq!(sw(&answer), 0x9000, "{}", hex::encode(capdu));
        self.ago(0)
    }
}

impl Line for Counted {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let answer = Line::transmit(&mut self.card, interface, capdu);
        let now = self.card.figures().unwrap();
        let cost = Figures {
            words: now.words - self.before.words,
            erases: now.erases - self.before.erases,
            ..now
        };
        // What fetches the answer on T=0 is part of what the command costs.
        match self.costs.last_mut() {
            Some(last) if capdu[1] == ins::GET_RESPONSE => last.instructions += cost.instructions,
            _ => self.costs.push(cost),
        }
        self.before = now;
        answer
    }
}

/// By name.
type Costs = BTreeMap<&'static str, Figures>;

/// SELECT, a secure channel and what goes through it, a broadcast update, the OS part.
fn of_an_update(costs: &mut Costs) {
    let keys = Keys::new();
    let mut card = Counted::new(keys.card(flash(), &profile()));
    costs.insert("SELECT of the OS part", card.ask(SELECT_METER));
    costs.insert("a command of the meter", card.ask(COUNT));
    costs.insert("SELECT", card.ask(SELECT_ROOT));
    card.transmit(Interface::Iso7816Contact, UNKNOWN);
    costs.insert("unknown INS", card.ago(0));
    let mut host = keys.open(&mut card, SecurityLevel::FULL);
    costs.insert("INITIALIZE UPDATE", card.ago(1));
    costs.insert("EXTERNAL AUTHENTICATE", card.ago(0));
    host.send(&mut card, SEQUENCE_COUNTER);
    costs.insert("GET DATA at level 33", card.ago(0));
    let broadcast = Broadcast::new(&keys, Custody::Design, &manifest(2, 1, V2), V2, 239);
    assert_eq!(sw(&host.send(&mut card, &broadcast.change_mode)), 0x9000);
    costs.insert("CHANGE MODE", card.ago(0));
    for command in &broadcast.commands {
        card.ask(command);
    }
    let count = broadcast.commands.len();
    costs.insert("WRITE of block 0", card.ago(count - 1));
    costs.insert("WRITE of block 2", card.ago(count - 3));
    assert_eq!(sw(&host.send(&mut card, &broadcast.activate)), 0x9000);
    costs.insert("AUTHORIZE ACTION", card.ago(0));
}

/// Files, in plain and under secure messaging whose key changes.
fn of_files(costs: &mut Costs) {
    let contacts = Interface::Iso7816Contact;
    let mut card = Counted::new(files::card());
    files::select(&mut card, contacts);
    let mut reader = Reader::open(&mut card, contacts, Mode::Ratchet, Lanes::Separate, 9).unwrap();
    // 32 bytes inside a piece of the file, and across two.
    for (name, offset) in [("UPDATE BINARY", 0), ("UPDATE BINARY across two pieces", 32)] {
        // Twice: the second one has something to replace and to wipe.
        for byte in [0x5A, 0xA5] {
            let update = [&[0x00, 0xD6, 0x81, offset, 0x20][..], &[byte; 32]].concat();
            assert_eq!(sw(&reader.send(&mut card, &update)), 0x9000);
        }
        costs.insert(name, card.ago(0));
    }
    assert_eq!(
        sw(&reader.send(&mut card, &[0x00, 0xB0, 0x81, 0x00, 0x20])),
        0x9000
    );
    costs.insert("READ BINARY", card.ago(0));
}

/// The same commands cost the same to the instruction, whatever they cost.
#[test]
fn what_commands_cost_is_known() {
    if firmware().is_none() {
        return;
    }
    count(true);
    let [costs, again] = [(); 2].map(|()| {
        let mut costs = Costs::new();
        of_an_update(&mut costs);
        of_files(&mut costs);
        costs
    });
    assert_eq!(costs, again);
    let mut lines = String::new();
    for (name, cost) in &costs {
        let Figures {
            instructions,
            words,
            erases,
            heap,
        } = cost;
        for (figure, value) in [
            ("instructions", *instructions),
            ("words written", u64::from(*words)),
            ("pages erased", u64::from(*erases)),
            ("heap", u64::from(*heap)),
        ] {
            writeln!(lines, "{name}, {figure}\t{value}").unwrap();
        }
    }
    print!("{lines}");
    if let Some(file) = std::env::var_os("SEKISHO_FIRMWARE_FIGURES") {
        std::fs::write(file, lines).unwrap();
    }
}
