//! The other ends of a broadcast update, written from `docs/spec/broadcast-update.md`: the design system, the HSM, and a device that plays.

use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, cmac, ctr_xor, kdf_label, key_wrap, sha256};
use sekisho_link::Manifest;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Personalisation, Profile};
use sekisho_scp::SecurityLevel;
use sekisho_scp::host::BroadcastWriter;

use super::host::Host;
use super::{Card, SE_ID, SeededRng, key, personalisation, send, sw};

/// The meter's OS part, as `applets/` builds it.
pub const V1: &[u8] = include_bytes!("../../../../../applets/prebuilt/meter-v1.wasm");
pub const V2: &[u8] = include_bytes!("../../../../../applets/prebuilt/meter-v2.wasm");

pub const CAMPAIGN: u64 = 0x0102_0304_0506_0708;
pub const KVN: u8 = 0x30;

/// The keys of section 1.
pub struct Keys {
    pub scp: KeySet,
    pub k_aut: AesKey,
    pub kos: AesKey,
    pub k_mac: AesKey,
    pub designer: SigningKey,
    pub bk_enc: AesKey,
    pub bk_mac: AesKey,
}

impl Keys {
    pub fn new() -> Self {
        Self {
            scp: KeySet {
                enc: key(&[1; 16]),
                mac: key(&[2; 16]),
                dek: key(&[3; 16]),
            },
            k_aut: key(b"K-AUT of this SE"),
            kos: key(&[0x61; 16]),
            k_mac: key(&[0x62; 16]),
            designer: SigningKey::from_bytes(&[0x63; 32]).unwrap(),
            bk_enc: key(b"BK-ENC campaign1"),
            bk_mac: key(b"BK-MAC campaign1"),
        }
    }

    /// A meter with part version 1.
    pub fn card(&self, flash: RamFlash, profile: &Profile) -> Card {
        let designer = self.designer.verifying_key().to_sec1();
        let manifest = manifest(1, 0, V1);
        let personalisation = Personalisation {
            kos: Some(&self.kos),
            k_mac: Some(&self.k_mac),
            designer: Some(&designer),
            part: Some((&manifest, V1)),
            ..personalisation(KVN, &self.scp, &self.k_aut)
        };
        Card::manufacture(flash, SeededRng(1), profile, &personalisation).unwrap()
    }

    pub fn open(&self, card: &mut Card, level: SecurityLevel) -> Host {
        Host::open(card, KVN, &self.scp, level)
    }
}

pub fn manifest(version: u32, min_previous: u32, image: &[u8]) -> Manifest {
    Manifest {
        target: 1,
        code_format: 1,
        abi: Manifest::ABI,
        version,
        min_previous,
        length: image.len().try_into().unwrap(),
        package_id: [0xAB; 16],
        digest: sha256(&[image]),
    }
}

/// Who makes the broadcast key set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Custody {
    Design = 3,
    Hsm = 4,
}

/// A broadcast, ready to be played.
pub struct Broadcast {
    pub change_mode: Vec<u8>,
    /// The commands of P_SE: WRITE 0 to N, CHANGE MODE back.
    pub commands: Vec<Vec<u8>>,
    pub activate: Vec<u8>,
    pub discard: Vec<u8>,
}

fn encode(capdu: &CApdu<'_>) -> Vec<u8> {
    let mut buf = vec![0; 5000];
    let mut w = Writer::new(&mut buf);
    capdu.encode(&mut w).unwrap();
    w.written().to_vec()
}

fn derive(k: &AesKey, label: &str, context: &[u8]) -> AesKey {
    let mut out = [0; 16];
    kdf_label(k, label.as_bytes(), context, &mut out);
    key(&out)
}

impl Broadcast {
    pub fn new(keys: &Keys, custody: Custody, manifest: &Manifest, image: &[u8], block: usize) -> Self {
        Self::from_counter(7, keys, custody, manifest, image, block)
    }

    /// The same with this encryption counter for its first command.
    pub fn from_counter(
        counter: u32,
        keys: &Keys,
        custody: Custody,
        manifest: &Manifest,
        image: &[u8],
        block: usize,
    ) -> Self {
        let chaining = [0x5C; 16];
        let bk = [keys.bk_enc.as_bytes(), keys.bk_mac.as_bytes()].concat();
        let package_id = manifest.package_id;
        let mut body = image.to_vec();
        let (transported, k_int) = match custody {
            Custody::Design => {
                let mut wrapped = vec![0; bk.len() + 8];
                key_wrap(&derive(&keys.kos, "SK key wrap", &[]), &bk, &mut wrapped).unwrap();
                (wrapped, derive(&keys.bk_mac, "SK integrity", &package_id))
            }
            Custody::Hsm => {
                ctr_xor(
                    &derive(&keys.kos, "SK image", &package_id),
                    &package_id,
                    0,
                    &mut body,
                )
                .unwrap();
                (bk, keys.k_mac.clone())
            }
        };
        let data = [
            &CAMPAIGN.to_be_bytes()[..],
            &counter.to_be_bytes(),
            &chaining,
            &transported,
        ]
        .concat();
        let change_mode = encode(&CApdu::new(Cla::GP, 0x3A, 1, custody as u8).with_data(&data));
        let commands = Self::bulk(keys, manifest, &body, block, counter, chaining);

        let (version, length) = (manifest.version.to_be_bytes(), manifest.length.to_be_bytes());
        let design = [
            &b"SKINTG01\x01"[..],
            &version,
            &length,
            &package_id,
            &manifest.digest,
        ]
        .concat();
        let campaign = CAMPAIGN.to_be_bytes();
        let individual = |action, target, version: &[u8], length: &[u8], digest: &[u8]| {
            let head = [&b"SKAUTH01"[..], &[action, target], version, length].concat();
            cmac(&keys.k_aut, &[&head, &campaign, &SE_ID, digest])
        };
        let activation = individual(1, 1, &version, &length, &manifest.digest);
        let activate = [&campaign[..], &cmac(&k_int, &[&design]), &activation].concat();
        let discard = [&campaign[..], &individual(2, 0, &[0; 4], &[0; 4], &[0; 32])].concat();
        let authorise =
            |p1, data: &[u8]| encode(&CApdu::new(Cla::GP, 0x3E, p1, 0).with_data(data).with_ne(256));
        Self {
            change_mode,
            commands,
            activate: authorise(1, &activate),
            discard: authorise(2, &discard),
        }
    }

    fn bulk(
        keys: &Keys,
        manifest: &Manifest,
        body: &[u8],
        block: usize,
        counter: u32,
        chaining: [u8; 16],
    ) -> Vec<Vec<u8>> {
        let mut writer = BroadcastWriter::new(keys.bk_enc.clone(), keys.bk_mac.clone(), counter, chaining);
        let mut wrap = |capdu: &CApdu<'_>| {
            let mut buf = vec![0; 5000];
            let mut w = Writer::new(&mut buf);
            writer.wrap(capdu, &mut w).unwrap();
            w.written().to_vec()
        };
        let manifest = manifest.encode();
        let signature = keys.designer.sign_parts(&[b"sekisho manifest v1\0", &manifest]);
        let mut commands = vec![wrap(
            &CApdu::new(Cla::GP, 0x3C, 0, 0).with_data(&[&manifest[..], &signature].concat()),
        )];
        for (number, bytes) in (1u16..).zip(body.chunks(block)) {
            let [p1, p2] = number.to_be_bytes();
            commands.push(wrap(&CApdu::new(Cla::GP, 0x3C, p1, p2).with_data(bytes)));
        }
        commands.push(wrap(&CApdu::new(Cla::GP, 0x3A, 0, 0)));
        commands
    }

    /// Goes to broadcast mode and sends P_SE from block `from` on, up to the first status word other than 9000.
    pub fn play(&self, card: &mut Card, host: &mut Host, from: usize) -> u16 {
        let answer = host.send(card, &self.change_mode);
        if sw(&answer) != 0x9000 {
            return sw(&answer);
        }
        for command in self.commands.iter().skip(from) {
            let answer = sw(&send(card, command));
            if answer != 0x9000 {
                return answer;
            }
        }
        0x9000
    }
}

/// Active version, staging state and next block of GET DATA DF20.
pub fn update_state(card: &mut Card) -> (u32, u8, u16) {
    let data = send(card, &[0x80, 0xCA, 0xDF, 0x20, 0x00]);
    assert_eq!(
        (data.len(), &data[..4]),
        (3 + 19 + 2, &[0xDF, 0x20, 0x13, 0x01][..]),
        "{data:02X?}"
    );
    let value = &data[3..];
    (
        u32::from_be_bytes(value[3..7].try_into().unwrap()),
        value[8],
        u16::from_be_bytes([value[17], value[18]]),
    )
}
