//! Every status word that a specification page lists is said in words of its own.
#![allow(clippy::unwrap_used)]

use sekisho_apdu::StatusWord;
use std::collections::BTreeMap;

const PAGES: [&str; 6] = [
    include_str!("../../../../docs/spec/broadcast-update.md"),
    include_str!("../../../../docs/spec/card.md"),
    include_str!("../../../../docs/spec/file-system-applet.md"),
    include_str!("../../../../docs/spec/os-part.md"),
    include_str!("../../../../docs/spec/rolling-secure-messaging.md"),
    include_str!("../../../../docs/spec/secapp.md"),
];

/// Four digits that stand alone, as in "6A80: wrong data"; a status word if they begin with 6 or 9.
fn status_words(page: &str) -> Vec<StatusWord> {
    page.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 4 && word.starts_with(['6', '9']))
        .filter_map(|word| u16::from_str_radix(word, 16).ok().map(StatusWord))
        .filter(|sw| matches!(sw.sw1(), 0x62..=0x6F | 0x90 | 0x94 | 0x95))
        .collect()
}

/// What a page lists: tables headed SW.
fn listed(page: &str) -> Vec<StatusWord> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in page.lines() {
        inside = line.starts_with("| SW |") || (inside && line.starts_with('|'));
        let first = line.split('|').nth(1).unwrap_or_default();
        if inside {
            found.extend(status_words(first));
        }
    }
    found
}

#[test]
fn every_listed_status_word_has_its_words() {
    let mut all = BTreeMap::new();
    for sw in PAGES.iter().flat_map(|page| listed(page)) {
        let words = sw.meaning().to_string();
        assert_ne!(words, "another status word", "{sw}");
        let first = all.entry(words).or_insert(sw);
        assert_eq!(*first, sw, "two status words are said alike");
    }
    assert!(all.len() > 20, "{} status words are listed", all.len());
}

#[test]
fn counts_are_said() {
    for (sw, words) in [
        (StatusWord::more_data(35), "done; 35 bytes wait"),
        (StatusWord::more_data(256), "done; more than 255 bytes wait"),
        (StatusWord::wrong_le(5), "wrong Le: there are 5 bytes"),
        (StatusWord::retries_left(2), "wrong; 2 tries left"),
        (StatusWord(0x6201), "done, with a warning"),
        (StatusWord(0x1234), "another status word"),
    ] {
        assert_eq!(sw.meaning().to_string(), words);
    }
}
