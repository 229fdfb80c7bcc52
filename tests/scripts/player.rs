//! Conversations with a card as text, and what plays them to any card: in this process, behind a socket, on a board.
//!
//! One line of a script is one step:
//!
//! * `> hex` sends a C-APDU as it is, and fetches what a reader fetches ([`fetched`]); `S> hex` sends it through the secure channel. `Fxx> hex` does so too, and fetches what does not fit Ne
//!   with GET RESPONSE of class xx.
//! * `< hex` is the R-APDU to the last command, after the secure channel for `S>`. `??` stands for any byte, `...` for any number of them.
//! * `! keys ENC MAC DEK` names the keys of the next `! open`; without it the initial keys.
//! * `! open LEVEL [KVN]` opens a secure channel, KVN 00 if none is named; `! refused LEVEL KVN SW` tries and fails.
//! * `! host NAME` lets commands go out, and answers be fetched, as that software does: see [`Habit`].
//! * `! interface NAME` goes to another interface; `! reset` is a reader's power cycle; `! reboot` starts the card again from its flash.
//! * `! files` makes it the test card with the file system; `! messaging MODE [separate]` opens secure messaging under its MKEY, `M> hex` sends
//!   through it; `! refused-messaging MODE SW` tries and fails; `! authenticate` proves key EXTERNAL 1.
//! * `#` begins a comment.
//!
//! Who includes this file has `host` and `files` of sekisho-applets' tests beside it, as `crate::common`.

use sekisho_apdu::CApdu;
use sekisho_keys::KeySet;
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::Mode;
use sekisho_os::Interface;
use sekisho_scp::{MacMode, SecurityLevel};

use crate::files::{self, Reader};
use crate::host::Host;
use crate::{initial_keys, key};

/// The way to a card's interfaces.
pub trait Line {
    /// Sends a C-APDU: the R-APDU, which has a status word at least.
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8>;
}

/// Sends a C-APDU, and fetches what waits where it has data and no Le: so T=0 answers it (docs/spec/card.md, 1), and what hears of it is the reader alone.
pub fn fetched(line: &mut dyn Line, interface: Interface, capdu: &[u8]) -> Vec<u8> {
    let mut answer = line.transmit(interface, capdu);
    let parsed = CApdu::parse(capdu).ok();
    let waits = parsed.is_some_and(|command| command.ne.is_none() && !command.data.is_empty());
    if waits && matches!(answer[..], [0x61, _]) {
        let channel = sekisho_apdu::Cla(capdu[0]).logical_channel();
        let cla = sekisho_apdu::Cla::ISO.with_logical_channel(channel).unwrap();
        while let [.., 0x61, le] = answer[..] {
            answer.truncate(answer.len() - 2);
            answer.extend(line.transmit(interface, &[cla.0, 0xC0, 0x00, 0x00, le]));
        }
    }
    answer
}

/// A card that conversations are played to. This is what a transport or a board implements; the scripts stay the same.
pub trait CardUnderTest: Line {
    /// A reader's power cycle on one interface.
    fn reset(&mut self, interface: Interface);

    /// Takes the card's power away and starts it again from its flash.
    fn restart(&mut self);

    /// Puts a new test card with the file system in the card's place.
    fn replace_with_files(&mut self);
}

/// How a host's software on T=0 sends commands and fetches answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Commands as they are written, and nothing fetched but what a reader fetches.
    None,
    /// libgp 3.0, of gpshell3: a command with data goes out without its Le, and GET RESPONSE in class 00 follows 61XX *and* 9000; after 6D00
    /// or 6E00 it keeps the data it has, anything else counts as more of the answer.
    Gpshell3,
    /// Java's smartcardio: a command with data goes out without its Le, 61XX is fetched in the class of the command.
    Smartcardio,
    /// OpenSC 0.23: a command with data goes out without its Le; where no Le was asked for, 61XX means that the answer is over; else it is
    /// fetched in class 00.
    Opensc,
}

impl Habit {
    fn named(name: &str) -> Option<Self> {
        match name {
            "gpshell3" => Some(Self::Gpshell3),
            "smartcardio" => Some(Self::Smartcardio),
            "opensc" => Some(Self::Opensc),
            _ => None,
        }
    }

    fn send(self, line: &mut dyn Line, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        let parsed = CApdu::parse(capdu).ok().filter(|parsed| !parsed.extended);
        let (Some(parsed), true) = (parsed, self != Self::None) else {
            return fetched(line, interface, capdu);
        };
        let le = *capdu.last().unwrap_or(&0);
        let is_case_4 = !parsed.data.is_empty() && parsed.ne.is_some();
        let mut sent = capdu.to_vec();
        if is_case_4 {
            sent.pop();
        }
        let mut answer = line.transmit(interface, &sent);
        let cla = if self == Self::Smartcardio { capdu[0] } else { 0x00 };
        let fetch = |le: u8| [cla, 0xC0, 0x00, 0x00, le];
        if self == Self::Gpshell3 && is_case_4 && answer[answer.len() - 2] == 0x90 {
            let more = line.transmit(interface, &fetch(le));
            if !matches!(more[..], [0x6D | 0x6E, 0x00]) {
                answer.truncate(answer.len() - 2);
                answer.extend(more);
            }
        }
        while let [.., 0x61, more] = answer[..] {
            answer.truncate(answer.len() - 2);
            if self == Self::Opensc && parsed.ne.is_none() {
                answer.extend([0x90, 0x00]);
            } else {
                answer.extend(line.transmit(interface, &fetch(more)));
            }
        }
        answer
    }
}

/// A card behind a host's habits.
struct Through<'c> {
    card: &'c mut dyn CardUnderTest,
    habit: Habit,
}

impl Line for Through<'_> {
    fn transmit(&mut self, interface: Interface, capdu: &[u8]) -> Vec<u8> {
        self.habit.send(&mut *self.card, interface, capdu)
    }
}

/// Plays scripts to a card.
pub struct Runner<C> {
    card: C,
    mode: MacMode,
    interface: Interface,
    habit: Habit,
    keys: KeySet,
    host: Option<Host>,
    reader: Option<Reader>,
    /// The answer that the next `<` line is to look like.
    answer: Option<Vec<u8>>,
}

impl<C: CardUnderTest> Runner<C> {
    /// A player to a card whose secure channels are of this mode.
    pub fn new(card: C, mode: MacMode) -> Self {
        Self {
            card,
            mode,
            interface: Interface::Iso7816Contact,
            habit: Habit::None,
            keys: initial_keys(),
            host: None,
            reader: None,
            answer: None,
        }
    }

    fn line(&mut self) -> Through<'_> {
        Through {
            card: &mut self.card,
            habit: self.habit,
        }
    }

    /// Runs a script; panics with file and line where the card differs.
    pub fn run(mut self, name: &str, script: &str) -> C {
        for (number, line) in (1..).zip(script.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let at = format!("{name}:{number}: {line}");
            match verb {
                "<" => {
                    let answer = self.answer.take();
                    let answer = answer.unwrap_or_else(|| panic!("{at}: nothing was sent"));
                    let says = hex::encode_upper(&answer);
                    assert!(matches(rest, &answer), "{at}\n  the card says {says}");
                }
                "!" => self.directive(rest, &at),
                _ => self.answer = Some(self.send(verb, &bytes(rest, &at), &at)),
            }
        }
        self.card
    }

    fn send(&mut self, verb: &str, capdu: &[u8], at: &str) -> Vec<u8> {
        let interface = self.interface;
        let class = verb.strip_prefix('F').and_then(|verb| verb.strip_suffix('>'));
        match (verb, class) {
            (">", _) => self.line().transmit(interface, capdu),
            ("M>", _) => {
                let reader = self.reader.take();
                let mut reader = reader.unwrap_or_else(|| panic!("{at}: no secure messaging"));
                let answer = reader.send(&mut self.line(), capdu);
                self.reader = Some(reader);
                answer
            }
            ("S>", _) | (_, Some(_)) => {
                let host = self.host.take();
                let mut host = host.unwrap_or_else(|| panic!("{at}: no secure channel"));
                let command = host.wrap(capdu);
                let mut answer = self.line().transmit(interface, &command);
                if let Some(class) = class {
                    let class = u8::from_str_radix(class, 16).unwrap();
                    assert_eq!(answer[answer.len() - 2], 0x61, "{at}: nothing waits");
                    while let [.., 0x61, le] = answer[..] {
                        answer.truncate(answer.len() - 2);
                        let fetch = [class, 0xC0, 0x00, 0x00, le];
                        answer.extend(self.line().transmit(interface, &fetch));
                    }
                }
                let answer = host.unwrap(&answer);
                self.host = Some(host);
                answer
            }
            _ => panic!("{at}: no such step"),
        }
    }

    fn directive(&mut self, line: &str, at: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let interface = self.interface;
        match words[..] {
            ["keys", enc, mac, dek] => {
                let [enc, mac, dek] = [enc, mac, dek].map(|hex| key(&bytes(hex, at)));
                self.keys = KeySet { enc, mac, dek };
            }
            ["open", level] => self.open(level, "00").unwrap_or_else(|sw| panic!("{at}: {sw}")),
            ["open", level, kvn] => self.open(level, kvn).unwrap_or_else(|sw| panic!("{at}: {sw}")),
            ["refused", level, kvn, sw] => assert_eq!(self.open(level, kvn), Err(sw.to_owned()), "{at}"),
            ["host", name] => {
                self.habit = Habit::named(name).unwrap_or_else(|| panic!("{at}: no such host"));
            }
            ["interface", name] => {
                let known = Interface::ALL.into_iter().find(|i| format!("{i:?}") == name);
                self.interface = known.unwrap_or_else(|| panic!("{at}: no such interface"));
            }
            ["files"] => {
                self.card.replace_with_files();
                files::select(&mut self.line(), interface);
            }
            ["authenticate"] => files::authenticate(&mut self.line(), interface),
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
            ["reset"] => self.card.reset(interface),
            ["reboot"] => {
                self.card.restart();
                self.host = None;
            }
            _ => panic!("{at}: no such directive"),
        }
    }

    fn messaging(&mut self, mode: &str, lanes: Lanes) -> Result<(), u16> {
        let mode = Mode::ALL.into_iter().find(|m| m.name() == mode).unwrap();
        let interface = self.interface;
        let reader = Reader::open(&mut self.line(), interface, mode, lanes, 256)?;
        self.reader = Some(reader);
        Ok(())
    }

    fn open(&mut self, level: &str, kvn: &str) -> Result<(), String> {
        let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
        let level = SecurityLevel::from_p1(byte(level)).unwrap();
        let (interface, mode, keys) = (self.interface, self.mode, self.keys.clone());
        let host = Host::open_on(&mut self.line(), interface, 0, byte(kvn), &keys, level, mode);
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
