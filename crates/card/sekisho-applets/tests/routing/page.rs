//! The exchanges of the page, section 7.

use sekisho_os::Protocol;

use crate::common::script::matches;
use crate::se::{self, Card, PROTOCOLS};

const PAGE: &str = include_str!("../../../../../docs/spec/routing.md");

fn protocol(name: &str) -> Protocol {
    let known = PROTOCOLS.iter().find(|(of, _, _)| *of == name);
    known.unwrap_or_else(|| panic!("no protocol {name}")).1
}

fn play(block: &str) -> (usize, Vec<String>) {
    let mut card: Card = se::card();
    let (mut count, mut wrong) = (0, vec![]);
    for line in block.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["power"] => card = se::boot(card.into_flash(), &se::profile()),
            [name, command, expected] => {
                let answer = se::send(&mut card, protocol(name), &hex::decode(command).unwrap());
                count += 1;
                if !matches(expected, &answer) {
                    wrong.push(format!("{line}\n    answered {}", hex::encode_upper(answer)));
                }
            }
            _ => panic!("no line of an exchange: {line}"),
        }
    }
    (count, wrong)
}

/// Figure 2 of seed 2 with its mirror, names, and other pairing data, as the page has them.
#[test]
fn figure_2_and_the_other_exchanges_of_the_page() {
    let blocks = PAGE.split("```routing\n").skip(1);
    let (mut counts, mut wrong) = (vec![], vec![]);
    for block in blocks {
        let (count, not_so) = play(block.split("```").next().unwrap());
        counts.push(count);
        wrong.extend(not_so);
    }
    println!("exchanges of the page: {counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(counts.len(), 3);
}

/// The table of protocols is that of the code.
#[test]
fn the_rows_of_the_page_are_those_of_the_code() {
    for (name, protocol, interface) in PROTOCOLS.into_iter().take(7) {
        let code = protocol.code().unwrap();
        let starts = format!("| {code:02X} | ");
        let row = PAGE.lines().find(|line| line.starts_with(&starts)).unwrap();
        assert!(row.contains(&format!("| `{name}` |")), "{row}");
        let is_first = row.ends_with("| yes |");
        assert_eq!(is_first, interface.default_protocol() == protocol, "{row}");
    }
    let limit = PAGE.contains("A product adds up to eight rows");
    assert!(limit && sekisho_os::PROPRIETARY_ROWS_MAX == 8);
}
