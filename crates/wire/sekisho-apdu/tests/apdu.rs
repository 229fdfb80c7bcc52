//! C-APDU and R-APDU: every case by table, and properties over all byte strings.
// The cases of ISO/IEC 7816-4, 5.3 (Tables 1 and 2) written out by hand.

use proptest::prelude::*;
use sekisho_apdu::{ApduError, CApdu, Cla, RApdu, StatusWord, Writer, tlv};

fn encoded(apdu: &CApdu<'_>) -> Result<Vec<u8>, ApduError> {
    let mut buf = vec![0; 65_544];
    let mut w = Writer::new(&mut buf);
    apdu.encode(&mut w)?;
    Ok(w.written().to_vec())
}

#[test]
fn cases_1_to_4_short_and_extended() {
    let header = CApdu::new(Cla(0x00), 0xA4, 0x04, 0x0C);
    let extended = |apdu: CApdu<'static>| CApdu {
        extended: true,
        ..apdu
    };
    let table: [(&str, &[u8], CApdu<'static>); 11] = [
        ("1", b"\x00\xA4\x04\x0C", header),
        ("2S", b"\x00\xA4\x04\x0C\x10", header.with_ne(16)),
        ("2S, 256", b"\x00\xA4\x04\x0C\x00", header.with_ne(256)),
        (
            "3S",
            b"\x00\xA4\x04\x0C\x02\xAA\xBB",
            header.with_data(&[0xAA, 0xBB]),
        ),
        (
            "4S",
            b"\x00\xA4\x04\x0C\x01\xAA\xFF",
            header.with_data(&[0xAA]).with_ne(255),
        ),
        (
            "4S, 256",
            b"\x00\xA4\x04\x0C\x01\xAA\x00",
            header.with_data(&[0xAA]).with_ne(256),
        ),
        (
            "2E",
            b"\x00\xA4\x04\x0C\x00\x01\x00",
            extended(header.with_ne(256)),
        ),
        (
            "2E, 65536",
            b"\x00\xA4\x04\x0C\x00\x00\x00",
            extended(header.with_ne(65_536)),
        ),
        (
            "3E",
            b"\x00\xA4\x04\x0C\x00\x00\x01\xAA",
            extended(header.with_data(&[0xAA])),
        ),
        (
            "4E",
            b"\x00\xA4\x04\x0C\x00\x00\x01\xAA\x12\x34",
            extended(header.with_data(&[0xAA]).with_ne(0x1234)),
        ),
        (
            "4E, 65536",
            b"\x00\xA4\x04\x0C\x00\x00\x01\xAA\x00\x00",
            extended(header.with_data(&[0xAA]).with_ne(65_536)),
        ),
    ];
    for (name, bytes, apdu) in table {
        assert_eq!(CApdu::parse(bytes), Ok(apdu), "case {name}");
        assert_eq!(encoded(&apdu).unwrap(), bytes, "case {name}");
    }
}

#[test]
fn what_is_no_case_is_an_error() {
    for bytes in [&[][..], &[0], &[0, 1, 2]] {
        assert_eq!(CApdu::parse(bytes), Err(ApduError::TooShort), "{bytes:02X?}");
    }
    let bad: [&[u8]; 8] = [
        &[0, 1, 2, 3, 0, 0],                // Lc or marker 00 and one byte
        &[0, 1, 2, 3, 2, 9],                // Lc beyond the end
        &[0, 1, 2, 3, 1, 9, 0, 0],          // a byte behind Le
        &[0, 1, 2, 3, 0, 0, 0, 9],          // extended Lc zero
        &[0, 1, 2, 3, 0, 0, 2, 9],          // extended Lc beyond the end
        &[0, 1, 2, 3, 0, 0, 1, 9, 0],       // half an extended Le
        &[0, 1, 2, 3, 0, 0, 1, 9, 0, 0, 0], // a byte behind extended Le
        &[0, 1, 2, 3, 0, 0, 0, 0, 0],       // extended Lc zero and Le
    ];
    for bytes in bad {
        assert_eq!(CApdu::parse(bytes), Err(ApduError::Length), "{bytes:02X?}");
    }
}

#[test]
fn limits_of_the_forms() {
    let data = vec![7; 65_536];
    let header = CApdu::new(Cla::GP, 0xE8, 0, 0);
    // 255 bytes are the last that fit the short form; then it is extended without being asked for.
    assert_eq!(
        encoded(&header.with_data(&data[..255])).unwrap().len(),
        4 + 1 + 255
    );
    assert_eq!(
        encoded(&header.with_data(&data[..256])).unwrap().len(),
        4 + 3 + 256
    );
    assert_eq!(
        encoded(&header.with_data(&data[..1]).with_ne(257)).unwrap().len(),
        4 + 3 + 1 + 2
    );
    let longest = header.with_data(&data[..65_535]).with_ne(65_536);
    let bytes = encoded(&longest).unwrap();
    assert_eq!(bytes.len(), 65_544);
    assert_eq!(
        CApdu::parse(&bytes),
        Ok(CApdu {
            extended: true,
            ..longest
        })
    );
    assert_eq!(encoded(&header.with_data(&data)), Err(ApduError::TooLong));
    assert_eq!(encoded(&header.with_ne(0)), Err(ApduError::TooLong));
    assert_eq!(encoded(&header.with_ne(65_537)), Err(ApduError::TooLong));
    // A case 1 command has no length field to be extended.
    assert_eq!(
        encoded(&CApdu {
            extended: true,
            ..header
        })
        .unwrap(),
        [0x80, 0xE8, 0, 0]
    );
}

#[test]
fn a_full_buffer_keeps_what_was_there() {
    let apdu = CApdu::new(Cla::GP, 0xE2, 1, 2).with_data(&[1, 2, 3]).with_ne(256);
    for room in 0..9 {
        let mut buf = vec![0; 1 + room];
        let mut w = Writer::new(&mut buf);
        w.u8(0x55).unwrap();
        assert_eq!(apdu.encode(&mut w), Err(ApduError::BufferFull));
        assert_eq!(w.written(), [0x55]);
    }
}

#[test]
fn responses() {
    assert_eq!(
        RApdu::parse(&[0x90, 0x00]),
        Ok(RApdu {
            data: &[],
            sw: StatusWord::NO_ERROR
        })
    );
    let response = RApdu {
        data: &[1, 2, 3],
        sw: StatusWord(0x6310),
    };
    assert_eq!(RApdu::parse(&[1, 2, 3, 0x63, 0x10]), Ok(response));
    assert_eq!(RApdu::parse(&[0x90]), Err(ApduError::TooShort));
    assert_eq!(RApdu::parse(&[]), Err(ApduError::TooShort));
    assert_eq!(RApdu::parse(&vec![0; 65_539]), Err(ApduError::TooLong));
    let mut buf = [0; 5];
    let mut w = Writer::new(&mut buf);
    response.encode(&mut w).unwrap();
    assert_eq!(response.encode(&mut w), Err(ApduError::BufferFull));
    assert_eq!(w.written(), [1, 2, 3, 0x63, 0x10]);
}

proptest! {
    #[test]
    fn whatever_parses_is_written_back_as_it_came(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(apdu) = CApdu::parse(&bytes) {
            prop_assert_eq!(encoded(&apdu).unwrap(), bytes);
        }
    }

    /// Random bytes are seldom a C-APDU; these are one for every choice of the length fields.
    #[test]
    fn whatever_is_written_parses_to_the_same(
        header in any::<[u8; 4]>(),
        data in proptest::collection::vec(any::<u8>(), 0..700),
        ne in proptest::option::of(1u32..=65_536),
        extended in any::<bool>(),
    ) {
        let [cla, ins, p1, p2] = header;
        let apdu = CApdu { cla: Cla(cla), ins, p1, p2, data: &data, ne, extended };
        let bytes = encoded(&apdu).unwrap();
        let has_length_field = !data.is_empty() || ne.is_some();
        let long = data.len() > 255 || ne.is_some_and(|n| n > 256);
        let parsed = CApdu::parse(&bytes).unwrap();
        prop_assert_eq!(parsed, CApdu { extended: has_length_field && (extended || long), ..apdu });
        // One byte more or less is never the same command.
        prop_assert_ne!(CApdu::parse(&bytes[..bytes.len() - 1]).ok(), Some(parsed));
        let longer = [&bytes[..], &[0]].concat();
        prop_assert_ne!(CApdu::parse(&longer).ok(), Some(parsed));
    }

    #[test]
    fn data_objects_survive_the_round_trip(
        objects in proptest::collection::vec((0usize..6, proptest::collection::vec(any::<u8>(), 0..400)), 0..6)
    ) {
        let tags = [0x4Fu32, 0xE3, 0x9F70, 0x7F21, 0x5F_8102, 0x00];
        let mut buf = vec![0; 4096];
        let mut w = Writer::new(&mut buf);
        for (tag, value) in &objects {
            w.tlv(tags[*tag], value).unwrap();
        }
        let read: Vec<_> = tlv::TlvReader::new(w.written()).map(Result::unwrap).collect();
        let expected: Vec<_> = objects.iter().map(|(t, v)| tlv::Tlv { tag: tlv::Tag(tags[*t]), value: v }).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_byte_string_upsets_the_tlv_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut taken = 0;
        for object in tlv::TlvReader::new(&bytes) {
            match object {
                Ok(object) => taken += object.value.len() + 2,
                Err(_) => break,
            }
        }
        prop_assert!(taken <= bytes.len());
        let _ = tlv::find(&bytes, 0x4F);
    }
}
