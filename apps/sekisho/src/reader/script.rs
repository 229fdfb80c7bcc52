//! Scripts for a reader: commands and what the card should answer (`docs/guide/reader.md`).

use anyhow::{Context, Result, anyhow, bail};
use sekisho_apdu::{CApdu, StatusWord};
use sekisho_keys::{AesKey, cmac};
use sekisho_messaging::schedule::Lanes;
use sekisho_messaging::setup::{DEFAULT_REFRESH_EVERY, Mode};
use sekisho_transport::{Card, Response};

use super::trace::Trace;
use super::{Session, Setup, expect, pattern, plain, select};

/// A script, read whole before the card hears anything of it.
pub(crate) struct Script(Vec<Line>);

/// A line that does something.
struct Line {
    /// From 1 on.
    number: usize,
    text: String,
    step: Step,
}

enum Step {
    Select(Vec<u8>),
    Reset,
    Open(Setup),
    Refresh,
    /// EXTERNAL AUTHENTICATE with a key, by number.
    Authenticate(u8, AesKey),
    /// Under secure messaging if it is open.
    Send(Vec<u8>),
    /// In the clear.
    Plain(Vec<u8>),
    /// What the answer should look like.
    Expect(String),
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first line that cannot be carried out whatever the card answers.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        let mut before = Before::default();
        for (number, line) in (1..).zip(text.lines()) {
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let parsed = Step::parse(text).and_then(|step| before.then(&step).map(|()| step));
            lines.push(Line {
                number,
                text: text.to_owned(),
                step: parsed.with_context(|| format!("line {number}: {text}"))?,
            });
        }
        Ok(Self(lines))
    }

    /// Whether a key stands in it.
    pub(crate) fn has_key(&self) -> bool {
        self.0
            .iter()
            .any(|line| matches!(line.step, Step::Authenticate(..)))
    }

    /// Runs it; gives the number of answers that were as expected.
    ///
    /// # Errors
    /// The first line at which the card does not do what it should.
    pub(crate) fn run(&self, card: &mut dyn Card, trace: &mut Trace, mkey: &AesKey) -> Result<u32> {
        let mut run = Run {
            card,
            trace,
            mkey,
            session: None,
            answer: None,
        };
        let mut good = 0;
        for Line { number, text, step } in &self.0 {
            good += run.step(step).with_context(|| format!("line {number}: {text}"))?;
        }
        Ok(good)
    }
}

/// What the lines before have led to.
#[derive(Default)]
struct Before {
    is_open: bool,
    is_answered: bool,
}

impl Before {
    /// Whether a step can follow.
    fn then(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Select(_) | Step::Reset => self.is_open = false,
            Step::Open(_) => self.is_open = true,
            Step::Refresh if !self.is_open => bail!("no secure messaging is open"),
            Step::Expect(_) if !self.is_answered => bail!("nothing was sent"),
            Step::Expect(_) => self.is_answered = false,
            Step::Send(_) | Step::Plain(_) => self.is_answered = true,
            Step::Refresh | Step::Authenticate(..) => {}
        }
        Ok(())
    }
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    let digits: String = text.split_whitespace().collect();
    hex::decode(&digits).map_err(|error| anyhow!("not hexadecimal bytes: {error}"))
}

/// A C-APDU.
pub(crate) fn capdu(text: &str) -> Result<Vec<u8>> {
    let capdu = bytes(text)?;
    CApdu::parse(&capdu).map_err(|_| anyhow!("not a command: CLA INS P1 P2 [Lc data] [Le]"))?;
    Ok(capdu)
}

/// A command that can be protected.
pub(crate) fn command(text: &str) -> Result<Vec<u8>> {
    let capdu = capdu(text)?;
    if capdu.first() == Some(&0xFF) {
        bail!("not a command: class FF is none (ISO/IEC 7816-4, 5.4.1)");
    }
    Ok(capdu)
}

impl Step {
    fn parse(line: &str) -> Result<Self> {
        let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Ok(match verb {
            "select" => Self::Select(super::aid(&bytes(rest)?)?),
            "reset" | "refresh" if !rest.trim().is_empty() => bail!("nothing follows {verb}"),
            "reset" => Self::Reset,
            "open" => Self::Open(setup(rest)?),
            "refresh" => Self::Refresh,
            "authenticate" => {
                let (number, key) = rest
                    .split_once(char::is_whitespace)
                    .context("write the key's number and the key")?;
                let number = number.parse().ok().filter(|number| (1..=14).contains(number));
                let key = AesKey::new(&bytes(key)?).context("an AES key has 16, 24 or 32 bytes")?;
                Self::Authenticate(number.context("the key's number is 1 to 14")?, key)
            }
            ">" => Self::Send(command(rest)?),
            "plain" => {
                let sent = bytes(rest)?;
                if sent.len() < 4 {
                    bail!("a command has four bytes at least");
                }
                Self::Plain(sent)
            }
            "<" => {
                if rest.trim().is_empty() || pattern::matches(rest, &[]).is_none() {
                    bail!("not a pattern: hexadecimal bytes, ?? for any of them, ... for any number");
                }
                Self::Expect(rest.to_owned())
            }
            _ => bail!("no such verb; there are select, open, refresh, authenticate, reset, plain, > and <"),
        })
    }
}

/// A script being run.
struct Run<'a> {
    card: &'a mut dyn Card,
    trace: &'a mut Trace,
    mkey: &'a AesKey,
    session: Option<Session>,
    /// The answer that the next `<` line is about.
    answer: Option<Response>,
}

impl Run<'_> {
    /// Gives 1 for an answer that was as expected.
    fn step(&mut self, step: &Step) -> Result<u32> {
        match step {
            Step::Select(aid) => {
                self.session = None;
                select(self.card, self.trace, aid)?;
            }
            Step::Reset => {
                self.session = None;
                self.card.reset().context("the card does not come back")?;
                self.trace.say("reset");
            }
            Step::Open(setup) => {
                self.session = None;
                self.session = Some(Session::open(self.card, self.trace, self.mkey, *setup)?);
            }
            Step::Refresh => self
                .session
                .as_mut()
                .context("no secure messaging is open")?
                .refresh(self.card, self.trace)?,
            Step::Authenticate(number, key) => self.authenticate(*number, key)?,
            Step::Send(capdu) => self.answer = Some(self.send(capdu)?),
            Step::Plain(capdu) => self.answer = Some(plain(self.card, self.trace, capdu)?),
            Step::Expect(pattern) => {
                self.expect(pattern)?;
                return Ok(1);
            }
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

    fn expect(&mut self, expected: &str) -> Result<()> {
        let answer = self.answer.take().context("nothing was sent")?;
        let whole = [&answer.data[..], &answer.sw.to_be_bytes()].concat();
        if pattern::matches(expected, &whole) != Some(true) {
            bail!(
                "the card answers {}, {}",
                hex::encode_upper(whole),
                StatusWord(answer.sw).meaning()
            );
        }
        Ok(())
    }

    fn authenticate(&mut self, number: u8, key: &AesKey) -> Result<()> {
        let challenge = expect(self.send(&[0x00, 0x84, 0x00, 0x00, 0x10])?, "GET CHALLENGE")?;
        let mac = cmac(key, &[&challenge]);
        let answer = self.send(&[&[0x00, 0x82, 0x00, number, 16][..], &mac].concat())?;
        expect(answer, "EXTERNAL AUTHENTICATE").map(drop)
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
    let mut has_refresh = false;
    while let Some(word) = words.next() {
        match word {
            "separate" if setup.lanes != Lanes::Separate => setup.lanes = Lanes::Separate,
            "refresh" if mode == Mode::Ratchet && !has_refresh => {
                has_refresh = true;
                let number = words.next().and_then(|number| number.parse().ok());
                let number = number.filter(|number| *number > 0);
                setup.refresh_every = number.context("refresh N: after how many exchanges")?;
            }
            _ => bail!("{word}: separate may follow the mode, and refresh N the ratchet, once each"),
        }
    }
    Ok(setup)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        match Script::parse(text) {
            Ok(_) => panic!("{text}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_script_is_read_whole() {
        let script = Script::parse(
            "# files\nselect F0534B4F530401\nopen ratchet separate refresh 9 # two keys\n\n> 00B0000004\n< ????...9000\nrefresh\nplain 00B00000 04\nreset",
        );
        let numbers: Vec<_> = script.unwrap().0.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [2, 3, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_cannot_be_carried_out_is_found_before_anything_is() {
        for (line, why) in [
            ("select F0", "an AID has 5 to 16 bytes"),
            (
                "select 00112233445566778899AABBCCDDEEFF00",
                "an AID has 5 to 16 bytes",
            ),
            ("select zz", "not hexadecimal"),
            ("open rot13", "no mode rot13"),
            ("open ratchet refresh 0", "after how many exchanges"),
            ("open fixed often", "once each"),
            ("open fixed refresh 3", "once each"),
            ("open ratchet separate separate", "once each"),
            ("open ratchet refresh 3 refresh 4", "once each"),
            ("reset now", "nothing follows"),
            ("refresh 3", "nothing follows"),
            ("> FFB0000004", "class FF"),
            ("<", "not a pattern"),
            ("authenticate 1", "write the key's number and the key"),
            ("authenticate 15 00112233445566778899AABBCCDDEEFF", "1 to 14"),
            ("authenticate 1 00", "16, 24 or 32 bytes"),
            ("> 00B000", "not a command"),
            ("> 00D0000004DEAD", "not a command"),
            ("plain 00", "four bytes"),
            ("< 9000", "nothing was sent"),
            ("refresh", "no secure messaging is open"),
            ("jump", "no such verb"),
        ] {
            let text = format!("reset\n{line}");
            let said = wrong(&text);
            assert!(
                said.contains(why) && said.starts_with("line 2: "),
                "{line}: {said}"
            );
        }
        assert!(wrong("> 00B0000004\n< 9").contains("not a pattern"));
        assert!(wrong("open fixed\nreset\nrefresh").starts_with("line 3: "));
    }
}
