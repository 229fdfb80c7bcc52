//! The other ends of a broadcast update, written from `docs/spec/broadcast-update.md`: the design system, the HSM, and a device that plays.

use super::ByValue as _;
use sekisho_apdu::{CApdu, Cla, Writer};
use sekisho_keys::p256sig::SigningKey;
use sekisho_keys::{AesKey, KeySet, cmac, ctr_xor, kdf_label, key_wrap, sha256};
use sekisho_link::{KeyChange, Manifest};
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{Personalisation, Profile};
use sekisho_scp::SecurityLevel;
use sekisho_scp::host::BroadcastWriter;

use super::host::Host;
use super::script::Line;
use super::{Card, SE_ID, SeededRng, key, personalisation, send, sw};

/// The meter's OS part, as `applets/` builds it.
pub const V1: &[u8] = include_bytes!("../../../applets/prebuilt/meter-v1.wasm");
pub const V2: &[u8] = include_bytes!("../../../applets/prebuilt/meter-v2.wasm");

/// The same filled up with a custom section to more than two pages.
pub fn long_v2() -> Vec<u8> {
    let filling = vec![0x5A; 9000];
    // The section's length in LEB128, then an empty name.
    [V2, &[0x00, 0xA9, 0x46, 0x00], &filling].concat()
}

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
        Card::made(flash, SeededRng(1), profile, &personalisation).unwrap()
    }

    pub fn open(&self, card: &mut dyn Line, level: SecurityLevel) -> Host {
        Host::open(card, KVN, &self.scp, level)
    }

    /// The same SE after its design system has changed its keys.
    pub fn changed(&self, change: Change) -> Self {
        let mut changed = Self::new();
        if change.pair {
            (changed.kos, changed.k_mac) = (key(&NEW_KOS), key(&NEW_K_MAC));
        }
        if change.designer {
            changed.designer = SigningKey::from_bytes(&[0x83; 32]).unwrap();
        }
        changed
    }

    /// KCK of section 3.1.
    pub fn kck(&self, is_individual: bool) -> AesKey {
        if is_individual {
            derive(
                &self.scp.dek,
                "SK key change",
                &[&KEY_PACKAGE[..], &SE_ID].concat(),
            )
        } else {
            derive(&self.kos, "SK key change", &KEY_PACKAGE)
        }
    }

    /// The image that makes these keys those of `new`.
    pub fn key_image(&self, new: &Self, change: Change) -> Vec<u8> {
        let pair = [new.kos.as_bytes(), new.k_mac.as_bytes()].concat();
        let mut wrapped = vec![0; pair.len() + 8];
        key_wrap(&self.kck(change.is_individual), &pair, &mut wrapped).unwrap();
        let image = KeyChange {
            wrapped: change.pair.then_some(&wrapped[..]),
            designer: change.designer.then(|| new.designer.verifying_key().to_sec1()),
            pairing: None,
            is_individual: change.is_individual,
        };
        let mut buf = [0; KeyChange::MAX_LEN];
        let mut w = Writer::new(&mut buf);
        image.encode(&mut w).unwrap();
        w.written().to_vec()
    }
}

/// New keys that stand nowhere else.
pub const NEW_KOS: [u8; 16] = *b"Kos after change";
pub const NEW_K_MAC: [u8; 16] = *b"K_MAC afterwards";
/// The package id of the key changes here.
pub const KEY_PACKAGE: [u8; 16] = [0xCD; 16];
/// Their campaign.
pub const KEY_CAMPAIGN: u64 = 0x1122_3344_5566_7788;

/// What a key change changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Kos and `K_MAC`.
    pub pair: bool,
    pub designer: bool,
    /// Wrapped for one SE.
    pub is_individual: bool,
}

impl Change {
    /// All that there are.
    pub const ALL: [Self; 5] = [
        Self::of(true, false, false),
        Self::of(false, true, false),
        Self::of(true, true, false),
        Self::of(true, false, true),
        Self::of(true, true, true),
    ];

    pub const fn of(pair: bool, designer: bool, is_individual: bool) -> Self {
        Self {
            pair,
            designer,
            is_individual,
        }
    }
}

/// The manifest of a key change.
pub fn key_manifest(version: u32, min_previous: u32, image: &[u8]) -> Manifest {
    Manifest {
        target: 2,
        code_format: 0,
        abi: 0,
        package_id: KEY_PACKAGE,
        ..manifest(version, min_previous, image)
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

/// What of a broadcast is the server's to say.
#[derive(Clone, Copy)]
pub struct Plan {
    pub campaign: u64,
    pub custody: Custody,
    /// Encryption counter of the first command.
    pub counter: u32,
    /// Bytes of the image in a block.
    pub block: usize,
}

impl Plan {
    /// The usual campaign.
    pub const fn new(custody: Custody, block: usize) -> Self {
        Self {
            campaign: CAMPAIGN,
            custody,
            counter: 7,
            block,
        }
    }

    /// The campaign of a key change.
    pub const fn of_keys(custody: Custody) -> Self {
        Self {
            campaign: KEY_CAMPAIGN,
            ..Self::new(custody, 239)
        }
    }
}

/// A broadcast, ready to be played.
pub struct Broadcast {
    pub change_mode: Vec<u8>,
    /// CHANGE MODE that brings the key set alone, and the one that uses it.
    pub keep: Vec<u8>,
    pub change_mode_kept: Vec<u8>,
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
        Self::planned(Plan::new(custody, block), keys, manifest, image)
    }

    /// A key change of version 2, both custodies' usual way.
    pub fn of_keys(custody: Custody, old: &Keys, new: &Keys, change: Change) -> Self {
        let image = old.key_image(new, change);
        Self::planned(Plan::of_keys(custody), old, &key_manifest(2, 1, &image), &image)
    }

    pub fn planned(plan: Plan, keys: &Keys, manifest: &Manifest, image: &[u8]) -> Self {
        let Plan {
            campaign,
            custody,
            counter,
            block,
        } = plan;
        let campaign = campaign.to_be_bytes();
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
        let data = [&campaign[..], &counter.to_be_bytes(), &chaining, &transported].concat();
        let change_mode =
            |p1, data: &[u8]| encode(&CApdu::new(Cla::GP, 0x3A, p1, custody as u8).with_data(data));
        let commands = Self::bulk(keys, manifest, &body, block, counter, chaining);

        let (version, length) = (manifest.version.to_be_bytes(), manifest.length.to_be_bytes());
        let design = [
            &b"SKINTG01"[..],
            &[manifest.target],
            &version,
            &length,
            &package_id,
            &manifest.digest,
        ]
        .concat();
        let individual = |action, target, version: &[u8], length: &[u8], digest: &[u8]| {
            let head = [&b"SKAUTH01"[..], &[action, target], version, length].concat();
            cmac(&keys.k_aut, &[&head, &campaign, &SE_ID, digest])
        };
        let activation = individual(1, manifest.target, &version, &length, &manifest.digest);
        let activate = [&campaign[..], &cmac(&k_int, &[&design]), &activation].concat();
        let discard = [&campaign[..], &individual(2, 0, &[0; 4], &[0; 4], &[0; 32])].concat();
        let authorise =
            |p1, data: &[u8]| encode(&CApdu::new(Cla::GP, 0x3E, p1, 0).with_data(data).with_ne(256));
        Self {
            change_mode: change_mode(1, &data),
            keep: change_mode(2, &data),
            change_mode_kept: change_mode(1, &campaign),
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

/// CHANGE MODE that leaves broadcast mode.
pub const LEAVE: [u8; 4] = [0x80, 0x3A, 0x00, 0x01];

/// Active version, staging state and next block of GET DATA DF20.
pub fn update_state(card: &mut Card) -> (u32, u8, u16) {
    state_of(card, 0x20, 1)
}

/// The same of the design system's keys: GET DATA DF22.
pub fn key_state(card: &mut Card) -> (u32, u8, u16) {
    state_of(card, 0x22, 2)
}

fn state_of(card: &mut Card, tag: u8, target: u8) -> (u32, u8, u16) {
    let data = send(card, &[0x80, 0xCA, 0xDF, tag, 0x00]);
    assert_eq!(
        (data.len(), &data[..5]),
        (3 + 19 + 2, &[0xDF, tag, 0x13, 0x01, target][..]),
        "{data:02X?}"
    );
    let value = &data[3..];
    (
        u32::from_be_bytes(value[3..7].try_into().unwrap()),
        value[8],
        u16::from_be_bytes([value[17], value[18]]),
    )
}
