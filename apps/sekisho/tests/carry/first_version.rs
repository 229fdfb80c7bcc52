//! A device of version 1 of the messages, written from the page's version 1 alone, between today's server and today's secure element: it updates
//! the OS part as before, goes on after a tear, and hears nothing of what came later (broadcast update, 4 and 5).

use std::sync::Arc;

use super::METER_2;
use super::se::Socket;
use sekisho_hsm::design::{Ceremony, PackOptions};
use sekisho_hsm::{Hsm, Renewal, SoftHsm};
use sekisho_link::{Custody, SeId};
use sekisho_server::{Certificate, Config, Server};
use sekisho_transport::Card;
use serde_json::{Value, json};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

const SE_ID: SeId = SeId([0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0, 9]);

/// A server, and a device of version 1 with an SE.
struct FirstVersion {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    http: ureq::Agent,
    hsm: Arc<SoftHsm>,
    ceremony: Ceremony,
    socket: Socket,
    _folder: tempfile::TempDir,
}

impl Drop for FirstVersion {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}

impl FirstVersion {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (hsm, ceremony) = (
            Arc::new(SoftHsm::generate().unwrap()),
            Ceremony::generate().unwrap(),
        );
        let socket = Socket::new(&hsm, &ceremony, SE_ID);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            device_address: any,
            admin_address: any,
            database: folder.path().join("fleet.sqlite"),
            certificate: Certificate::self_signed(&["127.0.0.1"]).unwrap(),
            admin_token: None,
            authority_key: None,
            paging: None,
        };
        let custody: Arc<dyn Hsm> = Arc::clone(&hsm) as Arc<dyn Hsm>;
        let server = runtime.block_on(Server::start(config, custody)).unwrap();
        let certificates = parse_pem(server.certificate.as_bytes()).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(certificates.collect())))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let http = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .build()
            .into();
        let world = Self {
            runtime,
            server: Some(server),
            http,
            hsm,
            ceremony,
            socket,
            _folder: folder,
        };
        let device = json!([{ "se_id": SE_ID.to_string(), "kvn": 0x30 }]);
        world.admin("devices", device.to_string().as_bytes());
        world
    }

    fn admin(&self, path: &str, body: &[u8]) -> Value {
        let server = self.server.as_ref().unwrap();
        let mut response = self
            .http
            .post(format!("http://{}/api/v1/{path}", server.admin_address))
            .header("Authorization", format!("Bearer {}", server.admin_token))
            .send(body)
            .unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        assert!(response.status().is_success(), "{path}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// A running campaign of a package; its number.
    fn campaign(&self, package: &[u8]) -> Vec<u8> {
        let designer = hex::encode(self.ceremony.designer_public());
        let uploaded = self.admin(&format!("packages?designer={designer}"), package);
        let wanted = json!({ "name": "first", "package_id": uploaded["package_id"], "canary": 0 });
        let made = self.admin("campaigns", wanted.to_string().as_bytes());
        let id = made["id"].as_str().unwrap();
        self.admin(&format!("campaigns/{id}/start"), b"");
        hex::decode(id).unwrap()
    }

    /// A request of the device: status and body.
    fn ask(&self, path: &str, body: Option<&[u8]>) -> (u16, Vec<u8>) {
        let url = format!(
            "https://{}/device/v1/{path}",
            self.server.as_ref().unwrap().device_address
        );
        let token = format!("Bearer {}", hex::encode(self.hsm.link_token(SE_ID).unwrap()));
        let mut response = match body {
            Some(body) => self.http.post(url).header("Authorization", token).send(body),
            None => self.http.get(url).header("Authorization", token).call(),
        }
        .unwrap();
        (
            response.status().as_u16(),
            response.body_mut().read_to_vec().unwrap(),
        )
    }

    /// GET DATA in class 00: the bare value.
    fn value(&mut self, tag: u16) -> Vec<u8> {
        let [p1, p2] = tag.to_be_bytes();
        let answer = self.socket.transmit(&[0x00, 0xCA, p1, p2, 0x00]).unwrap();
        let (value, sw) = answer.split_at(answer.len() - 2);
        assert_eq!(sw, [0x90, 0x00], "{tag:04X}");
        value.to_vec()
    }

    fn equ(&mut self, campaign: &[u8]) -> Vec<u8> {
        let (counter, state) = (self.value(0x00C1), self.value(0xDF20));
        let head = [&b"SKEQ\x01"[..], &SE_ID.0, campaign, &[0x30, 0x70]].concat();
        [&head[..], &counter, &[19], &state].concat()
    }

    /// Offer, delivery, EQU, and at most `most` commands; the SE's state before it.
    fn play(&mut self, most: usize) -> Vec<u8> {
        self.socket.reset().unwrap();
        let (status, offer) = self.ask(&format!("{SE_ID}/offer"), None);
        assert_eq!((status, offer.len(), &offer[..5]), (200, 49, &b"SKOF\x01"[..]));
        let campaign = offer[5..13].to_vec();
        let (status, delivery) = self.ask(&format!("deliveries/{}", hex::encode(&campaign)), None);
        assert_eq!(
            (status, &delivery[..13]),
            (200, &[&b"SKDL\x01"[..], &campaign].concat()[..])
        );
        assert_eq!(u32::try_from(delivery.len()).unwrap(), number(&offer[13..17]));
        let bulk = listed(
            &delivery[17 + 12..],
            number(&[&[0, 0][..], &delivery[23..25]].concat()),
            2,
        );
        let state = self.value(0xDF20);
        let equ = self.equ(&campaign);
        let (status, p_aut) = self.ask(&format!("{SE_ID}/equ"), Some(&equ));
        assert_eq!(
            (status, &p_aut[..5]),
            (200, &b"SKAU\x01"[..]),
            "{}",
            String::from_utf8_lossy(&p_aut)
        );
        assert_eq!(self.ask(&format!("{SE_ID}/equ"), Some(&equ)).1, p_aut);
        let own = listed(&p_aut[28..], p_aut[27].into(), 1);
        let (before, after) = own.split_at(p_aut[26].into());
        let next = if state[9..17] == campaign[..] {
            usize::from(u16::from_be_bytes([state[17], state[18]]))
        } else {
            0
        };
        let bulk = if before.is_empty() { &[][..] } else { &bulk[next..] };
        let commands = [before, bulk, after].concat();
        for command in commands.iter().take(most) {
            let answer = self.socket.transmit(command).unwrap();
            assert_eq!(answer[answer.len() - 2..], [0x90, 0x00], "{command:02X?}");
        }
        state
    }

    /// ST with the SE's receipt: the verdict.
    fn report(&mut self, campaign: &[u8]) -> Vec<u8> {
        self.socket.reset().unwrap();
        let receipt = self.value(0xDF21);
        let head = [&b"SKST\x01"[..], &SE_ID.0, campaign, &[0, 0, 0x90, 0x00, 67]].concat();
        let (status, verdict) = self.ask(&format!("{SE_ID}/status"), Some(&[head, receipt].concat()));
        assert_eq!(status, 200);
        verdict
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

/// `count` commands, each behind its length of so many bytes.
fn listed(mut bytes: &[u8], count: u32, width: usize) -> Vec<Vec<u8>> {
    let mut next = || {
        let (length, rest) = bytes.split_at(width);
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (command, rest) = rest.split_at(length);
        bytes = rest;
        command.to_vec()
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_device_of_version_1_updates_the_os_part_as_before() {
    for custody in [Custody::Hsm, Custody::DesignSystem] {
        let mut world = FirstVersion::start();
        // A change of keys waits before it, of which a device of version 1 is told nothing.
        let next = world.ceremony.successor(Renewal::All).unwrap();
        let change = world
            .ceremony
            .key_change(&next, crate::how(custody), None)
            .unwrap();
        let keys = world.campaign(&change);
        assert_eq!(world.ask(&format!("{SE_ID}/offer"), None).0, 204);
        let equ = world.equ(&keys);
        assert_eq!(world.ask(&format!("{SE_ID}/equ"), Some(&equ)).0, 403);

        let package = world.ceremony.pack(METER_2, crate::options(2, custody)).unwrap();
        let campaign = world.campaign(&package);
        // Torn behind block 2, before the first page is full: the SE begins the bulk again at block 1.
        world.play(6);
        world.socket.power_cycle();
        let state = world.play(usize::MAX);
        assert_eq!((state[8], &state[17..]), (1, &[0, 1][..]), "{custody:?}");
        assert_eq!(world.socket.versions(), (2, 1));
        assert_eq!(world.report(&campaign), b"SKVD\x01\0\0\0\0\0");
        assert_eq!(world.ask(&format!("{SE_ID}/offer"), None).0, 204);
    }
}

/// What an SE with the whole image staged gets: an authorisation with splice 0, no bulk.
#[test]
fn what_is_staged_is_activated_without_the_bulk() {
    let mut world = FirstVersion::start();
    let options = PackOptions {
        version: 2,
        min_previous: 1,
        custody: Custody::Hsm,
    };
    let package = world.ceremony.pack(METER_2, options).unwrap();
    let campaign = world.campaign(&package);
    // All but AUTHORIZE ACTION: INITIALIZE UPDATE, EXTERNAL AUTHENTICATE, CHANGE MODE, the bulk.
    let blocks = 1 + METER_2.len().div_ceil(239);
    world.play(3 + blocks + 1);
    let state = world.play(usize::MAX);
    assert_eq!(state[8], 2, "it was whole");
    assert_eq!(world.socket.versions(), (2, 1));
    assert_eq!(world.report(&campaign), b"SKVD\x01\0\0\0\0\0");
}
