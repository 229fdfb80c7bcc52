//! Check bytes of published frames.
#![allow(clippy::unwrap_used)]

use sekisho_block::check::{crc, lrc};

/// T=1 blocks with their LRC: a reader's IFS request and the card's answer, SELECT, and an EDC error as a card reports it. PPS and TCK by the same sum.
/// Recomputed from blocks of open readers and cards (LudovicRousseau/CCID, GnuPG).
#[test]
fn an_lrc_makes_the_sum_nothing() {
    for block in [
        "00C101FE3E",
        "00E101FE1E",
        "00000500A4040000A5",
        "0000026A82EA",
        "00810081",
        "FF10947B",
        "FF119678",
    ] {
        assert_eq!(lrc(&hex::decode(block).unwrap()), 0, "{block}");
    }
    assert_eq!(lrc(&hex::decode("808131FE458B").unwrap()), 0);
}

/// T=1' blocks of open hosts (NXP plug-and-trust, Infineon's T=1' library), high byte first; SHDLC frames of the Linux kernel's drivers, low byte first.
#[test]
fn a_crc_is_that_of_published_frames() {
    for block in [
        "21CF00002F6B",
        "12EF0000456F",
        "21C4000006CD",
        "2100000500A4040000AC14",
        "5ACF0000B53B",
    ] {
        let bytes = hex::decode(block).unwrap();
        let (body, sum) = bytes.split_last_chunk().unwrap();
        assert_eq!(crc(body), u16::from_be_bytes(*sum), "{block}");
    }
    for frame in ["F9040086B1", "E64072", "C1FD27", "C83CBA"] {
        let bytes = hex::decode(frame).unwrap();
        let (body, sum) = bytes.split_last_chunk().unwrap();
        assert_eq!(crc(body), u16::from_le_bytes(*sum), "{frame}");
    }
}
