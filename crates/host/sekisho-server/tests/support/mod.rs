//! A running server, and a client that trusts its certificate.
#![allow(dead_code, unreachable_pub)] // each test program uses a part
#![allow(clippy::unwrap_used, clippy::panic)] // test support

use sekisho_apdu::Writer;
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_keys::p256sig::SigningKey;
use sekisho_link::{
    Campaign, LoaderState, Manifest, PackageBody, PackageSource, Receipt, Refusal, SeId, Staging, Version,
    codes,
};
use sekisho_server::paging::{PagingConfig, Scheme};
use sekisho_server::{Certificate, Config, Server};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

pub struct Fixture {
    pub server: Server,
    pub hsm: Arc<SoftHsm>,
    pub http: ureq::Agent,
}

/// Status, media type and body.
pub type Answer = (u16, String, Vec<u8>);

impl Fixture {
    pub async fn start(folder: &Path, hsm: &Arc<SoftHsm>) -> Self {
        let paging = format!("sqlite:{}", folder.join("paging.sqlite").display());
        Self::start_with(folder, hsm, paging).await
    }

    /// With this database of paging.
    pub async fn start_with(folder: &Path, hsm: &Arc<SoftHsm>, paging: String) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            device_address: any,
            admin_address: any,
            database: folder.join("fleet.sqlite"),
            certificate: Certificate::self_signed(&["127.0.0.1"]).unwrap(),
            admin_token: Some("a".repeat(32)),
            authority_key: None,
            paging: Some(PagingConfig {
                listen: "127.0.0.1:0".parse().unwrap(),
                threads: 1,
                scheme: Scheme::Ticket,
                database: paging,
                directory: None,
                domain: 0,
                node: "test".to_owned(),
            }),
        };
        let server = Server::start(config, Arc::clone(hsm) as Arc<dyn Hsm>)
            .await
            .unwrap();
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
        Self {
            server,
            hsm: Arc::clone(hsm),
            http,
        }
    }

    pub fn url(&self, path: &str) -> String {
        if path.starts_with("/device/") {
            format!("https://{}{path}", self.server.device_address)
        } else {
            format!("http://{}{path}", self.server.admin_address)
        }
    }

    pub fn get(&self, path: &str, token: &str, range: Option<&str>) -> Answer {
        let mut request = self
            .http
            .get(self.url(path))
            .header("Authorization", format!("Bearer {token}"));
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        answer(request.call().unwrap())
    }

    pub fn post(&self, path: &str, token: &str, body: &[u8]) -> Answer {
        let request = self
            .http
            .post(self.url(path))
            .header("Authorization", format!("Bearer {token}"));
        answer(request.send(body).unwrap())
    }

    /// What the administrator reads there.
    pub fn read(&self, path: &str) -> Value {
        let (status, _, body) = self.get(path, &self.server.admin_token, None);
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice(&body).unwrap()
    }

    pub fn admin(&self, path: &str, body: &[u8]) -> Value {
        let (status, _, body) = self.post(path, &self.server.admin_token, body);
        assert!(
            status < 300,
            "{path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    pub fn link_token(&self, se_id: SeId) -> String {
        hex::encode(self.hsm.link_token(se_id).unwrap())
    }
}

pub fn answer(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let kind = response
        .headers()
        .get("content-type")
        .map(|v| v.to_str().unwrap().to_owned())
        .unwrap_or_default();
    (
        response.status().as_u16(),
        kind,
        response.body_mut().read_to_vec().unwrap(),
    )
}

/// A package of version 2, whatever its target, and the key with which it is signed. Its image is of no use to any SE.
pub fn package_of(target: u8, version: u32, min_previous: u32) -> (Vec<u8>, Manifest, SigningKey) {
    let designer = SigningKey::from_bytes(&[0x42; 32]).unwrap();
    package_by(&designer, target, version, min_previous)
}

/// The same by this designer.
pub fn package_by(
    designer: &SigningKey,
    target: u8,
    version: u32,
    min_previous: u32,
) -> (Vec<u8>, Manifest, SigningKey) {
    let ciphertext = [target; 100];
    let manifest = Manifest {
        target,
        code_format: u8::from(target == Manifest::OS_PART),
        abi: if target == Manifest::OS_PART {
            Manifest::ABI
        } else {
            0
        },
        version,
        min_previous,
        length: 100,
        package_id: [target.wrapping_mul(16).wrapping_add(version.to_be_bytes()[3]); 16],
        digest: [0xD1; 32],
    };
    let source = PackageSource {
        version: Version::Two,
        manifest,
        signature: designer.sign_parts(&[codes::MANIFEST_SIGNATURE_PREFIX, &manifest.encode()]),
        design_code: [7; 16],
        body: PackageBody::Hsm {
            ciphertext: &ciphertext,
        },
    };
    let mut bytes = vec![0; 1000];
    let mut out = Writer::new(&mut bytes);
    source.encode_unsigned(&mut out).unwrap();
    let unsigned = out.written().to_vec();
    (signed(&unsigned, designer), manifest, designer.clone())
}

/// A package of version 2 with the designer's signature over it.
pub fn signed(unsigned: &[u8], designer: &SigningKey) -> Vec<u8> {
    let prefix = codes::package_signature_prefix(Version::Two);
    [unsigned, &designer.sign_parts(&[prefix, unsigned])].concat()
}

/// The designer's public key as an administrator names it.
pub fn public(designer: &SigningKey) -> String {
    hex::encode(designer.verifying_key().to_sec1())
}

/// What an SE says of a target: this version, and nothing staged.
pub fn state(target: u8, version: u32) -> LoaderState {
    LoaderState {
        target,
        slot: 0,
        version,
        abi: if target == 1 { Manifest::ABI } else { 0 },
        staging: Staging::Nothing,
        campaign: Campaign(0),
        next_block: 0,
    }
}

/// A receipt with the SE's MAC.
pub fn receipt_of(hsm: &SoftHsm, se_id: SeId, receipt: Receipt) -> Receipt {
    let mac = hsm.mac_with_k_aut(se_id, 0x30, &receipt.message(se_id)).unwrap();
    Receipt { mac, ..receipt }
}

/// A refusal with the SE's MAC.
pub fn refusal_of(hsm: &SoftHsm, se_id: SeId, refusal: Refusal) -> Refusal {
    let mac = hsm.mac_with_k_aut(se_id, 0x30, &refusal.message(se_id)).unwrap();
    Refusal { mac, ..refusal }
}
