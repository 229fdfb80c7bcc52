//! The tables of docs/spec/broadcast-update.md, 8.1: files made by them are read, and the files that are made have their fields and no others.

use sekisho_hsm::design::Ceremony;
use sekisho_hsm::{PersoFile, ProductFile, SoftHsm};
use sekisho_keys::AesKey;
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

const PERSO: &str = "field";
const PRODUCT: &str = "field of a product";

fn fields(of: &str) -> Vec<Field> {
    let (_, table) = PAGE
        .split_once(&format!("| {of} | bytes | what | may be missing |\n"))
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
fn file(of: &str, longest: bool) -> Map<String, Value> {
    let made = fields(of).into_iter().enumerate().map(|(at, field)| {
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

fn hexed(key: &AesKey) -> String {
    hex::encode(key.as_bytes())
}

/// Reads a file as a card does, its values in the page's order; the first error in words.
fn read(of: &str, file: &Map<String, Value>) -> Result<Vec<String>, String> {
    let text = Value::Object(file.clone()).to_string();
    let perso = || -> sekisho_hsm::Result<Vec<String>> {
        let perso = PersoFile::parse(&text)?;
        let scp = perso.scp()?;
        let mut found = vec![perso.se_id()?.to_string()];
        let keys = [scp.enc, scp.mac, scp.dek, perso.k_aut()?];
        found.extend(keys.iter().map(hexed));
        found.extend(perso.paging_root()?.map(hex::encode));
        found.extend(perso.file_keys()?.iter().flatten().map(hexed));
        assert!(perso.product()?.is_none());
        Ok(found)
    };
    let product = || -> sekisho_hsm::Result<Vec<String>> {
        let product = ProductFile::parse(&text)?;
        let mut found: Vec<_> = product.keys()?.iter().map(hexed).collect();
        found.push(hex::encode(product.designer()?));
        Ok(found)
    };
    let read = if of == PERSO { perso() } else { product() };
    read.map_err(|error| error.to_string())
}

#[test]
fn a_file_made_by_the_page_is_read() {
    for of in [PERSO, PRODUCT] {
        for longest in [false, true] {
            let file = file(of, longest);
            let written = fields(of).into_iter().map(|field| file[&field.name].clone());
            let written: Vec<_> = written
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            assert_eq!(read(of, &file), Ok(written));
        }
    }
}

#[test]
fn what_the_page_does_not_allow_is_refused() {
    for of in [PERSO, PRODUCT] {
        let whole = file(of, false);
        for field in fields(of) {
            let mut without = whole.clone();
            without.remove(&field.name);
            if field.name.starts_with("file_") {
                // They belong together.
                assert!(read(of, &without).is_err(), "without {}", field.name);
                without.retain(|name, _| !name.starts_with("file_"));
            }
            assert_eq!(
                read(of, &without).is_ok(),
                field.may_be_missing,
                "without {}",
                field.name
            );
            if !field.lengths.is_empty() {
                let mut short = whole.clone();
                short.insert(field.name.clone(), json!("00"));
                assert!(read(of, &short).is_err(), "one byte of {}", field.name);
            }
        }
        let mut more = whole;
        more.insert("unknown".to_owned(), json!("00"));
        assert!(read(of, &more).is_err(), "a field that the page does not name");
    }
}

#[test]
fn a_file_of_0_1_has_its_product_and_half_a_product_is_refused() {
    let product = file(PRODUCT, false);
    let mut both = file(PERSO, false);
    for name in ["kos", "k_mac", "designer"] {
        both.insert(name.to_owned(), product[name].clone());
    }
    let parse =
        |file: &Map<String, Value>| PersoFile::parse(&Value::Object(file.clone()).to_string()).unwrap();
    let found = parse(&both).product().unwrap().unwrap();
    assert_eq!(found.designer, product["designer"]);
    assert_eq!(
        (found.kos.as_str(), found.key_version),
        (product["kos"].as_str().unwrap(), 1)
    );
    for name in ["kos", "k_mac", "designer"] {
        let mut half = both.clone();
        half.remove(name);
        assert!(parse(&half).product().is_err(), "without {name}");
    }
}

#[test]
fn a_batch_is_a_list_of_different_cards() {
    let hsm = SoftHsm::generate().unwrap();
    let files = [1, 2].map(|n| PersoFile::new(&hsm, SeId([n; 10])).unwrap());
    let batch = serde_json::to_string(&files).unwrap();
    let ids = PersoFile::parse_batch(&batch).unwrap();
    assert_eq!(ids.len(), 2);
    let one = serde_json::to_string(&files[0]).unwrap();
    assert_eq!(PersoFile::parse_batch(&one).unwrap().len(), 1);
    for wrong in [
        format!("[{one},{one}]"),
        "[]".to_owned(),
        "[{}]".to_owned(),
        String::new(),
    ] {
        assert!(PersoFile::parse_batch(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_files_that_are_made_have_the_fields_of_the_page() {
    let hsm = SoftHsm::generate().unwrap();
    let perso = serde_json::to_value(PersoFile::new(&hsm, SeId([1; 10])).unwrap());
    let ceremony = Ceremony::generate().unwrap();
    let product = serde_json::to_value(ProductFile::new(&ceremony));
    for (of, made) in [(PERSO, perso.unwrap()), (PRODUCT, product.unwrap())] {
        let always = fields(of).into_iter().filter(|field| !field.has_default);
        let mut of_page: Vec<_> = always.map(|field| field.name).collect();
        let mut of_file: Vec<_> = made.as_object().unwrap().keys().cloned().collect();
        of_page.sort_unstable();
        of_file.sort_unstable();
        assert_eq!(of_file, of_page);
    }
    let later = ProductFile::new(&ceremony.with_key_version(7));
    assert_eq!(serde_json::to_value(later).unwrap()["key_version"], 7);
}
