//! Each message of the protocols, as SE 1's update and paging sent it: read to the expected fields, and written again to the same bytes.

use sekisho_apdu::{BufferFull, StatusWord, Writer};
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_keys::sha256;
use sekisho_link::{
    Access, Authorisation, AuthorisationWriter, Campaign, Custody, Delivery, Equ, LoaderState, Manifest,
    Offer, Outcome, PSe, PSeWriter, Package, PackageBody, Proof, Receipt, SeId, Staging, States, Status,
    Verdict, Version, Wants,
};
use sekisho_paging::datagram::Sealer;
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_paging::message::Message;
use sekisho_paging::recovery::{Grant, Request};

use crate::cards::se_id;
use crate::frozen::{self, PASSPHRASE};
use crate::process::{CardProcess, send};
use crate::server::CAMPAIGN_04;

/// Sequence counter that SE 1's authorisation was made for.
const COUNTER: u32 = 1;
/// Bytes of the image, and commands of P_SE.
const IMAGE: u32 = 10_024;
const BLOCKS: usize = 44;
/// Generation of SE 1's identity, and the last message that it was done with, when it polled.
const GENERATION: u32 = 1;
const ORDER: u32 = 2;

fn se() -> SeId {
    se_id(1).parse().unwrap()
}

fn campaign() -> Campaign {
    CAMPAIGN_04.parse().unwrap()
}

fn hsm() -> SoftHsm {
    SoftHsm::load(&frozen::folder().join("keystore.sealed"), PASSPHRASE.as_bytes()).unwrap()
}

/// What a message is written to.
fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), BufferFull>) -> Vec<u8> {
    let mut buffer = vec![0; 32 * 1024];
    let mut out = Writer::new(&mut buffer);
    write(&mut out).unwrap();
    out.written().to_vec()
}

/// The manifest of the package in custody 04.
fn manifest() -> Manifest {
    let bytes = frozen::read("messages/update-04.skpk");
    Package::decode(&bytes).unwrap().source.manifest
}

#[test]
fn packages_have_their_fields() {
    for (name, custody) in [("04", Custody::Hsm), ("03", Custody::DesignSystem)] {
        let bytes = frozen::read(&format!("messages/update-{name}.skpk"));
        let package = Package::decode(&bytes).unwrap();
        let manifest = package.source.manifest;
        assert_eq!(package.source.custody(), custody);
        assert_eq!(
            (manifest.target, manifest.code_format, manifest.abi),
            (Manifest::OS_PART, Manifest::WEBASSEMBLY, 1)
        );
        assert_eq!((manifest.version, manifest.min_previous), (2, 1));
        assert_eq!(manifest.length, IMAGE);
        let again = written(|out| {
            package.source.encode_unsigned(out)?;
            out.bytes(&package.package_signature)
        });
        assert_eq!(again, bytes, "{name}");
        match package.source.body {
            PackageBody::Hsm { ciphertext } => assert_eq!(ciphertext.len(), IMAGE as usize),
            PackageBody::DesignSystem {
                counter,
                wrapped_keys,
                p_se,
                ..
            } => {
                assert_eq!((counter, wrapped_keys.len()), (1, 40));
                assert_eq!(PSe::decode(p_se).unwrap().len(), BLOCKS);
            }
        }
    }
}

#[test]
fn offer_and_delivery_belong_together() {
    let (offer, delivery) = (frozen::read("messages/offer"), frozen::read("messages/delivery"));
    let read = Offer::decode(&offer).unwrap();
    assert_eq!(read.campaign, campaign());
    assert_eq!(read.bytes as usize, delivery.len());
    assert_eq!(read.sha256, sha256(&[&delivery]));
    assert_eq!(written(|out| read.encode(out)), offer);
    let read = Delivery::decode(&delivery).unwrap();
    assert_eq!(read.sha256, sha256(&[read.covered]));
    assert_eq!(
        (read.parts.campaign, read.parts.p_mob),
        (campaign(), &b"P_MOB of 0.1"[..])
    );
    assert_eq!(read.parts.p_se, frozen::read("messages/p-se"));
    let again = written(|out| {
        read.parts.encode_without_digest(out)?;
        out.bytes(&read.sha256)
    });
    assert_eq!(again, delivery);
    let p_se = PSe::decode(read.parts.p_se).unwrap();
    assert_eq!((p_se.custody(), p_se.len()), (Custody::Hsm, BLOCKS));
    let mut buffer = vec![0; 32 * 1024];
    let mut out = PSeWriter::new(&mut buffer, p_se.custody()).unwrap();
    p_se.commands().for_each(|command| out.command(command).unwrap());
    let length = out.finish().unwrap();
    assert_eq!(buffer[..length], *read.parts.p_se);
    // The bulk is a function of keys, campaign and package: today's HSM makes the same.
    let bytes = frozen::read("messages/update-04.skpk");
    let package = Package::decode(&bytes).unwrap();
    let again = sekisho_hsm::broadcast_package(&hsm(), campaign(), &package.source).unwrap();
    assert_eq!(again, read.parts.p_se);
}

#[test]
fn equ_and_p_aut_belong_together() {
    let bytes = frozen::read("messages/equ");
    let equ = Equ::decode(&bytes).unwrap();
    let state = LoaderState {
        target: 1,
        slot: 0,
        version: 1,
        abi: 1,
        staging: Staging::Nothing,
        campaign: Campaign(0),
        next_block: 0,
    };
    let expected = Equ {
        version: Version::One,
        se_id: se(),
        campaign: campaign(),
        kvn: 0x30,
        scp_parameter: 0x70,
        sequence_counter: COUNTER - 1,
        wants: Wants::BOTH,
        pauses: 0,
        proof: &[],
        states: States::new(&[state]).unwrap(),
    };
    assert_eq!(equ, expected);
    assert_eq!(written(|out| equ.encode(out)), bytes);

    let bytes = frozen::read("messages/p-aut");
    let p_aut = Authorisation::decode(&bytes).unwrap();
    assert_eq!((p_aut.head.se_id, p_aut.head.campaign), (se(), campaign()));
    assert_eq!(
        (p_aut.head.sequence_counter, p_aut.head.splices[0], p_aut.len()),
        (COUNTER, 3, 4)
    );
    let mut buffer = [0; 512];
    let mut out = AuthorisationWriter::new(&mut buffer, &p_aut.head).unwrap();
    p_aut.commands().for_each(|command| out.command(command).unwrap());
    let length = out.finish().unwrap();
    assert_eq!(buffer[..length], bytes);
    // Asked for today it is the same script under another host challenge, which covers all of it: what was granted then is answered as it stands.
    let package = frozen::read("messages/update-04.skpk");
    let package = Package::decode(&package).unwrap();
    let request = sekisho_hsm::AuthoriseRequest {
        se_id: se(),
        kvn: 0x30,
        scp_parameter: 0x70,
        campaign: campaign(),
        sequence_counter: COUNTER,
        version: Version::One,
        wants: Wants::BOTH,
        pauses: 0,
        key_set_apart: false,
        package: &package.source,
    };
    let today = sekisho_hsm::authorise(&hsm(), &request).unwrap();
    let read = Authorisation::decode(&today).unwrap();
    assert_eq!(read.head, p_aut.head);
    for (today, then) in read.commands().zip(p_aut.commands()) {
        assert_eq!((today.len(), &today[..5]), (then.len(), &then[..5]));
        assert_ne!(today, then);
    }
}

#[test]
fn st_receipt_and_verdict_belong_together() {
    let bytes = frozen::read("messages/receipt");
    let receipt = Receipt::decode(&bytes).unwrap();
    let expected = Receipt {
        action: 1,
        target: 1,
        campaign: campaign(),
        previous_version: 1,
        version: 2,
        digest: manifest().digest,
        mac: hsm().mac_with_k_aut(se(), 0x30, &receipt.message(se())).unwrap(),
    };
    assert_eq!(receipt, expected);
    assert_eq!(receipt.encode().as_slice(), bytes);

    let bytes = frozen::read("messages/st");
    let status = Status::decode(&bytes).unwrap();
    assert_eq!((status.se_id, status.campaign), (se(), campaign()));
    assert_eq!(
        (status.outcome, status.sw),
        (Outcome::Activated, StatusWord(0x9000))
    );
    assert_eq!(status.proof, Some(Proof::Receipt(receipt)));
    assert_eq!(written(|out| status.encode(out)), bytes);

    let bytes = frozen::read("messages/verdict");
    let verdict = Verdict::decode(&bytes).unwrap();
    assert_eq!((verdict.access, verdict.retry_after), (Access::Allowed, 0));
    assert_eq!(written(|out| verdict.encode(out)), bytes);

    let bytes = frozen::read("messages/loader-state");
    let state = LoaderState::decode(&bytes).unwrap();
    assert_eq!(
        (state.version, state.slot, state.staging),
        (2, 1, Staging::Nothing)
    );
    assert_eq!(written(|out| state.encode(out)), bytes);
}

/// The root of SE 1's paging keys.
fn root() -> Root {
    Root::new(hsm().paging_root(se()).unwrap())
}

#[test]
fn paging_datagrams_open_under_the_devices_keys() {
    let (poll, answer) = (
        frozen::read("messages/paging-poll"),
        frozen::read("messages/paging-answer"),
    );
    let keyspace = Keyspace {
        domain: 0,
        generation: GENERATION,
    };
    let keys = root().poll_key(keyspace).poll_keys();
    let mut sealer = Sealer::new(&keys);
    let (uid, opened, tag) = sealer.open_poll(&poll).unwrap();
    assert_eq!((opened.resend, opened.order), (0, ORDER));
    let opened = sealer.open_answer(&uid, &tag, &answer).unwrap();
    assert_eq!((opened.message, opened.sent), (Message::NOTHING, 1));
}

#[test]
fn recovery_and_certificate_are_as_they_were() {
    let request: [u8; 48] = frozen::read("messages/https-recover-request").try_into().unwrap();
    let grant: [u8; 56] = frozen::read("messages/https-recover-answer").try_into().unwrap();
    let key = root().recovery_key();
    let opened = Request::open(&key, &request).unwrap();
    assert_eq!((opened.se_id, opened.keyspace), (se().0, Keyspace::default()));
    assert_eq!(opened.seal(&key), request);
    let granted = Grant::open(&key, &request, &grant).unwrap();
    assert_eq!(granted.keyspace.generation, 1);
    assert_eq!(granted.seal(&key, &request), grant);

    let made = frozen::read("messages/https-certify-request");
    let answer = frozen::read("messages/https-certify-answer");
    let (public_key, proof): (&[u8; 65], &[u8; 16]) =
        (made.first_chunk().unwrap(), made.last_chunk().unwrap());
    assert_eq!(key.new_key_proof(&se().0, public_key), *proof);
    let (digest, rest) = answer.split_first_chunk::<32>().unwrap();
    let (word, certificate) = rest.split_first_chunk::<16>().unwrap();
    assert_eq!(sha256(&[certificate]), *digest);
    assert_eq!(key.certified_proof(&se().0, public_key, digest), *word);
}

/// The exchange of then: C-APDUs of the update itself, and their status words.
fn update() -> Vec<(Vec<u8>, u16)> {
    let text = frozen::text("messages/update.apdus");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut exchanges = Vec::new();
    while let (Some(command), Some(response)) = (lines.next(), lines.next()) {
        let command = hex::decode(command.strip_prefix("> ").unwrap()).unwrap();
        let response = hex::decode(response.strip_prefix("< ").unwrap()).unwrap();
        if matches!(command[..2], [0x80, 0x50] | [0x84, _]) {
            exchanges.push((command, u16::from_be_bytes(*response.last_chunk().unwrap())));
        }
    }
    exchanges
}

const SELECT_ISD: &[u8] = &[0x00, 0xA4, 0x04, 0x00, 0x00];

#[test]
fn a_card_of_today_refuses_the_part_of_then_and_goes_on() {
    let folder = frozen::copy();
    let perso = folder.path().join("perso.json");
    let flash = folder.path().join("new.flash");
    let card = CardProcess::start(&flash, 0, &["--perso", perso.to_str().unwrap()]);
    let mut reader = card.reader();
    let exchanges = update();
    // P_AUT's four commands and P_SE.
    assert_eq!(exchanges.len(), 4 + BLOCKS);
    assert_eq!(send(&mut reader, SELECT_ISD).1, 0x9000);
    // Session and broadcast mode begin as they did then; WRITE of block 0 names host ABI 1.
    for (number, (command, sw)) in exchanges.iter().take(4).enumerate() {
        let expected = if number == 3 { 0x9505 } else { *sw };
        assert_eq!(send(&mut reader, command).1, expected, "command {number}");
    }
    assert_eq!(send(&mut reader, SELECT_ISD).1, 0x9000);
    assert_eq!(send(&mut reader, &[0x80, 0xCA, 0xDF, 0x20, 0x00]).1, 0x9000);
}
