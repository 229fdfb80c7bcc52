//! What a card answers in which state, as tables of a specification page, walked on cards.
//!
//! A page that is walked has these tables; they are known by their headings.
//!
//! * `state | from | by | known by`: each state, the state or the new card that it is reached from, the commands that lead there, and the
//!   commands whose answers show, one after the other, that a card is there. "\`NAME\` 6982, \`NAME\` D3...9000": a command and what its answer
//!   looks like (`??` any byte, `...` any number of them; nothing said: `...9000`).
//! * `command | sent | header | data | Le`: each command. *sent* is for the [`Bench`]; data is hex in which `{name}` stands for a block
//!   ```` ```hex name ```` of the page and `{name 8..16}` for bytes of it (a missing end is the block's, a negative one counts from it).
//! * `command | \`STATE\` ... | ...`: the matrix. A cell is the status word, and the state that follows if it is another one: "6982 none".
//! * `command | in | answer`: what a command is answered in a state, in full.
//! * `SW | meaning`: the page's whole list of status words; `SW | when`: those of one command among them. `61XX` is any of them.
#![allow(clippy::print_stdout, reason = "says how much it has walked")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A specification page, and the page whose blocks its tables name beside its own.
#[derive(Clone, Copy)]
pub struct Page {
    pub text: &'static str,
    blocks: &'static str,
}

/// A Markdown table of a page.
pub struct Table {
    pub head: Vec<String>,
    /// Line on the page and cells.
    pub rows: Vec<(usize, Vec<String>)>,
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// What stands in backquotes, each with the text behind it.
fn quoted(text: &str) -> Vec<(String, String)> {
    let parts: Vec<_> = text.split('`').collect();
    let pairs = parts.get(1..).unwrap_or_default().chunks(2);
    pairs
        .map(|pair| {
            (
                pair[0].to_owned(),
                pair.get(1).copied().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

impl Page {
    /// A page that names its own blocks alone.
    pub const fn new(text: &'static str) -> Self {
        Self { text, blocks: text }
    }

    /// A page that names those of another one as well.
    pub const fn with_blocks_of(text: &'static str, blocks: &'static str) -> Self {
        Self { text, blocks }
    }

    /// The bytes of the block ```` ```hex NAME ````.
    pub fn block(&self, name: &str) -> Vec<u8> {
        let start = format!("```hex {name}\n");
        let found = self.text.split_once(&start);
        let (_, after) = found
            .or_else(|| self.blocks.split_once(&start))
            .unwrap_or_else(|| panic!("the page has no block {name}"));
        let (digits, _) = after.split_once("```").unwrap();
        hex::decode(digits.split_whitespace().collect::<String>()).unwrap()
    }

    /// The text with the hex of the page's blocks in place of `{name}` and `{name 8..16}`.
    fn filled_in(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((plain, named)) = rest.split_once('{') {
            let (inside, after) = named.split_once('}').unwrap_or_else(|| panic!("{text}: no }}"));
            let (name, range) = inside.split_once(' ').unwrap_or((inside, ".."));
            let block = self.block(name);
            filled += plain;
            filled += &hex::encode(&block[range_of(range, block.len())]);
            rest = after;
        }
        filled + rest
    }

    /// The bytes of a cell in hex.
    pub fn bytes(&self, cell: &str) -> Vec<u8> {
        let digits: String = self
            .filled_in(cell.trim_matches('`'))
            .split_whitespace()
            .collect();
        hex::decode(&digits).unwrap_or_else(|e| panic!("{cell}: {e}"))
    }

    /// All tables, in their order.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let mut inside = false;
        for (number, line) in (1..).zip(self.text.lines()) {
            match cells(line) {
                None => inside = false,
                Some(row) if row.iter().all(|cell| cell.starts_with("--")) => {}
                Some(row) if inside => tables.last_mut().unwrap().rows.push((number, row)),
                Some(head) => {
                    inside = true;
                    let rows = Vec::new();
                    tables.push(Table { head, rows });
                }
            }
        }
        tables
    }

    fn headed<'t>(tables: &'t [Table], head: &[&str]) -> impl Iterator<Item = &'t (usize, Vec<String>)> {
        let found = tables.iter().filter(move |table| {
            let first = table.head.iter().take(head.len()).map(String::as_str);
            first.eq(head.iter().copied())
        });
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "the page has no table {head:?}");
        found.into_iter().flat_map(|table| &table.rows)
    }

    /// The status words of its lists, and whether no others may come.
    pub fn status_words(&self) -> (BTreeSet<String>, bool) {
        let tables = self.tables();
        let rows = Self::headed(&tables, &["SW"]).map(|(_, row)| row[0].clone());
        let is_whole = tables
            .iter()
            .any(|table| table.head.starts_with(&["SW".into(), "meaning".into()]));
        (rows.filter(|sw| sw.len() == 4).collect(), is_whole)
    }
}

fn range_of(text: &str, len: usize) -> std::ops::Range<usize> {
    let (start, end) = text
        .split_once("..")
        .unwrap_or_else(|| panic!("{text} is no range"));
    let at = |text: &str, missing: usize| match text.parse::<i64>() {
        Ok(n) if n < 0 => len - usize::try_from(-n).unwrap(),
        Ok(n) => usize::try_from(n).unwrap(),
        Err(_) => missing,
    };
    at(start, 0)..at(end, len)
}

/// A command of the page.
pub struct Command {
    /// How it is sent.
    pub sent: String,
    /// CLA INS P1 P2, or all bytes of what is sent as it stands.
    pub header: Vec<u8>,
    pub data: Vec<u8>,
    pub le: Option<u8>,
}

impl Command {
    /// The C-APDU with `more` behind its data field.
    pub fn with(&self, more: &[u8]) -> Vec<u8> {
        let data = [&self.data[..], more].concat();
        let mut bytes = self.header.clone();
        if !data.is_empty() {
            bytes.push(u8::try_from(data.len()).unwrap());
            bytes.extend(&data);
        }
        bytes.extend(self.le);
        bytes
    }
}

/// A card and what sends commands to it.
pub trait Bench {
    /// Sends a command in the way that it names, and gives the R-APDU without its protection.
    fn send(&mut self, command: &Command) -> Vec<u8>;
}

struct State {
    from: String,
    by: Vec<(String, String)>,
    known_by: Vec<(String, String)>,
}

/// What a walk has seen.
pub struct Walked {
    pub rows: usize,
    pub cells: usize,
    pub words: BTreeSet<String>,
}

/// A page's tables and a maker of new cards of the kind that the column *from* names.
pub struct Walker<'n, B> {
    page: Page,
    states: BTreeMap<String, State>,
    commands: BTreeMap<String, Command>,
    new: &'n dyn Fn(&str) -> B,
}

impl<'n, B: Bench> Walker<'n, B> {
    pub fn new(page: Page, new: &'n dyn Fn(&str) -> B) -> Self {
        let tables = page.tables();
        let name = |cell: &str| cell.trim_matches('`').to_owned();
        let states = Page::headed(&tables, &["state", "from", "by", "known by"]).map(|(_, row)| {
            let state = State {
                from: name(&row[1]),
                by: quoted(&row[2]),
                known_by: quoted(&row[3]),
            };
            (name(&row[0]), state)
        });
        let commands = Page::headed(&tables, &["command", "sent", "header", "data", "Le"]).map(|(_, row)| {
            let command = Command {
                sent: row[1].clone(),
                header: page.bytes(&row[2]),
                data: page.bytes(&row[3]),
                le: page.bytes(&row[4]).first().copied(),
            };
            (name(&row[0]), command)
        });
        Self {
            page,
            states: states.collect(),
            commands: commands.collect(),
            new,
        }
    }

    fn state(&self, name: &str) -> &State {
        self.states
            .get(name)
            .unwrap_or_else(|| panic!("the page has no state {name:?}"))
    }

    /// Sends a command of the page.
    pub fn send(&self, bench: &mut B, name: &str) -> Vec<u8> {
        let command = self.commands.get(name);
        bench.send(command.unwrap_or_else(|| panic!("the page has no command {name:?}")))
    }

    /// Sends commands one after the other up to the first answer that does not look as it should; that one in words.
    fn play(&self, bench: &mut B, steps: &[(String, String)]) -> Result<(), String> {
        for (name, pattern) in steps {
            let pattern = pattern.trim_matches([' ', ',', ';']);
            let pattern = if pattern.is_empty() { "...9000" } else { pattern };
            let answer = self.send(bench, name);
            if !super::script::matches(&self.page.filled_in(pattern), &answer) {
                return Err(format!("{name} is answered {}", hex::encode_upper(answer)));
            }
        }
        Ok(())
    }

    /// A card in a state.
    pub fn enter(&self, name: &str) -> B {
        let state = self.state(name);
        let mut bench = match self.states.get(&state.from) {
            Some(_) => self.enter(&state.from),
            None => (self.new)(&state.from),
        };
        self.play(&mut bench, &state.by)
            .unwrap_or_else(|why| panic!("on the way to {name}: {why}"));
        bench
    }

    /// The states that a card could be in after a command in a state, as their proofs show.
    fn possible(&self, state: &str, command: &str) -> String {
        let mut found = String::new();
        for (name, candidate) in &self.states {
            let mut bench = self.enter(state);
            self.send(&mut bench, command);
            if self.play(&mut bench, &candidate.known_by).is_ok() {
                let _ = write!(found, " {name}");
            }
        }
        found
    }

    /// One cell: what is wrong with it, if anything.
    fn cell(&self, state: &str, command: &str, cell: &str, words: &mut BTreeSet<String>) -> Option<String> {
        let (sw, follows) = cell.split_once(' ').unwrap_or((cell, state));
        let mut bench = self.enter(state);
        let answer = self.send(&mut bench, command);
        let answered = hex::encode_upper(&answer[answer.len() - 2..]);
        words.insert(answered.clone());
        if answered != sw {
            return Some(format!(
                "answered {answered}, then{}",
                self.possible(state, command)
            ));
        }
        let proved = self.play(&mut bench, &self.state(follows).known_by);
        proved.err().map(|why| {
            format!(
                "is not in {follows:?}: {why}; in{}",
                self.possible(state, command)
            )
        })
    }

    /// Walks every cell of every matrix; panics with all that differ from the page.
    pub fn walk(&self) -> Walked {
        let mut walked = Walked {
            rows: 0,
            cells: 0,
            words: BTreeSet::new(),
        };
        let mut wrong = String::new();
        // Every state is known by its own proof.
        for (name, state) in &self.states {
            if let Err(why) = self.play(&mut self.enter(name), &state.known_by) {
                let _ = writeln!(wrong, "state {name:?} is not known by its proof: {why}");
            }
        }
        for table in self.page.tables() {
            if table.head == ["command", "in", "answer"] {
                for (line, row) in &table.rows {
                    walked.rows += 1;
                    walked.cells += 1;
                    let [command, state] = [0, 1].map(|at| row[at].trim_matches('`').to_owned());
                    let answered = self.play(&mut self.enter(&state), &[(command, row[2].clone())]);
                    if let Err(why) = answered {
                        let _ = writeln!(wrong, "line {line}: in {state:?} {why}");
                    }
                }
            }
            let columns: Vec<_> = table.head.iter().map(|cell| quoted(cell)).collect();
            if table.head[0] != "command" || columns.get(1).is_none_or(Vec::is_empty) {
                continue;
            }
            for (line, row) in &table.rows {
                walked.rows += 1;
                for (command, _) in quoted(&row[0]) {
                    for (states, cell) in columns.iter().zip(row).skip(1) {
                        for (state, _) in states {
                            walked.cells += 1;
                            if let Some(why) = self.cell(state, &command, cell, &mut walked.words) {
                                let _ = writeln!(wrong, "line {line}: {command}, {state:?}, {cell:?}: {why}");
                            }
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "the page and the card differ:\n{wrong}");
        walked
    }
}

/// The last test of a page: walks its tables, prints how much that was, and compares the status words that came up with the page's list.
pub fn check_page<B: Bench>(page: Page, name: &str, new: &dyn Fn(&str) -> B) {
    let walked = Walker::new(page, new).walk();
    println!(
        "{name}: {} rows, {} cells, {} status words",
        walked.rows,
        walked.cells,
        walked.words.len()
    );
    let (listed, is_whole) = page.status_words();
    let is_one_of = |word: &str, listed: &str| match listed.strip_suffix("XX") {
        Some(sw1) => word.starts_with(sw1),
        None => word == listed,
    };
    let came_up = |sw: &&String| walked.words.iter().any(|word| is_one_of(word, sw));
    let missing: Vec<_> = listed.iter().filter(|sw| !came_up(sw)).collect();
    assert!(
        missing.is_empty(),
        "{name}: listed, but nothing was answered so: {missing:?}"
    );
    let is_listed = |word: &&String| listed.iter().any(|sw| is_one_of(word, sw));
    let unlisted: Vec<_> = walked.words.iter().filter(|word| !is_listed(word)).collect();
    assert!(
        unlisted.is_empty() || !is_whole,
        "{name}: answered, but not in the list: {unlisted:?}"
    );
}
