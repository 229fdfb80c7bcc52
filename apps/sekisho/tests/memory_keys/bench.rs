//! A running card whose memory is searched, its host, and broadcasts: for `memory_keys.rs` and `memory_update.rs`.
#![allow(dead_code, unreachable_pub)] // each test program uses a part

use std::path::PathBuf;

use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_hsm::PersoFile;
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, cmac, ctr_xor, kdf_label, kdf_session_key, key_wrap, sha256};
use sekisho_link::Manifest;
use sekisho_scp::host::{BroadcastWriter, Challenge, HostChannel, InitializeUpdateResponse, SessionKeys};
use sekisho_scp::{MacMode, SecurityLevel};
use sekisho_transport::{Card, SocketCard};
use zeroize::Zeroizing;

use crate::process::memory::{Memory, Secret};
use crate::process::{CardProcess, scratch, send, whole};

pub const KVN: u8 = 0x30;
pub const SE_ID: [u8; 10] = [0x5E, 0xC1, 0x54, 0, 0, 0, 0, 0, 0, 0x77];
pub const V2: &[u8] = include_bytes!("../../../../applets/prebuilt/meter-v2.wasm");

/// A key that stands nowhere by chance.
pub fn named(name: &str) -> AesKey {
    AesKey::new(&sha256(&[b"memory search: ", name.as_bytes()])[..16]).unwrap()
}

pub fn set(name: &str) -> KeySet {
    let key = |part: &str| named(&format!("{name} {part}"));
    KeySet {
        enc: key("Key-ENC"),
        mac: key("Key-MAC"),
        dek: key("Key-DEK"),
    }
}

pub fn designer() -> SigningKey {
    SigningKey::from_bytes(&sha256(&[b"designer"])).unwrap()
}

pub fn secrets_of(name: &str, set: &KeySet) -> Vec<Secret> {
    [
        ("Key-ENC", &set.enc),
        ("Key-MAC", &set.mac),
        ("Key-DEK", &set.dek),
    ]
    .map(|(part, key)| Secret::new(format!("{name} {part}"), key.as_bytes()))
    .into()
}

/// What the flash keeps, and what comes from Kos alone.
pub fn kept() -> Vec<Secret> {
    let mut all = secrets_of("static", &set("scp"));
    all.push(Secret::new("K-AUT", named("K-AUT").as_bytes()));
    all.push(Secret::new("Kos", named("Kos").as_bytes()));
    all.push(Secret::new("K_MAC", named("K_MAC").as_bytes()));
    all.push(Secret::new(
        "KEK",
        derive(&named("Kos"), "SK key wrap", &[]).as_bytes(),
    ));
    let image = derive(&named("Kos"), "SK image", &manifest().package_id);
    all.push(Secret::new("K_IMG", image.as_bytes()));
    all
}

pub fn derive(key: &AesKey, label: &str, context: &[u8]) -> AesKey {
    let mut out = [0; 16];
    kdf_label(key, label.as_bytes(), context, &mut out);
    AesKey::new(&out).unwrap()
}

pub fn manifest() -> Manifest {
    Manifest {
        target: Manifest::OS_PART,
        code_format: Manifest::WEBASSEMBLY,
        abi: Manifest::ABI,
        version: 2,
        min_previous: 1,
        length: V2.len().try_into().unwrap(),
        package_id: [0xAB; 16],
        digest: sha256(&[V2]),
    }
}

/// A card that was personalised in an earlier life of its process, and its reader.
pub struct Bench {
    pub process: CardProcess,
    /// There is one at a time.
    pub reader: Option<SocketCard>,
    pub flash: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let folder = scratch();
        let hex = |key: &AesKey| Zeroizing::new(hex::encode(key.as_bytes()));
        let scp = set("scp");
        let perso = PersoFile {
            se_id: hex::encode(SE_ID),
            kvn: KVN,
            s16: false,
            k_enc: hex(&scp.enc),
            k_mac_scp: hex(&scp.mac),
            k_dek: hex(&scp.dek),
            k_aut: hex(&named("K-AUT")),
            kos: Some(hex(&named("Kos"))),
            k_mac: Some(hex(&named("K_MAC"))),
            designer: Some(hex::encode(designer().verifying_key().to_sec1())),
            paging_root: None,
            file_mkey: None,
            file_external: None,
        };
        let (flash, file) = (folder.path().join("flash"), folder.path().join("perso"));
        std::fs::write(&file, serde_json::to_string(&perso).unwrap()).unwrap();
        CardProcess::start(&flash, 0, &["--perso", file.to_str().unwrap()]).kill();
        let process = CardProcess::start(&flash, 0, &[]);
        Self {
            reader: Some(process.reader()),
            process,
            flash,
            _folder: folder,
        }
    }

    /// What of these secrets stands outside the flash.
    pub fn holds(&self, secrets: &[Secret]) -> Vec<String> {
        let memory = Memory::of(self.process.id());
        memory.holds(secrets, &memory.flash(&self.flash))
    }

    /// None of these secrets, nor of those that the flash keeps, stands outside the flash.
    pub fn assert_gone(&self, when: &str, secrets: &[Secret]) {
        let mut found = self.holds(secrets);
        found.extend(self.holds(&kept()));
        assert!(found.is_empty(), "{when}: {found:#?}");
    }

    /// All of them stand somewhere: the search finds what is there.
    pub fn assert_there(&self, when: &str, secrets: &[Secret]) {
        for secret in secrets {
            assert!(
                !self.holds(std::slice::from_ref(secret)).is_empty(),
                "{when}: the search does not find {}",
                secret.name
            );
        }
    }

    pub fn card(&mut self) -> &mut SocketCard {
        self.reader.as_mut().unwrap()
    }

    pub fn reset(&mut self) {
        self.card().reset().unwrap();
    }

    pub fn open(&mut self, keys: &KeySet) -> Session {
        let (initiated, channel) = self.initiate(keys);
        let sw = send(self.card(), &initiated).1;
        assert_eq!(sw, 0x9000);
        channel
    }

    /// INITIALIZE UPDATE; gives EXTERNAL AUTHENTICATE.
    pub fn initiate(&mut self, keys: &KeySet) -> (Vec<u8>, Session) {
        let challenge = [1, 2, 3, 4, 5, 6, 7, 8];
        let command = [&[0x80, 0x50, 0, 0, 8][..], &challenge, &[0]].concat();
        let (data, sw) = send(self.card(), &command);
        assert_eq!(sw, 0x9000);
        let response = InitializeUpdateResponse::parse(&data).unwrap();
        let host_challenge = Challenge::try_from(&challenge[..]).unwrap();
        let session = SessionKeys::derive(keys, &host_challenge, &response.card_challenge).unwrap();
        let cryptogram = session
            .host_cryptogram(&host_challenge, &response.card_challenge)
            .unwrap();
        let mut channel = HostChannel::new(session, MacMode::S8);
        let mut buffer = [0; 64];
        let mut out = Writer::new(&mut buffer);
        channel
            .external_authenticate(SecurityLevel::FULL, &cryptogram, &mut out)
            .unwrap();
        // Table 4-1: S-ENC, S-MAC, S-RMAC.
        let context = [&challenge[..], &data[13..21]].concat();
        let key = |name: &str, key: &AesKey, constant| {
            Secret::new(name, kdf_session_key(key, constant, &context).as_bytes())
        };
        let secrets = vec![
            key("S-ENC", &keys.enc, 0x04),
            key("S-MAC", &keys.mac, 0x06),
            key("S-RMAC", &keys.mac, 0x07),
        ];
        (out.written().to_vec(), Session { channel, secrets })
    }
}

/// The host's end, and what the card must forget of it.
pub struct Session {
    pub channel: HostChannel,
    pub secrets: Vec<Secret>,
}

impl Session {
    pub fn wrap(&mut self, command: &CApdu<'_>) -> Vec<u8> {
        let mut buffer = vec![0; 2000];
        let mut out = Writer::new(&mut buffer);
        self.channel.wrap(command, &mut out).unwrap();
        out.written().to_vec()
    }

    /// A command through the channel: its status word.
    pub fn send(&mut self, bench: &mut Bench, command: &CApdu<'_>) -> u16 {
        let wrapped = self.wrap(command);
        let answer = whole(bench.card(), &wrapped);
        let mut plain = [0; 2000];
        self.channel.unwrap_response(&answer, &mut plain).unwrap().sw.0
    }
}

pub fn command(ins: u8, p1: u8, p2: u8, data: &[u8]) -> CApdu<'_> {
    CApdu::new(Cla::GP, ins, p1, p2).with_data(data)
}

pub trait ConcatAll {
    fn concat_all(self) -> Vec<Secret>;
}

impl<const N: usize> ConcatAll for [Vec<Secret>; N] {
    fn concat_all(self) -> Vec<Secret> {
        self.into_iter().flatten().collect()
    }
}

/// A broadcast as the pages say: the command that begins it, P_SE, the two ends of AUTHORIZE ACTION, and its secrets.
pub struct Broadcast {
    pub change_mode: Vec<u8>,
    pub custody: u8,
    pub commands: Vec<Vec<u8>>,
    pub activate: Vec<u8>,
    pub secrets: Vec<Secret>,
}

impl Broadcast {
    /// Of the OS part. Each campaign begins anew: a checkpoint of another one is deleted.
    pub fn new(custody: u8, campaign: u64) -> Self {
        Self::of(custody, campaign, &manifest(), V2)
    }

    /// Of any image.
    pub fn of(custody: u8, campaign: u64, manifest: &Manifest, image: &[u8]) -> Self {
        let (enc, mac) = (named("BK-ENC"), named("BK-MAC"));
        let keys = [enc.as_bytes(), mac.as_bytes()].concat();
        let kos = named("Kos");
        let mut body = image.to_vec();
        let (carried, k_int) = if custody == 3 {
            let mut wrapped = vec![0; keys.len() + 8];
            key_wrap(&derive(&kos, "SK key wrap", &[]), &keys, &mut wrapped).unwrap();
            (wrapped, derive(&mac, "SK integrity", &manifest.package_id))
        } else {
            let image = derive(&kos, "SK image", &manifest.package_id);
            ctr_xor(&image, &manifest.package_id, 0, &mut body).unwrap();
            (keys, named("K_MAC"))
        };
        let campaign = campaign.to_be_bytes();
        let chaining = [0x5C; 16];
        let change_mode = [&campaign[..], &1u32.to_be_bytes(), &chaining, &carried].concat();
        let mut writer = BroadcastWriter::new(enc.clone(), mac.clone(), 1, chaining);
        let mut wrap = |command: &CApdu<'_>| {
            let mut buffer = vec![0; 2000];
            let mut out = Writer::new(&mut buffer);
            writer.wrap(command, &mut out).unwrap();
            out.written().to_vec()
        };
        let encoded = manifest.encode();
        let signature = designer().sign_parts(&[b"sekisho manifest v1\0", &encoded]);
        let mut commands = vec![wrap(&command(0x3C, 0, 0, &[&encoded[..], &signature].concat()))];
        for (number, bytes) in (1u16..).zip(body.chunks(239)) {
            let [p1, p2] = number.to_be_bytes();
            commands.push(wrap(&command(0x3C, p1, p2, bytes)));
        }
        commands.push(wrap(&command(0x3A, 0, 0, &[])));
        let (version, length) = (manifest.version.to_be_bytes(), manifest.length.to_be_bytes());
        let design = [
            &b"SKINTG01"[..],
            &[manifest.target],
            &version,
            &length,
            &manifest.package_id,
            &manifest.digest,
        ]
        .concat();
        let individual = [
            &b"SKAUTH01\x01"[..],
            &[manifest.target],
            &version,
            &length,
            &campaign,
            &SE_ID,
            &manifest.digest,
        ]
        .concat();
        let codes = [cmac(&k_int, &[&design]), cmac(&named("K-AUT"), &[&individual])].concat();
        Self {
            change_mode,
            custody,
            commands,
            activate: [&campaign[..], &codes].concat(),
            secrets: vec![
                Secret::new("BK-ENC", enc.as_bytes()),
                Secret::new("BK-MAC", mac.as_bytes()),
            ],
        }
    }

    /// Its keys, to look for once more.
    pub fn secrets_again(&self) -> Vec<Secret> {
        vec![
            Secret::new("BK-ENC", named("BK-ENC").as_bytes()),
            Secret::new("BK-MAC", named("BK-MAC").as_bytes()),
        ]
    }

    pub fn begin(&self, bench: &mut Bench, session: &mut Session) {
        let sw = session.send(bench, &command(0x3A, 0x01, self.custody, &self.change_mode));
        assert_eq!(sw, 0x9000);
        // The answer was the individual channel's last; both key sets are needed now.
        bench.assert_there("broadcast mode", &self.secrets);
        bench.assert_there("broadcast mode", &session.secrets);
    }

    pub fn write(&self, bench: &mut Bench, blocks: usize) {
        for command in &self.commands[..blocks] {
            assert_eq!(send(bench.card(), command).1, 0x9000);
        }
    }
}
