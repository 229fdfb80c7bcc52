//! ATRs and PPS, made and parsed.

use sekisho_block::atr::{Atr, AtrError, BlockParameters, LEN_MAX, Protocol, Rate, Specific, Times, parse};
use sekisho_block::pps::{self, Pps, PpsError};

fn made(atr: &Atr<'_>) -> Vec<u8> {
    let mut out = [0; LEN_MAX];
    let len = atr.write(&mut out).unwrap();
    out[..len].to_vec()
}

/// T=0 alone; T=0 and T=1; T=1 with IFSC 254, BWI 4, CWI 5, LRC and CRC. From open readers (LudovicRousseau/CCID's and towitoko's parsers read them), TCK recomputed.
#[test]
fn published_atrs_are_made_and_parsed() {
    let historical = hex::decode("8031E073FE2113574A7F01").unwrap();
    let t0 = Atr {
        historical: &historical,
        ..Atr::of(Protocol::T0)
    };
    let both = Atr {
        t1: Some(BlockParameters::DEFAULT),
        ..Atr::of(Protocol::T0)
    };
    let block = BlockParameters {
        ifsc: 254,
        cwi: 5,
        ..BlockParameters::DEFAULT
    };
    let t1 = Atr {
        t1: Some(block),
        ..Atr::of(Protocol::T1)
    };
    let crc = Atr {
        t1: Some(BlockParameters { crc: true, ..block }),
        ..Atr::of(Protocol::T1)
    };
    for (atr, bytes) in [
        (Atr::of(Protocol::T0), "3B00"),
        (t0, "3B0B8031E073FE2113574A7F01"),
        (both, "3B80800101"),
        (t1, "3B808131FE458B"),
        (crc, "3B808171FE4501CA"),
    ] {
        assert_eq!(hex::encode_upper(made(&atr)), bytes);
        assert_eq!(parse(&hex::decode(bytes).unwrap()), Ok(atr));
    }
}

/// Every combination of what can be said is parsed as it was written, and no beginning of it is an ATR.
#[test]
fn what_is_written_is_parsed() {
    let history = [0x80; 15];
    let mut seen = 0;
    for bits in 0_u16..1 << 11 {
        let on = |bit: u16| bits & 1 << bit != 0;
        let first = if on(0) { Protocol::T1 } else { Protocol::T0 };
        let atr = Atr {
            inverse: on(1),
            speed: if on(2) { 0x96 } else { 0x11 },
            guard: if on(3) { 0xFF } else { 0 },
            t0: (first == Protocol::T0).then_some(if on(4) { 20 } else { 10 }),
            t1: (first == Protocol::T1 || on(5)).then_some(BlockParameters {
                ifsc: if on(6) { 254 } else { 32 },
                bwi: if on(7) { 9 } else { 4 },
                cwi: 13,
                crc: on(8),
            }),
            first,
            specific: on(9).then_some(Specific {
                protocol: first,
                fixed: true,
                implicit: false,
            }),
            class: on(10).then_some(0xC7),
            spu: on(10).then_some(0x80),
            historical: &history[..usize::from(bits % 16)],
        };
        let bytes = made(&atr);
        assert_eq!(parse(&bytes), Ok(atr), "{bytes:02X?}");
        for cut in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..cut]),
                Err(AtrError::Short),
                "{bytes:02X?} to {cut}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(parse(&longer), Err(AtrError::Long));
        if bytes[2..].len() > usize::from(bits % 16) && atr.t1.is_some() {
            let mut wrong = bytes;
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(parse(&wrong), Err(AtrError::Checksum));
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen}");
}

#[test]
fn no_atr_is_made_or_taken_of_what_the_standard_reserves() {
    let mut out = [0; LEN_MAX];
    let long = [0; 16];
    for (atr, error) in [
        (
            Atr {
                historical: &long,
                ..Atr::of(Protocol::T0)
            },
            AtrError::Long,
        ),
        (
            Atr {
                speed: 0x70,
                ..Atr::of(Protocol::T0)
            },
            AtrError::Value,
        ),
        (
            Atr {
                first: Protocol::T1,
                ..Atr::of(Protocol::T0)
            },
            AtrError::Protocol,
        ),
        (
            Atr {
                t0: Some(0),
                ..Atr::of(Protocol::T0)
            },
            AtrError::Value,
        ),
    ] {
        assert_eq!(atr.write(&mut out), Err(error));
    }
    for (bytes, error) in [
        ("00", AtrError::Convention),
        ("3B8F", AtrError::Short),
        // T=14 alone.
        ("3B800E8E", AtrError::Protocol),
        // IFSC 00 and FF, BWI A.
        ("3B80811100", AtrError::Value),
        ("3B808111FF", AtrError::Value),
        ("3B808121A5", AtrError::Value),
        // TD1 names T=15.
        ("3B800F8F", AtrError::Value),
        // More groups of TD than 33 bytes hold.
        (&format!("3B80{}", "81".repeat(40)), AtrError::Long),
    ] {
        assert_eq!(parse(&hex::decode(bytes).unwrap()), Err(error), "{bytes}");
    }
}

/// At 3.58 MHz: an etu of 104 us, WT 1.0 s, BWT 1.6 s and 51 s.
#[test]
fn times_follow_from_the_numbers() {
    let times = Times {
        rate: Rate::DEFAULT,
        hertz: 3_580_000,
    };
    assert_eq!(times.etu(1), 104);
    assert_eq!(times.wt(10) / 10_000, 99);
    assert_eq!(times.bwt(4) / 10_000, 159);
    assert_eq!(times.bwt(9) / 1_000_000, 51);
    assert_eq!(times.cwt(5), times.etu(43));
    assert_eq!(Rate::of(0x96), Some(Rate { f: 512, d: 32 }));
}

/// Requests of open readers; the echo of each is itself.
#[test]
fn published_pps_are_made_and_answered() {
    let atr = Atr {
        speed: 0x96,
        t1: Some(BlockParameters::DEFAULT),
        ..Atr::of(Protocol::T0)
    };
    for (protocol, speed, bytes) in [
        (Protocol::T0, Some(0x94), "FF10947B"),
        (Protocol::T1, Some(0x96), "FF119678"),
        (Protocol::T1, None, "FF01FE"),
        (Protocol::T0, None, "FF00FF"),
    ] {
        let pps = Pps { protocol, speed };
        let mut out = [0; pps::LEN_MAX];
        let len = pps.write(&mut out);
        assert_eq!(hex::encode_upper(&out[..len]), bytes);
        assert_eq!(Pps::parse(&out[..len]), Ok(pps));
        assert_eq!(pps.agreed_by(&atr), Some(pps));
        assert_eq!(
            pps.confirmed(pps),
            Ok(speed.and_then(Rate::of).unwrap_or(Rate::DEFAULT))
        );
        for cut in 0..len {
            assert_eq!(Pps::parse(&out[..cut]), Err(PpsError::Short));
        }
        out[len - 1] ^= 1;
        assert_eq!(Pps::parse(&out[..len]), Err(PpsError::Malformed));
    }
}

/// A speed that the card cannot do is answered without PPS1; a protocol that it does not offer, or any PPS in specific mode, with nothing. A device takes no answer that differs.
#[test]
fn a_pps_fails_as_the_standard_says() {
    let atr = Atr {
        speed: 0x94,
        ..Atr::of(Protocol::T0)
    };
    let faster = Pps {
        protocol: Protocol::T0,
        speed: Some(0x96),
    };
    let plain = Pps {
        protocol: Protocol::T0,
        speed: None,
    };
    assert_eq!(faster.agreed_by(&atr), Some(plain));
    assert_eq!(faster.confirmed(plain), Ok(Rate::DEFAULT));
    let t1 = Pps {
        protocol: Protocol::T1,
        speed: None,
    };
    assert_eq!(t1.agreed_by(&atr), None);
    let specific = Specific {
        protocol: Protocol::T0,
        fixed: false,
        implicit: false,
    };
    assert_eq!(
        plain.agreed_by(&Atr {
            specific: Some(specific),
            ..atr
        }),
        None
    );
    assert_eq!(plain.confirmed(t1), Err(PpsError::Differs));
    assert_eq!(plain.confirmed(faster), Err(PpsError::Differs));
    assert_eq!(
        faster.confirmed(Pps {
            speed: Some(0x94),
            ..faster
        }),
        Err(PpsError::Differs)
    );
    assert_eq!(
        Pps::parse(&hex::decode("FF02FD").unwrap()),
        Err(PpsError::Protocol)
    );
    assert_eq!(Pps::parse(&[0x00]), Err(PpsError::Malformed));
}

/// The worked bytes of `docs/spec/transports.md`, section 1.
#[test]
fn the_page_shows_atrs_and_pps_that_parse() {
    let page = include_str!("../../../../docs/spec/transports.md");
    let rows = |kind: &str| -> Vec<Vec<u8>> {
        page.lines()
            .filter_map(|line| line.strip_prefix("| ")?.strip_prefix(kind)?.split('`').nth(1))
            .map(|bytes| hex::decode(bytes).unwrap())
            .collect()
    };
    let (atrs, pps) = (rows("ATR: "), rows("PPS: "));
    assert_eq!((atrs.len(), pps.len()), (5, 3));
    for bytes in atrs {
        assert_eq!(made(&parse(&bytes).unwrap()), bytes);
    }
    for bytes in pps {
        let mut out = [0; pps::LEN_MAX];
        let len = Pps::parse(&bytes).unwrap().write(&mut out);
        assert_eq!(out[..len], bytes);
    }
}
