//! The worked example of docs/spec/broadcast-update.md, section 6, computed anew and compared with the page.

use sekisho_apdu::{Aid, StatusWord, Writer};
use sekisho_hsm::design::{Ceremony, PackOptions, verify};
use sekisho_hsm::{
    AuthoriseRequest, ChangeOptions, Hsm, IndividualKey, KVN_SCP, SoftHsm, authorise, broadcast_package,
};
use sekisho_keys::p256sig::{SigningKey, VerifyingKey};
use sekisho_keys::{AesKey, cmac, sha256};
use sekisho_link::*;
use sekisho_scp::MacMode;
use sekisho_scp::host::{Challenge, pseudo_random_card_challenge};

const PAGE: &str = include_str!("../../../../docs/spec/broadcast-update.md");

/// The block ```` ```hex NAME ```` of the page, its digits without white space.
fn block(name: &str) -> String {
    let start = format!("```hex {name}\n");
    let at = PAGE
        .find(&start)
        .unwrap_or_else(|| panic!("the page has no block {name}"))
        + start.len();
    let end = PAGE[at..].find("```").unwrap();
    PAGE[at..at + end].split_whitespace().collect()
}

fn given(name: &str) -> Vec<u8> {
    hex::decode(block(name)).unwrap()
}

/// Compares, and on a difference prints what the block should be.
fn check(name: &str, computed: &[u8]) {
    let computed = hex::encode(computed);
    let lines: Vec<_> = computed
        .as_bytes()
        .chunks(96)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    assert_eq!(
        block(name),
        computed,
        "\n```hex {name}\n{}\n```",
        lines.join("\n")
    );
}

fn ceremony() -> Ceremony {
    let key = |name| AesKey::new(&given(name)).unwrap();
    let designer = SigningKey::from_bytes(&given("designer-private").try_into().unwrap()).unwrap();
    Ceremony::from_keys(key("kos"), key("k-mac"), designer)
}

fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), BufferFull>) -> Vec<u8> {
    let mut buf = vec![0; 8192];
    let mut out = Writer::new(&mut buf);
    write(&mut out).unwrap();
    out.written().to_vec()
}

fn package(custody: Custody) -> Vec<u8> {
    let broadcast = match custody {
        Custody::Hsm => None,
        Custody::DesignSystem => {
            let key = |name| AesKey::new(&given(name)).unwrap();
            Some((
                key("bk-enc-03"),
                key("bk-mac-03"),
                given("chaining-03").try_into().unwrap(),
            ))
        }
    };
    let options = PackOptions {
        version: 2,
        min_previous: 1,
        custody,
    };
    let package_id = given("package-id").try_into().unwrap();
    ceremony()
        .pack_with(&given("module"), options, package_id, broadcast)
        .unwrap()
}

fn hsm() -> SoftHsm {
    SoftHsm::from_keys(&given("hsm-keys")).unwrap()
}

fn se_id() -> SeId {
    SeId(given("se-id").try_into().unwrap())
}

fn campaign() -> Campaign {
    Campaign(u64::from_be_bytes(given("campaign").try_into().unwrap()))
}

#[test]
fn keys_of_the_se() {
    let keys = hsm().perso(se_id()).unwrap();
    check("k-enc", keys.scp.enc.as_bytes());
    check("k-mac-scp", keys.scp.mac.as_bytes());
    check("k-dek", keys.scp.dek.as_bytes());
    check("k-aut", keys.k_aut.as_bytes());
    // Its generation of the next key set, as a server meets it: by its codes.
    let next = AesKey::new(&given("k-aut-31")).unwrap();
    let code = hsm().mac_with_k_aut(se_id(), 0x31, b"code").unwrap();
    assert_eq!(code, cmac(&next, &[b"code"]));
    check("designer-public", &ceremony().designer_public());
}

/// A script of the page in the clear (4.5): the two commands of the channel, and those given.
fn script(splices: &[u8], commands: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(splices.len()).unwrap()];
    bytes.extend(splices);
    bytes.push(u8::try_from(2 + commands.len()).unwrap());
    let channel = [
        [&[0x80, 0x50, KVN_SCP, 0x00, 0x08][..], &[0; 9]].concat(),
        vec![0x84, 0x82, 0x33, 0x00],
    ];
    for command in channel.iter().chain(commands) {
        bytes.extend(u16::try_from(command.len()).unwrap().to_be_bytes());
        bytes.extend(command);
    }
    bytes
}

/// A command of it.
fn clear(header: [u8; 4], data: &[&[u8]]) -> Vec<u8> {
    let data = data.concat();
    let lc = [u8::try_from(data.len()).unwrap()];
    let lc = if data.is_empty() { &[][..] } else { &lc };
    [&header[..], lc, &data, &[0]].concat()
}

fn key_set(custody: Custody) -> Vec<u8> {
    let first = given("campaign");
    let counter = [0, 0, 0, 1];
    match custody {
        Custody::Hsm => {
            let keys = [given("chaining-04"), given("bk-enc-04"), given("bk-mac-04")].concat();
            [&first[..], &counter, &keys].concat()
        }
        Custody::DesignSystem => {
            let bytes = given("package-03");
            let PackageBody::DesignSystem { wrapped_keys, .. } = Package::decode(&bytes).unwrap().source.body
            else {
                panic!("custody");
            };
            [&first[..], &counter, &given("chaining-03"), wrapped_keys].concat()
        }
    }
}

fn activate(suffix: &str) -> Vec<u8> {
    let code = given(&format!("design-code-{suffix}"));
    clear(
        [0x80, 0x3E, 0x01, 0x00],
        &[&given("campaign"), &code, &given("individual-code")],
    )
}

fn change_mode(custody: Custody) -> Vec<u8> {
    clear([0x80, 0x3A, 0x01, custody as u8], &[&key_set(custody)])
}

/// The script of the page, and the challenge that comes of it.
fn check_script(suffix: &str, counter: u32, script: &[u8]) -> Challenge {
    check(&format!("script-{suffix}"), script);
    let digest = sha256(&[script]);
    let host = hsm()
        .host_challenge(se_id(), counter, campaign(), &digest)
        .unwrap();
    let name = format!("host-challenge-{suffix}");
    check(name.strip_suffix("-04").unwrap_or(&name), host.as_bytes());
    host
}

#[test]
fn session_keys() {
    let host = check_script(
        "04",
        1,
        &script(&[3], &[change_mode(Custody::Hsm), activate("04")]),
    );
    let commands = [change_mode(Custody::DesignSystem), activate("03")];
    check_script("03", 1, &script(&[3], &commands));
    let card = hsm().card_challenge(se_id(), KVN_SCP, 1).unwrap();
    check("card-challenge", card.as_bytes());
    let aid = Aid::try_from(&*given("isd-aid")).unwrap();
    let k_enc = AesKey::new(&given("k-enc")).unwrap();
    let again = pseudo_random_card_challenge(&k_enc, 1, &aid, MacMode::S8).unwrap();
    check("card-challenge", again.as_bytes());
    let session = hsm().scp03_session(se_id(), KVN_SCP, &host, &card).unwrap();
    check("s-enc", session.s_enc.as_bytes());
    check("s-mac", session.s_mac.as_bytes());
    check("s-rmac", session.s_rmac.as_bytes());
}

/// P_AUT's commands have the header and the Le that the table of 4.5 says.
fn check_commands(p_aut: &[u8], custody: Custody, names: &[&str]) {
    let (_, table) = PAGE.split_once("| command | header | data | Le |\n").unwrap();
    let rows: Vec<_> = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>())
        .collect();
    let p_aut = Authorisation::decode(p_aut).unwrap();
    assert_eq!(p_aut.len(), names.len());
    for (name, command) in names.iter().zip(p_aut.commands()) {
        let row = rows.iter().find(|row| row[0] == format!("| {name}")).unwrap();
        let custody = format!("{:02X}", custody as u8);
        let kvn = format!("{KVN_SCP:02X}");
        let header = row[1]
            .replace("custody", &custody)
            .replace("kvn", &kvn)
            .replace(' ', "");
        assert_eq!(hex::encode_upper(&command[..4]), header, "{row:?}");
        let after_data = &command[5 + usize::from(command[4])..];
        let le = row[3].trim_end_matches(" |");
        assert_eq!(hex::encode(after_data), le.replace("none", ""), "{row:?}");
    }
}

const CHANNEL: [&str; 2] = ["INITIALIZE UPDATE", "EXTERNAL AUTHENTICATE"];

/// What the page authorises: the package for its SE, to load and to activate.
fn request<'a>(package: &'a PackageSource<'a>, campaign: Campaign, counter: u32) -> AuthoriseRequest<'a> {
    AuthoriseRequest {
        version: Version::Two,
        se_id: se_id(),
        kvn: KVN_SCP,
        scp_parameter: 0x70,
        campaign,
        sequence_counter: counter,
        wants: Wants::BOTH,
        pauses: 0,
        key_set_apart: false,
        package,
    }
}

/// A package in version 1, as the design system wrote it before.
fn in_version_1(source: &PackageSource<'_>) -> Vec<u8> {
    let source = PackageSource {
        version: Version::One,
        ..*source
    };
    let mut bytes = written(|out| source.encode_unsigned(out));
    let designer = SigningKey::from_bytes(&given("designer-private").try_into().unwrap()).unwrap();
    let signature = designer.sign_parts(&[codes::package_signature_prefix(Version::One), &bytes]);
    bytes.extend(signature);
    bytes
}

fn custody(custody: Custody, suffix: &str) {
    let hsm = hsm();
    let bytes = package(custody);
    check(&format!("package-2-{suffix}"), &bytes);
    let package = Package::decode(&bytes).unwrap().source;
    let before = in_version_1(&package);
    check(&format!("package-{suffix}"), &before);
    let before = Package::decode(&before).unwrap();
    assert!(
        verify(&before, &ceremony_verifier())
            && verify(&Package::decode(&bytes).unwrap(), &ceremony_verifier())
    );
    assert_eq!(
        (before.source.manifest, before.source.body),
        (package.manifest, package.body)
    );
    check("manifest", &package.manifest.encode());
    check("manifest-signature", &package.signature);
    check(&format!("design-code-{suffix}"), &package.design_code);
    let p_se = broadcast_package(&hsm, campaign(), &package).unwrap();
    check(&format!("p-se-{suffix}"), &p_se);
    let second = request(&package, campaign(), 1);
    let first = AuthoriseRequest {
        version: Version::One,
        ..second
    };
    let [first, second] = [first, second].map(|request| authorise(&hsm, &request).unwrap());
    check(&format!("p-aut-{suffix}"), &first);
    check(&format!("p-aut-2-{suffix}"), &second);
    let names = [&CHANNEL[..], &["CHANGE MODE", "AUTHORIZE ACTION"]].concat();
    check_commands(&first, custody, &names);
    check_commands(&second, custody, &names);
}

/// Loading with one pause and the key set apart, and activating alone.
#[test]
fn other_scripts() {
    let campaign = given("campaign");
    let enter = [
        clear([0x80, 0x3A, 0x02, 0x04], &[&key_set(Custody::Hsm)]),
        clear([0x80, 0x3A, 0x01, 0x04], &[&campaign]),
        clear([0x80, 0x3A, 0x00, 0x01], &[]),
    ];
    check_script("load", 2, &script(&[4, 7], &[&enter[..], &enter].concat()));
    check_script("activate", 3, &script(&[], &[activate("04")]));
    let bytes = package(Custody::Hsm);
    let package = Package::decode(&bytes).unwrap().source;
    let load = AuthoriseRequest {
        wants: Wants::LOAD,
        pauses: 1,
        key_set_apart: true,
        ..request(&package, self::campaign(), 2)
    };
    let p_aut = authorise(&hsm(), &load).unwrap();
    check("p-aut-2-load", &p_aut);
    let enter = ["KEY SET", "CHANGE MODE", "LEAVE"];
    check_commands(&p_aut, Custody::Hsm, &[&CHANNEL[..], &enter, &enter].concat());
    let activate = AuthoriseRequest {
        wants: Wants::ACTIVATE,
        ..request(&package, self::campaign(), 3)
    };
    let p_aut = authorise(&hsm(), &activate).unwrap();
    check("p-aut-2-activate", &p_aut);
    check_commands(
        &p_aut,
        Custody::Hsm,
        &[&CHANNEL[..], &["AUTHORIZE ACTION"]].concat(),
    );
}

fn ceremony_verifier() -> VerifyingKey {
    VerifyingKey::from_sec1(&ceremony().designer_public()).unwrap()
}

/// The keys that follow (6.8).
fn next() -> Ceremony {
    let key = |name| AesKey::new(&given(name)).unwrap();
    let designer = SigningKey::from_bytes(&given("designer-private-next").try_into().unwrap()).unwrap();
    Ceremony::from_keys(key("kos-next"), key("k-mac-next"), designer).with_key_version(2)
}

fn key_change(suffix: &str, counter: u32, individual: Option<&IndividualKey>) {
    let options = ChangeOptions {
        min_previous: 1,
        custody: Custody::Hsm,
    };
    let package_id = given("package-id-keys").try_into().unwrap();
    let bytes = ceremony()
        .key_change_with(&next(), options, package_id, individual, None)
        .unwrap();
    check(&format!("package-keys{suffix}"), &bytes);
    let package = Package::decode(&bytes).unwrap();
    assert!(verify(&package, &ceremony_verifier()));
    let source = package.source;
    assert_eq!(
        (
            source.manifest.target,
            source.manifest.code_format,
            source.manifest.abi
        ),
        (Manifest::KEYS, Manifest::NO_CODE, 0)
    );
    let image = ceremony().image(&source).unwrap();
    check(&format!("key-change{suffix}"), &image);
    let read = KeyChange::decode(&image).unwrap();
    assert_eq!(
        (read.is_individual, read.designer),
        (individual.is_some(), Some(next().designer_public()))
    );
    let campaign = Campaign(u64::from_be_bytes(given("campaign-keys").try_into().unwrap()));
    let p_se = broadcast_package(&hsm(), campaign, &source).unwrap();
    check(&format!("p-se-keys{suffix}"), &p_se);
    let p_aut = authorise(&hsm(), &request(&source, campaign, counter)).unwrap();
    check(&format!("p-aut-2-keys{suffix}"), &p_aut);
    assert_eq!(Authorisation::decode(&p_aut).unwrap().head.target, Manifest::KEYS);
}

#[test]
fn key_changes() {
    check("designer-public-next", &next().designer_public());
    key_change("", 4, None);
    let package_id = given("package-id-keys").try_into().unwrap();
    let individual = IndividualKey::of_package(&hsm(), se_id(), KVN_SCP, package_id).unwrap();
    key_change("-individual", 5, Some(&individual));
}

#[test]
fn custody_04() {
    let keys = hsm()
        .broadcast_keys(campaign(), &given("package-id").try_into().unwrap())
        .unwrap();
    check("bk-enc-04", keys.enc.as_bytes());
    check("bk-mac-04", keys.mac.as_bytes());
    check("chaining-04", &keys.chaining_value);
    custody(Custody::Hsm, "04");
}

#[test]
fn custody_03() {
    custody(Custody::DesignSystem, "03");
}

#[test]
fn the_messages_before_it() {
    let state = LoaderState {
        target: 1,
        slot: 0,
        version: 1,
        abi: Manifest::ABI,
        staging: Staging::Nothing,
        campaign: Campaign(0),
        next_block: 0,
    };
    let (se_id, campaign) = (se_id(), campaign());
    let equ = Equ {
        version: Version::One,
        se_id,
        campaign,
        kvn: KVN_SCP,
        scp_parameter: 0x70,
        sequence_counter: 0,
        wants: Wants::BOTH,
        pauses: 0,
        proof: &[],
        states: States::new(&[state]).unwrap(),
    };
    check("equ", &written(|out| equ.encode(out)));
    let keys = LoaderState {
        target: 2,
        abi: 0,
        ..state
    };
    let second = Equ {
        version: Version::Two,
        states: States::new(&[state, keys]).unwrap(),
        ..equ
    };
    check("equ-2", &written(|out| second.encode(out)));

    let parts = DeliveryParts {
        campaign,
        p_se: &given("p-se-04"),
        p_mob: b"P_MOB",
    };
    let mut delivery = written(|out| parts.encode_without_digest(out));
    delivery.extend(sha256(&[&delivery]));
    check("delivery", &delivery);
    let bytes = u32::try_from(delivery.len()).unwrap();
    let offer = Offer {
        version: Version::One,
        target: 1,
        campaign,
        bytes,
        sha256: sha256(&[&delivery]),
    };
    check("offer", &written(|out| offer.encode(out)));
    let second = Offer {
        version: Version::Two,
        ..offer
    };
    check("offer-2", &written(|out| second.encode(out)));
}

#[test]
fn the_messages_after_it() {
    let (se_id, campaign) = (se_id(), campaign());
    let manifest = Manifest::decode(&given("manifest")).unwrap();
    let message = codes::activate_message(&manifest, campaign, se_id);
    check(
        "individual-code",
        &hsm().mac_with_k_aut(se_id, KVN_SCP, &message).unwrap(),
    );
    let message = codes::discard_message(campaign, se_id);
    check(
        "discard-code",
        &hsm().mac_with_k_aut(se_id, KVN_SCP, &message).unwrap(),
    );
    let mut receipt = Receipt {
        action: codes::ACTION_ACTIVATE,
        target: 1,
        campaign,
        previous_version: 1,
        version: 2,
        digest: manifest.digest,
        mac: [0; 16],
    };
    receipt.mac = cmac(&AesKey::new(&given("k-aut")).unwrap(), &[&receipt.message(se_id)]);
    check("receipt", &receipt.encode());
    let (outcome, sw, receipt) = (Outcome::Activated, StatusWord::NO_ERROR, Some(receipt));
    let status = Status {
        version: Version::One,
        se_id,
        campaign,
        outcome,
        step: 0,
        sw,
        proof: receipt.map(Proof::Receipt),
    };
    check("status", &written(|out| status.encode(out)));
    let second = Status {
        version: Version::Two,
        ..status
    };
    check("status-2", &written(|out| second.encode(out)));
    let verdict = Verdict {
        access: Access::Allowed,
        retry_after: 0,
    };
    check("verdict", &written(|out| verdict.encode(out)));
}

/// What the SE says when it refuses block 2 of the load, which the card's side of this test gets from an SE.
#[test]
fn a_refusal() {
    let refusal = Refusal {
        action: codes::ACTION_LOAD,
        target: Manifest::OS_PART,
        campaign: campaign(),
        sequence_counter: 1,
        sw: StatusWord(0x9504),
        block: 2,
        version: 1,
        digest: Manifest::decode(&given("manifest")).unwrap().digest,
        mac: [0; 16],
    };
    let k_aut = AesKey::new(&given("k-aut")).unwrap();
    let mac = cmac(&k_aut, &[&refusal.message(se_id())]);
    let refusal = Refusal { mac, ..refusal };
    check("refusal", &refusal.encode());
    let status = Status {
        version: Version::Two,
        se_id: se_id(),
        campaign: campaign(),
        outcome: Outcome::Refused,
        step: 4,
        sw: refusal.sw,
        proof: Some(Proof::Refusal(refusal)),
    };
    check("status-2-refused", &written(|out| status.encode(out)));
}
