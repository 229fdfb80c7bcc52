//! Three containers with the same AIDs and with bulk, files and records: nothing names another's, deletion in one leaves the others byte for byte, and one that is locked or terminated leaves
//! the others alive and updatable.

use std::collections::BTreeMap;

use sekisho_applets::file_system::AID as FILES;
use sekisho_applets::file_system::image::{Image, ROOT};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Interface, Pairing, Personalisation, Profile, Protocol, Row};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::ByValue as _;
use crate::common::host::Host;
use crate::common::keys::{put_set, set};
use crate::common::update::{Broadcast, Change, Custody, KVN, Keys};
use crate::common::{self, SeededRng, key, sw};
use crate::se::{self, Card, Counting, EVERYWHERE, KEEP, Made, READ, TIMES};

/// A container alone on each, by its number.
const ON: [(Protocol, Interface); 3] = [
    (Protocol::T0, Interface::Iso7816Contact),
    (Protocol::SwpA, Interface::Swp),
    (Protocol::SpiEse, Interface::Spi),
];

fn profile() -> Profile {
    let pairing = (1..)
        .zip(ON)
        .fold(Pairing::all_to(se::id(1)), |pairing, (number, (protocol, _))| {
            pairing.with(protocol, Row::all(se::id(number)))
        });
    Profile {
        area_bytes: 8 * common::PAGE,
        area_quota: 2 * common::PAGE,
        ..se::paired(pairing)
    }
}

/// What only this container has: in its bulk, in a record of its application, in its file.
fn mark(number: u8, of: &str) -> Vec<u8> {
    format!("{of} of container {number}").into_bytes()
}

const MF: &[u8] = b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\x00\x00\x00";

fn card() -> Card {
    let images = [1, 2, 3].map(|number| {
        let content = mark(number, "file");
        let len = u8::try_from(content.len()).unwrap();
        let fcp = [
            b"\x62\x13\x80\x02\x00",
            &[len][..],
            b"\x82\x02\x01\x21\x83\x02\x2F\xE2\x88\x01\x10\x8C\x02\x01\x00",
        ]
        .concat();
        let mut image = Image::new(MF).unwrap();
        let file = image.file(ROOT, &fcp).unwrap();
        image.content(file, &content).unwrap();
        image
    });
    let records: Vec<Vec<_>> = images.iter().map(|image| image.iter().collect()).collect();
    let made = Made {
        files: Some([&records[0], &records[1], &records[2]]),
        ..Made::default()
    };
    let flash = Counting::of(RamFlash::strict(common::PAGE, 32));
    let mut card = se::make(flash, &profile(), made);
    for (number, (protocol, _)) in (1..).zip(ON) {
        assert_eq!(se::select(&mut card, protocol, EVERYWHERE), 0x9000);
        let data = mark(number, "bulk");
        let keep = [&[0x80, KEEP, 0, 0, u8::try_from(data.len()).unwrap()][..], &data].concat();
        assert_eq!(sw(&se::send(&mut card, protocol, &keep)), 0x9000);
    }
    card
}

fn read(card: &mut Card, protocol: Protocol, number: u8) -> Vec<u8> {
    se::send(card, protocol, &[0x80, READ, number, 0, 0, 0, 0])
}

/// All that a container answers of what it keeps: bulk, record, file.
fn kept(card: &mut Card, at: usize) -> [Vec<u8>; 3] {
    let (protocol, _) = ON[at];
    let is_there = se::select(card, protocol, EVERYWHERE) == 0x9000;
    let own = [0xFF, 0xFE].map(|number| {
        if is_there {
            read(card, protocol, number)
        } else {
            vec![]
        }
    });
    let is_there = se::select(card, protocol, FILES) == 0x9000;
    let file = if is_there {
        se::send(card, protocol, &[0, 0xB0, 0x82, 0, 0])
    } else {
        vec![]
    };
    let [bulk, record] = own;
    [bulk, record, file]
}

fn whole(number: u8) -> [Vec<u8>; 3] {
    let bulk = mark(number, "bulk");
    [bulk.repeat(TIMES), bulk, mark(number, "file")].map(|bytes| [&bytes[..], &[0x90, 0x00]].concat())
}

/// How often a container's marks stand in the flash: bulk and record, file.
fn marks(flash: &Counting, number: u8) -> [usize; 2] {
    let image = flash.image();
    ["bulk", "file"].map(|of| {
        let mark = mark(number, of);
        image
            .windows(mark.len())
            .filter(|window| **window == mark)
            .count()
    })
}

#[test]
fn no_number_names_anothers_bulk_and_none_costs_more_than_one_that_is_not_there() {
    let mut card = card();
    for (at, (protocol, _)) in ON.into_iter().enumerate() {
        assert_eq!(kept(&mut card, at), whole(u8::try_from(at + 1).unwrap()));
        assert_eq!(se::select(&mut card, protocol, EVERYWHERE), 0x9000);
        let mut own = vec![];
        let mut refused = BTreeMap::<_, usize>::new();
        for number in 0..0xFE {
            let before = card.flash().reads();
            let answer = read(&mut card, protocol, number);
            let cost = card.flash().reads() - before;
            if answer.ends_with(&[0x90, 0x00]) {
                assert_eq!(answer, whole(u8::try_from(at + 1).unwrap())[0]);
                own.push(number);
            } else {
                *refused.entry((sw(&answer), cost)).or_default() += 1;
            }
        }
        assert_eq!(own.len(), 1, "its own alone");
        println!("{protocol:?}: own bulk {own:?}, others {refused:04X?} by status word and reads");
        assert_eq!(refused.into_iter().collect::<Vec<_>>(), [((0x6985, 0), 0xFE - 1)]);
    }
}

/// A deletion in the second container, cut at each flash operation: the others have what they had, and of what was its own there is all or nothing, wiped.
#[test]
fn what_goes_in_one_container_leaves_the_others_byte_for_byte() {
    let made = card().into_flash();
    let others = [1, 3].map(|number| marks(&made, number));
    let mut seen = BTreeMap::<(&str, bool, bool), usize>::new();
    for (what, aid) in [
        ("its application with bulk", EVERYWHERE),
        ("its file system", FILES),
    ] {
        for cut in 0.. {
            let mut flash = made.clone();
            flash.inner().cut_after(cut, cut);
            // The start writes nothing.
            let mut card = se::boot(flash, &profile());
            let is_done = card.delete(se::id(2), &se::aid(aid)).is_ok();
            let was_cut = card.flash().is_off();
            let mut flash = card.into_flash();
            flash.inner().power_on();
            let mut card = se::boot(flash, &profile());
            for (at, number) in [(0, 1), (2, 3)] {
                assert_eq!(
                    kept(&mut card, at),
                    whole(number),
                    "{what}, cut {cut}: container {number}"
                );
            }
            assert_eq!([1, 3].map(|number| marks(card.flash(), number)), others);
            let own = kept(&mut card, 1);
            let has = [!own[0].is_empty() && !own[1].is_empty(), !own[2].is_empty()];
            let at = usize::from(aid == FILES);
            assert!(
                has[1 - at],
                "{what}: the other application of the container stays"
            );
            assert_eq!(
                marks(card.flash(), 2)[at] == 0,
                !has[at],
                "{what}, cut {cut}: all or nothing"
            );
            *seen.entry((what, is_done, has[at])).or_default() += 1;
            if !was_cut {
                break;
            }
        }
    }
    println!("{seen:?}");
    let states: Vec<_> = seen.keys().map(|(_, is_done, has)| (*is_done, *has)).collect();
    assert_eq!(states, [(false, false), (false, true), (true, false)].repeat(2));
}

/// The worked keys of the broadcast update in the first container; the others have their own.
fn updatable(keys: &Keys) -> Card {
    let designer = keys.designer.verifying_key().to_sec1();
    let (k_aut, own) = (key(&[0xA0; 16]), [2, 3].map(se::keys_of));
    let applications = [se::application(EVERYWHERE)];
    let first = Personalisation {
        kos: Some(&keys.kos),
        k_mac: Some(&keys.k_mac),
        designer: Some(&designer),
        applications: &applications,
        ..common::personalisation(KVN, &keys.scp, &keys.k_aut)
    };
    let [second, third] = [0, 1].map(|at| Personalisation {
        se_id: se::se_id(u8::try_from(at + 2).unwrap()),
        applications: &applications,
        ..common::personalisation(0x30, &own[at], &k_aut)
    });
    let flash = Counting::of(RamFlash::strict(common::PAGE, 32));
    Card::made_all(flash, SeededRng(1), &profile(), &[&first, &second, &third]).unwrap()
}

fn open(card: &mut Card, keys: &Keys, at: usize) -> Host {
    let (_, interface) = ON[at];
    let own = [keys.scp.clone(), se::keys_of(2), se::keys_of(3)];
    Host::open_on(
        card,
        interface,
        0,
        0x30,
        &own[at],
        SecurityLevel::FULL,
        MacMode::S8,
    )
    .unwrap()
}

/// The SE takes new keys of its design system, by broadcast.
fn takes_a_broadcast(card: &mut Card, old: &Keys) {
    let change = Change::of(true, true, false);
    let broadcast = Broadcast::of_keys(Custody::Design, old, &old.changed(change), change);
    let mut host = Host::open_on(card, ON[0].1, 0, KVN, &old.scp, SecurityLevel::FULL, MacMode::S8).unwrap();
    assert_eq!(sw(&host.send(card, &broadcast.change_mode)), 0x9000);
    for command in &broadcast.commands {
        assert_eq!(sw(&common::send_on(card, ON[0].1, command)), 0x9000);
    }
    assert_eq!(sw(&host.send(card, &broadcast.activate)), 0x9000);
    // The version of the design system's keys.
    let state = host.send(card, &[0x80, 0xCA, 0xDF, 0x22, 0]);
    assert_eq!(state[6..10], [0, 0, 0, 2], "{state:02X?}");
}

/// Its application answers, its keys open a channel, and through that it takes a new key set and an object.
fn is_alive(card: &mut Card, keys: &Keys, at: usize) {
    let (protocol, interface) = ON[at];
    card.reset(interface);
    assert_eq!(se::select(card, protocol, EVERYWHERE), 0x9000);
    card.reset(interface);
    let mut host = open(card, keys, at);
    let own = [keys.scp.clone(), se::keys_of(2), se::keys_of(3)];
    let put = put_set(&own[at].dek, 0, 0x31, &set(7, 8, 9, 16));
    assert_eq!(sw(&host.send(card, &put)), 0x9000, "{protocol:?}");
    assert_eq!(sw(&host.send(card, &common::keys::delete(0x31))), 0x9000);
    let store = [0x80, 0xE2, 0x90, 0x00, 4, 0x42, 2, 0xAB, 0xCD];
    assert_eq!(sw(&host.send(card, &store)), 0x9000);
    card.reset(interface);
}

#[test]
fn a_container_that_is_locked_or_terminated_leaves_the_others_alive_and_updatable() {
    let keys = Keys::new();
    for (gone, (protocol, _)) in ON.into_iter().enumerate() {
        for states in [&[0x07, 0x0F, 0x7F][..], &[0xFF]] {
            let mut card = updatable(&keys);
            let mut host = open(&mut card, &keys, gone);
            for state in states {
                assert_eq!(sw(&host.send(&mut card, &[0x80, 0xF0, 0x80, *state])), 0x9000);
            }
            for is_new in [false, true] {
                if is_new {
                    card = se::boot(card.into_flash(), &profile());
                }
                assert_eq!(se::select(&mut card, protocol, EVERYWHERE), 0x6A81);
                for at in (0..3).filter(|at| *at != gone) {
                    is_alive(&mut card, &keys, at);
                }
            }
            if gone != 0 {
                takes_a_broadcast(&mut card, &keys);
            }
        }
    }
}
