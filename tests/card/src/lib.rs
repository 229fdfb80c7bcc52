//! A card to test, a host to test it with, and the runner of scripts.
#![forbid(unsafe_code)]
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::new_without_default)] // test support

pub mod board;
pub mod by_value;
pub mod debugger;
pub mod files;
pub mod filing;
pub mod host;
pub mod issuer;
pub mod keys;
pub mod messaging;
pub mod poller;
pub mod script;
#[cfg(target_os = "linux")]
pub mod stack;
pub mod tables;
pub mod update;

pub use board::Card;
pub use by_value::ByValue;

use std::marker::PhantomData;

use sekisho_apdu::Aid;
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::{DOMAINS, Standard, sec_app};
use sekisho_keys::{AesKey, KeySet, Rng};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    AllInterfaces, Applications, Containers, FactoryApplication, Interface, Module, OwnRecord,
    Personalisation, Platform, Profile,
};
use sekisho_scp::ScpParameter;

/// A generator whose bytes a test can repeat (xorshift64*).
#[derive(Clone, Debug)]
pub struct SeededRng(pub u64);

impl Rng for SeededRng {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            *byte = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes()[0];
        }
    }
}

/// Gives out what it was told, then what a seed makes.
pub struct Script(pub Vec<u8>, pub SeededRng);

impl Rng for Script {
    fn fill(&mut self, out: &mut [u8]) {
        if self.0.len() < out.len() {
            return self.1.fill(out);
        }
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&std::mem::replace(&mut self.0, rest));
    }
}

/// An SE on RAM that behaves like flash, with these applications, this generator and room for so many containers.
pub struct On<A, R = SeededRng, const CONTAINERS: usize = 1>(PhantomData<(A, R)>);

impl<A: Applications, R: Rng, const CONTAINERS: usize> Platform for On<A, R, CONTAINERS> {
    type Flash = RamFlash;
    type Rng = R;
    type Applications = A;
    type Interfaces = AllInterfaces;
    type Containers = Containers<CONTAINERS>;
    type Index = Ram<128, 16, 16>;
}

/// The SE as it is delivered, with randomness that a specification page states.
pub type Scripted = On<Standard<1, 0, DOMAINS>, Script>;

/// The SE as it is delivered.
pub type Virtual = On<Standard<1, 0, DOMAINS>>;

pub const SE_ID: [u8; 10] = [0x53, 0x4B, 0, 0, 0, 0, 0, 0, 0x30, 0x39];

pub const PAGE: usize = 4096;

/// Small slots: most tests have no OS part.
pub fn profile() -> Profile {
    Profile {
        slot_bytes: 4 * PAGE,
        ..Profile::default()
    }
}

pub fn flash() -> RamFlash {
    RamFlash::new(PAGE, 8 + 8)
}

pub fn key(bytes: &[u8]) -> AesKey {
    AesKey::new(bytes).unwrap()
}

/// The test keys that GlobalPlatform cards are delivered with.
pub fn initial_keys() -> KeySet {
    let key = key(&(0x40..=0x4F).collect::<Vec<u8>>());
    KeySet {
        enc: key.clone(),
        mac: key.clone(),
        dek: key,
    }
}

pub fn personalisation<'a>(kvn: u8, keys: &'a KeySet, k_aut: &'a AesKey) -> Personalisation<'a> {
    Personalisation {
        key_version: 1,
        se_id: SE_ID,
        scp_parameter: ScpParameter::FULL_S8,
        scp_kvn: kvn,
        scp: keys,
        k_aut,
        kos: None,
        k_mac: None,
        designer: None,
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: None,
        applications: &[],
        data_objects: &[],
        life_cycle: CardLifeCycle::OpReady,
    }
}

/// A card with initial keys, KVN FF.
pub fn new_card() -> Card {
    new_card_with(&profile(), 0xFF, &initial_keys())
}

pub fn new_card_with(profile: &Profile, kvn: u8, keys: &KeySet) -> Card {
    let k_aut = key(&[0xA0; 16]);
    Card::made(
        flash(),
        SeededRng(1),
        profile,
        &personalisation(kvn, keys, &k_aut),
    )
    .unwrap()
}

/// A card with initial keys and this parameter "i" of SCP03.
pub fn new_card_of(scp_parameter: ScpParameter) -> Card {
    let (keys, k_aut) = (initial_keys(), key(&[0xA0; 16]));
    let personalisation = Personalisation {
        scp_parameter,
        ..personalisation(0xFF, &keys, &k_aut)
    };
    Card::made(flash(), SeededRng(1), &profile(), &personalisation).unwrap()
}

/// Sends one C-APDU to the contacts.
pub fn send(card: &mut Card, capdu: &[u8]) -> Vec<u8> {
    send_on(card, Interface::Iso7816Contact, capdu)
}

/// Sends one C-APDU as a reader does: on T=0 the answer to a command with data and without Le waits, and is fetched.
pub fn send_on(card: &mut dyn script::Line, interface: Interface, capdu: &[u8]) -> Vec<u8> {
    script::fetched(card, interface, capdu)
}

pub fn sw(rapdu: &[u8]) -> u16 {
    let (_, sw) = rapdu.split_last_chunk().unwrap();
    u16::from_be_bytes(*sw)
}

/// SecApp as the factory installs it.
pub fn secapp<'a>(records: &'a [OwnRecord<'a>]) -> FactoryApplication<'a> {
    FactoryApplication {
        aid: Aid::try_from(sec_app::AID).unwrap(),
        load_file: Aid::try_from(sec_app::LOAD_FILE_AID).unwrap(),
        module: Module::SEC_APP,
        records,
    }
}

/// A list of commands with one of them left out, doubled, or exchanged for the one before it.
pub fn disturbed(commands: &[Vec<u8>], step: usize) -> [(&'static str, Vec<Vec<u8>>); 3] {
    let mut without = commands.to_vec();
    without.remove(step);
    let mut doubled = commands.to_vec();
    doubled.insert(step, commands[step].clone());
    let mut exchanged = commands.to_vec();
    exchanged.swap(step, step - 1);
    [
        ("left out", without),
        ("doubled", doubled),
        ("exchanged", exchanged),
    ]
}

/// The places of something so long that a sweep tries: all of them where `SEKISHO_TEST_SWEEPS` is `all` (`scripts/nightly`), else the first and the last six, and every
/// fifth between them.
pub fn places(length: usize) -> impl Iterator<Item = usize> + Clone {
    const ENDS: usize = 6;
    let all = takes_all();
    (0..length).filter(move |&at| all || at < ENDS || at + ENDS >= length || at % 5 == 0)
}

/// The operations that a sweep cuts the power at, until one is behind the end, in one of two ways of tearing a word: all of them where `SEKISHO_TEST_SWEEPS` is `all`, else every second,
/// so that each place is cut in one way.
pub fn cuts(way: u64) -> impl Iterator<Item = u64> {
    let (first, step) = if takes_all() { (0, 1) } else { (way % 2, 2) };
    (first..).step_by(step)
}

/// Whether everything is tried that could be: `scripts/nightly` asks for it.
pub fn takes_all() -> bool {
    std::env::var_os("SEKISHO_TEST_SWEEPS").is_some_and(|value| value == "all")
}
