//! The conversations of `tests/scripts` with `sekisho card` behind its socket: every answer is the one that the same card gives in its own
//! process. Those that go to several interfaces are left to that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // a test reads its scripts

#[path = "../../../crates/card/sekisho-applets/tests/common/mod.rs"]
mod common;
mod process;

use std::path::{Path, PathBuf};

use common::script::{CardUnderTest, Line, Runner};
use common::{Card, PAGE, files, new_card_of};
use process::CardProcess;
use sekisho_os::Interface;
use sekisho_scp::ScpParameter;
use sekisho_transport::{Card as _, SocketCard};

/// The first bytes of a flash file, in a page of their own; behind it stands the complement of the flash.
const MARK: &[u8; 16] = b"sekisho flash 1\n";

/// `sekisho card` and a reader of it.
struct Process {
    flash: PathBuf,
    running: Option<(CardProcess, SocketCard)>,
    _folder: tempfile::TempDir,
}

impl Process {
    fn new(card: Card) -> Self {
        let folder = process::scratch();
        let mut new = Self {
            flash: folder.path().join("card.flash"),
            running: None,
            _folder: folder,
        };
        new.put(card);
        new
    }

    /// Writes the card's flash to the file and starts it.
    fn put(&mut self, card: Card) {
        self.running = None;
        let mut file = vec![0; PAGE];
        file[..MARK.len()].copy_from_slice(MARK);
        file.extend(card.into_flash().image().iter().map(|byte| !byte));
        std::fs::write(&self.flash, file).unwrap();
        self.start();
    }

    fn start(&mut self) {
        let card = CardProcess::start(&self.flash, 0, &[]);
        let reader = card.reader();
        self.running = Some((card, reader));
    }

    fn reader(&mut self) -> &mut SocketCard {
        &mut self.running.as_mut().unwrap().1
    }
}

impl Line for Process {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        assert_eq!(interface, Interface::Iso7816Contact, "it has no other");
        self.reader().transmit(capdu).unwrap()
    }
}

impl CardUnderTest for Process {
    fn reset(&mut self, _: Interface) {
        self.reader().reset().unwrap();
    }

    fn restart(&mut self) {
        if let Some((card, _)) = self.running.take() {
            card.kill();
        }
        self.start();
    }

    fn replace_with_files(&mut self) {
        self.put(files::card());
    }
}

#[test]
fn every_script_of_one_interface_is_answered_alike_behind_a_socket() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scripts");
    let mut played = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".apdu") {
            continue;
        }
        let script = std::fs::read_to_string(&path).unwrap();
        // A command of one byte is a control code of the socket's framing.
        let framed = |line: &str| line.starts_with("> ") && line[2..].trim().len() == 2;
        if script.contains("! interface") || script.lines().any(framed) {
            println!("{name}: in process alone");
            continue;
        }
        let parameter = if name.contains("s16") {
            ScpParameter::FULL_S16
        } else {
            ScpParameter::FULL_S8
        };
        let card = Process::new(new_card_of(parameter));
        Runner::new(card, parameter.mac_mode()).run(&name, &script);
        played += 1;
    }
    println!("{played} scripts played to sekisho card");
    assert!(played >= 15, "{played}");
}
