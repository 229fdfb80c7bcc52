//! Check bytes of published frames.

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

/// The page's table, 8.
#[test]
fn the_page_says_what_an_end_keeps_in_ram() {
    use sekisho_block::{contact, hci, swp, t0, t1, t1p};
    const APDU: usize = 1_100;
    let sizes = [
        (
            "T=0, one answer that waits",
            size_of::<t0::Card<APDU, 1>>(),
            size_of::<t0::Device<APDU>>(),
        ),
        ("T=1", size_of::<t1::Card<APDU>>(), size_of::<t1::Device<APDU>>()),
        (
            "a line with contacts: the larger of both",
            size_of::<contact::Card<APDU, 1>>(),
            size_of::<contact::Device<APDU>>(),
        ),
        (
            "T=1', blocks of up to 600 bytes, one secure element",
            size_of::<t1p::Card<APDU, 600, 1>>(),
            size_of::<t1p::Device<APDU, 600>>(),
        ),
        ("SWP with SHDLC", size_of::<swp::Link>(), size_of::<swp::Link>()),
        (
            "HCI with the APDU gate and card gates",
            size_of::<hci::Card<{ APDU + 1 }>>(),
            size_of::<hci::Device<{ APDU + 1 }>>(),
        ),
    ];
    let page = include_str!("../../../../docs/spec/transports.md");
    let thousands = |n: usize| match n / 1_000 {
        0 => n.to_string(),
        more => format!("{more},{:03}", n % 1_000),
    };
    for (what, card, device) in sizes {
        let row = format!("| {what} | {} | {} |", thousands(card), thousands(device));
        assert!(page.contains(&row), "{row}");
    }
}
