//! Exit codes are what their page says: each line of its table is run.

use crate::process;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use process::{SEKISHO, repository, scratch};

/// The lines of the page's tables, by column.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect())
}

#[test]
fn every_line_of_the_page_ends_as_it_says() {
    let page = std::fs::read_to_string(repository("docs/guide/exit-codes.md")).unwrap();
    let folder = scratch();
    let (mut wrong, mut tried, mut commands) = (Vec::new(), 0, BTreeSet::new());
    for row in rows(&page) {
        let [exit, command, _] = row[..] else { continue };
        let Ok(exit) = exit.parse::<i32>() else { continue };
        let line = command.trim_matches('`');
        let args: Vec<&str> = line.strip_prefix("sekisho ").unwrap().split(' ').collect();
        let output = Command::new(SEKISHO)
            .args(&args)
            .current_dir(folder.path())
            .env("SEKISHO_PASSPHRASE", "a passphrase of the test")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        tried += 1;
        commands.insert(args[0].to_owned());
        let said = String::from_utf8_lossy(&output.stderr);
        let is_silent = exit != 0 && said.is_empty();
        if output.status.code() != Some(exit) || is_silent {
            wrong.push(format!(
                "{line}: {:?} in place of {exit}: {said}",
                output.status.code()
            ));
        }
        assert!(!said.contains("panicked"), "{line}: {said}");
    }
    println!("exit codes: {tried} lines of the page run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A command that is added comes into the table.
    let help = Command::new(SEKISHO).arg("help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help
        .split_once("Commands:\n")
        .unwrap()
        .1
        .lines()
        .take_while(|line| line.starts_with("  "));
    // What is wrapped goes on further to the right.
    let names = listed.filter(|line| !line.starts_with("   "));
    for name in names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
    {
        assert!(commands.contains(name), "no line of the page runs sekisho {name}");
    }
}

/// Each exit code of the first table is tried somewhere: in the second table, or in the test that the page names.
#[test]
fn every_exit_code_is_tried() {
    let page = std::fs::read_to_string(repository("docs/guide/exit-codes.md")).unwrap();
    let run: BTreeSet<&str> = rows(&page)
        .filter(|row| row.len() == 3)
        .map(|row| row[0])
        .collect();
    let elsewhere = ["agent.rs", "fresh.rs", "lines/wires.rs"]
        .map(|file| std::fs::read_to_string(repository("apps/sekisho/tests").join(file)).unwrap())
        .concat();
    for row in rows(&page).filter(|row| row.len() == 2) {
        for exit in row[0].split(", ").filter(|exit| exit.parse::<i32>().is_ok()) {
            assert!(
                run.contains(exit) || elsewhere.contains(&format!("Some({exit})")),
                "{exit} is tried nowhere"
            );
        }
    }
}
