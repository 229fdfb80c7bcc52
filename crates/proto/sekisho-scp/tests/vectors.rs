//! Both roles against what we did not write: the conversations that pySim tests itself with, and a second implementation for S16 and broadcast mode.

use crate::common;
use common::{Counting, Section, aid, sections, written};
use sekisho_apdu::{CApdu, Cla, StatusWord};
use sekisho_keys::{AesKey, KeySet};
use sekisho_scp::card::{self, BroadcastStart};
use sekisho_scp::host::{
    BroadcastWriter, Challenge, Cryptogram, HostChannel, InitializeUpdateResponse, SessionKeys,
    pseudo_random_card_challenge,
};
use sekisho_scp::{MacMode, ScpParameter, SecurityLevel};

const PYSIM: &str = include_str!("../../../../tests/vectors/scp03-pysim.txt");
const S16: &str = include_str!("../../../../tests/vectors/scp03-s16.txt");
const BROADCAST: &str = include_str!("../../../../tests/vectors/scp03-broadcast.txt");

/// The plain forms of the commands, the same in all nine conversations; from the base class of the same file.
const PYSIM_COMMANDS: [(&str, &str); 5] = [
    ("get_eid_cmd", "80E2910006BF3E035C015A00"),
    ("case_1_apdu", "80F22002"),
    ("case_2_apdu", "80ca006600"),
    ("case_3_apdu", "80F220020a4f0212345c054f9f70c5"),
    ("case_4_apdu", "80f28002024f0000"),
];
const PYSIM_EID: &str = "bf3e125a1089882119900000000000000000000005";
const PYSIM_AID: &str = "A0000005591010FFFFFFFF8900000100";

#[allow(clippy::unwrap_used)]
fn pysim_keys(section: &str) -> KeySet {
    let len = match section {
        name if name.starts_with("AES128") => 16,
        name if name.starts_with("AES192") => 24,
        _ => 32,
    };
    let key = |first: u8| {
        let bytes: Vec<u8> = (0..16).cycle().take(len).map(|i| first + i).collect();
        AesKey::new(&bytes).unwrap()
    };
    KeySet {
        enc: key(0x00),
        mac: key(0x10),
        dek: key(0x20),
    }
}

#[allow(clippy::unwrap_used)]
fn host_of(v: &Section, keys: &KeySet, host_challenge: &[u8]) -> (HostChannel, SessionKeys, Cryptogram) {
    let response = InitializeUpdateResponse::parse(&v["init_upd_rsp"]).unwrap();
    let host_challenge = Challenge::try_from(host_challenge).unwrap();
    let session_keys = SessionKeys::derive(keys, &host_challenge, &response.card_challenge).unwrap();
    let card_cryptogram = session_keys
        .card_cryptogram(&host_challenge, &response.card_challenge)
        .unwrap();
    assert_eq!(card_cryptogram, response.card_cryptogram);
    let host_cryptogram = session_keys
        .host_cryptogram(&host_challenge, &response.card_challenge)
        .unwrap();
    let channel = HostChannel::new(session_keys.clone(), response.i.mac_mode());
    (channel, session_keys, host_cryptogram)
}

#[test]
fn host_speaks_as_in_the_nine_conversations_of_pysim() {
    let sections = sections(PYSIM);
    assert_eq!(sections.len(), 9);
    for (name, v) in sections {
        let keys = pysim_keys(&name);
        let level = SecurityLevel::from_p1(v["ext_auth_cmd"][2]).unwrap();
        let (mut host, session_keys, host_cryptogram) = host_of(&v, &keys, &v["init_upd_cmd"][5..13]);
        let external = written(|out| host.external_authenticate(level, &host_cryptogram, out)).unwrap();
        assert_eq!(external, v["ext_auth_cmd"], "{name}");
        for (command, plain) in PYSIM_COMMANDS {
            let plain = hex::decode(plain).unwrap();
            let wrapped = written(|out| host.wrap(&CApdu::parse(&plain).unwrap(), out)).unwrap();
            assert_eq!(wrapped, v[command], "{name} {command}");
            if command == "get_eid_cmd" {
                let response = [&v["get_eid_rsp"][..], &[0x90, 0x00]].concat();
                let (data, sw) = common::read_response(&mut host, &response).unwrap();
                assert_eq!((hex::encode(data).as_str(), sw), (PYSIM_EID, 0x9000), "{name}");
            }
        }
        // The card challenge was pseudo-random: the host could have known it.
        let response = InitializeUpdateResponse::parse(&v["init_upd_rsp"]).unwrap();
        let challenge = pseudo_random_card_challenge(
            &keys.enc,
            response.sequence_counter.unwrap(),
            &aid(PYSIM_AID),
            MacMode::S8,
        );
        assert_eq!(challenge, Ok(response.card_challenge), "{name}");
        if name == "AES128_11" {
            // Recomputed with an independent KDF and CMAC from the same conversation.
            let hex = |key: &AesKey| hex::encode(key.as_bytes());
            assert_eq!(hex(&session_keys.s_enc), "c4e87149f2114da66bb015a567d751f9");
            assert_eq!(hex(&session_keys.s_mac), "8b2635556e987a6b84f43d9ffc197d3f");
            assert_eq!(hex(&session_keys.s_rmac), "3f6b2ce3b3abd9a99bd4453afa54cc7b");
        }
    }
}

#[test]
fn card_answers_as_in_the_nine_conversations_of_pysim() {
    for (name, v) in sections(PYSIM) {
        let keys = pysim_keys(&name);
        let command = CApdu::parse(&v["init_upd_cmd"]).unwrap();
        let update = card::InitializeUpdate::parse(&command).unwrap();
        let response = &v["init_upd_rsp"];
        let seq = u32::from_be_bytes([0, response[29], response[30], response[31]]);
        let parameter = ScpParameter::new(0x70).unwrap();
        let aid = aid(PYSIM_AID);
        let mut initiated = None;
        let answer = written(|out| {
            let rng = &mut Counting(0);
            initiated = Some(card::initiate(
                &keys,
                update.kvn,
                parameter,
                &[0; 10],
                seq,
                &aid,
                update.host_challenge,
                rng,
                out,
            )?);
            Ok::<_, sekisho_scp::ScpError>(())
        });
        assert_eq!(answer.as_ref(), Ok(response), "{name}");
        let mut card = initiated.unwrap().authenticate(&v["ext_auth_cmd"]).unwrap();
        assert_eq!(card.level().p1(), v["ext_auth_cmd"][2]);
        assert_eq!(card.authenticated().unwrap().kvn(), update.kvn);
        for (command, plain) in PYSIM_COMMANDS {
            let unwrapped = common::unwrap(&mut card, &v[command]).unwrap();
            let plain = hex::decode(plain).unwrap();
            assert_eq!(
                unwrapped,
                common::Command::of(&CApdu::parse(&plain).unwrap()),
                "{name} {command}"
            );
            if command == "get_eid_cmd" {
                let answer = common::respond(&mut card, &hex::decode(PYSIM_EID).unwrap(), 0x9000);
                assert_eq!(answer, [&v["get_eid_rsp"][..], &[0x90, 0x00]].concat(), "{name}");
            }
        }
    }
}

const S16_STEPS: [&str; 5] = ["store", "case_1", "warning", "extended", "block"];

#[test]
fn s16_of_both_roles_agrees_with_the_python_implementation() {
    for ((name, v), key_len) in sections(S16).iter().zip([16, 24, 32]) {
        let keys = common::key_set(key_len);
        let host_challenge: Vec<u8> = (0xE0..0xF0).collect();
        let (mut host, _, host_cryptogram) = host_of(v, &keys, &host_challenge);
        let external =
            written(|out| host.external_authenticate(SecurityLevel::FULL, &host_cryptogram, out)).unwrap();
        assert_eq!(external, v["ext_auth_cmd"], "{name}");

        let parameter = ScpParameter::new(0x71).unwrap();
        let kdd = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99];
        let aid = aid("A000000151000000");
        let mut initiated = None;
        let answer = written(|out| {
            let rng = &mut Counting(0);
            initiated = Some(card::initiate(
                &keys,
                0x30,
                parameter,
                &kdd,
                0xA5,
                &aid,
                &host_challenge,
                rng,
                out,
            )?);
            Ok::<_, sekisho_scp::ScpError>(())
        });
        assert_eq!(answer.as_ref(), Ok(&v["init_upd_rsp"]), "{name}");
        let mut card = initiated.unwrap().authenticate(&external).unwrap();

        for step in S16_STEPS {
            let get = |what: &str| &v[&format!("{step}_{what}")];
            let protected = CApdu::parse(get("cmd")).unwrap();
            let plain = CApdu {
                cla: Cla::GP,
                data: get("plain_cmd"),
                ..protected
            };
            assert_eq!(
                &written(|out| host.wrap(&plain, out)).unwrap(),
                get("cmd"),
                "{name} {step}"
            );
            assert_eq!(
                common::unwrap(&mut card, get("cmd")),
                Ok(common::Command::of(&plain)),
                "{name} {step}"
            );

            let [.., sw1, sw2] = get("rsp")[..] else {
                panic!("no status word")
            };
            let sw = u16::from_be_bytes([sw1, sw2]);
            assert_eq!(
                &common::respond(&mut card, get("plain_rsp"), sw),
                get("rsp"),
                "{name} {step}"
            );
            let read = common::read_response(&mut host, get("rsp")).unwrap();
            assert_eq!(read, (get("plain_rsp").clone(), sw), "{name} {step}");
        }
    }
}

#[test]
fn broadcast_of_both_roles_agrees_with_the_python_implementation() {
    let sections = sections(BROADCAST);
    let v = &sections[0].1;
    let key = |first: u8| AesKey::new(&(first..first + 16).collect::<Vec<_>>()).unwrap();
    let chaining = 0x8081_8283_8485_8687_8889_8A8B_8C8D_8E8Fu128.to_be_bytes();
    let mut writer = BroadcastWriter::new(key(0x00), key(0x20), 7, chaining);
    let (card, _) = common::pair(16, 0x70, SecurityLevel::FULL);
    let start = BroadcastStart {
        bk_enc: key(0x00),
        bk_mac: key(0x20),
        counter: 7,
        chaining,
    };
    let mut card = card.enter_broadcast(start);
    for (name, header, plain) in [
        ("write_0", [0x3C, 0, 0], Some("write_0_plain")),
        ("write_1", [0x3C, 0, 1], Some("write_1_plain")),
        ("write_2", [0x3C, 0, 2], Some("write_2_plain")),
        ("back", [0x3A, 0, 0], None),
    ] {
        let [ins, p1, p2] = header;
        let plain = plain.map(|plain| &v[plain][..]).unwrap_or_default();
        let command = CApdu::new(Cla::GP, ins, p1, p2).with_data(plain);
        assert_eq!(
            written(|out| writer.wrap(&command, out)).unwrap(),
            v[name],
            "{name}"
        );
        let mut buf = [0; 255];
        assert_eq!(
            card.unwrap(&CApdu::parse(&v[name]).unwrap(), &mut buf),
            Ok(command),
            "{name}"
        );
    }
    assert_eq!(card.checkpoint().unwrap().counter, 11);
}

#[test]
fn status_words_are_the_standards() {
    // GPC Table D-13 and 11-10, Amd D 6.2.2.1.
    use sekisho_scp::ScpError;
    assert_eq!(ScpError::Cryptogram.status_word(), StatusWord(0x6300));
    assert_eq!(ScpError::Mac.status_word(), StatusWord(0x6982));
    assert_eq!(ScpError::CounterExhausted.status_word(), StatusWord(0x6985));
    assert_eq!(ScpError::Parameter.status_word(), StatusWord(0x6A86));
}
