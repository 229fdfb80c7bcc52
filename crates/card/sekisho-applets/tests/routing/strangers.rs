//! Who may cost what: docs/spec/content.md, 2.2. What is closed on an interface is as if it were not there, and who has proved nothing writes nothing over SWP.

use sekisho_os::{Interface, InterfaceAccess, Pairing, Profile, Protocol, Row};
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::sw;
use crate::se::{self, COMMON, Card, LOAD_FILE, Made};

const SPI: Protocol = Protocol::SpiEse;
const SWP: [Protocol; 2] = [Protocol::SwpA, Protocol::SwpB];

/// As INSTALL leaves it, opened for contactless as well, for contactless alone.
const CLOSED: &[u8] = b"\xF0SKDOOR\x01";
const OPEN: &[u8] = b"\xF0SKDOOR\x02";
const OUTSIDE: &[u8] = b"\xF0SKDOOR\x03";

/// Every SE of here: SWP of container 1, its roots as the product makes them.
fn profile() -> Profile {
    Profile {
        root_access: InterfaceAccess::CONTACT,
        pairing: Pairing::all_to(se::id(1)).with(Protocol::Proprietary(0), Row::common(se::id(1))),
        ..se::profile()
    }
}

fn card() -> Card {
    se::make(se::Counting::new(), &profile(), Made::default())
}

fn open(card: &mut Card, interface: Interface, number: u8) -> Option<Host> {
    let level = SecurityLevel::FULL;
    Host::open_on(card, interface, 0, 0x30, &se::keys_of(number), level, MacMode::S8).ok()
}

/// The data field of INSTALL: an application of the stand-in with these system parameters.
fn install(name: &[u8], module: &[u8], system: &[u8]) -> Vec<u8> {
    let field = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let parameters = [&[0xC9, 0x00, 0xEF][..], &field(system)].concat();
    let data = [LOAD_FILE, module, name, &[], &parameters, &[]]
        .map(field)
        .concat();
    [&[0x80, 0xE6, 0x0C, 0x00], &field(&data)[..], &[0]].concat()
}

fn access(byte: u8) -> Vec<u8> {
    vec![0xA0, 0x05, 0xA5, 0x03, 0x82, 0x01, byte]
}

/// The three, in the first container.
fn with_doors() -> Card {
    let mut card = card();
    let mut host = open(&mut card, Interface::Spi, 1).unwrap();
    for (name, system) in [(CLOSED, vec![]), (OPEN, access(0xC0)), (OUTSIDE, access(0x40))] {
        let answer = host.send(&mut card, &install(name, se::EVERYWHERE, &system));
        assert_eq!(answer, [0x00, 0x90, 0x00], "{name:02X?}");
    }
    card.reset(Interface::Spi);
    card
}

/// Status word and reads of the flash of SELECT with this P2.
fn cost(card: &mut Card, protocol: Protocol, (p2, name): (u8, &[u8])) -> (u16, u64) {
    let before = card.flash().reads();
    let answer = se::send(card, protocol, &se::by_name(p2, name));
    (sw(&answer), card.flash().reads() - before)
}

#[test]
fn what_is_closed_on_an_interface_is_as_if_it_were_not_there() {
    let mut card = with_doors();
    let mut card = se::boot(
        std::mem::replace(&mut card, self::card()).into_flash(),
        &profile(),
    );
    let absent = b"\xF0SKDOOR\x09";
    for (protocol, closed, others) in [
        (SWP[0], CLOSED, [OPEN, OUTSIDE]),
        (SWP[1], CLOSED, [OPEN, OUTSIDE]),
        (SPI, OUTSIDE, [CLOSED, OPEN]),
        (Protocol::T0, OUTSIDE, [CLOSED, OPEN]),
        (Protocol::ApduGate, OUTSIDE, [CLOSED, OPEN]),
        (Protocol::Proprietary(0), OUTSIDE, [CLOSED, OPEN]),
    ] {
        let refused = cost(&mut card, protocol, (0, absent));
        assert_eq!(refused, (0x6A82, 0));
        // As a whole, whatever is selected.
        for before in [&COMMON[..], others[0], others[1]] {
            assert_eq!(se::select(&mut card, protocol, before), 0x9000);
            for p2 in [0x00, 0x0C] {
                assert_eq!(cost(&mut card, protocol, (p2, closed)), refused, "{protocol:?}");
            }
            // And disturbs nothing.
            let fresh = se::send(&mut card, protocol, &[0x00, 0xCA, 0x00, 0xCF, 0]);
            let is_root = sw(&fresh) == 0x9000;
            assert_eq!(is_root, before == COMMON);
        }
        // Its beginning reaches the two others, in their order, and behind them nobody.
        assert_eq!(cost(&mut card, protocol, (0x00, &closed[..7])).0, 0x9000);
        let first = se::send(&mut card, protocol, &se::by_name(0x00, &closed[..7]));
        assert_eq!(&first[4..12], others[0]);
        let second = se::send(&mut card, protocol, &se::by_name(0x02, &closed[..7]));
        assert_eq!(&second[4..12], others[1]);
        assert_eq!(cost(&mut card, protocol, (0x02, &closed[..7])), refused);
        // As the next occurrence of its own name, and on a logical channel of its own.
        assert_eq!(cost(&mut card, protocol, (0x02, closed)), refused);
        let opened = se::send(&mut card, protocol, &[0x00, 0x70, 0x00, 0x00, 0x01])[0];
        let mut name = se::by_name(0x00, closed);
        name[0] |= opened;
        assert_eq!(sw(&se::send(&mut card, protocol, &name)), 0x6A82);
        // A channel that is opened from one with an open application has that.
        let mut name = se::by_name(0x00, others[1]);
        name[0] |= opened;
        assert_eq!(sw(&se::send(&mut card, protocol, &name)), 0x9000);
        let inherited = se::send(&mut card, protocol, &[opened, 0x70, 0x00, 0x00, 0x01])[0];
        let told = se::send(&mut card, protocol, &[0x80 | inherited, 0x0A, 0x00, 0x00, 0x00]);
        assert_eq!((told[0], sw(&told)), (1, 0x9000));
    }
}

/// What is closed counts for nobody: it makes no name of another container ambiguous, and is not reached from elsewhere either.
#[test]
fn what_is_closed_elsewhere_is_as_if_it_were_not_there() {
    let rows = Profile {
        pairing: profile().pairing.with(SWP[0], Row::common(se::id(3))),
        ..profile()
    };
    for (name, answer) in [(CLOSED, 0x6A82), (OPEN, 0x9000), (OUTSIDE, 0x9000)] {
        let mut card = se::boot(with_doors().into_flash(), &rows);
        assert_eq!(cost(&mut card, SWP[0], (0, name)).0, answer);
        // The second container gets one of the same name, which is open: with one that is open it is ambiguous.
        let same = sekisho_os::FactoryApplication {
            load_file: se::aid(b"\xF0SKOTHER"),
            ..se::application(name)
        };
        card.install(se::id(2), &same).unwrap();
        let (both, reads) = cost(&mut card, SWP[0], (0, name));
        if answer == 0x9000 {
            assert_eq!((both, reads), (0x6A82, 0));
        } else {
            assert_eq!(both, 0x9000);
            assert_eq!(se::container(&mut card, SWP[0]), Some(2));
        }
    }
}

#[test]
fn parameters_that_say_anything_else_are_refused() {
    let mut card = card();
    let mut host = open(&mut card, Interface::Spi, 1).unwrap();
    let mut refused = |card: &mut Card, system: &[u8]| {
        let answer = host.send(card, &install(CLOSED, se::EVERYWHERE, system));
        assert_eq!(sw(&answer), 0x6A80, "{system:02X?}");
    };
    for byte in (0..=0xFF).filter(|byte| ![0x40, 0x80, 0xC0].contains(byte)) {
        refused(&mut card, &access(byte));
    }
    for system in [
        &[0xA0, 0x00][..],
        &[0xA0, 0x02, 0xA5, 0x00],
        &[0xA0, 0x04, 0xA5, 0x02, 0x82, 0x00],
        &[0xA0, 0x06, 0xA5, 0x04, 0x82, 0x02, 0xC0, 0x00],
        &[0xA0, 0x05, 0xA5, 0x03, 0x81, 0x01, 0xC0],
        &[0xA0, 0x05, 0xA6, 0x03, 0x82, 0x01, 0xC0],
        // The initial activation state beside it (81), and the same twice.
        &[0xA0, 0x08, 0x81, 0x01, 0x01, 0xA5, 0x03, 0x82, 0x01, 0xC0],
        &[0xA0, 0x08, 0xA5, 0x06, 0x82, 0x01, 0xC0, 0x82, 0x01, 0x80],
        &[
            0xA0, 0x05, 0xA5, 0x03, 0x82, 0x01, 0xC0, 0xA0, 0x05, 0xA5, 0x03, 0x82, 0x01, 0x80,
        ],
    ] {
        refused(&mut card, system);
    }
}

/// Whatever is sent to a root over SWP by somebody without keys: nothing is written, and no counter moves.
#[test]
fn a_stranger_costs_a_root_nothing_that_lasts() {
    let mut card = card();
    let counter = |card: &mut Card| se::send(card, SPI, &[0x80, 0xCA, 0x00, 0xC1, 0]);
    let before = (counter(&mut card), card.flash().image());
    let update = [0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00];
    for protocol in SWP {
        for p1 in [0x00, 0x30, 0xFF] {
            let mut update = update;
            update[2] = p1;
            assert_eq!(sw(&se::send(&mut card, protocol, &update)), 0x6985);
        }
        assert!(open(&mut card, Interface::Swp, 1).is_none());
        for cla in [0x00, 0x80, 0x84] {
            for ins in 0..=0xFF {
                for data in [&[][..], &[0; 8], &[0; 24], &[0; 40]] {
                    let len = u8::try_from(data.len()).unwrap();
                    let command = match data {
                        [] => vec![cla, ins, 0x00, 0x00, 0x00],
                        data => [&[cla, ins, 0x00, 0x00, len], data].concat(),
                    };
                    se::send(&mut card, protocol, &command);
                }
            }
        }
    }
    assert_eq!((counter(&mut card), card.flash().image()), before);
    // On the other interfaces an opening counts, as ever; where the product wants it, on SWP as well.
    assert!(open(&mut card, Interface::Spi, 1).is_some());
    assert_ne!(counter(&mut card), before.0);
    let flash = se::Counting::new();
    let mut card = se::make(flash, &se::profile(), Made::default());
    assert!(open(&mut card, Interface::Swp, 1).is_some());
}
