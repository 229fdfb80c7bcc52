//! The worked example of docs/spec/paging.md, section 10, and the published vectors of what it stands on.

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use sekisho_keys::{AesKey, cmac};
use sekisho_paging::Uid;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::{Device, DeviceKey, State};
use sekisho_paging::keys::{Keyspace, Root};
use sekisho_paging::message::{Action, Message};
use sekisho_paging::recovery::{Grant, Request};
use sekisho_paging::server::{Standing, TicketRecord};
use sekisho_paging::ticket::{Ring, TicketKey};

const PAGE: &str = include_str!("../../../../docs/spec/paging.md");

/// The block ```` ```hex NAME ```` of the page.
fn given(name: &str) -> Vec<u8> {
    let start = format!("```hex {name}\n");
    let at = PAGE
        .find(&start)
        .unwrap_or_else(|| panic!("the page has no block {name}"))
        + start.len();
    let digits: String = PAGE[at..at + PAGE[at..].find("```").unwrap()]
        .split_whitespace()
        .collect();
    hex::decode(digits).unwrap()
}

fn counting(from: u8) -> [u8; 16] {
    let mut bytes = [from; 16];
    bytes.iter_mut().zip(0..).for_each(|(byte, i)| *byte += i);
    bytes
}

fn key(name: &str) -> [u8; 16] {
    given(name).try_into().unwrap()
}

fn check(name: &str, computed: &[u8]) {
    assert_eq!(
        hex::encode_upper(computed),
        hex::encode_upper(given(name)),
        "{name}"
    );
}

const START: Keyspace = Keyspace {
    domain: 0,
    generation: 1,
};

fn ring() -> Ring {
    let mut ring = Ring::new();
    ring.add(TicketKey::new(0, 1, &key("ticket-key"), true)).unwrap();
    ring.add(TicketKey::new(9, 1, &key("ticket-key-9"), true))
        .unwrap();
    ring
}

fn device() -> Device {
    let mut state = State::new(
        Uid(key("uid1")),
        START,
        DeviceKey::Fixed(Root::new(key("root"))),
        900,
    );
    state.order = 41;
    Device::new(state)
}

fn update() -> Message {
    Message {
        order: 42,
        action: Action::Update(60),
    }
}

#[test]
fn keys_of_the_page() {
    let k1 = Root::new(key("root")).poll_key(START);
    check("k1", k1.as_bytes());
    let keys = k1.poll_keys();
    check("k-siv", &keys.as_bytes()[..32]);
    check("k-uid", &keys.as_bytes()[32..]);
    let rand = key("uid-rand");
    check("uid2", &keys.next_uid(&Uid(key("uid1")), &rand).0);
    check("uid-rand", &keys.uid_rand(&Uid(key("uid1")), &Uid(key("uid2"))));
    check("k2", k1.roll(&Uid(key("uid1")), &rand).as_bytes());
    check("k-rec", Root::new(key("root")).recovery_key().as_bytes());
}

#[test]
fn conversation_of_the_page() {
    let ring = ring();
    let root = Root::new(key("root"));
    let mut device = device();
    let mut record = TicketRecord::fixed(START, &root.poll_key(START));
    let mut serve = |datagram: &[u8], message: Message| {
        let ticket = ring.open(&Uid::of(datagram).unwrap()).unwrap();
        let received = record
            .receive(&ring, &ticket, datagram, |keyspace| Some(root.poll_key(keyspace)))
            .unwrap();
        let standing = received.standing();
        (received.answer(&ring, message).unwrap(), standing)
    };

    let poll = device.poll(Reason::Periodic, [1, 2, 3, 4]);
    check("poll-1", &poll);
    let (lost, standing) = serve(&poll, update());
    check("answer-1", &lost);
    assert_eq!(standing, Standing::First);

    let poll = device.poll(Reason::Periodic, [5, 6, 7, 8]);
    check("poll-2", &poll);
    let (answer, standing) = serve(&poll, update());
    check("answer-2", &answer);
    assert_eq!(standing, Standing::Resend);
    assert!(device.receive(&lost).is_err());
    let accepted = device.receive(&answer).unwrap();
    check("record", &accepted.record().0);
    assert_eq!((accepted.message(), accepted.sent()), (update(), 2));
    device.promote(accepted);
    device.settle(device.settled(42).unwrap());

    let poll = device.poll(Reason::Periodic, [9, 10, 11, 12]);
    check("poll-3", &poll);
    let to = Keyspace {
        domain: 9,
        generation: 0,
    };
    let message = Message {
        order: 43,
        action: Action::MoveTo(to),
    };
    let (answer, _) = serve(&poll, message);
    check("answer-3", &answer);
    let accepted = device.receive(&answer).unwrap();
    device.promote(accepted);
    assert_eq!(device.state().uid, Uid(key("uid3")));
    let poll = device.poll(Reason::Periodic, [13, 14, 15, 16]);
    check("poll-4", &poll);
    serve(&poll, Message::NOTHING);
}

#[test]
fn recovery_of_the_page() {
    let key_rec = Root::new(key("root")).recovery_key();
    let request = Request {
        se_id: *b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0A",
        keyspace: Keyspace {
            domain: 9,
            generation: 2,
        },
        nonce: counting(0x40),
    };
    let sealed = request.seal(&key_rec);
    check("request", &sealed);
    assert_eq!(Request::open(&key_rec, &sealed).unwrap(), request);
    let uid = TicketKey::new(0, 1, &key("ticket-key"), true).seal(7, 3, 0);
    check("uid4", &uid.0);
    let grant = Grant {
        keyspace: Keyspace {
            domain: 0,
            generation: 3,
        },
        uid,
        nonce: counting(0x60),
    };
    let answer = grant.seal(&key_rec, &sealed);
    check("grant", &answer);
    assert_eq!(Grant::open(&key_rec, &sealed, &answer).unwrap(), grant);
    check("chain-key", grant.chain_key(&key_rec, &request).as_bytes());
}

/// RFC 5297, A.1 and A.2.
#[test]
fn property_13_rfc_5297_vectors() {
    let siv = |key: &str, headers: &[Vec<u8>], text: &str, sealed: &str| {
        let mut cipher = Aes128Siv::new_from_slice(&hex::decode(key).unwrap()).unwrap();
        let mut text = hex::decode(text).unwrap();
        let tag = cipher
            .encrypt_inout_detached(headers, text.as_mut_slice().into())
            .unwrap();
        assert_eq!(hex::encode([tag.as_slice(), &text].concat()), sealed);
    };
    siv(
        "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        &[hex::decode("101112131415161718191a1b1c1d1e1f2021222324252627").unwrap()],
        "112233445566778899aabbccddee",
        "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c",
    );
    siv(
        "7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f",
        &[
            hex::decode("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100")
                .unwrap(),
            hex::decode("102030405060708090a0").unwrap(),
            hex::decode("09f911029d74e35bd84156c5635688c0").unwrap(),
        ],
        "7468697320697320736f6d6520706c61696e7465787420746f20656e6372797074207573696e67205349562d414553",
        "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d",
    );
}

/// RFC 4493, section 4, examples 1, 2 and 4.
#[test]
fn property_13_rfc_4493_vectors() {
    let key = AesKey::new(&hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap()).unwrap();
    let text = hex::decode(concat!(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    ))
    .unwrap();
    for (len, mac) in [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ] {
        assert_eq!(hex::encode(cmac(&key, &[&text[..len]])), mac);
    }
}
