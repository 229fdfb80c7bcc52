//! What the tests share: vector files, and a channel between a host and a card.
// Helpers are no #[test] functions, which clippy.toml allows unwrap in; and not every test file uses them all.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, dead_code)]

use std::collections::HashMap;

use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_keys::{AesKey, KeySet, Rng};
use sekisho_scp::card::{self, SecureChannel};
use sekisho_scp::host::{Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{ScpError, ScpParameter, SecurityLevel};

pub(crate) type Section = HashMap<String, Vec<u8>>;

/// The sections of a vector file: `[name]`, then `key = hex`.
pub(crate) fn sections(text: &str) -> Vec<(String, Section)> {
    let mut sections: Vec<(String, Section)> = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[') {
            sections.push((name.trim_end_matches(']').into(), Section::new()));
        } else {
            let (key, value) = line.split_once('=').unwrap();
            sections
                .last_mut()
                .unwrap()
                .1
                .insert(key.trim().into(), hex::decode(value.trim()).unwrap());
        }
    }
    sections
}

pub(crate) fn aid(text: &str) -> Aid {
    Aid::try_from(&hex::decode(text).unwrap()[..]).unwrap()
}

/// Writes into a buffer that is large enough and gives what was written.
pub(crate) fn written<E>(write: impl FnOnce(&mut Writer<'_>) -> Result<(), E>) -> Result<Vec<u8>, E> {
    let mut buf = vec![0; 70_000];
    let mut out = Writer::new(&mut buf);
    write(&mut out)?;
    Ok(out.written().to_vec())
}

/// A generator that counts.
pub(crate) struct Counting(pub(crate) u8);

impl Rng for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(5).wrapping_add(1);
            *byte = self.0;
        }
    }
}

pub(crate) fn key_set(key_len: usize) -> KeySet {
    let key = |first: u8| {
        AesKey::new(
            &(0..key_len as u8)
                .map(|i| first.wrapping_add(i))
                .collect::<Vec<_>>(),
        )
        .unwrap()
    };
    KeySet {
        enc: key(0x00),
        mac: key(0x40),
        dek: key(0x80),
    }
}

/// INITIALIZE UPDATE on both sides: the card's state, the host's channel, and its host cryptogram inside EXTERNAL AUTHENTICATE.
pub(crate) fn initiated(
    key_len: usize,
    i: ScpParameter,
    level: SecurityLevel,
) -> (card::Initiated, HostChannel, Vec<u8>) {
    let keys = key_set(key_len);
    let host_challenge: Vec<u8> = (0..i.mac_mode().size() as u8).collect();
    let mut initiated = None;
    let aid = aid("A000000151000000");
    let response = written(|out| {
        let rng = &mut Counting(7);
        initiated = Some(card::initiate(
            &keys,
            0x30,
            i,
            &[9; 10],
            0x0102,
            &aid,
            &host_challenge,
            rng,
            out,
        )?);
        Ok::<_, ScpError>(())
    })
    .unwrap();
    let response = InitializeUpdateResponse::parse(&response).unwrap();
    assert_eq!((response.kdd, response.kvn, response.i), ([9; 10], 0x30, i));
    assert_eq!(response.sequence_counter, i.pseudo_random().then_some(0x0102));
    let host_challenge = Challenge::try_from(&host_challenge[..]).unwrap();
    let session_keys = SessionKeys::derive(&keys, &host_challenge, &response.card_challenge).unwrap();
    let expected = session_keys
        .card_cryptogram(&host_challenge, &response.card_challenge)
        .unwrap();
    assert_eq!(response.card_cryptogram, expected);
    let host_cryptogram = session_keys
        .host_cryptogram(&host_challenge, &response.card_challenge)
        .unwrap();
    let mut host = HostChannel::new(session_keys, i.mac_mode());
    let external = written(|out| host.external_authenticate(level, &host_cryptogram, out)).unwrap();
    (initiated.unwrap(), host, external)
}

/// Both ends of an authenticated secure channel.
pub(crate) fn pair(key_len: usize, i: u8, level: SecurityLevel) -> (SecureChannel, HostChannel) {
    let (initiated, host, external) = initiated(key_len, ScpParameter::new(i).unwrap(), level);
    (initiated.authenticate(&external).unwrap(), host)
}

/// A command as values that own their data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) header: [u8; 4],
    pub(crate) data: Vec<u8>,
    pub(crate) ne: Option<u32>,
}

impl Command {
    pub(crate) fn of(capdu: &CApdu<'_>) -> Self {
        let header = [capdu.cla.0, capdu.ins, capdu.p1, capdu.p2];
        Self {
            header,
            data: capdu.data.to_vec(),
            ne: capdu.ne,
        }
    }

    pub(crate) fn capdu(&self) -> CApdu<'_> {
        let [cla, ins, p1, p2] = self.header;
        CApdu {
            data: &self.data,
            ne: self.ne,
            ..CApdu::new(sekisho_apdu::Cla(cla), ins, p1, p2)
        }
    }
}

pub(crate) fn wrap(host: &mut HostChannel, command: &Command) -> Vec<u8> {
    written(|out| host.wrap(&command.capdu(), out)).unwrap()
}

/// What the card makes of a C-APDU.
pub(crate) fn unwrap(card: &mut SecureChannel, bytes: &[u8]) -> Result<Command, ScpError> {
    let mut buf = vec![0; bytes.len()];
    card.unwrap(&CApdu::parse(bytes)?, &mut buf)
        .map(|capdu| Command::of(&capdu))
}

pub(crate) fn respond(card: &mut SecureChannel, data: &[u8], sw: u16) -> Vec<u8> {
    written(|out| card.wrap_response(data, StatusWord(sw), out)).unwrap()
}

pub(crate) fn read_response(host: &mut HostChannel, bytes: &[u8]) -> Result<(Vec<u8>, u16), ScpError> {
    let mut buf = vec![0; bytes.len()];
    host.unwrap_response(bytes, &mut buf)
        .map(|response| (response.data.to_vec(), response.sw.0))
}
