//! The table of docs/spec/broadcast-update.md, 8.1: a file made by it is read, and the file that is made has its fields and no others.
#![allow(clippy::unwrap_used, clippy::panic)]

use sekisho_hsm::design::Ceremony;
use sekisho_hsm::{PersoFile, SoftHsm};
use sekisho_link::SeId;
use serde_json::{Map, Value, json};

const PAGE: &str = include_str!("../../../../docs/spec/broadcast-update.md");

struct Field {
    name: String,
    /// Lengths in bytes; none for what is not hex.
    lengths: Vec<usize>,
    is_flag: bool,
    may_be_missing: bool,
    /// Missing it means what it says, and is left out when a file is made.
    has_default: bool,
}

fn fields() -> Vec<Field> {
    let (_, table) = PAGE
        .split_once("| field | bytes | what | may be missing |\n")
        .unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let field = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        Field {
            name: cells[1].trim_matches('`').to_owned(),
            lengths: cells[2]
                .split(", ")
                .filter_map(|text| text.parse().ok())
                .collect(),
            is_flag: cells[2] == "true or false",
            may_be_missing: cells[4].starts_with("yes"),
            has_default: cells[4].starts_with("yes: "),
        }
    };
    rows.map(field).collect()
}

/// A value of that length, different in each field.
fn value(at: usize, field: &Field, length: usize) -> Value {
    match (&*field.name, length) {
        (_, 0) if field.is_flag => json!(true),
        (_, 0) => json!(0x30),
        // A public key is a point: the page's own.
        ("designer", _) => {
            let (_, after) = PAGE.split_once("```hex designer-public\n").unwrap();
            let (digits, _) = after.split_once("```").unwrap();
            json!(digits.split_whitespace().collect::<String>())
        }
        _ => json!(hex::encode(vec![u8::try_from(at).unwrap() + 1; length])),
    }
}

/// The file as the page says, each value with the longest or the shortest length.
fn file(longest: bool) -> Map<String, Value> {
    let made = fields().into_iter().enumerate().map(|(at, field)| {
        let length = if longest {
            field.lengths.last()
        } else {
            field.lengths.first()
        };
        let value = value(at, &field, length.copied().unwrap_or(0));
        (field.name, value)
    });
    made.collect()
}

/// Reads the file as a card does; the first error in words.
fn read(file: &Map<String, Value>) -> Result<Vec<String>, String> {
    let text = Value::Object(file.clone()).to_string();
    let read = || -> sekisho_hsm::Result<Vec<String>> {
        let perso = PersoFile::parse(&text)?;
        let scp = perso.scp()?;
        let mut found = vec![perso.se_id()?.to_string()];
        let keys = perso.product_keys()?;
        let files = perso.file_keys()?;
        let keys = [scp.enc, scp.mac, scp.dek].into_iter().chain(keys);
        found.extend(keys.map(|key| hex::encode(key.as_bytes())));
        found.push(hex::encode(perso.designer()?));
        found.extend(perso.paging_root()?.map(hex::encode));
        found.extend(files.into_iter().flatten().map(|key| hex::encode(key.as_bytes())));
        Ok(found)
    };
    read().map_err(|error| error.to_string())
}

#[test]
fn a_file_made_by_the_page_is_read() {
    for longest in [false, true] {
        let file = file(longest);
        let written = fields().into_iter().map(|field| file[&field.name].clone());
        let written: Vec<_> = written
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect();
        assert_eq!(read(&file), Ok(written));
    }
}

#[test]
fn what_the_page_does_not_allow_is_refused() {
    let whole = file(false);
    for field in fields() {
        let mut without = whole.clone();
        without.remove(&field.name);
        if field.name.starts_with("file_") {
            // They belong together.
            assert!(read(&without).is_err(), "without {}", field.name);
            without.retain(|name, _| !name.starts_with("file_"));
        }
        assert_eq!(
            read(&without).is_ok(),
            field.may_be_missing,
            "without {}",
            field.name
        );
        if !field.lengths.is_empty() {
            let mut short = whole.clone();
            short.insert(field.name.clone(), json!("00"));
            assert!(read(&short).is_err(), "one byte of {}", field.name);
        }
    }
    let mut more = whole;
    more.insert("unknown".to_owned(), json!("00"));
    assert!(read(&more).is_err(), "a field that the page does not name");
}

#[test]
fn the_file_that_is_made_has_the_fields_of_the_page() {
    let hsm = SoftHsm::generate().unwrap();
    let made = PersoFile::new(&hsm, &Ceremony::generate().unwrap(), SeId([1; 10])).unwrap();
    let Value::Object(made) = serde_json::to_value(&made).unwrap() else {
        panic!("no object");
    };
    let always = fields().into_iter().filter(|field| !field.has_default);
    let mut of_page: Vec<_> = always.map(|field| field.name).collect();
    let mut of_file: Vec<_> = made.keys().cloned().collect();
    of_page.sort_unstable();
    of_file.sort_unstable();
    assert_eq!(of_file, of_page);
}
