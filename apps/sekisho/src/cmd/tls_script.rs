//! What is sent to a secure element that has connected: the verbs of a reader's scripts (`docs/guide/reader.md`) that need no secure messaging.

use anyhow::{Context, Result, anyhow, bail};
use sekisho_apdu::StatusWord;

use crate::reader::{aid, pattern, script};

/// A C-APDU, and what its answer should look like.
pub(super) struct Command {
    pub(super) bytes: Vec<u8>,
    /// Where it stands, for those who look for it.
    place: String,
    /// Without a pattern any answer will do.
    expected: Option<String>,
}

/// An answer that ends as a selection does.
const SELECTED: &str = "...9000";

impl Command {
    /// One of the command line, the `number`-th.
    pub(super) fn given(number: usize, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            place: format!("command {number}"),
            expected: None,
        }
    }

    /// One that nobody wrote: a selection, or what is to be answered like this.
    pub(super) fn made(place: &str, bytes: Vec<u8>, expected: Option<&str>) -> Self {
        Self {
            bytes,
            place: place.to_owned(),
            expected: expected.map(str::to_owned),
        }
    }

    /// Why the script ends at this answer, if it does.
    pub(super) fn objection(&self, answer: &[u8]) -> Option<String> {
        let expected = self.expected.as_deref()?;
        if pattern::matches(expected, answer) == Some(true) {
            return None;
        }
        Some(format!(
            "{}: the secure element answers {}, {}",
            self.place,
            hex::encode_upper(answer),
            sw(answer).meaning()
        ))
    }
}

/// A command is what it sends.
impl AsRef<[u8]> for Command {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The status word of an R-APDU; 0000 where there is none.
pub(super) fn sw(answer: &[u8]) -> StatusWord {
    StatusWord(answer.last_chunk().map_or(0, |sw| u16::from_be_bytes(*sw)))
}

/// Reads a script; no command of it is longer than `most` bytes.
///
/// # Errors
/// The first line that cannot be carried out whatever is answered, and a script without a command.
pub(super) fn parse(text: &str, most: usize) -> Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    let mut may_expect = false;
    for (number, line) in (1..).zip(text.lines()) {
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let place = format!("line {number}: {text}");
        let (verb, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (bytes, expected) = match verb {
            "<" => {
                let command = commands.last_mut().filter(|_| may_expect);
                let command = command
                    .ok_or_else(|| anyhow!("nothing was sent"))
                    .context(place.clone())?;
                command.expected = Some(a_pattern(rest).context(place)?);
                may_expect = false;
                continue;
            }
            ">" => (command(rest, most), None),
            "select" => (selection(rest), Some(SELECTED.to_owned())),
            _ => (
                Err(anyhow!(
                    "no such verb in a TLS session; there are select, > and <"
                )),
                None,
            ),
        };
        may_expect = true;
        commands.push(Command {
            bytes: bytes.context(place.clone())?,
            place,
            expected,
        });
    }
    if commands.is_empty() {
        bail!("there is no command in it");
    }
    Ok(commands)
}

/// A C-APDU that fits a record.
pub(super) fn command(text: &str, most: usize) -> Result<Vec<u8>> {
    let bytes = script::capdu(text)?;
    if bytes.len() > most {
        bail!(
            "a command of {} bytes does not fit a record of {most}",
            bytes.len()
        );
    }
    Ok(bytes)
}

fn selection(digits: &str) -> Result<Vec<u8>> {
    let digits: String = digits.split_whitespace().collect();
    let bytes = hex::decode(&digits).map_err(|error| anyhow!("not hexadecimal bytes: {error}"))?;
    let name = aid(&bytes)?;
    let len = u8::try_from(name.len())?;
    Ok([&[0x00, 0xA4, 0x04, 0x00, len], &name[..], &[0x00]].concat())
}

fn a_pattern(text: &str) -> Result<String> {
    if text.trim().is_empty() || pattern::matches(text, &[]).is_none() {
        bail!("not a pattern: hexadecimal bytes, ?? for any of them, ... for any number");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_whole_and_says_what_is_wrong_with_an_answer() {
        let text = "# sensors\nselect F0534B4F530401\n> 00B0810004 # read\n< ????????9000\n\n> 00B0000004";
        let commands = parse(text, 64).unwrap();
        let bytes: Vec<_> = commands
            .iter()
            .map(|command| hex::encode_upper(&command.bytes))
            .collect();
        assert_eq!(bytes, ["00A4040007F0534B4F53040100", "00B0810004", "00B0000004"]);
        assert_eq!(commands[0].objection(&[0x6F, 0, 0x90, 0]), None);
        assert_eq!(commands[1].objection(&[1, 2, 3, 4, 0x90, 0]), None);
        // Without a pattern any answer will do.
        assert_eq!(commands[2].objection(&[0x69, 0x82]), None);
        let said = commands[0].objection(&[0x6A, 0x82]).unwrap();
        assert!(
            said.starts_with("line 2: select F0") && said.contains("6A82"),
            "{said}"
        );
        assert!(commands[1].objection(&[0x90, 0]).is_some());
    }

    #[test]
    fn what_cannot_be_carried_out_is_found_before_anybody_connects() {
        for (text, why) in [
            ("", "no command"),
            ("# nothing", "no command"),
            ("< 9000", "nothing was sent"),
            ("> 00B0000004\n< 9000\n< 9000", "nothing was sent"),
            ("> 00B0000004\n< 9", "not a pattern"),
            ("> 00B0", "not a command"),
            ("> 00D600000901", "not a command"),
            (
                "> 00D600000C0102030405060708090A0B0C",
                "does not fit a record of 16",
            ),
            ("select F0", "5 to 16 bytes"),
            ("open ratchet", "no such verb in a TLS session"),
            ("reset", "no such verb in a TLS session"),
        ] {
            let said = match parse(text, 16) {
                Ok(_) => panic!("{text}"),
                Err(error) => format!("{error:#}"),
            };
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
