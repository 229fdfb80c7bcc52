//! The bench for docs/spec/rolling-secure-messaging.md: the test card on the contacts, and a reader that does not do all that a reader should.

use sekisho_apdu::{CApdu, Cla};
use sekisho_applets::file_system::image::test_key;
use sekisho_keys::{Rng, kdf_label, key_wrap};
use sekisho_messaging::reader::ReaderMessaging;
use sekisho_messaging::schedule::{Exchange, KeySchedule, Lanes, Next, Schedule, ScheduleError, Selector};
use sekisho_messaging::setup::{KeysOpening, Mode, Opened, RatchetOpening, refresh_secret};
use sekisho_messaging::{EphemeralKey, Ssc};
use sekisho_os::Interface;

use super::files::{keys_of, select};
use super::host::encode;
use super::tables::{Bench, Command};
use super::{Card, SeededRng, key, send};

const CONTACTS: Interface = Interface::Iso7816Contact;
/// A protected command with a MAC made up: what is sent where the reader has no keys, or none left.
const MADE_UP: [u8; 19] = [
    0x0C, 0xB0, 0x81, 0x00, 0x0D, 0x97, 1, 4, 0x8E, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0,
];

/// A schedule whose reader does not care whether a refresh is due.
struct Careless(Schedule);

impl KeySchedule for Careless {
    fn selector_len(&self) -> usize {
        self.0.selector_len()
    }

    fn exchange(&self, command_ssc: Ssc) -> Result<Exchange, ScheduleError> {
        self.0.exchange(command_ssc)
    }

    fn advance(&mut self, next: Next, selector: &[u8]) -> Result<(), ScheduleError> {
        self.0.advance(next, selector)
    }

    fn propose(&self, rng: &mut dyn Rng) -> Selector {
        self.0.propose(rng)
    }

    fn refresh(&mut self, secret: &[u8]) -> Result<(), ScheduleError> {
        self.0.refresh(secret)
    }

    fn key_numbers(&self) -> (u32, u32) {
        self.0.key_numbers()
    }
}

/// The test card with its file system selected. The column *sent*:
///
/// * `as it is`: header, Lc, data, Le; `bytes`: the header column is all;
/// * `opening`: what opens in the mode and with the lanes of the header, at the challenge drawn last; for the ratchet the data column is the interval. `opening, another
///   MKEY`, and `opening, equal keys`: so;
/// * `protected`: under the open session. `number`: the same, with the data column as list numbers. `chained`: in two segments. `damaged`: with another MAC. `again`: the
///   protected command sent last, byte for byte. Where there are no keys (any more) a protected READ BINARY with a MAC made up goes out;
/// * `refresh`: protected, with a new ephemeral public key as data field;
/// * `reset`: the reader's, and the application is selected again.
pub struct MessagingBench {
    card: Card,
    rng: SeededRng,
    challenge: [u8; 16],
    session: Option<ReaderMessaging<Careless>>,
    /// The last protected command, its answer as it came, and what is in that.
    last: Option<[Vec<u8>; 3]>,
}

impl MessagingBench {
    pub fn new(mut card: Card) -> Self {
        select(&mut card, CONTACTS);
        Self {
            card,
            rng: SeededRng(42),
            challenge: [0; 16],
            session: None,
            last: None,
        }
    }

    fn open(&mut self, command: &Command, mkey: &[u8; 16]) -> Vec<u8> {
        let mkey = key(mkey);
        let (p1, p2) = (command.header[2], command.header[3]);
        let mode = Mode::from_p1(p1).unwrap();
        let lanes = if p2 & 1 == 0 {
            Lanes::Shared
        } else {
            Lanes::Separate
        };
        let challenge = self.challenge;
        let (answer, opened) = if mode == Mode::Ratchet {
            let own = EphemeralKey::generate(&mut self.rng).unwrap();
            let every = u16::from_be_bytes(command.data[..].try_into().unwrap());
            let opening = RatchetOpening::new(own, lanes, Cla::GP, every);
            let answer = send(&mut self.card, &encode(&opening.command()));
            let data = answer[..answer.len() - 2].to_vec();
            (answer, opening.finish(&mkey, challenge, &data))
        } else {
            let keys = keys_of(mode, lanes);
            let opening = KeysOpening::new(&mkey, (mode, lanes), Cla::GP, &keys, challenge).unwrap();
            let answer = send(&mut self.card, &encode(&opening.command()));
            let data = answer[..answer.len() - 2].to_vec();
            (answer, opening.finish(&data))
        };
        if let Ok(Opened { schedule, ssc }) = opened {
            self.session = Some(ReaderMessaging::new(Careless(schedule), ssc));
            self.last = None;
        }
        answer
    }

    /// Keys of zeros and the like, wrapped as they should be.
    fn open_with_equal_keys(&mut self, command: &Command) -> Vec<u8> {
        let context = [&command.header[..], &self.challenge].concat();
        let mut wrapping = [0; 16];
        kdf_label(&key(&test_key::MKEY), b"sekisho sm wrap", &context, &mut wrapping);
        let mut wrapped = [0; 40];
        key_wrap(&key(&wrapping), &[7; 32], &mut wrapped).unwrap();
        send(&mut self.card, &command.with(&wrapped))
    }

    /// The protected bytes of a plain command; those made up where there are no keys.
    fn protect(&mut self, plain: &[u8], selector: Option<Selector>) -> Vec<u8> {
        let Some(session) = &mut self.session else {
            return MADE_UP.to_vec();
        };
        let selector = selector.unwrap_or_else(|| session.propose(&mut self.rng));
        let mut out = vec![0; 4000];
        let protected = session.protect(&CApdu::parse(plain).unwrap(), selector, &mut out);
        protected.map_or_else(|_| MADE_UP.to_vec(), <[u8]>::to_vec)
    }

    /// The plain answer, if the answer is protected.
    fn accept(&mut self, command: Vec<u8>, answer: Vec<u8>) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let session = self.session.as_mut();
        let accepted = session.and_then(|session| session.receive(&answer, &mut out).ok());
        let Some(accepted) = accepted else { return answer };
        let plain = [accepted.data, &accepted.sw.bytes()].concat();
        self.last = Some([command, answer, plain.clone()]);
        plain
    }

    fn protected(&mut self, plain: &[u8], selector: Option<Selector>) -> Vec<u8> {
        let command = self.protect(plain, selector);
        let answer = send(&mut self.card, &command);
        self.accept(command, answer)
    }

    fn again(&mut self) -> Vec<u8> {
        let Some([command, before, plain]) = self.last.clone() else {
            return send(&mut self.card, &MADE_UP);
        };
        let answer = send(&mut self.card, &command);
        if answer == before { plain } else { answer }
    }

    fn chained(&mut self, plain: &[u8]) -> Vec<u8> {
        let whole = self.protect(plain, None);
        let data = &whole[5..whole.len() - 1];
        let (first, second) = data.split_at(data.len() / 2);
        let segment = |cla: u8, data: &[u8]| {
            let length = u8::try_from(data.len()).unwrap();
            [&[cla], &whole[1..4], &[length], data].concat()
        };
        let kept = send(&mut self.card, &segment(whole[0] | 0x10, first));
        if kept != [0x90, 0x00] {
            return kept;
        }
        let answer = send(&mut self.card, &[&segment(whole[0], second)[..], &[0]].concat());
        self.accept(whole, answer)
    }

    fn damaged(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut command = self.protect(plain, None);
        let at = command.len() - 2;
        command[at] ^= 1;
        send(&mut self.card, &command)
    }

    fn refresh(&mut self, command: &Command) -> Vec<u8> {
        let own = EphemeralKey::generate(&mut self.rng).unwrap();
        let public = own.public_key();
        let answer = self.protected(&command.with(&public), None);
        if let (Some((card_key, [0x90, 0x00])), Some(session)) =
            (answer.split_last_chunk(), &mut self.session)
        {
            let secret = refresh_secret(&key(&test_key::MKEY), own, &public, card_key).unwrap();
            session.refresh(secret.as_ref()).unwrap();
        }
        answer
    }
}

impl Bench for MessagingBench {
    fn send(&mut self, command: &Command) -> Vec<u8> {
        let plain = command.with(&[]);
        match &*command.sent {
            "as it is" => {
                let answer = send(&mut self.card, &plain);
                if let (Some(0x84), Some((challenge, [0x90, 0x00]))) =
                    (plain.get(1), answer.split_last_chunk())
                {
                    self.challenge = challenge.try_into().unwrap_or(self.challenge);
                }
                answer
            }
            "bytes" => send(&mut self.card, &command.header),
            "opening" => self.open(command, &test_key::MKEY),
            "opening, another MKEY" => self.open(command, &[0x77; 16]),
            "opening, equal keys" => self.open_with_equal_keys(command),
            "protected" => self.protected(&plain, None),
            "number" => {
                let selector = Selector::one(command.data[0]);
                let header = [&command.header[..], command.le.as_slice()].concat();
                self.protected(&header, Some(selector))
            }
            "chained" => self.chained(&plain),
            "damaged" => self.damaged(&plain),
            "again" => self.again(),
            "refresh" => self.refresh(command),
            "reset" => {
                self.card.reset(CONTACTS);
                select(&mut self.card, CONTACTS);
                self.session = None;
                vec![0x90, 0x00]
            }
            other => panic!("no command is sent {other:?}"),
        }
    }
}
