//! What a reader shows of its work: for each exchange the numbers of its keys, never the keys, unless secrets may be seen.

use sekisho_apdu::StatusWord;
use sekisho_transport::Response;
use serde_json::{Value, json};

use super::words;
use super::wrong::Wrong;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// For people.
    Text,
    /// A JSON object for each command.
    Json,
}

/// What shows.
#[derive(Debug)]
pub(crate) struct Trace {
    style: Style,
    secrets: bool,
}

/// An exchange under secure messaging, as it is shown.
pub(crate) struct Exchange {
    number: u32,
    keys: (u32, u32),
    plain: Vec<u8>,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// Keys of the command and of the response, when they may be seen: KSenc and KSmac each.
    secrets: Vec<String>,
}

impl Exchange {
    pub(super) fn new(number: u32, keys: (u32, u32), plain: &[u8], secrets: Vec<String>) -> Self {
        Self {
            number,
            keys,
            plain: plain.to_vec(),
            sent: Vec::new(),
            received: Vec::new(),
            secrets,
        }
    }

    pub(super) fn sent_and_received(&mut self, sent: &[u8], received: &[u8]) {
        self.sent = sent.to_vec();
        self.received = received.to_vec();
    }

    fn keys(&self) -> String {
        match self.keys {
            (command, response) if command == response => format!("key {command}"),
            (command, response) => format!("keys {command} and {response}"),
        }
    }
}

impl Trace {
    pub(crate) const fn new(style: Style, secrets: bool) -> Self {
        Self { style, secrets }
    }

    pub(super) const fn shows_secrets(&self) -> bool {
        self.secrets
    }

    /// A line that is no command.
    pub(crate) fn say(&self, text: &str) {
        if self.style == Style::Text {
            line(text);
        }
    }

    pub(super) fn plain(&self, capdu: &[u8], response: &Response) {
        match self.style {
            Style::Text => {
                line(&format!("in the clear  {}", words::command(capdu)));
                show("sent", &hex::encode_upper(capdu));
                answer(response);
            }
            Style::Json => json_line(&json!({
                "command": words::command(capdu), "protected": false, "sent": hex::encode_upper(capdu),
                "data": hex::encode_upper(&response.data), "sw": format!("{:04X}", response.sw),
            })),
        }
    }

    pub(super) fn exchange(&self, shown: &Exchange, response: &Response) {
        match self.style {
            Style::Text => {
                let name = words::command(&shown.plain);
                line(&format!(
                    "exchange {:<4} {name}   under {}",
                    shown.number,
                    shown.keys()
                ));
                show("command", &hex::encode_upper(&shown.plain));
                show("sent", &hex::encode_upper(&shown.sent));
                show("received", &hex::encode_upper(&shown.received));
                answer(response);
                for (what, key) in SECRETS.iter().zip(&shown.secrets) {
                    show(what, key);
                }
            }
            Style::Json => {
                let mut object = json!({
                    "exchange": shown.number, "command": words::command(&shown.plain), "protected": true,
                    "command_key": shown.keys.0, "response_key": shown.keys.1, "plain": hex::encode_upper(&shown.plain),
                    "sent": hex::encode_upper(&shown.sent), "received": hex::encode_upper(&shown.received),
                    "data": hex::encode_upper(&response.data), "sw": format!("{:04X}", response.sw),
                });
                if !shown.secrets.is_empty() {
                    object["secrets"] = SECRETS
                        .iter()
                        .zip(&shown.secrets)
                        .map(|(what, key)| ((*what).to_owned(), Value::from(key.as_str())))
                        .collect();
                }
                json_line(&object);
            }
        }
    }

    /// An exchange at the end that answers.
    pub(super) fn answered(&self, number: u32, capdu: &[u8], response: &Response) {
        match self.style {
            Style::Text => {
                line(&format!("exchange {number:<4} {}", words::command(capdu)));
                show("command", &hex::encode_upper(capdu));
                answer(response);
            }
            Style::Json => json_line(&json!({
                "exchange": number, "command": words::command(capdu), "protected": true, "plain": hex::encode_upper(capdu),
                "data": hex::encode_upper(&response.data), "sw": format!("{:04X}", response.sw),
            })),
        }
    }

    /// A wrong answer, after which the same command goes out again, but for the last.
    pub(super) fn wrong(&self, shown: &Exchange, what: &Wrong, again: bool) {
        let then = if again {
            "the same command again"
        } else {
            "no more of it"
        };
        self.say(&format!(
            "exchange {:<4} wrong answer: {what}; {then}",
            shown.number
        ));
    }
}

/// What the secrets of an exchange are.
const SECRETS: [&str; 4] = ["KSenc", "KSmac", "KSenc resp.", "KSmac resp."];

fn answer(response: &Response) {
    let data = if response.data.is_empty() {
        String::new()
    } else {
        format!("{}  ", hex::encode_upper(&response.data))
    };
    show(
        "answer",
        &format!("{data}{:04X}  {}", response.sw, StatusWord(response.sw).meaning()),
    );
}

fn show(what: &str, text: &str) {
    line(&format!("  {what:<12}{text}"));
}

#[allow(clippy::print_stdout, reason = "the trace is what the command is for")]
fn line(text: &str) {
    println!("{text}");
}

fn json_line(object: &Value) {
    line(&object.to_string());
}
