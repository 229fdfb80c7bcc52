//! The one table of all commands (docs/spec/content.md, 8): who may, who signs what, and what is answered to whom, walked on the SE of docs/spec/loading.md, 6.
#![cfg(feature = "os-part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // test support
#![allow(clippy::print_stdout, reason = "says how much it has tried")]

use std::fmt::Write as _;

use sekisho_keys::KeySet;
use sekisho_keys::p256sig::SigningKey;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::common::host::Host;
use crate::common::issuer::scp_keys;
use crate::common::tables::Page;
use crate::common::{ByValue as _, SeededRng, send_on, sw};
use crate::load_tables::{LOADING, Loadable, made, small};

const CONTENT: Page = Page::new(include_str!("../../../../docs/spec/content.md"));

fn hex(digits: &str) -> Vec<u8> {
    hex::decode(digits.split_whitespace().collect::<String>()).unwrap()
}

/// Behind its length, which is BER.
fn lv(bytes: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let length = match (high, low) {
        (0, 0..=0x7F) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&length, bytes].concat()
}

/// A command in the extended form.
fn capdu(header: &[u8], data: &[u8]) -> Vec<u8> {
    if data.is_empty() {
        return [header, &[0]].concat();
    }
    let len = u16::try_from(data.len()).unwrap().to_be_bytes();
    [header, &[0], &len, data, &[0, 0]].concat()
}

/// A row: how a command is made, and what is answered in the columns behind.
struct Row {
    line: usize,
    name: String,
    /// AID of the security domain that it is sent to.
    at: Vec<u8>,
    needs: String,
    header: Vec<u8>,
    fields: Vec<u8>,
    /// What stands in the parameters, or behind 4F, before the reference of a token.
    parameters: Vec<u8>,
    takes_token: bool,
    takes_dap: bool,
    answers: Vec<String>,
}

/// What a token is, of a command that takes one.
#[derive(Clone, Copy, PartialEq)]
enum Token {
    Missing,
    Wrong,
    Foreign,
    Right,
}

const COLUMNS: [&str; 10] = [
    "in the clear",
    "level 00",
    "no token",
    "wrong",
    "foreign",
    "right",
    "again",
    "domain locked",
    "CARD_LOCKED",
    "TERMINATED",
];

impl Row {
    fn all() -> Vec<Self> {
        let tables = CONTENT.tables();
        let table = tables
            .iter()
            .find(|table| table.head[..2] == ["command", "to"] && table.head[2..4] == ["on", "header"])
            .unwrap_or_else(|| panic!("the page has no table of all commands"));
        assert_eq!(table.head[6..], COLUMNS);
        let cell = |cell: &str| cell.trim_matches('`').to_owned();
        let rows = table.rows.iter().map(|(line, row)| Self {
            line: *line,
            name: row[0].clone(),
            at: match &*row[1] {
                "ISD" => hex("A000000151000000"),
                "SD1" => hex("F0534B534431"),
                who => panic!("who is {who}?"),
            },
            needs: row[2].clone(),
            header: hex(&cell(&row[3])),
            fields: LOADING.bytes(&row[4]),
            parameters: hex(&cell(
                row[5]
                    .trim_end_matches("and token")
                    .trim_end_matches("and DAP block")
                    .trim(),
            )),
            takes_token: row[5].ends_with("and token"),
            takes_dap: row[5].ends_with("and DAP block"),
            answers: row[6..].to_vec(),
        });
        rows.collect()
    }

    /// The command, with a token or none.
    fn command(&self, token: Token) -> Vec<u8> {
        if self.takes_dap {
            return capdu(&self.header, &[dap_block(token), self.fields.clone()].concat());
        }
        if !self.takes_token {
            return capdu(&self.header, &[&self.fields[..], &self.parameters].concat());
        }
        let reference = match token {
            Token::Missing => vec![],
            Token::Foreign => hex("B60F 450A 534B0000000000002201 930109"),
            Token::Wrong | Token::Right => hex("B603930109"),
        };
        let parameters = [&self.parameters[..], &reference].concat();
        let is_deletion = self.header[1] == 0xE4;
        let signed = if is_deletion {
            [&self.fields[..], &parameters].concat()
        } else {
            [&self.fields[..], &lv(&parameters)].concat()
        };
        let length = lv(&signed);
        let length = match &length[..length.len() - signed.len()] {
            [0x81, low] => vec![*low],
            [0x82, high, low] => vec![0, *high, *low],
            short => short.to_vec(),
        };
        let private = LOADING.block("token-private").try_into().unwrap();
        let key = SigningKey::from_bytes(&private).unwrap();
        let mut value = key.sign_parts(&[&self.header[2..4], &length, &signed]).to_vec();
        match token {
            Token::Missing => value.clear(),
            Token::Wrong => value[7] ^= 1,
            Token::Foreign | Token::Right => {}
        }
        let tag: &[u8] = match (is_deletion, token) {
            (true, Token::Missing) => return capdu(&self.header, &signed),
            (true, _) => &[0x9E],
            (false, _) => &[],
        };
        capdu(&self.header, &[&signed[..], tag, &lv(&value)].concat())
    }
}

/// Hash of the page's load file.
fn hash() -> [u8; 32] {
    sekisho_keys::sha256(&[&LOADING.block("load-file")])
}

/// SD2's DAP block of the page's load file, before its load file data block.
fn dap_block(of: Token) -> Vec<u8> {
    let mut value = match of {
        Token::Missing => return Vec::new(),
        Token::Foreign => {
            let private = LOADING.block("token-private").try_into().unwrap();
            let key = SigningKey::from_bytes(&private).unwrap();
            key.sign_parts(&[&hash()]).to_vec()
        }
        Token::Wrong | Token::Right => LOADING.block("dap"),
    };
    if of == Token::Wrong {
        value[7] ^= 1;
    }
    [&hex("E24A 4F06F0534B534432 C340")[..], &value].concat()
}

fn send(card: &mut Loadable, command: &[u8]) -> Vec<u8> {
    send_on(card, CONTACT, command)
}

struct Bench {
    keys: KeySet,
    profile: sekisho_os::Profile,
    /// With SD1, with a load file, with its application, INSTALLED alone.
    flashes: [(&'static str, RamFlash); 5],
}

const CONTACT: Interface = Interface::Iso7816Contact;
const ISD: &str = "A000000151000000";

/// What leads from a new SE to each of these states, one behind the other.
fn steps() -> [(&'static str, Vec<Vec<u8>>); 4] {
    let public = LOADING.block("token-public");
    let token_key = [&hex("70B041")[..], &public, &hex("F0010000")].concat();
    let domain = hex("07A0000001515350 08A000000151535041 06F0534B534431 03A00000 0000");
    let file = LOADING.block("load-file");
    [
        (
            "nothing",
            vec![
                capdu(&hex("80D80001"), &token_key),
                capdu(&hex("80E60C00"), &domain),
            ],
        ),
        (
            "load file",
            vec![
                capdu(&hex("80E60200"), &hex("06F0534B4C4600 06F0534B534431 000000")),
                capdu(&hex("80E88000"), &[&[0xC4], &lv(&file)[..]].concat()),
            ],
        ),
        (
            "INSTALLED",
            vec![capdu(
                &hex("80E60400"),
                &hex("06F0534B4C4600 07F0534B4C460001 07F0534B4C460101 0002C90000"),
            )],
        ),
        (
            "application",
            vec![
                capdu(&hex("80E60800"), &hex("0000 07F0534B4C460101 000000")),
                capdu(
                    &hex("80E61000"),
                    &hex("06F0534B534431 00 07F0534B4C460101 000000"),
                ),
            ],
        ),
    ]
}

impl Bench {
    fn new() -> Self {
        let (keys, profile) = (scp_keys(LOADING), small());
        let mut bench = Self {
            keys,
            profile,
            flashes: ["nothing", "load file", "application", "INSTALLED", "verifier"]
                .map(|name| (name, made())),
        };
        let mut flash = made();
        for (name, commands) in steps() {
            let mut card = bench.boot(flash);
            let mut host = bench.open(&mut card, &hex(ISD), SecurityLevel::FULL).unwrap();
            for command in commands {
                assert_eq!(sw(&host.send(&mut card, &command)), 0x9000, "{command:02X?}");
            }
            flash = card.into_flash();
            let at = bench.flashes.iter_mut().find(|(of, _)| *of == name).unwrap();
            at.1 = flash.clone();
        }
        bench.make_verifier();
        // Alone it is SD1's as well.
        let at = bench
            .flashes
            .iter()
            .position(|(of, _)| *of == "INSTALLED")
            .unwrap();
        let mut card = bench.boot(bench.flashes[at].1.clone());
        let mut host = bench.open(&mut card, &hex(ISD), SecurityLevel::FULL).unwrap();
        let give = capdu(
            &hex("80E61000"),
            &hex("06F0534B534431 00 07F0534B4C460101 000000"),
        );
        assert_eq!(sw(&host.send(&mut card, &give)), 0x9000);
        bench.flashes[at].1 = card.into_flash();
        bench
    }

    /// SD2 looks at whatever is loaded.
    fn make_verifier(&mut self) {
        let mut card = self.card("nothing");
        let domain = hex("07A0000001515350 08A000000151535041 06F0534B534432 03C10000 0000");
        let key = [&hex("73B041")[..], &LOADING.block("dap-public"), &hex("F0010000")].concat();
        let steps = [
            (ISD, capdu(&hex("80E60C00"), &domain)),
            ("F0534B534432", capdu(&hex("80D80001"), &key)),
        ];
        for (at, command) in steps {
            let mut host = self.open(&mut card, &hex(at), SecurityLevel::FULL).unwrap();
            assert_eq!(sw(&host.send(&mut card, &command)), 0x9000, "{command:02X?}");
        }
        let at = self.flashes.iter_mut().find(|(of, _)| *of == "verifier").unwrap();
        at.1 = card.into_flash();
    }

    fn boot(&self, flash: RamFlash) -> Loadable {
        Loadable::booted(flash, SeededRng(2), &self.profile).unwrap()
    }

    fn card(&self, needs: &str) -> Loadable {
        let of = match needs {
            "announced" => "nothing",
            "announced to a verifier" => "verifier",
            needs => needs,
        };
        let found = self.flashes.iter().find(|(name, _)| *name == of);
        self.boot(found.unwrap_or_else(|| panic!("what is {needs}?")).1.clone())
    }

    fn open(&self, card: &mut Loadable, aid: &[u8], level: SecurityLevel) -> Option<Host> {
        if sw(&send(card, &capdu(&hex("00A40400"), aid))) & 0xFF00 == 0x6A00 {
            return None;
        }
        Host::open_on(card, CONTACT, 0, 0, &self.keys, level, MacMode::S8).ok()
    }

    /// Sends a row's command through a channel.
    fn sent(&self, host: &mut Host, card: &mut Loadable, row: &Row, token: Token) -> u16 {
        if row.needs.starts_with("announced") {
            let announce = [&hex("06F0534B4C4600 00 20")[..], &hash(), &hex("0000")].concat();
            host.send(card, &capdu(&hex("80E60200"), &announce));
        }
        sw(&host.send(card, &row.command(token)))
    }

    fn answer(&self, row: &Row, column: &str) -> Option<u16> {
        let mut card = self.card(&row.needs);
        let level = SecurityLevel::FULL;
        let of_token = match column {
            "no token" => Some(Token::Missing),
            "wrong" => Some(Token::Wrong),
            "foreign" => Some(Token::Foreign),
            _ => None,
        };
        if of_token.is_some() && !row.takes_token && !row.takes_dap {
            return None;
        }
        match column {
            "in the clear" => {
                send(&mut card, &capdu(&hex("00A40400"), &row.at));
                Some(sw(&send(&mut card, &row.command(Token::Right))))
            }
            "level 00" => {
                let level = SecurityLevel::from_p1(0).unwrap();
                let mut host = self.open(&mut card, &row.at, level).unwrap();
                Some(sw(&host.send(&mut card, &row.command(Token::Right))))
            }
            "again" => {
                if matches!(row.header[1], 0x50 | 0xA4 | 0x70 | 0x82) {
                    return None;
                }
                let mut host = self.open(&mut card, &row.at, level).unwrap();
                let first = self.sent(&mut host, &mut card, row, Token::Right);
                assert_eq!(first, 0x9000, "{}", row.name);
                Some(self.sent(&mut host, &mut card, row, Token::Right))
            }
            "domain locked" => {
                if row.at == hex(ISD) {
                    return None;
                }
                let mut host = self.open(&mut card, &row.at, level).unwrap();
                assert_eq!(
                    sw(&host.send(&mut card, &capdu(&hex("80F04080"), &row.at))),
                    0x9000
                );
                // The channel has ended with it.
                Some(sw(&send(&mut card, &row.command(Token::Right))))
            }
            "CARD_LOCKED" | "TERMINATED" => {
                let mut host = self.open(&mut card, &hex(ISD), level).unwrap();
                let to = if column == "CARD_LOCKED" {
                    "80F0807F"
                } else {
                    "80F080FF"
                };
                let command = [&hex(to)[..], &[0]].concat();
                assert_eq!(sw(&host.send(&mut card, &command)), 0x9000);
                if row.header[1] == 0xA4 {
                    return Some(sw(&send(&mut card, &row.command(Token::Right))));
                }
                // Who has locked it asks: nobody else is selected any more.
                Some(sw(&host.send(&mut card, &row.command(Token::Right))))
            }
            _ => {
                let mut host = self.open(&mut card, &row.at, level).unwrap();
                Some(self.sent(&mut host, &mut card, row, of_token.unwrap_or(Token::Right)))
            }
        }
    }
}

#[test]
fn every_cell_of_the_table_of_all_commands() {
    let bench = Bench::new();
    let rows = Row::all();
    let (mut wrong, mut cells) = (String::new(), 0);
    for row in &rows {
        for (column, cell) in COLUMNS.iter().zip(&row.answers) {
            let answer = bench.answer(row, column);
            let answer = answer.map_or(String::new(), |word| format!("{word:04X}"));
            cells += 1;
            if answer != *cell {
                let _ = writeln!(
                    wrong,
                    "line {}: {}, {column}: {answer}, not {cell}",
                    row.line, row.name
                );
            }
        }
    }
    println!("{} rows, {cells} cells", rows.len());
    assert!(wrong.is_empty(), "the page and the card differ:\n{wrong}");
}

/// Section 9: each row's test is there, and each command of section 8 has a row.
#[test]
fn what_is_there_has_a_test_of_its_own() {
    let page = include_str!("../../../../docs/spec/content.md");
    let table = page.split("\n## 9 ").nth(1).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(".rs`: `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 19);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for row in rows {
        let [_, section, _, _, _, test] = row[..] else {
            panic!("{row:?}");
        };
        assert!(!section.is_empty());
        let (file, name) = test.trim_matches('`').split_once("`: `").unwrap();
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        // Scripts are named in a list of which a macro makes tests.
        let is_there = text.contains(&format!("fn {name}()")) || text.contains(&format!(" {name} "));
        assert!(is_there, "{test}");
    }
}
