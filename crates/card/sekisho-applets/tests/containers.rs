//! Three containers in one SE, with the same AIDs in each, the same records and the same code: nothing that one does, has or proves is another's
//! (docs/decisions/0013-containers.md).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use crate::common;

use std::collections::BTreeMap;

use common::ByValue as _;
use common::host::Host;
use common::{On, SeededRng, key, personalisation, profile, sw};
use proptest::prelude::*;
use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_applets::{CardManager, Standard};
use sekisho_keys::KeySet;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    Application, Applications, BootError, ContainerId, Context, FactoryApplication, Instance, Interface,
    Module, Next, Outcome, OwnRecord, Pairing, Personalisation, Pool, Profile, Protocol, Refusal, Row,
    SecureElement, State,
};
use sekisho_scp::{MacMode, SecurityLevel};

const PAGE: usize = common::PAGE;

/// The native stand-in, and its AID, the same in each container.
const NOTE: Module = Module(0x70);
const NOTE_AID: &[u8] = b"\xF0SKNOTE";
const NOTE_FILE: &[u8] = b"\xF0SKNOTES";

/// Its commands: keep a byte in memory and in record 7, tell both, with who it is.
const KEEP: u8 = 0x10;
const TELL: u8 = 0x12;

struct Note(u8);

impl State for Note {
    const NEW: Self = Self(0);
}

impl Application for Note {
    fn select(&mut self, _: &mut Context<'_>, _: &mut Writer<'_>) -> Outcome {
        Ok(StatusWord::NO_ERROR)
    }

    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        match capdu.ins {
            KEEP => {
                self.0 = capdu.p1;
                context.put(7, 0, &[capdu.p1])?;
            }
            TELL => {
                let mut record = [0];
                context.get(7, 0, &mut record)?;
                out.bytes(&[self.0, record[0], context.container().number()])?;
            }
            _ => return Err(Refusal(StatusWord::INS_NOT_SUPPORTED)),
        }
        Ok(Next::Done(StatusWord::NO_ERROR))
    }
}

struct Notes {
    notes: Pool<Note, 3>,
    domains: Pool<CardManager, 3>,
}

impl Applications for Notes {
    const NEW: Self = Self {
        notes: Pool::NEW,
        domains: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            NOTE => Some(self.notes.get(instance)?),
            Module::CARD_MANAGER => Some(self.domains.get(instance)?),
            _ => None,
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        if module == NOTE {
            self.notes.release(instance);
        }
    }
}

type Card = SecureElement<On<Notes, SeededRng, 3>>;

/// On the contacts and SWP the first container, on the APDU gate the second, on SPI the third.
const INTERFACES: [Interface; 3] = [Interface::Iso7816Contact, Interface::ApduGate, Interface::Spi];

fn container(number: u8) -> ContainerId {
    ContainerId::new(number).unwrap()
}

fn paired() -> Profile {
    Profile {
        pairing: Pairing::all_to(ContainerId::ESE)
            .with(Protocol::ApduGate, Row::all(container(2)))
            .with(Protocol::SpiEse, Row::all(container(3))),
        ..profile()
    }
}

fn aid(bytes: &[u8]) -> Aid {
    Aid::try_from(bytes).unwrap()
}

/// The keys of a container: each byte names it.
fn keys_of(number: u8) -> KeySet {
    let key = |n: u8| key(&[number << 4 | n; 16]);
    KeySet {
        enc: key(1),
        mac: key(2),
        dek: key(3),
    }
}

/// Bytes that stand in the flash only when a container has been made whole.
fn note<'a>(records: &'a [OwnRecord<'a>]) -> FactoryApplication<'a> {
    FactoryApplication {
        aid: aid(NOTE_AID),
        load_file: aid(NOTE_FILE),
        module: NOTE,
        records,
    }
}

#[allow(clippy::result_large_err, reason = "the flash goes on")]
fn make(flash: RamFlash) -> Result<Card, common::by_value::BootFailure<RamFlash>> {
    let (keys, k_aut) = ([1, 2, 3].map(keys_of), key(&[0xA0; 16]));
    let values = [[0x11], [0x22], [0x33]];
    let records = values.each_ref().map(|value| [(7, 0, &value[..])]);
    let applications = records.each_ref().map(|records| [note(records)]);
    let all: Vec<_> = (0..3)
        .map(|at| {
            let mut se_id = common::SE_ID;
            se_id[0] = u8::try_from(at).unwrap();
            Personalisation {
                se_id,
                applications: &applications[at],
                ..personalisation(0x30, &keys[at], &k_aut)
            }
        })
        .collect();
    let all: Vec<_> = all.iter().collect();
    Card::made_all(flash, SeededRng(1), &paired(), &all)
}

fn card() -> Card {
    make(RamFlash::strict(PAGE, 16)).unwrap()
}

fn send(card: &mut Card, interface: Interface, capdu: &[u8]) -> Vec<u8> {
    crate::common::send_on(card, interface, capdu)
}

fn select(card: &mut Card, interface: Interface) -> u16 {
    let command = [
        &[0, 0xA4, 4, 0, u8::try_from(NOTE_AID.len()).unwrap()][..],
        NOTE_AID,
    ]
    .concat();
    sw(&send(card, interface, &command))
}

/// Memory, record and container of the stand-in on each interface.
fn told(card: &mut Card) -> [Vec<u8>; 3] {
    INTERFACES.map(|interface| send(card, interface, &[0x80, TELL, 0, 0, 0]))
}

fn open(card: &mut Card, interface: Interface, number: u8) -> Result<Host, StatusWord> {
    let keys = keys_of(number);
    Host::open_on(card, interface, 0, 0x30, &keys, SecurityLevel::FULL, MacMode::S8)
}

#[test]
fn the_same_aid_is_another_application_with_other_records_and_memory() {
    let mut card = card();
    for interface in INTERFACES {
        assert_eq!(select(&mut card, interface), 0x9000);
    }
    let ok = [0x90, 0x00];
    let is = |memory: [u8; 3], record: [u8; 3]| {
        [0, 1, 2].map(|at| {
            let number = u8::try_from(at + 1).unwrap();
            [&[memory[at], record[at], number][..], &ok].concat()
        })
    };
    assert_eq!(told(&mut card), is([0; 3], [0x11, 0x22, 0x33]));
    for (at, interface) in INTERFACES.into_iter().enumerate() {
        let value = 0xA1 + u8::try_from(at).unwrap();
        assert_eq!(send(&mut card, interface, &[0x80, KEEP, value, 0]), ok);
    }
    let kept = [0xA1, 0xA2, 0xA3];
    assert_eq!(told(&mut card), is(kept, kept));
    // Another interface of the same container meets the same instance; a reset of one interface leaves the others.
    assert_eq!(select(&mut card, Interface::Swp), 0x9000);
    let gate = send(&mut card, Interface::Swp, &[0x80, TELL, 0, 0, 0]);
    assert_eq!(gate, [0xA1, 0xA1, 1, 0x90, 0x00]);
    // Deleted in one, and installed again: nothing of its predecessor's, and the others have not moved.
    card.delete(container(2), &aid(NOTE_AID)).unwrap();
    assert_eq!(select(&mut card, Interface::ApduGate), 0x6A82);
    card.install(container(2), &note(&[])).unwrap();
    assert_eq!(select(&mut card, Interface::ApduGate), 0x9000);
    assert_eq!(told(&mut card), is([0xA1, 0, 0xA3], [0xA1, 0, 0xA3]));
    let mut card = Card::booted(card.into_flash(), SeededRng(2), &paired()).unwrap();
    for interface in INTERFACES {
        assert_eq!(select(&mut card, interface), 0x9000);
    }
    assert_eq!(told(&mut card), is([0; 3], [0xA1, 0, 0xA3]));
}

#[test]
fn keys_open_their_own_container_and_prove_nothing_in_another() {
    // A whole opening, played to each container when its counters stand as they stood: it is right in its own alone.
    let mut seen = Vec::new();
    for (number, interface) in (1..).zip(INTERFACES) {
        let recorded = open(&mut card(), interface, number).unwrap().opening;
        for other in INTERFACES {
            let mut card = card();
            assert_eq!(sw(&send(&mut card, other, &recorded[0])), 0x9000);
            let answer = sw(&send(&mut card, other, &recorded[1]));
            assert_eq!(
                answer == 0x9000,
                other == interface,
                "{interface:?} {other:?} {answer:04X}"
            );
            seen.push(answer);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0x6300, 0x9000]);
    let mut card = card();
    // Three secure channels at once, each of its own container.
    let mut hosts: Vec<_> = (1..=3)
        .zip(INTERFACES)
        .map(|(number, interface)| open(&mut card, interface, number).unwrap())
        .collect();
    for (at, host) in hosts.iter_mut().enumerate() {
        let answer = host.send(&mut card, &[0x80, 0xCA, 0x00, 0xCF, 0]);
        assert_eq!(answer[2], u8::try_from(at).unwrap(), "the SE-id of its own");
    }
    // A key set that goes, an application that is locked, a card that is terminated: in the second alone.
    let lock = [&[0x80, 0xF0, 0x40, 0x80, 7][..], NOTE_AID].concat();
    assert_eq!(sw(&hosts[1].send(&mut card, &lock)), 0x9000);
    assert_eq!(
        [1, 0, 2].map(|at| {
            let command = [&[0x00, 0xA4, 4, 0, 7][..], NOTE_AID].concat();
            card.reset(Interface::Swp);
            let interface = [Interface::Swp, Interface::ApduGate, Interface::Spi][at];
            if at == 0 {
                sw(&send(&mut card, interface, &command))
            } else {
                // On another logical channel, so that the secure channel goes on.
                let opened = send(&mut card, interface, &[0x00, 0x70, 0, 0, 1]);
                let command = [&[opened[0], 0xA4, 4, 0, 7][..], NOTE_AID].concat();
                sw(&send(&mut card, interface, &command))
            }
        }),
        [0x6A82, 0x9000, 0x9000]
    );
    assert_eq!(sw(&hosts[1].send(&mut card, &[0x80, 0xF0, 0x80, 0x7F])), 0x6985);
    assert_eq!(sw(&hosts[1].send(&mut card, &[0x80, 0xF0, 0x80, 0xFF])), 0x9000);
    assert_eq!(select(&mut card, Interface::ApduGate), 0x6A81);
    for at in [0, 2] {
        let level = hosts[at].send(&mut card, &[0x80, 0xCA, 0x00, 0xD3, 0]);
        assert_eq!(level, [0xD3, 1, 0xB3, 0x90, 0x00]);
        assert_eq!(
            sw(&hosts[at].send(&mut card, &[0x80, 0xF2, 0x40, 0x02, 2, 0x4F, 0])),
            0x9000
        );
    }
}

#[test]
fn an_interface_whose_container_has_not_been_made_has_nothing() {
    let (keys, k_aut) = (keys_of(1), key(&[0xA0; 16]));
    let personalisation = personalisation(0x30, &keys, &k_aut);
    let flash = RamFlash::strict(PAGE, 16);
    let mut card = Card::made(flash, SeededRng(1), &paired(), &personalisation).unwrap();
    for (capdu, expected) in [
        (&[0x00, 0xA4, 4, 0, 0][..], 0x6A81),
        (&[0x00, 0x70, 0, 0, 1], 0x6A81),
        (&[0x80, 0xCA, 0x00, 0xCF, 0], 0x6985),
        (&[0x80, 0x50, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0], 0x6985),
    ] {
        assert_eq!(sw(&send(&mut card, Interface::ApduGate, capdu)), expected);
    }
    card.reset(Interface::ApduGate);
    assert_eq!(
        sw(&send(
            &mut card,
            Interface::ApduGate,
            &[0x80, 0xCA, 0x00, 0xCF, 0]
        )),
        0x6985
    );
    assert_eq!(
        sw(&send(&mut card, Interface::Swp, &[0x80, 0xCA, 0x00, 0xCF, 0])),
        0x9000
    );
    let gone = Err(StatusWord::REFERENCED_DATA_NOT_FOUND);
    assert_eq!(card.install(container(2), &note(&[])), gone);
    assert_eq!(card.delete(container(9), &aid(NOTE_AID)), gone);
}

#[test]
fn what_is_the_platforms_is_made_in_the_ese_alone() {
    let (keys, k_aut) = (keys_of(1), key(&[0xA0; 16]));
    let plain = personalisation(0x30, &keys, &k_aut);
    let with_kos = Personalisation {
        kos: Some(&k_aut),
        ..personalisation(0x30, &keys, &k_aut)
    };
    let error = |all: &[&Personalisation<'_>]| {
        let flash = RamFlash::strict(PAGE, 16);
        let made = Card::made_all(flash, SeededRng(1), &paired(), all);
        made.err().map(|failure| failure.error)
    };
    let refused = |sw| Some(BootError::Refused(sw));
    assert_eq!(error(&[&with_kos, &plain]), None);
    assert_eq!(
        error(&[&plain, &with_kos]),
        refused(StatusWord::CONDITIONS_NOT_SATISFIED)
    );
    assert_eq!(error(&[&plain; 4]), refused(StatusWord::NOT_ENOUGH_MEMORY));
    assert_eq!(error(&[]), refused(StatusWord::NOT_ENOUGH_MEMORY));
}

/// The loader's commands, its data objects and the keys of the design system: in the eSE as ever, in the others not there, proved or not.
#[test]
fn what_is_the_platforms_is_reached_through_the_ese_alone() {
    let mut card = card();
    let change_mode = [&[0x80, 0x3A, 0, 0, 2][..], &[0; 2]].concat();
    let write = [&[0x80, 0x3C, 0, 0, 2][..], &[0; 2]].concat();
    let discard = [&[0x80, 0x3E, 2, 0, 24][..], &[0; 24], &[0]].concat();
    for (number, interface) in (1..).zip(INTERFACES) {
        let is_root = number == 1;
        for is_proved in [false, true] {
            card.reset(interface);
            let mut host = is_proved.then(|| open(&mut card, interface, number).unwrap());
            let mut sent = |capdu: &[u8]| match &mut host {
                Some(host) => sw(&host.send(&mut card, capdu)),
                None => sw(&send(&mut card, interface, capdu)),
            };
            for object in [0x20, 0x22] {
                let expected = if is_root { 0x9000 } else { 0x6A88 };
                assert_eq!(
                    sent(&[0x80, 0xCA, 0xDF, object, 0]),
                    expected,
                    "{interface:?} {object:02X}"
                );
            }
            for command in [&change_mode, &write, &discard] {
                assert_eq!(sent(command) == 0x6D00, !is_root, "{interface:?} {command:02X?}");
            }
            let put = sent(&[0x80, 0xD8, 0, 1, 1, 0x61]);
            assert_eq!(put, if is_proved { 0x6985 } else { 0x6982 });
        }
    }
}

/// Cut at each flash operation of the making: blank, or three whole containers.
#[test]
fn a_power_cut_in_making_leaves_blank() {
    let mut seen = BTreeMap::<_, usize>::new();
    for seed in 0..2 {
        for cut in 0.. {
            let mut flash = RamFlash::strict(PAGE, 16);
            flash.cut_after(cut, seed);
            let (done, mut flash) = match make(flash) {
                Ok(card) => (true, card.into_flash()),
                Err(failure) => (false, failure.flash),
            };
            let was_cut = flash.is_off();
            flash.power_on();
            let state = match Card::booted(flash, SeededRng(2), &paired()) {
                Ok(mut card) => {
                    for interface in INTERFACES {
                        assert_eq!(select(&mut card, interface), 0x9000);
                    }
                    let values = told(&mut card).map(|answer| answer[1]);
                    assert_eq!(values, [0x11, 0x22, 0x33]);
                    "made"
                }
                Err(failure) => {
                    assert_eq!(failure.error, BootError::Blank, "cut {cut} seed {seed}");
                    // It can be made from there.
                    if cut % 16 == 0 {
                        make(failure.flash).unwrap();
                    }
                    "blank"
                }
            };
            *seen.entry((done, state)).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("making three containers: {seen:?}");
    assert!(seen.contains_key(&(false, "blank")) && seen.contains_key(&(true, "made")));
    assert!(!seen.contains_key(&(true, "blank")));
}

/// Installing and deleting in one container, cut anywhere: the others' records stay, and its own come or go whole.
#[test]
fn a_power_cut_while_one_changes_leaves_the_others() {
    let mut seen = BTreeMap::<_, usize>::new();
    let whole = card().into_flash();
    for is_install in [false, true] {
        let mut before = Card::booted(whole.clone(), SeededRng(1), &paired()).unwrap();
        if is_install {
            before.delete(container(2), &aid(NOTE_AID)).unwrap();
        }
        let before = before.into_flash();
        for cut in 0.. {
            let mut flash = before.clone();
            flash.cut_after(cut, 1);
            let Ok(mut card) = Card::booted(flash, SeededRng(3), &paired()) else {
                continue;
            };
            let _ = if is_install {
                card.install(container(2), &note(&[(7, 0, &[0x55])]))
            } else {
                card.delete(container(2), &aid(NOTE_AID))
            };
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            flash.power_on();
            let mut card = Card::booted(flash, SeededRng(4), &paired()).unwrap();
            let selected = INTERFACES.map(|interface| select(&mut card, interface));
            assert_eq!([selected[0], selected[2]], [0x9000; 2]);
            let answers = told(&mut card);
            assert_eq!([answers[0][1], answers[2][1]], [0x11, 0x33]);
            let own = (selected[1] == 0x9000).then(|| answers[1][1]);
            *seen.entry((is_install, own)).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("installing and deleting in the second of three: {seen:?}");
    let states: Vec<_> = seen.keys().copied().collect();
    assert_eq!(
        states,
        [
            (false, None),
            (false, Some(0x22)),
            (true, None),
            (true, Some(0x55))
        ]
    );
}

/// Commands in the clear that do whatever can be done so, some of them in one container alone.
fn commands() -> impl Strategy<Value = Vec<u8>> {
    let note = [&[0x00, 0xA4, 4, 0, 7][..], NOTE_AID].concat();
    prop_oneof![
        Just(note),
        Just(vec![0x00, 0xA4, 4, 0, 0]),
        Just(vec![0x80, TELL, 0, 0, 0]),
        (0..=255_u8).prop_map(|value| vec![0x80, KEEP, value, 0]),
        Just(vec![0x80, 0x50, 0x30, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]),
        Just(vec![0x80, 0x50, 0x30, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
        Just(vec![0x00, 0xC0, 0, 0, 0]),
        Just([&[0x84, 0x82, 0x33, 0, 16][..], &[0; 16]].concat()),
        (0..4_u8).prop_map(|channel| vec![channel, 0x70, 0, 0, 1]),
        (1..4_u8).prop_map(|channel| vec![0, 0x70, 0x80, channel]),
        (0..4_u8, any::<u8>()).prop_map(|(channel, ins)| vec![0x80 | channel, ins, 0, 0, 0]),
        Just(vec![0x90, 0xD8, 0x30, 0x81, 4, 0x30, 0x88, 0x10, 0x00]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What an interface of one container hears is the same whatever comes on those of the others.
    #[test]
    fn a_container_hears_the_same_whatever_the_others_do(
        all in prop::collection::vec((0..3_usize, commands()), 1..60),
        at in 0..3_usize,
    ) {
        let (mut together, mut alone) = (card(), card());
        for (who, capdu) in all {
            let heard = send(&mut together, INTERFACES[who], &capdu);
            if who == at {
                prop_assert_eq!(heard, send(&mut alone, INTERFACES[at], &capdu));
            }
        }
    }
}

/// The SE as it is delivered, with two containers.
type Two = On<Standard<2>, SeededRng, 2>;

#[test]
fn an_se_with_two_containers_takes_less_than_40_kib() {
    let size = size_of::<SecureElement<Two>>() - size_of::<RamFlash>();
    println!("{size} bytes with two containers, flash not counted");
    assert!(size < 40 << 10, "{size}");
}
