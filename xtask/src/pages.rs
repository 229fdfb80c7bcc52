//! The pages as a check: their links lead somewhere, and each threat of SECURITY.md names tests that exist.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The page whose tables name a test in the last cell of each row.
const SECURITY: &str = "SECURITY.md";

/// What there is to point at.
struct Tree {
    /// Paths from the root.
    files: BTreeSet<String>,
    /// Names of functions in Rust files.
    functions: BTreeSet<String>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "-co", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git ls-files did not run")?;
        let listed = String::from_utf8_lossy(&output.stdout);
        let files: BTreeSet<_> = listed
            .lines()
            .filter(|name| root.join(name).exists())
            .map(String::from)
            .collect();
        let mut functions = BTreeSet::new();
        for name in files.iter().filter(|name| name.ends_with(".rs")) {
            let text = std::fs::read_to_string(root.join(name)).with_context(|| name.clone())?;
            functions.extend(text.lines().filter_map(function).map(String::from));
        }
        Ok(Self { files, functions })
    }

    /// Whether there is such a function, named whole or by how its name begins, up to an underscore.
    fn has_function(&self, name: &str) -> bool {
        let begin = format!("{name}_");
        self.functions
            .iter()
            .any(|function| function == name || function.starts_with(&begin))
    }

    /// Whether there is such a file or folder, named from the root or by the end of its path.
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches("/*").trim_end_matches('/');
        let (inside, end) = (format!("{path}/"), format!("/{path}"));
        let middle = format!("/{path}/");
        self.files.iter().any(|file| {
            file == path || file.starts_with(&inside) || file.ends_with(&end) || file.contains(&middle)
        })
    }
}

/// The name in a line that begins a function.
fn function(line: &str) -> Option<&str> {
    let rest = line.trim_start().split_once("fn ")?.1;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    rest.get(..end).filter(|name| !name.is_empty())
}

/// Checks every Markdown page that git tracks or would track.
pub(crate) fn check(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut wrong = Vec::new();
    let (mut pages, mut links, mut threats) = (0_usize, 0_usize, 0_usize);
    for name in tree.files.iter().filter(|name| name.ends_with(".md")) {
        let text = std::fs::read_to_string(root.join(name)).with_context(|| name.clone())?;
        pages += 1;
        links += check_links(root, name, &text, &mut wrong);
        if name == SECURITY {
            threats = check_threats(&tree, &text, &mut wrong);
        }
    }
    for line in &wrong {
        println!("pages: {line}");
    }
    if threats == 0 {
        bail!("{SECURITY} has no threats");
    }
    if !wrong.is_empty() {
        bail!("{} places on the pages are wrong", wrong.len());
    }
    println!("pages: {pages} pages, {links} links, {threats} threats with their tests");
    Ok(())
}

/// The links `[text](path)` of a page that lead to a file; gives how many there are.
fn check_links(root: &Path, name: &str, text: &str, wrong: &mut Vec<String>) -> usize {
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            count += 1;
            if !root.join(folder).join(path).exists() {
                wrong.push(format!("{name}:{}: there is no {path}", number + 1));
            }
        }
    }
    count
}

/// The rows `| T1 | ... | tests |`; gives how many there are.
fn check_threats(tree: &Tree, text: &str, wrong: &mut Vec<String>) -> usize {
    let mut count = 0;
    for line in text.lines().filter(|line| line.starts_with("| T")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(threat), Some(tests)) = (cells.first(), cells.last()) else {
            continue;
        };
        count += 1;
        let mut named = 0;
        for code in tests.split('`').skip(1).step_by(2) {
            let is_path = code.contains('/') || code.contains(".rs");
            let is_function =
                code.contains('_') && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let exists = (is_path && tree.has(code)) || (is_function && tree.has_function(code));
            if exists {
                named += 1;
            } else if is_path || is_function {
                wrong.push(format!("{SECURITY}: {threat}: there is no {code}"));
            }
        }
        if named == 0 {
            wrong.push(format!("{SECURITY}: {threat} names no test"));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree {
            files: ["crates/card/x/tests/tamper.rs", "docs/a.md"]
                .map(String::from)
                .into(),
            functions: ["a_test_that_is_there"].map(String::from).into(),
        }
    }

    fn threats(row: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        check_threats(&tree(), row, &mut wrong);
        wrong
    }

    #[test]
    fn a_threat_names_tests_that_exist() {
        assert_eq!(
            threats("| T1 | a | b | `x/tests/tamper.rs`: `a_test_that_is_there` |"),
            [""; 0]
        );
        assert_eq!(threats("| T1 | a | b | `crates/card/x/tests` |"), [""; 0]);
        for (row, says) in [
            ("| T1 | a | b | nothing |", "names no test"),
            ("| T1 | a | b | `tests/gone.rs` |", "tests/gone.rs"),
            (
                "| T1 | a | b | `tamper.rs`: `a_test_that_went` |",
                "a_test_that_went",
            ),
        ] {
            let wrong = threats(row);
            assert!(wrong.iter().any(|line| line.contains(says)), "{row}: {wrong:?}");
        }
    }

    #[test]
    fn functions_are_found() {
        assert_eq!(function("    pub(crate) async fn a_1<T>(x: T) {"), Some("a_1"));
        assert_eq!(function("let fun = 1;"), None);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let root = crate::root();
        let mut wrong = Vec::new();
        let text = "[a](../README.md) [b](gone.md) [c](https://example.org/x) [d](#here)";
        assert_eq!(check_links(&root, "docs/page.md", text, &mut wrong), 2);
        assert_eq!(wrong, ["docs/page.md:1: there is no gone.md"]);
    }
}
