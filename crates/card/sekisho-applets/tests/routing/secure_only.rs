//! What is secure-only is not there in plain, whichever way it is asked for (docs/spec/tls-manager.md, 5).

use sekisho_apdu::tlv::{TlvReader, find};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::{ContainerId, FactoryApplication, Interface, Module, Pairing, Protocol};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::files::Reader;
use crate::common::host::Host;
use crate::common::{self, sw};
use crate::se::{self, AM_SD, Card, EVERYWHERE, IN, Made};

const SPI: Protocol = Protocol::SpiEse;
const NOBODY: &[u8] = b"\xF0SKNOBODY\x01";
/// Secure-only, as data object of a domain.
const MARK: &[u8] = &[0x80, 0xE2, 0x90, 0x00, 4, 0xDF, 0x53, 1, 1];

fn on(card: &mut Card, interface: Interface, capdu: &[u8]) -> Vec<u8> {
    common::send_on(card, interface, capdu)
}

/// A secure channel of the root of container 1, or of its domain, which is selected on that logical channel.
fn host(card: &mut Card, interface: Interface, channel: u8, kvn: u8) -> Host {
    let keys = if kvn == se::DOMAIN_KVN {
        se::keys_of_domain(AM_SD)
    } else {
        se::keys_of(1)
    };
    let level = SecurityLevel::FULL;
    Host::open_on(card, interface, channel, kvn, &keys, level, MacMode::S8).unwrap()
}

/// A data field behind a header.
fn with(header: [u8; 4], data: &[u8]) -> Vec<u8> {
    [&header, &[u8::try_from(data.len()).unwrap()][..], data].concat()
}

/// INSTALL with six fields, of which the application comes third.
fn install(p1: u8, first: &[u8], module: &[u8], aid: &[u8], privileges: &[u8], parameters: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    for field in [first, module, aid, privileges, parameters, &[]] {
        data.push(u8::try_from(field.len()).unwrap());
        data.extend(field);
    }
    with([0x80, 0xE6, p1, 0], &data)
}

/// What GET STATUS of the applications shows as secure-only.
fn marked(card: &mut Card, host: &mut Host) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for p2 in [2, 3, 3, 3] {
        let shown = host.send(card, &[0x80, 0xF2, 0x40, p2, 2, 0x4F, 0, 0]);
        for entry in TlvReader::new(&shown[..shown.len() - 2]) {
            let entry = entry.unwrap().value;
            if let Some(value) = find(entry, 0xDF53).unwrap() {
                assert_eq!(value, [1]);
                all.push(find(entry, 0x4F).unwrap().unwrap().to_vec());
            }
        }
        if sw(&shown) != 0x6310 {
            break;
        }
    }
    all.sort();
    all
}

/// Everything that SELECT says, and how often the flash is read for it.
fn told(card: &mut Card, protocol: Protocol, p2: u8, name: &[u8]) -> (Vec<u8>, u64) {
    let before = card.flash().reads();
    let said = se::send(card, protocol, &se::by_name(p2, name));
    (said, card.flash().reads() - before)
}

#[test]
fn select_answers_as_if_the_aid_were_absent() {
    let mut card = se::card();
    let everything = [
        Protocol::T0,
        Protocol::SwpA,
        Protocol::ApduGate,
        SPI,
        Protocol::Proprietary(0),
    ];
    // Before: from its own container, and from others, since no other has it; as the second of two with a beginning.
    for protocol in everything {
        assert_eq!(se::select(&mut card, protocol, IN[0]), 0x9000, "{protocol:?}");
    }
    assert_eq!(se::select(&mut card, SPI, &IN[0][..8]), 0x9000);
    assert_eq!(told(&mut card, SPI, 2, &IN[0][..8]).0.len(), 15);
    card.make_secure_only(se::id(1), &se::aid(IN[0])).unwrap();
    for is_proved in [false, true] {
        for protocol in everything {
            let nobody = told(&mut card, protocol, 0, NOBODY);
            assert_eq!(sw(&nobody.0), 0x6A82);
            assert_eq!(told(&mut card, protocol, 0, IN[0]), nobody, "{protocol:?}");
            assert_eq!(told(&mut card, protocol, 0x0C, IN[0]), nobody, "{protocol:?}");
        }
        // There is no other occurrence behind the first.
        assert_eq!(se::select(&mut card, SPI, &IN[0][..8]), 0x9000);
        let next = told(&mut card, SPI, 2, &IN[0][..8]);
        assert_eq!(next, told(&mut card, SPI, 2, NOBODY));
        assert_eq!(sw(&next.0), 0x6A82);
        // Under SCP03 of the root it is no other.
        assert_eq!(se::select(&mut card, SPI, &[]), 0x9000);
        if !is_proved {
            host(&mut card, Interface::Spi, 0, 0x30);
        }
    }
    // In another container the same AID is another application; it comes back with the power as it went.
    let mut card = se::boot(card.into_flash(), &se::profile());
    assert_eq!(se::select(&mut card, SPI, IN[0]), 0x6A82);
    card.make_secure_only(se::id(1), &se::aid(EVERYWHERE)).unwrap();
    assert_eq!(se::select(&mut card, Protocol::T0, EVERYWHERE), 0x9000);
    // Those of the two others are more than one.
    assert_eq!(se::select(&mut card, SPI, EVERYWHERE), 0x6A82);
    let twice = card.make_secure_only(se::id(1), &se::aid(NOBODY));
    assert_eq!(twice.map_err(|sw| sw.0), Err(0x6A88));
}

/// AID of what stands in for a TLS Manager.
const MANAGER: &[u8] = b"\xF0SKTLS\x01";

/// A card with a TLS Manager in its first container: without one nothing is made secure-only by command.
fn card_with_manager() -> Card {
    let mut card = se::card();
    let manager = FactoryApplication {
        load_file: se::aid(b"\xF0SKTLS"),
        module: Module::TLS_MANAGER,
        ..se::application(MANAGER)
    };
    card.install(se::id(1), &manager).unwrap();
    card
}

/// Nothing could reach it: neither INSTALL nor STORE DATA makes secure-only where there is no TLS Manager, and what is refused changes nothing.
#[test]
fn without_a_tls_manager_nothing_becomes_secure_only() {
    let (mut card, swp) = (se::card(), Interface::Swp);
    let mut root = host_at_root(&mut card, swp);
    let (file, module) = (
        hex::decode("A0000001515350").unwrap(),
        hex::decode("A000000151535041").unwrap(),
    );
    let mark = hex::decode("EF04DF530101").unwrap();
    let domain = install(0x0C, &file, &module, b"\xF0NEW1", &[0x80], &mark);
    for command in [&domain[..], MARK] {
        assert_eq!(sw(&root.send(&mut card, command)), 0x6985);
    }
    assert!(marked(&mut card, &mut root).is_empty());
    for aid in [EVERYWHERE, IN[0], AM_SD] {
        assert_eq!(se::select(&mut card, SPI, aid), 0x9000);
    }
    // That of another container is none here.
    let mut card = card_with_manager();
    let mut other = {
        let keys = se::keys_of(2);
        let level = SecurityLevel::FULL;
        Host::open_on(
            &mut card,
            Interface::Iso7816Contact,
            0,
            0x30,
            &keys,
            level,
            MacMode::S8,
        )
        .unwrap()
    };
    assert_eq!(sw(&other.send(&mut card, MARK)), 0x6985);
    let mut root = host_at_root(&mut card, swp);
    assert_eq!(sw(&root.send(&mut card, &domain)), 0x9000);
}

/// A domain makes all that is within it secure-only, while it is in use everywhere: selected, with a chain begun, an answer waiting, secure channels open.
#[test]
fn what_becomes_secure_only_is_left_wherever_it_is() {
    let mut card = card_with_manager();
    let (spi, gate, swp) = (Interface::Spi, Interface::ApduGate, Interface::Swp);
    let mut root = host(&mut card, swp, 0, 0x30);
    assert!(marked(&mut card, &mut root).is_empty());
    for aid in [IN[0], EVERYWHERE] {
        let to_domain = install(0x10, AM_SD, &[], aid, &[], &[]);
        assert_eq!(sw(&root.send(&mut card, &to_domain)), 0x9000);
    }
    for channel in 1..=3_u8 {
        assert_eq!(on(&mut card, spi, &[0, 0x70, 0, 0, 1])[0], channel);
    }
    let select = |channel: u8, aid: &[u8]| with([channel, 0xA4, 4, 0], aid);
    // On channel 1 a chain begins, on 2 an answer waits, on 3 a secure channel of the domain is open.
    assert_eq!(sw(&on(&mut card, spi, &select(1, IN[0]))), 0x9000);
    let beginning = [&select(2, IN[0])[..], &[1]].concat();
    assert_eq!(sw(&on(&mut card, spi, &beginning)), 0x610C);
    assert_eq!(
        sw(&on(&mut card, spi, &with([0x91, 0x50, 0x30, 0], &[8; 4]))),
        0x9000
    );
    assert_eq!(sw(&on(&mut card, spi, &select(3, AM_SD))), 0x9000);
    let mut elsewhere = host(&mut card, spi, 3, se::DOMAIN_KVN);
    assert_eq!(sw(&elsewhere.send(&mut card, &[0x83, 0xCA, 0, 0xE0, 0])), 0x9000);
    // The domain says it on another interface.
    assert_eq!(sw(&on(&mut card, gate, &select(0, AM_SD))), 0x9000);
    assert_eq!(sw(&on(&mut card, gate, MARK)), 0x6982);
    let mut domain = host(&mut card, gate, 0, se::DOMAIN_KVN);
    for wrong in [&[0xDF, 0x53, 1, 0][..], &[0xDF, 0x53, 0], &[0xDF, 0x53, 2, 1, 1]] {
        assert_eq!(
            sw(&domain.send(&mut card, &with([0x80, 0xE2, 0x90, 0], wrong))),
            0x6A80
        );
    }
    assert_eq!(sw(&domain.send(&mut card, MARK)), 0x9000);
    let after = domain.wrap(MARK);
    assert_eq!(sw(&on(&mut card, gate, &after)), 0x6982, "its own secure channel");
    assert_eq!(sw(&on(&mut card, gate, &select(0, AM_SD))), 0x6A82);
    // The rest of the chain, the rest of the answer, the other secure channel.
    // The root has the command: half of a host challenge is none.
    let rest = [&with([0x81, 0x50, 0x30, 0], &[9; 4])[..], &[0]].concat();
    assert_eq!(sw(&on(&mut card, spi, &rest)), 0x6700);
    assert_eq!(sw(&on(&mut card, spi, &[0x02, 0xC0, 0, 0, 0])), 0x6D00);
    let after = elsewhere.wrap(&[0x83, 0xCA, 0, 0xE0, 0]);
    assert_eq!(sw(&on(&mut card, spi, &after)), 0x6982);
    // The root is selected in their place, and on a channel that inherits from one of them.
    assert_eq!(sw(&on(&mut card, spi, &[0, 0x70, 0x80, 2])), 0x9000);
    assert_eq!(on(&mut card, spi, &[0x01, 0x70, 0, 0, 1]), [2, 0x90, 0]);
    for channel in 1..=3 {
        let se_id = on(&mut card, spi, &[channel, 0xCA, 0, 0xCF, 0]);
        assert!(se_id.ends_with(&[1, 0x90, 0]), "{channel}: {se_id:02X?}");
    }
    // Shown; and when it goes to another domain it stays what it is.
    assert_eq!(marked(&mut card, &mut root), [AM_SD, EVERYWHERE, IN[0]]);
    // By extradition, and by registry update.
    for (p1, aid) in [(0x10, IN[0]), (0x40, EVERYWHERE)] {
        let given = install(p1, &se::COMMON, &[], aid, &[], &[]);
        assert_eq!(sw(&root.send(&mut card, &given)), 0x9000, "{p1:02X}");
        assert_eq!(marked(&mut card, &mut root), [AM_SD, EVERYWHERE, IN[0]]);
    }
    let mut card = se::boot(card.into_flash(), &se::profile());
    assert_eq!(se::select(&mut card, SPI, IN[0]), 0x6A82);
    assert_eq!(se::select(&mut card, SPI, AM_SD), 0x6A82);
    assert_eq!(se::select(&mut card, SPI, EVERYWHERE), 0x6A82);
    // What it has kept is there: nothing of the chain, for one.
    let mut root = host_at_root(&mut card, swp);
    let aid = |header, aid: &[u8]| with(header, &[&[0x4F, u8::try_from(aid.len()).unwrap()], aid].concat());
    assert_eq!(sw(&root.send(&mut card, &aid([0x80, 0xE4, 0, 0], IN[0]))), 0x9000);
    assert_eq!(marked(&mut card, &mut root), [AM_SD, EVERYWHERE]);
}

fn host_at_root(card: &mut Card, interface: Interface) -> Host {
    assert_eq!(sw(&on(card, interface, &[0, 0xA4, 4, 0])), 0x9000);
    host(card, interface, 0, 0x30)
}

/// STORE DATA that the domain forwards: it is not there to be personalised, and what was begun before goes no further.
#[test]
fn nobody_is_personalised_who_is_secure_only() {
    let (mut card, swp) = (se::card(), Interface::Swp);
    let mut root = host_at_root(&mut card, swp);
    let personalise = |aid: &[u8]| install(0x20, &[], &[], aid, &[], &[]);
    let data = &[0x80, 0xE2, 0, 0, 1, 1];
    // The stand-in has no STORE DATA: 6D00 is its own word, and comes from it alone.
    assert_eq!(sw(&root.send(&mut card, &personalise(IN[0]))), 0x9000);
    assert_eq!(sw(&root.send(&mut card, data)), 0x6D00);
    assert_eq!(sw(&root.send(&mut card, &personalise(IN[0]))), 0x9000);
    card.make_secure_only(ContainerId::ESE, &se::aid(IN[0])).unwrap();
    assert_eq!(sw(&root.send(&mut card, data)), 0x6A88);
    for aid in [IN[0], NOBODY] {
        assert_eq!(sw(&root.send(&mut card, &personalise(aid))), 0x6A88);
    }
    assert_eq!(sw(&root.send(&mut card, &personalise(EVERYWHERE))), 0x9000);
}

/// INSTALL says it from the first moment; nothing takes it back.
#[test]
fn an_application_is_installed_so_and_stays_so() {
    let (mut card, swp) = (card_with_manager(), Interface::Swp);
    let mut root = host_at_root(&mut card, swp);
    let domain = |parameters: &[u8]| {
        let (file, module) = (hex::decode("A0000001515350"), hex::decode("A000000151535041"));
        install(
            0x0C,
            &file.unwrap(),
            &module.unwrap(),
            b"\xF0NEW1",
            &[0x80],
            parameters,
        )
    };
    for wrong in ["EF04DF530100", "EF03DF5300", "EF05DF53020101", "DF530101"] {
        let command = domain(&hex::decode(wrong).unwrap());
        assert_eq!(sw(&root.send(&mut card, &command)), 0x6A80, "{wrong}");
    }
    let mark = hex::decode("EF04DF530101").unwrap();
    assert_eq!(sw(&root.send(&mut card, &domain(&mark))), 0x9000);
    assert_eq!(se::select(&mut card, SPI, b"\xF0NEW1"), 0x6A82);
    assert_eq!(marked(&mut card, &mut root), [b"\xF0NEW1"]);
    // Not by what makes selectable, which is no installation.
    let later = install(0x08, &[], &[], b"\xF0NEW1", &[], &mark);
    assert_eq!(sw(&root.send(&mut card, &later)), 0x6A80);
    for state in [0x80, 0x00] {
        assert_eq!(
            sw(&root.send(&mut card, &with([0x80, 0xF0, 0x40, state], b"\xF0NEW1"))),
            0x9000
        );
    }
    assert_eq!(se::select(&mut card, SPI, b"\xF0NEW1"), 0x6A82);
    // The issuer security domain: all of its container but itself, and nothing of others.
    assert_eq!(se::select(&mut card, SPI, EVERYWHERE), 0x9000);
    assert_eq!(sw(&root.send(&mut card, MARK)), 0x9000);
    for aid in [EVERYWHERE, IN[0], AM_SD, b"\xF0SKOS\x00\x01"] {
        assert_eq!(se::select(&mut card, SPI, aid), 0x6A82, "{aid:02X?}");
    }
    assert_eq!(se::select(&mut card, SPI, IN[1]), 0x9000);
    assert_eq!(se::select(&mut card, SPI, &se::COMMON), 0x9000);
    let shown = root.send(&mut card, &[0x80, 0xF2, 0x80, 2, 2, 0x4F, 0, 0]);
    assert!(shown.windows(4).any(|bytes| bytes == [0xDF, 0x53, 1, 1]));
    assert_eq!(marked(&mut card, &mut root).len(), 6);
}

/// The page's exchange.
#[test]
fn the_page_s_example_is_answered_as_it_says() {
    let page = include_str!("../../../../../docs/spec/tls-manager.md");
    let block = page.split("```secure-only\n").nth(1).unwrap();
    let (mut card, swp) = (card_with_manager(), Interface::Swp);
    let mut root = host_at_root(&mut card, swp);
    let mut said = Vec::new();
    for line in block.split("```").next().unwrap().lines() {
        let (what, bytes) = line.rsplit_once(' ').unwrap();
        let bytes = hex::decode(bytes).unwrap();
        match what {
            "protected >" => said = root.send(&mut card, &bytes),
            ">" => said = on(&mut card, Interface::Spi, &bytes),
            _ => assert_eq!(hex::encode_upper(&said), hex::encode_upper(&bytes), "{line}"),
        }
    }
}

/// Where it was selected by itself after a reset, and where secure messaging was open in it.
#[test]
fn a_default_application_and_secure_messaging_end_with_it() {
    let files = sekisho_applets::file_system::image::Image::of_test_card().unwrap();
    let records: Vec<_> = files.iter().collect();
    let made = Made {
        files: Some([&records; 3]),
        ..Made::default()
    };
    let pairing = Pairing::all_to(se::id(1));
    let mut card = se::make(se::Counting::new(), &se::paired(pairing), made);
    let read = &[0, 0xB0, 0x9E, 0, 0x10];
    for interface in Interface::ALL {
        assert_eq!(sw(&on(&mut card, interface, read)), 0x9000);
    }
    card.make_secure_only(se::id(1), &se::aid(sekisho_applets::file_system::AID))
        .unwrap();
    for interface in Interface::ALL {
        assert_eq!(sw(&on(&mut card, interface, read)), 0x6D00, "{interface:?}");
        card.reset(interface);
        assert_eq!(sw(&on(&mut card, interface, read)), 0x6D00, "{interface:?}");
    }
    let mut card = common::files::card();
    common::files::select(&mut card, Interface::Spi);
    let mut reader = Reader::open(&mut card, Interface::Spi, Mode::Ratchet, Lanes::Separate, 256).unwrap();
    assert_eq!(sw(&reader.send(&mut card, read)), 0x9000);
    card.make_secure_only(ContainerId::ESE, &se::aid(sekisho_applets::file_system::AID))
        .unwrap();
    let protected = reader.protect(read);
    let said = sw(&reader.transmit(&mut card, &protected));
    assert!([0x6982, 0x6987, 0x6988].contains(&said), "{said:04X}");
    assert_eq!(sw(&common::send_on(&mut card, Interface::Spi, read)), 0x6D00);
}
