//! Any sequence of commands on any interface: the card answers each, and keeps version and keys. The test card's file system is on it, with every mode of secure
//! messaging allowed. The input is a sequence of
//! interface(1), length(1), command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_apdu::Aid;
use sekisho_applets::Standard;
use sekisho_applets::file_system::{self, image::Image};
use sekisho_keys::{AesKey, KeySet, Rng};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    AllInterfaces, Containers, FactoryApplication, Interface, MESSAGING_POLICY, Module, Personalisation, Platform, Profile, SecureElement,
};

struct Virtual;

struct Counting(u8);

impl Rng for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

impl Platform for Virtual {
    type Flash = RamFlash;
    type Rng = Counting;
    type Applications = Standard;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

const KEY_INFORMATION: [u8; 5] = [0x80, 0xCA, 0x00, 0xE0, 0x00];

fn keys(card: &mut SecureElement<Virtual>) -> Vec<u8> {
    let mut answer = [0; 300];
    Interface::ALL.into_iter().for_each(|interface| card.reset(interface));
    let len = card.transmit(Interface::Spi, &KEY_INFORMATION, &mut answer);
    answer[..len].to_vec()
}

fuzz_target!(|data: &[u8]| {
    let key = || AesKey::new(&[0x77; 16]).unwrap();
    let scp = KeySet { enc: key(), mac: key(), dek: key() };
    let profile = Profile { slot_bytes: 8192, ..Profile::default() };
    let image = Image::of_test_card().unwrap();
    let records: Vec<_> = image.iter().collect();
    let applications = [FactoryApplication {
        aid: Aid::try_from(file_system::AID).unwrap(),
        load_file: Aid::try_from(file_system::LOAD_FILE_AID).unwrap(),
        module: Module::FILE_SYSTEM,
        records: &records,
    }];
    let personalisation = Personalisation {
        key_version: 1,
        se_id: [1; 10],
        scp_parameter: sekisho_os::ScpParameter::FULL_S8,
        scp_kvn: 0x30,
        scp: &scp,
        k_aut: &key(),
        kos: Some(&key()),
        k_mac: Some(&key()),
        designer: None,
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: None,
        applications: &applications,
        data_objects: &[(MESSAGING_POLICY, &[0x0F, 0x01, 0x00])],
        life_cycle: CardLifeCycle::Secured,
    };
    let mut card = SecureElement::<Virtual>::new(RamFlash::new(4096, 16), Counting(0));
    assert_eq!(card.manufacture(&profile, &[&personalisation]), Ok(()));
    let before = keys(&mut card);
    let mut rest = data;
    let mut answer = [0; 4096];
    while let [interface, len, tail @ ..] = rest {
        let (command, next) = tail.split_at(usize::from(*len).min(tail.len()));
        let interface = Interface::ALL[usize::from(*interface) % Interface::COUNT];
        assert!(card.transmit(interface, command, &mut answer) >= 2);
        rest = next;
    }
    assert_eq!(keys(&mut card), before);
});
