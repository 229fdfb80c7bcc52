//! The tables of the specification pages that say what the server answers to devices, walked row by row (broadcast-update.md, 5.3).

use crate::support;
use sekisho_apdu::StatusWord;
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_keys::p256sig::SigningKey;
use sekisho_link::{Campaign, Custody, Manifest, Package, Receipt, Refusal, SeId, codes};
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_paging::recovery::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{Fixture, answer, package_of, public, receipt_of, refusal_of, signed};

const BROADCAST_UPDATE: &str = include_str!("../../../../docs/spec/broadcast-update.md");
const PAGING: &str = include_str!("../../../../docs/spec/paging.md");

/// `{se-id}`, `{se-id-2}` and `{se-id-3}`.
const SES: [SeId; 3] = [SeId([0xA1; 10]), SeId([0xA2; 10]), SeId([0xA3; 10])];

/// The bytes of the block ```` ```hex NAME ````.
fn block(page: &str, name: &str) -> Vec<u8> {
    let (_, after) = page.split_once(&format!("```hex {name}\n")).unwrap();
    let (digits, _) = after.split_once("```").unwrap();
    hex::decode(digits.split_whitespace().collect::<String>()).unwrap()
}

/// What the page's names stand for, in hex but for `{sha256}` in a header, which is the same digits.
type Names = BTreeMap<String, String>;

fn filled_in(names: &Names, text: &str) -> String {
    let mut filled = text.to_owned();
    for (name, value) in names {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    assert!(!filled.contains('{'), "the page does not say what {filled} is");
    filled
}

fn body(names: &Names, cell: &str) -> Vec<u8> {
    let cell = cell.trim_matches('`');
    if let Some(size) = cell
        .strip_prefix("{size ")
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return vec![0; size.parse().unwrap()];
    }
    let digits: String = filled_in(names, cell).split_whitespace().collect();
    hex::decode(&digits).unwrap_or_else(|e| panic!("{cell}: {e}"))
}

/// Whether bytes look like a pattern of hex, `??` for any byte and `...` for any number of them.
fn looks_like(pattern: &str, bytes: &[u8]) -> bool {
    let pieces: Vec<String> = pattern
        .split("...")
        .map(|piece| piece.split_whitespace().collect())
        .collect();
    let digits = hex::encode(bytes);
    let fits = |piece: &str, at: usize| {
        digits.get(at..at + piece.len()).is_some_and(|text| {
            text.bytes()
                .zip(piece.bytes())
                .all(|(digit, wanted)| wanted == b'?' || digit == wanted)
        })
    };
    let mut at = 0;
    for (number, piece) in pieces.iter().enumerate() {
        let is_last = number + 1 == pieces.len();
        let found = match (number, is_last) {
            (0, _) => Some(0).filter(|at| fits(piece, *at)),
            (_, true) => digits.len().checked_sub(piece.len()),
            _ => (at..digits.len()).step_by(2).find(|at| fits(piece, *at)),
        };
        match found.filter(|found| *found >= at && fits(piece, *found)) {
            Some(found) => at = found + piece.len(),
            None => return false,
        }
    }
    pieces.len() > 1 || at == digits.len()
}

/// One row: what is wrong with it, if anything.
fn row(f: &Fixture, names: &Names, cells: &[&str]) -> Option<String> {
    let [request, token, more, sent, status, wanted] = cells[..] else {
        panic!("{cells:?} has not six cells");
    };
    let request = filled_in(names, request.trim_matches('`'));
    let (method, path) = request.split_once(' ').unwrap();
    let se_id = path.split('/').nth(3).and_then(|text| text.parse().ok());
    let token = match token {
        "none" => None,
        "wrong" => Some("0".repeat(32)),
        "its own" => Some(f.link_token(se_id.unwrap())),
        "administrator" => Some(f.server.admin_token.clone()),
        other => panic!("what is the token {other:?}?"),
    };
    let mut builder = ureq::http::Request::builder().method(method).uri(f.url(path));
    if let Some(token) = token {
        builder = builder.header("Authorization", format!("Bearer {token}"));
    }
    for header in more.split('`').skip(1).step_by(2) {
        let (name, value) = header.split_once(": ").unwrap();
        builder = builder.header(name, filled_in(names, value));
    }
    let response = match method {
        "POST" => f.http.run(builder.body(body(names, sent)).unwrap()),
        _ => f.http.run(builder.body(()).unwrap()),
    };
    let response = match response {
        Ok(response) => response,
        // The server may hang up before it has read what is too much.
        Err(_) if status == "413" => return None,
        Err(error) => return Some(error.to_string()),
    };
    let retry_after = response.headers().get("retry-after").cloned();
    let (got, kind, content) = answer(response);
    let (wanted, header) = wanted.split_once(", ").unwrap_or((wanted, ""));
    let is_right = match wanted {
        "problem" => {
            let problem = serde_json::from_slice::<Value>(&content).unwrap_or_default();
            let words = |name: &str| problem[name].as_str().is_some_and(|text| !text.is_empty());
            kind == "application/problem+json"
                && problem["status"] == json!(got)
                && ["type", "title", "detail"].into_iter().all(words)
        }
        "nothing" => content.is_empty(),
        bytes if bytes.ends_with(" bytes") => {
            kind == "application/octet-stream" && bytes == format!("{} bytes", content.len())
        }
        "text" => !content.is_empty() && kind.starts_with("text/plain"),
        "JSON" => kind == "application/json" && serde_json::from_slice::<Value>(&content).is_ok(),
        pattern => {
            kind == "application/octet-stream"
                && looks_like(&filled_in(names, pattern.trim_matches('`')), &content)
        }
    };
    let is_timed = match header.trim_matches('`').strip_prefix("Retry-After: ") {
        Some(seconds) => retry_after.is_some_and(|value| value == seconds),
        None => retry_after.is_none(),
    };
    let shown = String::from_utf8_lossy(&content);
    (got.to_string() != status || !is_right || !is_timed).then(|| {
        format!(
            "answered {got} {kind} {} {shown}",
            hex::encode(&content[..content.len().min(300)])
        )
    })
}

/// Walks the table of a page: how many rows it has, and what differs.
fn walk(f: &Fixture, names: &Names, page: &str) -> (usize, Vec<String>) {
    let (mut rows, mut wrong, mut inside) = (0, Vec::new(), false);
    for (number, line) in (1..).zip(page.lines()) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        inside = (inside && line.starts_with('|'))
            || cells == ["request", "token", "more headers", "body", "status", "answer"];
        if inside && line.starts_with("| `") {
            rows += 1;
            wrong.extend(row(f, names, &cells).map(|why| format!("line {number}: {line}: {why}")));
        }
    }
    (rows, wrong)
}

/// A campaign of the package for the first SE, not started.
fn campaign(f: &Fixture, package_id: &Value) -> Campaign {
    let wanted = json!({ "name": "test", "package_id": package_id, "attempts_max": 2 });
    let made = f.admin("/api/v1/campaigns", wanted.to_string().as_bytes());
    made["id"].as_str().unwrap().parse().unwrap()
}

fn state(manifest: &Manifest, staging: u8, campaign: Campaign, next: u16) -> String {
    format!(
        "0101000000 0001{:02x}{staging:02x}{campaign}{next:04x}",
        manifest.abi
    )
    .replace(' ', "")
}

/// The receipt of an update to the package.
fn receipt(hsm: &SoftHsm, manifest: &Manifest, campaign: Campaign) -> Receipt {
    let receipt = Receipt {
        action: codes::ACTION_ACTIVATE,
        target: manifest.target,
        campaign,
        previous_version: 1,
        version: manifest.version,
        digest: manifest.digest,
        mac: [0; 16],
    };
    receipt_of(hsm, SES[0], receipt)
}

/// The refusal to activate the package, in hex.
fn refusal(hsm: &SoftHsm, manifest: &Manifest, campaign: Campaign, sequence_counter: u32) -> String {
    let refusal = Refusal {
        action: codes::ACTION_ACTIVATE,
        target: manifest.target,
        campaign,
        sequence_counter,
        sw: StatusWord(0x9505),
        block: 2,
        version: 1,
        digest: manifest.digest,
        mac: [0; 16],
    };
    hex::encode(refusal_of(hsm, SES[0], refusal).encode())
}

/// A package that says at this byte that there are two parts in it, or two bytes of P_MOB; in hex.
fn later(package: &[u8], signer: &SigningKey, at: usize) -> String {
    let mut unsigned = package[..package.len() - 64].to_vec();
    unsigned[at] = 2;
    hex::encode(signed(&unsigned, signer))
}

/// The page's module as a package of a version.
fn packed(ceremony: &Ceremony, version: u32) -> Vec<u8> {
    let options = PackOptions {
        version,
        min_previous: 1,
        custody: Custody::Hsm,
    };
    let module = block(BROADCAST_UPDATE, "module");
    ceremony.pack(&module, options).unwrap()
}

/// A server as the page says, and its table walked.
async fn walk_broadcast_update(page: &str) -> (usize, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let ceremony = Ceremony::generate().unwrap();
    let [package, package_3] = [2, 3].map(|version| packed(&ceremony, version));
    let [manifest, manifest_3] =
        [&package, &package_3].map(|package| Package::decode(package).unwrap().source.manifest);
    let register = |se_id: SeId| json!([{ "se_id": se_id.to_string(), "kvn": 0x30 }]).to_string();
    f.admin("/api/v1/devices", register(SES[0]).as_bytes());
    let designer = hex::encode(ceremony.designer_public());
    let [first, second, third, fourth] = [&package, &package, &package_3, &package].map(|package| {
        let uploaded = f.admin(&format!("/api/v1/packages?designer={designer}"), package);
        campaign(&f, &uploaded["package_id"])
    });
    let (keys, key_manifest, signer) = package_of(2, 2, 1);
    let path = format!("/api/v1/packages?designer={}", public(&signer));
    let uploaded = f.admin(&path, &keys);
    let [key_change, another] = [(); 2].map(|()| campaign(&f, &uploaded["package_id"]));
    let delivery = |id: Campaign| f.get(&format!("/device/v1/deliveries/{id}"), "", None).2;
    let sha256 = |id: Campaign| hex::encode(sekisho_keys::sha256(&[&delivery(id)]));
    let names = [
        ("se-id", SES[0].to_string()),
        ("se-id-2", SES[1].to_string()),
        ("se-id-3", SES[2].to_string()),
        ("SE-ID", SES[0].to_string().to_uppercase()),
        ("campaign", first.to_string()),
        ("CAMPAIGN", first.to_string().to_uppercase()),
        ("campaign-2", second.to_string()),
        ("campaign-3", third.to_string()),
        ("campaign-4", fourth.to_string()),
        ("key-campaign", key_change.to_string()),
        ("key-campaign-2", another.to_string()),
        ("delivery-bytes", format!("{:08x}", delivery(first).len())),
        ("sha256", sha256(first)),
        ("sha256-3", sha256(third)),
        ("staged-3", state(&manifest, 2, third, 2)),
        (
            "key-state",
            "0102 00 00000001 00 00 0000000000000000 0000".replace(' ', ""),
        ),
        (
            "key-receipt",
            hex::encode(receipt(&f.hsm, &key_manifest, key_change).encode()),
        ),
        ("refusal-8", refusal(&f.hsm, &manifest_3, third, 8)),
        ("refusal-9", refusal(&f.hsm, &manifest_3, third, 9)),
        ("designer", public(&signer)),
        ("package-of-two-parts", later(&keys, &signer, 6)),
        ("package-with-p-mob", later(&keys, &signer, 7 + 64 + 64 + 16 + 3)),
        ("package-of-target-03", hex::encode(package_of(3, 2, 1).0)),
        ("state", state(&manifest, 0, Campaign(0), 0)),
        ("staged", state(&manifest, 2, first, 2)),
        (
            "state-2",
            state(&manifest, 0, Campaign(0), 0).replacen("00000001", "00000002", 1),
        ),
        ("receipt", hex::encode(receipt(&f.hsm, &manifest, first).encode())),
        ("register-2", hex::encode(register(SES[1]))),
    ];
    let names = names
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let walked = walk(&f, &names, page);
    f.server.stop().await;
    walked
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcast_update() {
    let (rows, wrong) = walk_broadcast_update(BROADCAST_UPDATE).await;
    println!("broadcast-update.md: {rows} requests");
    assert!(wrong.is_empty(), "page and server differ:\n{}", wrong.join("\n"));
    assert!(rows >= 120);
}

/// What a device without an identity, or with a new key pair, asks (paging.md, 8.1).
#[tokio::test(flavor = "multi_thread")]
async fn paging() {
    let folder = tempfile::tempdir().unwrap();
    let f = Fixture::start(folder.path(), &Arc::new(SoftHsm::generate().unwrap())).await;
    let wanted = json!({ "se_ids": [SES[0].to_string()] });
    f.admin("/api/v1/paging/devices", wanted.to_string().as_bytes());
    let recovery_key = |se_id| Root::new(f.hsm.paging_root(se_id).unwrap()).recovery_key();
    let request = |se_id: SeId| {
        let request = Request {
            se_id: se_id.0,
            keyspace: Keyspace::default(),
            nonce: [7; 16],
        };
        hex::encode(request.seal(&recovery_key(se_id)))
    };
    let key = SigningKey::from_bytes(&[0x11; 32]).unwrap();
    let public = key.verifying_key().to_sec1();
    let signature = key.sign_parts(&[&SES[0].0, &public]);
    let proof = recovery_key(SES[0]).new_key_proof(&SES[0].0, &public);
    let names = [
        ("se-id", SES[0].to_string()),
        ("se-id-3", SES[2].to_string()),
        ("request", request(SES[0])),
        ("request-3", request(SES[2])),
        ("key", hex::encode([&public[..], &signature].concat())),
        ("proof", hex::encode(proof)),
    ];
    let names = names
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let (rows, wrong) = walk(&f, &names, PAGING);
    println!("paging.md: {rows} requests");
    assert!(
        wrong.is_empty() && rows > 10,
        "page and server differ:\n{}",
        wrong.join("\n")
    );
    f.server.stop().await;
}

/// A status, a body and a header that the page does not say are found.
#[tokio::test(flavor = "multi_thread")]
async fn one_changed_word_is_found() {
    for (said, changed) in [
        ("| 409 | problem |", "| 403 | problem |"),
        ("| 501 | problem |", "| 400 | problem |"),
        ("| 206 | `534b444c01` |", "| 206 | `534b444c02` |"),
        ("| 425 | problem, `Retry-After: 30` |", "| 425 | problem |"),
    ] {
        assert!(BROADCAST_UPDATE.contains(said), "the page does not say {said}");
        let (_, wrong) = walk_broadcast_update(&BROADCAST_UPDATE.replacen(said, changed, 1)).await;
        assert_eq!(wrong.len(), 1, "{said} may say anything: {wrong:?}");
    }
}
