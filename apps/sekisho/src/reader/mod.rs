//! A reader that speaks ISO 7816-4 secure messaging with fixed and rolling keys (`docs/spec/rolling-secure-messaging.md`).

pub(crate) mod figures;
pub(crate) mod listen;
pub(crate) mod pattern;
pub(crate) mod script;
pub(crate) mod trace;
mod watched;
pub(crate) mod words;
mod wrong;

use anyhow::{Context, Result, anyhow, bail};
use sekisho_apdu::{Aid, CApdu, Cla, StatusWord, Writer};
use sekisho_keys::{AesKey, Rng};
use sekisho_messaging::EphemeralKey;
use sekisho_messaging::reader::{MAX_WRONG_ANSWERS, ReaderMessaging};
use sekisho_messaging::schedule::{Lanes, ScheduleError, Selector};
use sekisho_messaging::setup::{
    CHALLENGE_LEN, KeysOpening, Mode, Opened, RatchetOpening, refresh_command, refresh_secret,
};
use sekisho_transport::{Card, Response, exchange, exchange_again};
use zeroize::Zeroizing;

use crate::card::element::SystemRng;
use trace::{Exchange, Trace};
use watched::{Watch, Watched};
use wrong::{Wrong, WrongAnswers, is_silence};

/// Longest protected command: an extended one with all that a data field holds.
const COMMAND_MAX: usize = 65_536 + 64;

/// Keys of a list: as many as the patent shows.
pub(crate) const LIST: usize = 18;

/// How secure messaging is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    pub(crate) lanes: Lanes,
    /// Exchanges until a refresh, for the ratchet.
    pub(crate) refresh_every: u16,
}

/// Sends a command in the clear and shows it.
pub(crate) fn plain(card: &mut dyn Card, trace: &mut Trace, capdu: &[u8]) -> Result<Response> {
    let response = exchange(card, capdu).context("the card does not answer")?;
    trace.plain(capdu, &response);
    Ok(response)
}

fn expect(response: Response, what: &str) -> Result<Vec<u8>> {
    if !response.is_ok() {
        bail!(
            "{what}: the card answers {:04X}, {}",
            response.sw,
            StatusWord(response.sw).meaning()
        );
    }
    Ok(response.data)
}

/// An AID (ISO/IEC 7816-4, 8.2.1.2).
pub(crate) fn aid(bytes: &[u8]) -> Result<Vec<u8>> {
    match Aid::try_from(bytes) {
        Ok(_) => Ok(bytes.to_vec()),
        Err(_) => bail!("an AID has 5 to 16 bytes"),
    }
}

/// Selects an application by its AID. Where secure messaging is open this is its end and nothing else (6987), and is sent again.
pub(crate) fn select(card: &mut dyn Card, trace: &mut Trace, aid: &[u8]) -> Result<()> {
    let length = u8::try_from(aid.len()).context("an AID has 16 bytes at most")?;
    let capdu = [&[0x00, 0xA4, 0x04, 0x00, length], aid, &[0x00]].concat();
    let mut response = plain(card, trace, &capdu)?;
    if response.sw == StatusWord::SM_OBJECTS_MISSING.0 {
        response = plain(card, trace, &capdu)?;
    }
    expect(response, "SELECT").map(drop)
}

/// A command's bytes.
pub(crate) fn encode(command: &CApdu<'_>) -> Result<Vec<u8>> {
    let mut buf = vec![0; command.data.len() + 10];
    let mut w = Writer::new(&mut buf);
    command.encode(&mut w).context("a command is too long")?;
    let len = w.len();
    buf.truncate(len);
    Ok(buf)
}

/// Open secure messaging.
pub(crate) struct Session {
    messaging: ReaderMessaging<Watched>,
    /// Where the keys of the latest exchange lie, when they may be seen.
    watch: Option<Watch>,
    mkey: AesKey,
    exchanges: u32,
}

impl Session {
    /// Opens secure messaging with what is selected: GET CHALLENGE, SESSION KEY DECRYPTION (figures 3, 9 and 15).
    pub(crate) fn open(card: &mut dyn Card, trace: &mut Trace, mkey: &AesKey, setup: Setup) -> Result<Self> {
        let answer = plain(card, trace, &[0x00, 0x84, 0x00, 0x00, 0x10])?;
        let challenge = expect(answer, "GET CHALLENGE")?;
        let challenge: [u8; CHALLENGE_LEN] = challenge
            .try_into()
            .map_err(|_| anyhow!("the card's challenge is not 16 bytes long"))?;
        let opening = Opening::new(mkey, setup, challenge)?;
        let answer = plain(card, trace, &opening.command()?)?;
        let answer = expect(answer, "SESSION KEY DECRYPTION").with_context(|| {
            format!(
                "the card does not open {}; does its security domain allow it, has it this MKEY, and does it know version 1 of the opening, as cards of 0.1 did not? (In the clear, whoever stands between reader and \
                 card can say so.)",
                setup.mode.name()
            )
        })?;
        let Opened { schedule, ssc } = opening.finish(mkey, &answer).context(
            "the answer to the opening is not that of a card with this MKEY: it has another, or something stands between reader and card. \
             No command was sent",
        )?;
        let watch = trace.shows_secrets().then(Watch::default);
        Ok(Self {
            messaging: ReaderMessaging::new(Watched::new(schedule, watch.clone()), ssc),
            watch,
            mkey: mkey.clone(),
            exchanges: 0,
        })
    }

    /// A whole exchange; a refresh goes before it when one is due.
    pub(crate) fn send(&mut self, card: &mut dyn Card, trace: &mut Trace, capdu: &[u8]) -> Result<Response> {
        if self.messaging.refresh_due() {
            self.refresh(card, trace)?;
        }
        let selector = self.messaging.propose(&mut SystemRng);
        self.send_with(card, trace, capdu, selector)
    }

    /// A whole exchange with this selector. While no right answer comes the same bytes go out again, eight times in all; the card carries out
    /// nothing twice.
    pub(crate) fn send_with(
        &mut self,
        card: &mut dyn Card,
        trace: &mut Trace,
        capdu: &[u8],
        selector: Selector,
    ) -> Result<Response> {
        let command = CApdu::parse(capdu).context("this is not a command")?;
        let keys = self.messaging.key_numbers().unwrap_or_default();
        let mut out = vec![0; COMMAND_MAX];
        let sent = match self.messaging.protect(&command, selector, &mut out) {
            Ok(sent) => sent.to_vec(),
            Err(error) => bail!("{error}; open secure messaging again"),
        };
        let secrets = self.watch.as_ref().map(Watch::take).unwrap_or_default();
        let mut shown = Exchange::new(self.exchanges + 1, keys, capdu, secrets);
        let mut wrong = WrongAnswers::default();
        for sending in 1..=MAX_WRONG_ANSWERS {
            let answer = if sending == 1 {
                exchange(card, &sent)
            } else {
                exchange_again(card, &sent)
            };
            let what = match answer {
                Ok(answer) => {
                    let bytes = [&answer.data[..], &answer.sw.to_be_bytes()].concat();
                    shown.sent_and_received(&sent, &bytes);
                    let mut data = Zeroizing::new(vec![0; bytes.len()]);
                    match self.messaging.receive(&bytes, &mut data) {
                        Ok(answer) => {
                            let response = Response {
                                data: answer.data.to_vec(),
                                sw: answer.sw.0,
                            };
                            self.exchanges += 1;
                            trace.exchange(&shown, &response);
                            return Ok(response);
                        }
                        Err(error) => Wrong::Answer(error),
                    }
                }
                Err(error) if is_silence(&error) => Wrong::Silence(error),
                Err(error) => {
                    self.messaging.close();
                    return Err(error)
                        .context("the way to the card is lost, and secure messaging with it; whether the command was carried out is not known");
                }
            };
            trace.wrong(&shown, &what, sending < MAX_WRONG_ANSWERS);
            wrong.note(&what);
        }
        self.messaging.close();
        bail!("{wrong}")
    }

    /// REFRESH KEYS: fresh randomness of both ends into the ratchet.
    pub(crate) fn refresh(&mut self, card: &mut dyn Card, trace: &mut Trace) -> Result<()> {
        let own = EphemeralKey::generate(&mut SystemRng)?;
        let public = own.public_key();
        let command = encode(&refresh_command(&public))?;
        let selector = self.messaging.propose(&mut SystemRng);
        let answer = self.send_with(card, trace, &command, selector)?;
        let card_key = expect(answer, "REFRESH KEYS")?;
        let secret = refresh_secret(&self.mkey, own, &public, &card_key)?;
        self.messaging.refresh(secret.as_ref())?;
        Ok(())
    }
}

/// SESSION KEY DECRYPTION on its way, in any mode.
pub(crate) enum Opening {
    Keys(Box<KeysOpening>),
    Ratchet(RatchetOpening, [u8; CHALLENGE_LEN]),
}

impl Opening {
    /// Draws what is random, for the card that gave this challenge.
    pub(crate) fn new(mkey: &AesKey, setup: Setup, challenge: [u8; CHALLENGE_LEN]) -> Result<Self> {
        let mut rng = SystemRng;
        if setup.mode == Mode::Ratchet {
            let own = EphemeralKey::generate(&mut rng)?;
            let opening = RatchetOpening::new(own, setup.lanes, Cla::GP, setup.refresh_every);
            return Ok(Self::Ratchet(opening, challenge));
        }
        let keys = draw(setup, &mut rng);
        let opening = KeysOpening::new(mkey, (setup.mode, setup.lanes), Cla::GP, &keys, challenge)?;
        Ok(Self::Keys(Box::new(opening)))
    }

    /// The command to send.
    pub(crate) fn command(&self) -> Result<Vec<u8>> {
        match self {
            Self::Keys(opening) => encode(&opening.command()),
            Self::Ratchet(opening, _) => encode(&opening.command()),
        }
    }

    /// The reader's end, if the card's answer confirms the opening.
    pub(crate) fn finish(self, mkey: &AesKey, answer: &[u8]) -> Result<Opened, ScheduleError> {
        match self {
            Self::Keys(opening) => opening.finish(answer),
            Self::Ratchet(opening, challenge) => opening.finish(mkey, challenge, answer),
        }
    }
}

/// Random session keys, as many as the mode takes (figure 3: step S1, 9: S41, 15: S81).
fn draw(setup: Setup, rng: &mut dyn Rng) -> Zeroizing<Vec<[u8; 16]>> {
    let count = match (setup.mode, setup.lanes) {
        (Mode::Fixed | Mode::LegacyXor | Mode::LegacyTurns, Lanes::Shared) => 2,
        (Mode::Fixed | Mode::LegacyXor | Mode::LegacyTurns, Lanes::Separate) => 4,
        _ => LIST,
    };
    let mut keys = Zeroizing::new(vec![[0; 16]; count]);
    keys.iter_mut().for_each(|key| rng.fill(key));
    keys
}
