//! Files of one identifier in several containers: seed 2's messages whose target is no root file.

use sekisho_applets::file_system::AID;
use sekisho_applets::file_system::image::{Image, ROOT};
use sekisho_os::{Interface, Pairing, Protocol, Row};

use crate::common::sw;
use crate::se::{self, Card, Counting, IN, Made};

const MF: &[u8] = b"\x62\x0D\x82\x01\x38\x83\x02\x3F\x00\x8C\x04\x07\x21\x21\x21";
/// EF 2FE2 with SFI 02, for everybody to read.
const EF: &[u8] = b"\x62\x13\x80\x02\x00\x0A\x82\x02\x01\x21\x83\x02\x2F\xE2\x88\x01\x10\x8C\x02\x01\x00";

fn content(number: u8) -> [u8; 10] {
    [0x98, 0, 0, 0, 0, 0, 0, 0, 0, number]
}

fn card(pairing: Pairing) -> Card {
    of_images(
        pairing,
        &[1, 2, 3].map(|number| {
            let mut image = Image::new(MF).unwrap();
            let file = image.file(ROOT, EF).unwrap();
            image.content(file, &content(number)).unwrap();
            image
        }),
    )
}

fn of_images(pairing: Pairing, images: &[Image; 3]) -> Card {
    let records: Vec<Vec<_>> = images.iter().map(|image| image.iter().collect()).collect();
    let made = Made {
        files: Some([&records[0], &records[1], &records[2]]),
        ..Made::default()
    };
    se::make(Counting::new(), &se::paired(pairing), made)
}

/// By identifier, by path, by short identifier: each as the first command after a reset, on each protocol, reaches the file of the paired container.
#[test]
fn a_file_identifier_means_a_file_of_the_paired_container_where_nothing_is_selected() {
    let ways: [(&str, &[&[u8]]); 6] = [
        (
            "identifier",
            &[&[0, 0xA4, 0x00, 0x0C, 2, 0x2F, 0xE2], &[0, 0xB0, 0, 0, 10]],
        ),
        (
            "EF identifier",
            &[&[0, 0xA4, 0x02, 0x0C, 2, 0x2F, 0xE2], &[0, 0xB0, 0, 0, 10]],
        ),
        (
            "MF, then identifier",
            &[
                &[0, 0xA4, 0x00, 0x0C, 2, 0x3F, 0x00],
                &[0, 0xA4, 0x00, 0x0C, 2, 0x2F, 0xE2],
                &[0, 0xB0, 0, 0, 10],
            ],
        ),
        (
            "path from the MF",
            &[&[0, 0xA4, 0x08, 0x0C, 2, 0x2F, 0xE2], &[0, 0xB0, 0, 0, 10]],
        ),
        (
            "path from the DF",
            &[&[0, 0xA4, 0x09, 0x0C, 2, 0x2F, 0xE2], &[0, 0xB0, 0, 0, 10]],
        ),
        ("short identifier", &[&[0, 0xB0, 0x82, 0, 10]]),
    ];
    let pairing = Pairing::contacts_to(se::id(2))
        .with(Protocol::Proprietary(0), Row::all(se::id(3)))
        .with(Protocol::ApduGate, Row::all(se::id(3)));
    let mut card = card(pairing);
    for (what, commands) in ways {
        for (_, protocol, interface) in se::PROTOCOLS {
            assert!(card.reset_to(interface, protocol));
            let mut answer = vec![];
            for command in commands {
                answer = se::send(&mut card, protocol, command);
            }
            let number = pairing.row(protocol).unwrap().container.number();
            let expected = [&content(number)[..], &[0x90, 0x00]].concat();
            assert_eq!(answer, expected, "{what} {protocol:?}");
        }
    }
    // What has been selected by AID is what a file identifier means from then on.
    assert!(card.reset_to(Interface::Spi, Protocol::SpiEse));
    assert_eq!(se::select(&mut card, Protocol::SpiEse, IN[2]), 0x9000);
    let identifier = [0, 0xA4, 0x00, 0x0C, 2, 0x2F, 0xE2];
    assert_eq!(sw(&se::send(&mut card, Protocol::SpiEse, &identifier)), 0x6D00);
    // Every container has one of this name: the paired one's is meant.
    assert_eq!(se::select(&mut card, Protocol::SpiEse, AID), 0x9000);
    let read = se::send(&mut card, Protocol::SpiEse, &[0, 0xB0, 0x82, 0, 10]);
    assert_eq!(read[..10], content(1));
    // A channel opened from the basic one is the root's; SELECT without a name too.
    assert_eq!(se::select(&mut card, Protocol::SpiEse, &[]), 0x9000);
    assert_eq!(se::container(&mut card, Protocol::SpiEse), Some(1));
    // Gone, the root takes its place after the next reset.
    card.delete(se::id(1), &se::aid(AID)).unwrap();
    card.reset(Interface::Spi);
    assert_eq!(se::container(&mut card, Protocol::SpiEse), Some(1));
    let deleted = sw(&se::send(&mut card, Protocol::SpiEse, &identifier));
    assert!(deleted != 0x9000);
}

/// The tries of a PIN are its container's: who spends them all in one blocks it there, and nowhere else, also behind a start.
#[test]
fn a_pin_that_is_blocked_in_one_container_has_all_its_tries_in_the_others() {
    let pairing = Pairing::contacts_to(se::id(2)).with(Protocol::ApduGate, Row::all(se::id(3)));
    let images = [(); 3].map(|()| Image::of_test_card().unwrap());
    let mut card = of_images(pairing, &images);
    let places = [Protocol::SpiEse, Protocol::T1, Protocol::ApduGate];
    let proved = [0, 0x20, 0, 1];
    let told = |card: &mut Card| {
        places.map(|protocol| {
            assert_eq!(se::select(card, protocol, AID), 0x9000);
            sw(&se::send(card, protocol, &proved))
        })
    };
    assert_eq!(told(&mut card), [0x63C3; 3]);
    let wrong = [&[0, 0x20, 0, 1, 4][..], b"4321"].concat();
    let spent = [(); 4].map(|()| sw(&se::send(&mut card, places[2], &wrong)));
    assert_eq!(spent, [0x63C2, 0x63C1, 0x63C0, 0x6983]);
    assert_eq!(told(&mut card), [0x63C3, 0x63C3, 0x6983]);
    let right = [&[0, 0x20, 0, 1, 4][..], b"1234"].concat();
    for (protocol, expected) in places.into_iter().zip([0x9000, 0x9000, 0x6983]) {
        assert_eq!(
            sw(&se::send(&mut card, protocol, &right)),
            expected,
            "{protocol:?}"
        );
    }
    let mut card = se::boot(card.into_flash(), &se::paired(pairing));
    assert_eq!(told(&mut card), [0x63C3, 0x63C3, 0x6983]);
}
