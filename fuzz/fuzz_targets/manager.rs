//! A hostile device in front of a whole SE with a TLS Manager: a recorded session up to some command, then whatever the input says, on any interface and channel. The SE answers each, nothing
//! that an application says goes out in the clear behind the class of TLS, keys and rows stay what they are, and the recorded session is answered to the byte as by an SE that has seen
//! nothing. The input is which session, how far, then how(1), length(1), command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_apdu::Aid;
use sekisho_apdu::gp::CardLifeCycle;
use sekisho_applets::file_system::{self, image::Image};
use sekisho_applets::tls_manager::{self, CHAIN_RECORD, KEY_RECORD, row_record};
use sekisho_applets::{DOMAINS, Standard, WithTls};
use sekisho_keys::{AesKey, KeySet, Rng};
use sekisho_nvm::Ram;
use sekisho_nvm::ram::RamFlash;
use sekisho_os::{
    AllInterfaces, Containers, FactoryApplication, Interface, InterfacesWithTls, Module, Personalisation,
    Platform, Profile, SecureElement,
};
use std::cell::Cell;
use std::sync::LazyLock;

thread_local! {
    /// The number of the generator, which a session begins anew.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

struct Numbered;

impl Rng for Numbered {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let number = NUMBER.get() + 1;
            NUMBER.set(number);
            let digest = sekisho_keys::sha256(&[&number.to_be_bytes()]);
            chunk.copy_from_slice(&digest[..chunk.len()]);
        }
    }
}

struct Product;

impl Platform for Product {
    type Flash = RamFlash;
    type Rng = Numbered;
    type Applications = WithTls<Standard<1, 0, DOMAINS>>;
    type Interfaces = InterfacesWithTls<AllInterfaces>;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

const PORT: Interface = Interface::Spi;
/// SELECT of the file system, and its file 2F00.
const SELECT: &[u8] = b"\x00\xA4\x04\x00\x07\xF0SKOS\x04\x01\x00";
const READ: &[u8] = &[0x00, 0xB0, 0x9E, 0x00, 0x11];
const SAID: &[u8] = b"Sekisho test card";

/// A session of the page: the flash of an SE that is made for it, the number of its generator, commands and the SE's answers.
struct Recorded {
    flash: RamFlash,
    seed: u64,
    commands: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
}

static SESSIONS: LazyLock<Vec<Recorded>> = LazyLock::new(|| {
    let page = include_str!("../../docs/spec/tls-apdu.md");
    let bytes = |text: &str| -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
            .collect()
    };
    let sessions = page.split("```tls-recording\n").skip(1).map(|block| {
        let lines: Vec<(&str, Vec<u8>)> = block
            .split("```")
            .next()
            .unwrap()
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, text)| (name, bytes(text)))
            .collect();
        let field = |name: &str| lines.iter().find(|line| line.0 == name).unwrap().1.clone();
        let mut recorded = Recorded {
            flash: made(&field("key"), &field("certificate"), &field("anchor")),
            seed: field("seed")[0].into(),
            commands: lines
                .iter()
                .filter(|line| line.0 == ">")
                .map(|line| line.1.clone())
                .collect(),
            answers: vec![],
        };
        let mut se = recorded.start();
        recorded.answers = recorded.play(&mut se, usize::MAX);
        // The handshake is the recorded one: the same engine says the same.
        let said: Vec<_> = lines
            .iter()
            .filter(|line| line.0 == "<")
            .map(|line| line.1.clone())
            .collect();
        assert_eq!(recorded.answers[0], said[0]);
        assert!(recorded.answers.iter().all(|answer| answer.len() >= 2));
        assert_eq!(
            recorded.answers.last().unwrap()[..2],
            said.last().unwrap()[..2],
            "it is not open at its end"
        );
        recorded
    });
    sessions.collect()
});

fn profile() -> Profile {
    Profile {
        slot_bytes: 8192,
        ..Profile::default()
    }
}

/// The flash of an SE with this key, its certificate, and a row 0001.
fn made(key: &[u8], certificate: &[u8], anchor: &[u8]) -> RamFlash {
    let own = || AesKey::new(&[0x77; 16]).unwrap();
    let scp = KeySet {
        enc: own(),
        mac: own(),
        dek: own(),
    };
    let image = Image::of_test_card().unwrap();
    let files: Vec<_> = image.iter().collect();
    let chain = [
        &u16::try_from(certificate.len()).unwrap().to_be_bytes()[..],
        certificate,
    ]
    .concat();
    let aid = file_system::AID;
    let row = [
        &[9][..],
        b"localhost",
        &[1, u8::try_from(aid.len()).unwrap()],
        aid,
        anchor,
    ]
    .concat();
    let tls = [
        (KEY_RECORD, 0, key),
        (CHAIN_RECORD, 0, &chain[..]),
        (row_record(1).unwrap(), 0, &row[..]),
    ];
    let application = |aid, load_file, module, records| FactoryApplication {
        aid: Aid::try_from(aid).unwrap(),
        load_file: Aid::try_from(load_file).unwrap(),
        module,
        records,
    };
    let applications = [
        application(
            file_system::AID,
            file_system::LOAD_FILE_AID,
            Module::FILE_SYSTEM,
            &files[..],
        ),
        application(
            tls_manager::AID,
            tls_manager::LOAD_FILE_AID,
            Module::TLS_MANAGER,
            &tls[..],
        ),
    ];
    let personalisation = Personalisation {
        key_version: 1,
        se_id: [1; 10],
        scp_parameter: sekisho_os::ScpParameter::FULL_S8,
        scp_kvn: 0x30,
        scp: &scp,
        k_aut: &own(),
        kos: Some(&own()),
        k_mac: Some(&own()),
        designer: None,
        pairing_key: None,
        isd_aid: None,
        default_application: None,
        part: None,
        applications: &applications,
        data_objects: &[],
        life_cycle: CardLifeCycle::Secured,
    };
    let mut se = Box::new(SecureElement::<Product>::new(RamFlash::new(4096, 16), Numbered));
    assert_eq!(se.manufacture(&profile(), &[&personalisation]), Ok(()));
    se.into_flash()
}

impl Recorded {
    fn start(&self) -> Box<SecureElement<Product>> {
        let mut se = Box::new(SecureElement::<Product>::new(self.flash.clone(), Numbered));
        assert_eq!(se.boot(&profile()), Ok(()));
        se
    }

    /// The SE's answers to so many of its commands.
    fn play(&self, se: &mut SecureElement<Product>, most: usize) -> Vec<Vec<u8>> {
        NUMBER.set(self.seed);
        self.commands
            .iter()
            .take(most)
            .map(|command| send(se, PORT, command))
            .collect()
    }
}

fn send(se: &mut SecureElement<Product>, interface: Interface, command: &[u8]) -> Vec<u8> {
    let mut answer = [0; 4096];
    let len = se.transmit(interface, command, &mut answer);
    assert!(len >= 2);
    answer[..len].to_vec()
}

fuzz_target!(|data: &[u8]| {
    let Some((&[which, until], mut rest)) = data.split_first_chunk() else {
        return;
    };
    let recorded = &SESSIONS[usize::from(which & 1)];
    let mut se = recorded.start();
    recorded.play(&mut se, usize::from(until) % (recorded.commands.len() + 1));
    while let Some((&[how, len], behind)) = rest.split_first_chunk() {
        let (given, later) = behind.split_at(behind.len().min(len.into()));
        rest = later;
        let mut command = given.to_vec();
        // A command of the recording that is changed or repeated, or one of the input's own, of the class or of any.
        match (how & 3, given) {
            (0, [number, at, mask, ..]) => {
                command.clone_from(&recorded.commands[usize::from(*number) % recorded.commands.len()]);
                let at = usize::from(*at) % command.len();
                command[at] ^= mask;
            }
            (1 | 2, [cla, ins, ..]) => (command[0], command[1]) = (0xA4 | cla & 0x13, ins & 0x2F),
            _ => {}
        }
        let interface = if how & 0x80 == 0 {
            PORT
        } else {
            Interface::ALL[usize::from(how >> 4 & 7) % Interface::COUNT]
        };
        let is_tls = command.first().is_some_and(|cla| cla & 0xEC == 0xA4);
        let answer = send(&mut se, interface, &command);
        assert!(
            !is_tls || !answer.windows(SAID.len()).any(|bytes| bytes == SAID),
            "in the clear"
        );
    }
    // All of it was one device's: a reset ends it.
    Interface::ALL
        .into_iter()
        .for_each(|interface| se.reset(interface));
    // A ticket of its sessions stays, for one OPEN, which is another one then.
    send(&mut se, PORT, &recorded.commands[0]);
    send(&mut se, PORT, &[0xA4, 0x2A, 0x01, 0x00, 0x00]);
    assert!(
        recorded.play(&mut se, usize::MAX) == recorded.answers,
        "another answer than before"
    );
    assert!(send(&mut se, PORT, SELECT).ends_with(&[0x90, 0]));
    assert!(send(&mut se, PORT, READ).starts_with(SAID));
});
