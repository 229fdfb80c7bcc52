//! INSTALL, DELETE, extradition and supplementary security domains, as commands bring them (docs/spec/content.md): who may what in two containers, whole or
//! not at all at whichever flash operation the power is cut, and nothing left of what has gone.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support

use std::collections::BTreeMap;

use sekisho_keys::{KeySet, cbc_encrypt};
use sekisho_nvm::ram::RamFlash;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::sw;
use crate::notes::*;

#[test]
fn an_application_comes_with_its_parameters_and_goes_with_all_that_it_had() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    // One that refuses leaves nothing, however often.
    for _ in 0..5 {
        let refused = install_note(SECOND, &format!("{SECRET} FF"));
        assert_eq!(sw(&host.send(&mut card, &refused)), 0x6A80);
        assert!(!holds(&card, SECRET));
        assert_eq!(sw(&host.send(&mut card, &show(SECOND))), 0x6A88);
    }
    for round in 0..3 {
        ok(&mut host, &mut card, &install_note(SECOND, SECRET));
        assert_eq!(select_on(&mut card, (GATE, 0), SECOND), 0x9000);
        let told = said(&mut card, GATE, &bytes("00100000 00"));
        assert_eq!(told, [bytes(SECRET), bytes("9000")].concat(), "round {round}");
        // The other instance of the module has nothing of it.
        assert_eq!(select_on(&mut card, (GATE, 0), FIRST), 0x9000);
        assert_eq!(said(&mut card, GATE, &bytes("00100000 00")), [0x90, 0x00]);
        // It goes where it is selected.
        assert_eq!(select_on(&mut card, (GATE, 0), SECOND), 0x9000);
        assert_eq!(host.send(&mut card, &delete(SECOND)), [0x00, 0x90, 0x00]);
        assert!(!holds(&card, SECRET));
        assert_eq!(sw(&said(&mut card, GATE, &bytes("80CA00CF00"))), 0x9000);
        assert_eq!(select_on(&mut card, (GATE, 0), SECOND), 0x6A82);
    }
    // The last of its load file goes too, and comes again.
    ok(&mut host, &mut card, &delete(FIRST));
    ok(&mut host, &mut card, &install_note(FIRST, "01"));
    // What refuses to go stays whole.
    select_on(&mut card, (GATE, 0), FIRST);
    assert_eq!(said(&mut card, GATE, &bytes("00120000")), [0x90, 0x00]);
    assert_eq!(sw(&host.send(&mut card, &delete(FIRST))), 0x6985);
    assert_eq!(said(&mut card, GATE, &bytes("0010000000")), [0x01, 0x90, 0x00]);
    // No memory for a fourth; what is there goes on.
    ok(&mut host, &mut card, &install_note(SECOND, "02"));
    ok(&mut host, &mut card, &install_note(THIRD, "03"));
    assert_eq!(
        sw(&host.send(&mut card, &install_note("F0534B4E4F5434", "04"))),
        0x6A84
    );
    for (aid, told) in [(FIRST, 1), (SECOND, 2), (THIRD, 3)] {
        select_on(&mut card, (GATE, 0), aid);
        assert_eq!(said(&mut card, GATE, &bytes("0010000000")), [told, 0x90, 0x00]);
    }
}

/// Runs a command of the issuer security domain with the power cut at each flash operation; counts what is said and whether there is a second Note afterwards.
fn cut_everywhere(flash: &RamFlash, capdu: &[u8]) -> BTreeMap<(bool, bool), usize> {
    let mut seen = BTreeMap::new();
    for seed in 0..2 {
        for cut in 0.. {
            let mut flash = flash.clone();
            flash.cut_after(cut, seed);
            let mut card = boot(flash);
            let opened = try_open(&mut card, (CONTACT, 0), &keys_of(1));
            let done = opened.is_ok_and(|mut host| sw(&host.send(&mut card, capdu)) == 0x9000);
            let mut flash = card.into_flash();
            let was_cut = flash.is_off();
            flash.power_on();
            let mut card = boot(flash);
            let is_there = select(&mut card, SECOND) == 0x9000;
            assert_eq!(holds(&card, SECRET), is_there, "cut {cut} seed {seed}");
            if is_there {
                let told = said(&mut card, CONTACT, &bytes("0010000000"));
                assert_eq!(told, [bytes(SECRET), bytes("9000")].concat());
            }
            assert_eq!(select(&mut card, FIRST), 0x9000);
            *seen.entry((done, is_there)).or_insert(0) += 1;
            if !was_cut {
                break;
            }
        }
    }
    seen
}

#[test]
fn power_cut_at_every_operation_of_install_and_of_delete() {
    let without = made();
    let install = install_note(SECOND, SECRET);
    let seen = cut_everywhere(&without, &install);
    println!("INSTALL: {seen:?}");
    let outcomes: Vec<_> = seen.keys().copied().collect();
    assert_eq!(outcomes, [(false, false), (false, true), (true, true)]);
    let mut card = boot(without);
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install);
    let seen = cut_everywhere(&card.into_flash(), &delete(SECOND));
    println!("DELETE: {seen:?}");
    let outcomes: Vec<_> = seen.keys().copied().collect();
    assert_eq!(outcomes, [(false, false), (false, true), (true, false)]);
}

/// Everybody who is not the issuer security domain of the first container, and what he is told; nothing has changed afterwards in either container.
#[test]
fn nobody_else_changes_the_content() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    let before = shown(&mut card);
    let commands = [
        install_note(SECOND, "01"),
        install_domain(OTHER_SD),
        extradite(FIRST, SD),
        delete(FIRST),
        lock(FIRST),
        unlock(FIRST),
    ];
    let mut told = Vec::new();
    // In the clear, at the issuer security domain and at the other one.
    for aid in ["A000000151000000", SD] {
        select(&mut card, aid);
        told.push(commands.each_ref().map(|c| sw(&said(&mut card, CONTACT, c))));
    }
    // Without a C-MAC.
    select(&mut card, "A000000151000000");
    let none = SecurityLevel::from_p1(0).unwrap();
    let mut host = Host::open_on(&mut card, CONTACT, 0, 0, &keys_of(1), none, MacMode::S8).unwrap();
    told.push(commands.each_ref().map(|c| sw(&host.send(&mut card, c))));
    // The other domain, as who holds the keys above it.
    select(&mut card, SD);
    let mut host = try_open(&mut card, (CONTACT, 0), &keys_of(1)).unwrap();
    told.push(commands.each_ref().map(|c| sw(&host.send(&mut card, c))));
    // The other container, with its own keys.
    let mut host = try_open(&mut card, (SPI, 0), &keys_of(2)).unwrap();
    let of_others: [_; 6] = [
        install_note(SECOND, "01"),
        delete(SD),
        extradite(FIRST, SD),
        delete(FIRST),
        lock(FIRST),
        unlock(FIRST),
    ];
    told.push(of_others.each_ref().map(|c| sw(&host.send(&mut card, c))));
    assert_eq!(
        told,
        [
            [0x6982; 6],
            [0x6982; 6],
            [0x6982; 6],
            [0x6985, 0x6985, 0x6985, 0x6985, 0x6A88, 0x6A88],
            [0x6A88, 0x6A82, 0x6A88, 0x6A82, 0x6A88, 0x6A88],
        ]
    );
    card.reset(CONTACT);
    card.reset(SPI);
    assert_eq!(shown(&mut card), before);
}

/// PUT KEY of a key set, under the Key-DEK that opened the channel, without check values.
pub(crate) fn put_keys(kvn: u8, keys: &KeySet, dek: &KeySet) -> Vec<u8> {
    let mut data = vec![kvn];
    for key in [&keys.enc, &keys.mac, &keys.dek] {
        let mut block: [u8; 16] = key.as_bytes().try_into().unwrap();
        cbc_encrypt(&dek.dek, &[0; 16], &mut block).unwrap();
        data.extend([&[0x88, 16][..], &block, &[0]].concat());
    }
    [
        &[0x80, 0xD8, 0x00, 0x81, u8::try_from(data.len()).unwrap()][..],
        &data,
    ]
    .concat()
}

#[test]
fn a_domain_is_opened_from_above_until_it_has_keys_of_its_own() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    // On another interface and on the contacts, with the keys above; the counter is theirs.
    select_on(&mut card, (GATE, 0), SD);
    let mut elsewhere = try_open(&mut card, (GATE, 0), &keys_of(1)).unwrap();
    select(&mut card, SD);
    let mut host = try_open(&mut card, (CONTACT, 0), &keys_of(1)).unwrap();
    assert_eq!(host.sequence_counter, Some(3));
    assert_eq!(host.send(&mut card, &bytes("80CA00E000")), bytes("E000 9000"));
    // The keys above are not its own: they cannot be deleted, replaced or shown there.
    assert_eq!(sw(&host.send(&mut card, &bytes("80E4000003D20130 00"))), 0x6A88);
    let mut replace = put_keys(0x30, &keys_of(5), &keys_of(1));
    replace[2] = 0x30;
    assert_eq!(sw(&host.send(&mut card, &replace)), 0x6A88);
    assert_eq!(
        sw(&host.send(&mut card, &put_keys(0x61, &keys_of(5), &keys_of(1)))),
        0x6985
    );
    ok(&mut host, &mut card, &put_keys(0x20, &keys_of(5), &keys_of(1)));
    ok(&mut host, &mut card, &bytes("80E29000054203AABBCC"));
    let own = host.send(&mut card, &show(SD));
    assert!(own.windows(4).any(|w| w == bytes("9F70010F")), "{own:02X?}");
    // The one elsewhere had been opened from above.
    assert_eq!(sw(&elsewhere.send(&mut card, &bytes("80CA00D300"))), 0x6982);
    select(&mut card, SD);
    let by_version = Host::open_on(
        &mut card,
        CONTACT,
        0,
        0x30,
        &keys_of(1),
        SecurityLevel::FULL,
        MacMode::S8,
    );
    assert_eq!(by_version.err().map(|sw| sw.0), Some(0x6A88));
    let host = try_open(&mut card, (CONTACT, 0), &keys_of(5)).unwrap();
    // Behind the three of the domain above.
    assert_eq!(host.sequence_counter, Some(4));
    // The issuer security domain has its keys and its data as before.
    let mut host = issuer(&mut card);
    assert_eq!(
        host.send(&mut card, &bytes("80CA004200")),
        bytes("4204 99990000 9000")
    );
    // Locked, its secure channel elsewhere ends and is not there any more when it is unlocked.
    select_on(&mut card, (GATE, 0), SD);
    let mut elsewhere = try_open(&mut card, (GATE, 0), &keys_of(5)).unwrap();
    ok(&mut host, &mut card, &lock(SD));
    ok(&mut host, &mut card, &unlock(SD));
    assert_eq!(sw(&elsewhere.send(&mut card, &bytes("80CA00D300"))), 0x6982);
    // It goes with its keys.
    let key = hex::encode([0x51; 16]);
    assert!(holds(&card, &key));
    ok(&mut host, &mut card, &delete(SD));
    assert!(!holds(&card, &key));
}

#[test]
fn an_application_is_its_domains_and_no_other_domains() {
    let mut card = boot(made());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &install_domain(SD));
    ok(&mut host, &mut card, &install_domain(OTHER_SD));
    for (refused, sw_of_it) in [
        (extradite(SD, OTHER_SD), 0x6985),
        (extradite(FIRST, SECOND), 0x6A88),
        (extradite(SECOND, SD), 0x6A88),
        (extradite(FIRST, FIRST), 0x6A88),
        (extradite(FIRST, "A000000151000000"), 0x6985),
    ] {
        assert_eq!(sw(&host.send(&mut card, &refused)), sw_of_it, "{refused:02X?}");
    }
    ok(&mut host, &mut card, &extradite(FIRST, SD));
    let all = bytes("80F24002024F00");
    // Each domain sees itself and its own.
    let mut seen = Vec::new();
    for aid in [SD, OTHER_SD] {
        select(&mut card, aid);
        let mut host = try_open(&mut card, (CONTACT, 0), &keys_of(1)).unwrap();
        let answer = host.send(&mut card, &all);
        seen.push([FIRST, SD, OTHER_SD].map(|aid| {
            let object = bytes(&format!("4F{}", lv(aid)));
            answer.windows(object.len()).any(|bytes| bytes == object)
        }));
        let told = [lock(FIRST), unlock(FIRST), delete(FIRST)].map(|c| sw(&host.send(&mut card, &c)));
        let expected = match aid {
            // What it has locked it does not unlock.
            SD => [0x9000, 0x6985, 0x6985],
            _ => [0x6A88, 0x6A88, 0x6985],
        };
        assert_eq!(told, expected, "{aid}");
    }
    assert_eq!(seen, [[true, true, false], [false, false, true]]);
    assert_eq!(select(&mut card, FIRST), 0x6A82, "it is locked");
    // A domain with an application stays; so it is after a boot.
    let mut card = boot(card.into_flash());
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &unlock(FIRST));
    assert_eq!(sw(&host.send(&mut card, &delete(SD))), 0x6985);
    ok(&mut host, &mut card, &extradite(FIRST, "A000000151000000"));
    ok(&mut host, &mut card, &delete(SD));
    assert_eq!(select(&mut card, FIRST), 0x9000);
    // A locked domain is nobody's to have.
    let mut host = issuer(&mut card);
    ok(&mut host, &mut card, &lock(OTHER_SD));
    assert_eq!(sw(&host.send(&mut card, &extradite(FIRST, OTHER_SD))), 0x6985);
}
