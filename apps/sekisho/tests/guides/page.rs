//! A page of Markdown as what it promises: its console blocks, their commands, and the output that it shows for each.

/// What stands for several lines of output, on a line of its own.
const LINES: &str = "...";
/// What stands for any characters in a line of output.
pub const ANY: &str = "[..]";

/// A page, as far as it can be run.
#[derive(Debug)]
pub struct Page {
    pub name: String,
    pub blocks: Vec<Block>,
}

/// One console block.
#[derive(Debug)]
pub struct Block {
    /// Line of its fence, from 1 on.
    pub line: usize,
    pub notes: Notes,
    pub commands: Vec<Command>,
}

/// What HTML comments right above a block say of it; a reader of the page does not see them.
#[derive(Debug, Default)]
pub struct Notes {
    /// `<!-- not run: REASON -->`
    pub not_run: Option<String>,
    /// `<!-- needs: TOOL, TOOL -->`: without these the block is skipped where they are no duty.
    pub needs: Vec<String>,
    /// `<!-- varies: VALUE, VALUE -->`: an example that stands for any characters, with the blanks before it.
    pub varies: Vec<String>,
}

/// A command with the output that the page shows.
#[derive(Debug)]
pub struct Command {
    /// Its first line, from 1 on.
    pub line: usize,
    pub text: String,
    pub expected: Vec<String>,
}

impl Page {
    /// Reads a page; the error names the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut blocks = Vec::new();
        let mut notes = Notes::default();
        let mut fence: Option<(usize, &str, Vec<&str>)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let at = |what: &str| format!("{name}:{number}: {what}");
            match &mut fence {
                None if line.starts_with("```") => fence = Some((number, &line[3..], Vec::new())),
                None if line.trim_start().starts_with("```") => {
                    return Err(at("an indented block is not read; begin it in the first column"));
                }
                None => match note(line) {
                    Some((key, value)) => notes.take(key, value).map_err(|what| at(&what))?,
                    None => notes = Notes::default(),
                },
                Some(_) if line == "```" => {
                    let Some((first, kind, lines)) = fence.take() else {
                        continue;
                    };
                    let notes = core::mem::take(&mut notes);
                    if let Some(block) = Block::parse(name, first, kind, &lines, notes)? {
                        blocks.push(block);
                    }
                }
                Some((.., lines)) => lines.push(line),
            }
        }
        match fence {
            Some((first, ..)) => Err(format!("{name}:{first}: this block has no end")),
            None => Ok(Self {
                name: name.to_owned(),
                blocks,
            }),
        }
    }
}

/// The key and value of a comment that is a note.
fn note(line: &str) -> Option<(&str, &str)> {
    let inside = line.strip_prefix("<!--")?.strip_suffix("-->")?;
    let (key, value) = inside.split_once(':')?;
    Some((key.trim(), value.trim()))
}

impl Notes {
    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        let list = || value.split(',').map(|item| item.trim().to_owned());
        match key {
            _ if value.is_empty() => return Err(format!("the comment \"{key}\" says nothing")),
            "not run" => self.not_run = Some(value.to_owned()),
            "needs" => self.needs.extend(list()),
            "varies" => self.varies.extend(list()),
            _ => {
                return Err(format!(
                    "the comment \"{key}\" means nothing here: not run, needs, varies"
                ));
            }
        }
        Ok(())
    }
}

impl Block {
    /// A block of any kind; only a console block is one.
    fn parse(
        name: &str,
        line: usize,
        kind: &str,
        lines: &[&str],
        notes: Notes,
    ) -> Result<Option<Self>, String> {
        let at = |offset: usize, what: &str| Err(format!("{name}:{}: {what}", line + offset));
        if kind != "console" {
            let is_hidden = ["sh", "bash", "shell", "shell-session"].contains(&kind);
            return match lines.iter().any(|line| line.starts_with("$ ")) || is_hidden {
                true => at(0, "commands belong into a console block, where they run"),
                false => Ok(None),
            };
        }
        let mut commands: Vec<Command> = Vec::new();
        for (offset, text) in (1..).zip(lines) {
            let goes_on = commands.last_mut().filter(|command| command.expected.is_empty());
            if let Some(text) = text.strip_prefix("$ ") {
                commands.push(Command {
                    line: line + offset,
                    text: text.to_owned(),
                    expected: Vec::new(),
                });
            } else if let Some(command) = goes_on
                && (*text == ">" || text.starts_with("> ") || command.text.ends_with('\\'))
            {
                command.text += "\n";
                command.text += text
                    .strip_prefix("> ")
                    .unwrap_or(if *text == ">" { "" } else { text });
            } else if let Some(command) = commands.last_mut() {
                command.expected.push((*text).to_owned());
            } else {
                return at(offset, "output of no command");
            }
        }
        if commands.is_empty() {
            return at(0, "a console block without a command");
        }
        for command in &commands {
            if command.text.contains(LINES) {
                return at(command.line - line, "\"...\" in a command: nobody can type it");
            }
        }
        for value in &notes.varies {
            if value.len() < 2 {
                return at(
                    0,
                    &format!("\"{value}\" is in too many places to vary: take in what is around it"),
                );
            }
            let mut shown = commands.iter().flat_map(|command| &command.expected);
            if !shown.any(|line| line.contains(value)) {
                return at(0, &format!("\"{value}\" varies, but is not there"));
            }
        }
        Ok(Some(Self {
            line,
            notes,
            commands,
        }))
    }
}

impl Command {
    /// Whether the output is what the page shows; of a job in the background the page may show the beginning.
    pub fn matches(&self, output: &str, varies: &[String], is_beginning: bool) -> bool {
        let mut expected: Vec<String> = trimmed(self.expected.iter().map(String::as_str))
            .into_iter()
            .map(|line| loosened(line, varies))
            .collect();
        if is_beginning {
            expected.push(LINES.to_owned());
        }
        lines_match(&expected, &trimmed(output.lines()))
    }
}

/// The lines without blanks at their ends, and without blank lines behind the last one.
fn trimmed<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut lines: Vec<_> = lines.map(str::trim_end).collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines
}

/// The line with each example and the blanks before it as "anything".
fn loosened(line: &str, varies: &[String]) -> String {
    let mut line = line.to_owned();
    let mut values: Vec<_> = varies.iter().collect();
    values.sort_by_key(|value| core::cmp::Reverse(value.len()));
    for value in values {
        let mut parts = line.split(value.as_str()).peekable();
        let mut loose = String::new();
        while let Some(part) = parts.next() {
            match parts.peek() {
                Some(_) => {
                    loose += part.trim_end_matches(' ');
                    loose += ANY;
                }
                None => loose += part,
            }
        }
        line = loose;
    }
    line
}

fn lines_match(expected: &[String], output: &[&str]) -> bool {
    match expected.split_first() {
        None => output.is_empty(),
        Some((first, rest)) if first == LINES => {
            (0..=output.len()).any(|skipped| lines_match(rest, &output[skipped..]))
        }
        Some((first, rest)) => output
            .split_first()
            .is_some_and(|(line, more)| line_matches(first, line) && lines_match(rest, more)),
    }
}

fn line_matches(expected: &str, line: &str) -> bool {
    let Some((head, tail)) = expected.split_once(ANY) else {
        return expected == line;
    };
    let Some(mut rest) = line.strip_prefix(head) else {
        return false;
    };
    let mut pieces = tail.split(ANY).peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(found) => rest = &rest[found + piece.len()..],
            None => return false,
        }
    }
    true
}
