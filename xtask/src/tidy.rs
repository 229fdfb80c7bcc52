//! The style guide as a check: lengths, leftover marks, IO below the host ring, and where unsafe code may be.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// A file's hard limit; 600 is the aim.
const FILE_LINES_MAX: usize = 1000;
/// A function's limit, signature to closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// What code below the host ring never names, with its replacement.
const BANNED_BELOW_HOST: [(&str, &str); 6] = [
    (
        "std::net",
        "bytes are arguments; sockets belong to crates/host/sekisho-transport",
    ),
    ("std::fs", "take bytes or a Flash; files belong to the host ring"),
    (
        "std::thread",
        "be a state machine; threads belong to the host ring",
    ),
    ("std::time", "take `now` as an argument"),
    ("getrandom", "take an Rng as an argument"),
    ("println!", "return values or typed events"),
];

/// Checks every Rust file that git tracks or would track.
pub(crate) fn check(root: &Path) -> Result<()> {
    let output = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "--", "*.rs"])
        .current_dir(root)
        .output()
        .context("git ls-files did not run")?;
    let mut wrong = Vec::new();
    let mut files = BTreeMap::new();
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        if let Ok(text) = std::fs::read_to_string(root.join(name)) {
            files.insert(name.to_owned(), text);
        }
    }
    for (name, text) in &files {
        check_text(name, text, &mut wrong);
        crate::unsafe_code::check(name, text, &mut wrong);
    }
    for name in files.keys() {
        let Some((package, _)) = name.split_once("/tests/") else {
            continue;
        };
        let manifest = std::fs::read_to_string(root.join(package).join("Cargo.toml")).unwrap_or_default();
        if is_forgotten(name, &manifest, &files) {
            wrong.push(format!(
                "{name}: no program of {package}/Cargo.toml and no module of one: nothing runs it"
            ));
        }
    }
    for line in &wrong {
        println!("tidy: {line}");
    }
    if wrong.is_empty() {
        println!("tidy: {} files in order", files.len());
        Ok(())
    } else {
        bail!("{} places are not tidy", wrong.len())
    }
}

fn check_text(name: &str, text: &str, wrong: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        wrong.push(format!(
            "{name}: {lines} lines; split it ({FILE_LINES_MAX} is the limit)"
        ));
    }
    let is_test = is_test_file(name);
    let below_host = ["crates/wire/", "crates/proto/", "crates/card/"]
        .iter()
        .any(|ring| name.starts_with(ring));
    let mut in_tests = is_test;
    for (number, line) in text.lines().enumerate() {
        if !name.starts_with("xtask/") {
            for mark in ["TODO", "FIXME", "XXX"] {
                if line.contains(mark) {
                    wrong.push(format!("{name}:{}: leftover mark {mark}", number + 1));
                }
            }
        }
        in_tests |= line.contains("#[cfg(test)]");
        if below_host && !in_tests && !line.trim_start().starts_with("//") {
            for (banned, instead) in BANNED_BELOW_HOST {
                if line.contains(banned) {
                    wrong.push(format!(
                        "{name}:{}: {banned} below the host ring: {instead}",
                        number + 1
                    ));
                }
            }
        }
    }
    match syn::parse_file(text) {
        Ok(file) => Functions { name, wrong }.visit_file(&file),
        Err(error) => wrong.push(format!("{name}: does not parse: {error}")),
    }
}

/// Whether a package that lists its test programs itself has forgotten this file, which stands in its folder of tests.
fn is_forgotten(name: &str, manifest: &str, files: &BTreeMap<String, String>) -> bool {
    let Some((folder, file)) = name.rsplit_once('/') else {
        return false;
    };
    let Some(module) = file.strip_suffix(".rs") else {
        return false;
    };
    if !folder.ends_with("/tests") || !manifest.contains("autotests = false") {
        return false;
    }
    let is_program = manifest.contains(&format!("name = \"{module}\""));
    let declared = format!("mod {module};");
    let mut beside = files
        .iter()
        .filter(|(other, _)| other.rsplit_once('/').is_some_and(|(own, _)| own == folder));
    !is_program && !beside.any(|(_, text)| text.lines().any(|line| line == declared))
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests/")
        || name.ends_with("/tests.rs")
        || name.contains("/benches/")
        || name.contains("/examples/")
}

struct Functions<'a> {
    name: &'a str,
    wrong: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn measure(&mut self, ident: &syn::Ident, start: proc_macro2::Span, block: &syn::Block) {
        let first = start.start().line;
        let lines = block.span().end().line.saturating_sub(first) + 1;
        if lines > FUNCTION_LINES_MAX {
            self.wrong.push(format!(
                "{}:{first}: fn {ident} has {lines} lines ({FUNCTION_LINES_MAX} is the limit)",
                self.name
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, item.sig.fn_token.span, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.sig.fn_token.span, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_and_files_and_marks_are_found() {
        let mut wrong = Vec::new();
        let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(70));
        check_text("crates/host/x/src/lib.rs", &long, &mut wrong);
        check_text("crates/host/x/src/lib.rs", &"\n".repeat(1001), &mut wrong);
        check_text("crates/host/x/src/lib.rs", "// TODO later\n", &mut wrong);
        check_text(
            "crates/card/x/src/lib.rs",
            "use std::net::TcpStream;\n",
            &mut wrong,
        );
        assert_eq!(wrong.len(), 4, "{wrong:?}");
    }

    #[test]
    fn a_test_that_nothing_runs_is_found() {
        let manifest = "autotests = false\n[[test]]\nname = \"all\"\n";
        let files: BTreeMap<_, _> = [
            ("a/tests/all.rs", "mod one;\n"),
            ("a/tests/one.rs", ""),
            ("a/tests/two.rs", ""),
            ("a/tests/common/three.rs", ""),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into();
        let forgotten = |manifest: &str| -> Vec<_> {
            let names = files.keys().filter(|name| is_forgotten(name, manifest, &files));
            names.cloned().collect()
        };
        assert_eq!(forgotten(manifest), ["a/tests/two.rs"]);
        assert_eq!(forgotten("[package]\n"), [""; 0]);
    }

    #[test]
    fn tests_may_do_what_code_may_not() {
        let mut wrong = Vec::new();
        check_text("crates/card/x/tests/a.rs", "use std::fs;\n", &mut wrong);
        check_text(
            "crates/card/x/src/lib.rs",
            "#[cfg(test)]\nmod tests { use std::fs; }\n",
            &mut wrong,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
