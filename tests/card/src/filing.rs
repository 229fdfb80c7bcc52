//! The bench for docs/spec/file-system-applet.md: the test card on the contacts.

use sekisho_applets::file_system::image::test_key;
use sekisho_keys::cmac;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::Interface;

use super::files::{Reader, authenticate, select};
use super::tables::{Bench, Command};
use super::{Card, key, send, send_on};

const CONTACTS: Interface = Interface::Iso7816Contact;

/// The test card with its file system selected. The column *sent*:
///
/// * `as it is`: header, Lc, data, Le; `bytes`: the header column is all;
/// * `proved`: with the AES-CMAC of EXTERNAL 1 over the challenge drawn last as data field;
/// * `opened`: nothing but what opens secure messaging with the ratchet;
/// * `protected`: under that; as it is while nothing has been opened;
/// * `elsewhere`: on another interface, by somebody who has proved EXTERNAL 1 there;
/// * `reset`: a reader's, and the application is selected again.
pub struct FilingBench {
    card: Card,
    /// Whether somebody is there on the other interface.
    elsewhere: bool,
    challenge: Vec<u8>,
    reader: Option<Reader>,
}

impl FilingBench {
    pub fn new(mut card: Card) -> Self {
        select(&mut card, CONTACTS);
        Self {
            card,
            elsewhere: false,
            challenge: vec![0; 16],
            reader: None,
        }
    }

    fn protected(&mut self, plain: &[u8]) -> Vec<u8> {
        let Some(reader) = &mut self.reader else {
            return send(&mut self.card, plain);
        };
        let protected = reader.protect(plain);
        let answer = reader.transmit(&mut self.card, &protected);
        if answer.len() == 2 {
            return answer;
        }
        reader.accept(&answer).unwrap_or_else(|_| vec![0, 0])
    }
}

impl Bench for FilingBench {
    fn send(&mut self, command: &Command) -> Vec<u8> {
        let plain = command.with(&[]);
        match &*command.sent {
            "as it is" => {
                let answer = send(&mut self.card, &plain);
                if plain.starts_with(&[0x00, 0x84]) && answer.len() > 2 {
                    self.challenge = answer[..answer.len() - 2].to_vec();
                }
                answer
            }
            "bytes" => send(&mut self.card, &command.header),
            "proved" => {
                let mac = cmac(&key(&test_key::EXTERNAL), &[&self.challenge]);
                let proved = command.with(&mac);
                send(&mut self.card, &proved)
            }
            "opened" => match Reader::open(&mut self.card, CONTACTS, Mode::Ratchet, Lanes::Shared, 256) {
                Ok(reader) => {
                    self.reader = Some(reader);
                    vec![0x90, 0x00]
                }
                Err(sw) => sw.to_be_bytes().to_vec(),
            },
            "protected" => self.protected(&plain),
            "elsewhere" => {
                if !self.elsewhere {
                    select(&mut self.card, Interface::Swp);
                    authenticate(&mut self.card, Interface::Swp);
                    self.elsewhere = true;
                }
                send_on(&mut self.card, Interface::Swp, &plain)
            }
            "reset" => {
                self.card.reset(CONTACTS);
                select(&mut self.card, CONTACTS);
                self.reader = None;
                vec![0x90, 0x00]
            }
            other => panic!("no command is sent {other:?}"),
        }
    }
}
