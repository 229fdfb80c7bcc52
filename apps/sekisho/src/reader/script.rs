//! Scripts for a reader: commands and what the card should answer (`docs/guide/reader.md`).

use anyhow::{Context, Result, anyhow, bail};
use sekisho_apdu::StatusWord;
use sekisho_keys::{AesKey, cmac};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{DEFAULT_REFRESH_EVERY, Mode};
use sekisho_transport::{Card, Response};

use super::trace::Trace;
use super::{Session, Setup, pattern, plain, select};

/// A script being run.
struct Run<'a> {
    card: &'a mut dyn Card,
    trace: &'a mut Trace,
    mkey: &'a AesKey,
    session: Option<Session>,
    /// The answer that the next `<` line is about.
    answer: Option<Response>,
}

/// Runs a script; gives the number of answers that were as expected.
pub(crate) fn run(card: &mut dyn Card, trace: &mut Trace, mkey: &AesKey, script: &str) -> Result<u32> {
    let mut run = Run {
        card,
        trace,
        mkey,
        session: None,
        answer: None,
    };
    let mut good = 0;
    for (number, line) in (1..).zip(script.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        good += run.line(line).with_context(|| format!("line {number}: {line}"))?;
    }
    Ok(good)
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(&digits).map_err(|error| anyhow!("not hexadecimal bytes: {error}"))
}

impl Run<'_> {
    /// Gives 1 for an answer that was as expected.
    fn line(&mut self, line: &str) -> Result<u32> {
        let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match verb {
            "select" => {
                self.session = None;
                select(self.card, self.trace, &bytes(rest)?)?;
            }
            "reset" => {
                self.session = None;
                self.card.reset().context("the card does not come back")?;
                self.trace.say("reset");
            }
            "open" => {
                let setup = setup(rest)?;
                self.session = None;
                self.session = Some(Session::open(self.card, self.trace, self.mkey, setup)?);
            }
            "refresh" => self
                .session
                .as_mut()
                .context("no secure messaging is open")?
                .refresh(self.card, self.trace)?,
            "authenticate" => self.authenticate(rest)?,
            ">" => self.answer = Some(self.send(&bytes(rest)?)?),
            "plain" => self.answer = Some(plain(self.card, self.trace, &bytes(rest)?)?),
            "<" => return self.expect(rest),
            _ => bail!("no such verb; there are select, open, refresh, authenticate, reset, plain, > and <"),
        }
        Ok(0)
    }

    /// Sends a command, under secure messaging if it is open.
    fn send(&mut self, capdu: &[u8]) -> Result<Response> {
        match &mut self.session {
            Some(session) => session.send(self.card, self.trace, capdu),
            None => plain(self.card, self.trace, capdu),
        }
    }

    fn expect(&mut self, expected: &str) -> Result<u32> {
        let answer = self.answer.take().context("nothing was sent")?;
        let whole = [&answer.data[..], &answer.sw.to_be_bytes()].concat();
        match pattern::matches(expected, &whole) {
            None => bail!("not a pattern: hexadecimal bytes, ?? for any of them, ... for any number"),
            Some(true) => Ok(1),
            Some(false) => bail!("the card answers {}", hex::encode_upper(whole)),
        }
    }

    /// EXTERNAL AUTHENTICATE with a key, by number.
    fn authenticate(&mut self, rest: &str) -> Result<()> {
        let (number, key) = rest
            .split_once(char::is_whitespace)
            .context("write the key's number and the key")?;
        let number: u8 = number.parse().context("the key's number is 1 to 14")?;
        let key = AesKey::new(&bytes(key)?).context("an AES key has 16, 24 or 32 bytes")?;
        let challenge = self.send(&[0x00, 0x84, 0x00, 0x00, 0x10])?;
        let mac = cmac(&key, &[&challenge.data]);
        let answer = self.send(&[&[0x00, 0x82, 0x00, number, 16][..], &mac].concat())?;
        if !answer.is_ok() {
            bail!(
                "the card answers {:04X}, {}",
                answer.sw,
                StatusWord(answer.sw).meaning()
            );
        }
        Ok(())
    }
}

/// MODE, then `separate` and `refresh N` in any order.
fn setup(text: &str) -> Result<Setup> {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or("ratchet");
    let mode = Mode::ALL
        .into_iter()
        .find(|mode| mode.name() == name)
        .with_context(|| {
            format!(
                "no mode {name}; there are {}",
                Mode::ALL.map(Mode::name).join(", ")
            )
        })?;
    let mut setup = Setup {
        mode,
        lanes: Lanes::Shared,
        refresh_every: DEFAULT_REFRESH_EVERY,
    };
    while let Some(word) = words.next() {
        match word {
            "separate" => setup.lanes = Lanes::Separate,
            "refresh" => {
                let number = words.next().and_then(|number| number.parse().ok());
                setup.refresh_every = number.context("refresh N: after how many exchanges")?;
            }
            _ => bail!("{word}: only separate and refresh N may follow the mode"),
        }
    }
    Ok(setup)
}
