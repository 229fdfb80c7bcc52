//! Conversations as text. One line is one step:
//!
//! * `> hex` sends a C-APDU as it is; `S> hex` sends it through the secure channel. `Fxx> hex` does so too, and fetches what does not fit Ne
//!   with GET RESPONSE of class xx.
//! * `< hex` is the R-APDU to the last command, after the secure channel for `S>`. `??` stands for any byte, `...` for any number of them.
//! * `! keys ENC MAC DEK` names the keys of the next `! open`; without it the initial keys.
//! * `! open LEVEL [KVN]` opens a secure channel, KVN 00 if none is named; `! refused LEVEL KVN SW` tries and fails.
//! * `! interface NAME` goes to another interface; `! reset` is a reader's power cycle; `! reboot` starts the card again from its flash.
//! * `! files` makes it the test card with the file system; `! messaging MODE [separate]` opens secure messaging under its MKEY, `M> hex` sends
//!   through it; `! refused-messaging MODE SW` tries and fails; `! authenticate` proves key EXTERNAL 1.
//! * `#` begins a comment.

use sekisho_keys::KeySet;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::{Interface, Profile};
use sekisho_scp::SecurityLevel;

use super::files::{self, Reader};
use super::host::Host;
use super::{Card, SeededRng, initial_keys, key, send_on};

pub struct Runner {
    pub card: Card,
    profile: Profile,
    interface: Interface,
    keys: KeySet,
    host: Option<Host>,
    reader: Option<Reader>,
    /// The answer that the next `<` line is to look like.
    answer: Option<Vec<u8>>,
}

impl Runner {
    pub fn new(card: Card, profile: Profile) -> Self {
        Self {
            card,
            profile,
            interface: Interface::Iso7816Contact,
            keys: initial_keys(),
            host: None,
            reader: None,
            answer: None,
        }
    }

    /// Runs a script; panics with file and line where the card differs.
    pub fn run(mut self, name: &str, script: &str) -> Card {
        for (number, line) in (1..).zip(script.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let at = format!("{name}:{number}: {line}");
            match verb {
                ">" => self.answer = Some(send_on(&mut self.card, self.interface, &bytes(rest, &at))),
                "S>" => {
                    let host = self
                        .host
                        .as_mut()
                        .unwrap_or_else(|| panic!("{at}: no secure channel"));
                    self.answer = Some(host.send(&mut self.card, &bytes(rest, &at)));
                }
                fetching if fetching.starts_with('F') && fetching.ends_with('>') => {
                    let cla = u8::from_str_radix(&fetching[1..3], 16).unwrap();
                    let host = self
                        .host
                        .as_mut()
                        .unwrap_or_else(|| panic!("{at}: no secure channel"));
                    let command = host.wrap(&bytes(rest, &at));
                    let mut answer = send_on(&mut self.card, self.interface, &command);
                    assert_eq!(answer[answer.len() - 2], 0x61, "{at}: nothing waits");
                    while let [.., 0x61, le] = answer[..] {
                        answer.truncate(answer.len() - 2);
                        let fetch = [cla, 0xC0, 0x00, 0x00, le];
                        answer.extend(send_on(&mut self.card, self.interface, &fetch));
                    }
                    let host = self.host.as_mut().unwrap_or_else(|| unreachable!());
                    self.answer = Some(host.unwrap(&answer));
                }
                "M>" => {
                    let reader = self
                        .reader
                        .as_mut()
                        .unwrap_or_else(|| panic!("{at}: no secure messaging"));
                    self.answer = Some(reader.send(&mut self.card, &bytes(rest, &at)));
                }
                "<" => {
                    let answer = self
                        .answer
                        .take()
                        .unwrap_or_else(|| panic!("{at}: nothing was sent"));
                    assert!(
                        matches(rest, &answer),
                        "{at}\n  the card says {}",
                        hex::encode_upper(&answer)
                    );
                }
                "!" => self = self.directive(rest, &at),
                _ => panic!("{at}: no such step"),
            }
        }
        self.card
    }

    fn directive(mut self, line: &str, at: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["keys", enc, mac, dek] => {
                let [enc, mac, dek] = [enc, mac, dek].map(|hex| key(&bytes(hex, at)));
                self.keys = KeySet { enc, mac, dek };
            }
            ["open", level] => self.open(level, "00").unwrap_or_else(|sw| panic!("{at}: {sw}")),
            ["open", level, kvn] => self.open(level, kvn).unwrap_or_else(|sw| panic!("{at}: {sw}")),
            ["refused", level, kvn, sw] => assert_eq!(self.open(level, kvn), Err(sw.to_owned()), "{at}"),
            ["interface", name] => {
                let known = Interface::ALL.into_iter().find(|i| format!("{i:?}") == name);
                self.interface = known.unwrap_or_else(|| panic!("{at}: no such interface"));
            }
            ["files"] => {
                self.card = files::card();
                files::select(&mut self.card, self.interface);
            }
            ["authenticate"] => files::authenticate(&mut self.card, self.interface),
            ["messaging", mode, ref rest @ ..] => {
                let lanes = if rest.is_empty() {
                    Lanes::Shared
                } else {
                    Lanes::Separate
                };
                self.messaging(mode, lanes)
                    .unwrap_or_else(|sw| panic!("{at}: {sw:04X}"));
            }
            ["refused-messaging", mode, sw] => {
                let refused = self.messaging(mode, Lanes::Shared).unwrap_err();
                assert_eq!(format!("{refused:04X}"), sw, "{at}");
            }
            ["reset"] => self.card.reset(self.interface),
            ["reboot"] => {
                let flash = self.card.into_flash();
                self.card = Card::boot(flash, SeededRng(2), &self.profile).unwrap();
                self.host = None;
            }
            _ => panic!("{at}: no such directive"),
        }
        self
    }

    fn messaging(&mut self, mode: &str, lanes: Lanes) -> Result<(), u16> {
        let mode = Mode::ALL.into_iter().find(|m| m.name() == mode).unwrap();
        let reader = Reader::open(&mut self.card, self.interface, mode, lanes, 256)?;
        self.reader = Some(reader);
        Ok(())
    }

    fn open(&mut self, level: &str, kvn: &str) -> Result<(), String> {
        let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
        let level = SecurityLevel::from_p1(byte(level)).unwrap();
        let mode = self.profile.scp.mac_mode();
        let host = Host::open_on(
            &mut self.card,
            self.interface,
            0,
            byte(kvn),
            &self.keys,
            level,
            mode,
        );
        self.host = Some(host.map_err(|sw| sw.to_string())?);
        Ok(())
    }
}

fn bytes(text: &str, at: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(&digits).unwrap_or_else(|e| panic!("{at}: {e}"))
}

/// Whether an answer looks like a pattern.
pub fn matches(pattern: &str, answer: &[u8]) -> bool {
    let pattern: String = pattern.split_whitespace().collect();
    match pattern.split_once("...") {
        Some((head, tail)) => {
            let (head_len, tail_len) = (head.len() / 2, tail.len() / 2);
            answer.len() >= head_len + tail_len
                && fits(head, &answer[..head_len])
                && fits(tail, &answer[answer.len() - tail_len..])
        }
        None => fits(&pattern, answer),
    }
}

fn fits(pattern: &str, answer: &[u8]) -> bool {
    let digits = pattern.as_bytes().chunks(2);
    digits.len() == answer.len()
        && digits.zip(answer).all(|(digits, byte)| {
            digits == b"??" || digits.eq_ignore_ascii_case(format!("{byte:02X}").as_bytes())
        })
}
