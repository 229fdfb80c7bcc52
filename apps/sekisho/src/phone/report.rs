//! What the phone shows at its end.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use sekisho_link::SeId;
use serde_json::{Value, json};

use super::wire::{Heard, Who};
use crate::card::line::name;

/// Commands of the log that are shown.
const SHOWN: usize = 12;

/// What became of a conversation.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) who: Who,
    pub(super) rounds: u32,
    /// The containers that have answered, by their SE-ids.
    pub(super) answered: BTreeSet<u8>,
    /// What was wrong, if anything.
    pub(super) wrong: Option<String>,
    /// What it has brought about, if there is more to say.
    pub(super) note: String,
}

impl Said {
    pub(super) const fn new(who: Who) -> Self {
        Self {
            who,
            rounds: 0,
            answered: BTreeSet::new(),
            wrong: None,
            note: String::new(),
        }
    }

    fn is_right(&self) -> bool {
        self.wrong.is_none() && self.rounds > 0 && self.answered.iter().eq([&self.who.container()])
    }

    fn by(&self) -> String {
        let names: Vec<_> = self
            .answered
            .iter()
            .map(|number| format!("container {number}"))
            .collect();
        match names.as_slice() {
            [] => "nobody".to_owned(),
            names => names.join(", "),
        }
    }
}

/// All conversations.
pub(super) struct Report {
    said: Vec<Said>,
    se_ids: [SeId; 2],
    /// Protocols and number of commands of each, in the order of [`Who::ALL`].
    commands: [(String, usize); Who::ALL.len()],
    /// How often another one was heard than before.
    changes: usize,
    shown: Vec<Heard>,
    took: Duration,
}

fn changes(heard: &[Heard]) -> usize {
    let pairs = heard.iter().zip(heard.iter().skip(1));
    pairs.filter(|(one, next)| one.who != next.who).count()
}

impl Report {
    pub(super) fn new(mut said: Vec<Said>, se_ids: [SeId; 2], log: &[Heard], took: Duration) -> Self {
        for said in &mut said {
            let its = log.iter().filter(|heard| heard.who == said.who);
            said.answered = its.map(|heard| heard.container).filter(|of| *of != 0).collect();
        }
        let liveliest = log.windows(SHOWN).max_by_key(|heard| {
            let who = Who::ALL
                .iter()
                .filter(|who| heard.iter().any(|heard| heard.who == **who));
            (who.count(), changes(heard))
        });
        Self {
            said,
            se_ids,
            commands: Who::ALL.map(|who| {
                let its = || log.iter().filter(|heard| heard.who == who);
                let on: BTreeSet<_> = its().map(|heard| name(heard.protocol)).collect();
                (on.into_iter().collect::<Vec<_>>().join(", "), its().count())
            }),
            changes: changes(log),
            shown: liveliest.unwrap_or(log).to_vec(),
            took,
        }
    }

    pub(super) fn is_right(&self) -> bool {
        self.said.len() == Who::ALL.len() && self.said.iter().all(Said::is_right)
    }

    /// Each conversation, with the protocols on which it was had and its commands.
    fn rows(&self) -> impl Iterator<Item = (&Said, &str, usize)> {
        let all = Who::ALL.iter().zip(&self.commands);
        all.filter_map(|(who, (on, commands))| {
            let said = self.said.iter().find(|said| said.who == *who)?;
            Some((said, on.as_str(), *commands))
        })
    }

    fn all_commands(&self) -> usize {
        self.commands.iter().map(|(_, commands)| commands).sum()
    }

    fn json(&self) -> Value {
        let containers = (1..).zip(&self.se_ids);
        let containers: Vec<_> = containers
            .map(|(number, id): (u8, _)| json!({ "number": number, "se_id": id.to_string() }))
            .collect();
        let said = self.rows().map(|(said, on, commands)| {
            json!({
                "who": said.who.name(), "on": on, "meant": said.who.container(), "answered_by": said.answered,
                "rounds": said.rounds, "commands": commands, "right": said.is_right(), "wrong": said.wrong, "note": said.note,
            })
        });
        json!({
            "right": self.is_right(), "containers": containers, "conversations": said.collect::<Vec<_>>(),
            "commands": self.all_commands(), "changes_of_speaker": self.changes,
            "seconds": (self.took.as_secs_f64() * 100.0).round() / 100.0,
        })
    }

    /// The report on standard output, and what was wrong on standard error.
    #[allow(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "the report is what the command is for"
    )]
    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        self.print_report(as_json)?;
        for (said, ..) in self.rows().filter(|(said, ..)| !said.is_right()) {
            let why = said.wrong.as_deref().unwrap_or("another container answered");
            eprintln!("error: {}: {why}", said.who.name());
        }
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "the report is what the command is for")]
    fn print_report(&self, as_json: bool) -> Result<()> {
        if as_json {
            println!("{}", serde_json::to_string(&self.json())?);
            return Ok(());
        }
        println!("one secure element with two containers, both under A000000151000000\n");
        for (number, id) in (1..).zip(&self.se_ids) {
            println!("  container {number}  SE-id {id}");
        }
        println!("\n{SHOWN} commands in the order in which it heard them\n");
        for heard in &self.shown {
            println!(
                "  {:<14} {:<10} {:<22} {:04X}  container {}",
                heard.who.name(),
                name(heard.protocol),
                heard.command(),
                heard.sw,
                heard.container
            );
        }
        println!(
            "\n  {:<14} {:<13} {:<12} {:>6} {:>9}",
            "who", "on", "answered by", "rounds", "commands"
        );
        for (said, on, commands) in self.rows() {
            let right = if said.is_right() { "right" } else { "WRONG" };
            let (who, by) = (said.who.name(), said.by());
            println!(
                "  {who:<14} {on:<13} {by:<12} {:>6} {commands:>9}  {right}",
                said.rounds
            );
            let more = said.wrong.as_deref().unwrap_or(&said.note);
            if !more.is_empty() {
                println!("  {:<14} {more}", "");
            }
        }
        println!(
            "\n{} commands in {:.1} s; {} times another one spoke than before",
            self.all_commands(),
            self.took.as_secs_f64(),
            self.changes
        );
        Ok(())
    }
}
