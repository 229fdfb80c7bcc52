//! Modules of one crate use each other one way: no two of them, by whatever way round, need each other.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crates whose modules are looked at. A folder counts as one module: its files are parts of it.
const CRATES: [&str; 1] = ["crates/card/sekisho-os/src"];
/// Where a file's own tests begin. They may use anything.
const TESTS: &str = "#[cfg(test)]\nmod tests {";

/// Finds the circles.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for name in CRATES {
        let modules = read(&root.join(name))?;
        let circle = circle(&modules);
        if !circle.is_empty() {
            wrong.push(format!(
                "{name}: these modules use each other in a circle: {}",
                circle.join(", ")
            ));
        }
    }
    Ok(wrong)
}

/// Each module of a crate with the modules that it names.
fn read(folder: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut texts = BTreeMap::<String, String>::new();
    collect(folder, None, &mut texts)?;
    texts.remove("lib");
    let names: BTreeSet<String> = texts.keys().cloned().collect();
    let uses = |(name, text): (String, String)| {
        let used = used(&text)
            .into_iter()
            .filter(|other| *other != name && names.contains(other));
        (name.clone(), used.collect())
    };
    Ok(texts.into_iter().map(uses).collect())
}

/// The text of a folder's files, by module.
fn collect(folder: &Path, module: Option<&str>, texts: &mut BTreeMap<String, String>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let name = module.unwrap_or(stem);
        if path.is_dir() {
            collect(&path, Some(name), texts)?;
        } else if stem != "tests" && path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.entry(name.to_owned()).or_default().push_str(&text);
        }
    }
    Ok(())
}

/// The modules that a file names by `crate::`, in what is neither comment nor test.
fn used(text: &str) -> BTreeSet<String> {
    let product = text.split(TESTS).next().unwrap_or_default();
    let lines = product
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    let named = lines.flat_map(|line| line.split("crate::").skip(1));
    let name = |rest: &str| {
        rest.chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect()
    };
    named.map(name).collect()
}

/// What is left when every module that uses none of the others has been taken away, again and again: the circles, and what needs them.
fn circle(modules: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut left: BTreeSet<&String> = modules.keys().collect();
    loop {
        let is_free = |name: &&String| {
            modules
                .get(*name)
                .is_none_or(|used| used.iter().all(|other| !left.contains(other)))
        };
        let free: Vec<&String> = left.iter().copied().filter(is_free).collect();
        if free.is_empty() {
            return left.into_iter().cloned().collect();
        }
        for name in free {
            left.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_and_a_line_is_none() {
        let modules = |uses: &[(&str, &str)]| {
            let mut modules = BTreeMap::<String, BTreeSet<String>>::new();
            for (from, to) in uses {
                modules.entry((*to).to_owned()).or_default();
                modules
                    .entry((*from).to_owned())
                    .or_default()
                    .insert((*to).to_owned());
            }
            modules
        };
        assert!(circle(&modules(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
        assert_eq!(
            circle(&modules(&[("a", "b"), ("b", "c"), ("c", "b")])),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn comments_and_tests_use_nothing() {
        let text = "use crate::one::One; // crate::two\n/// [`crate::three`]\nlet x = crate::four::f(crate::Five);\n#[cfg(test)]\nmod tests {\n use crate::six;\n}";
        let used: Vec<_> = used(text).into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(used, ["four", "one"]);
    }

    #[test]
    fn no_modules_of_the_card_use_each_other_in_a_circle() {
        assert_eq!(check(&crate::root()).unwrap(), Vec::<String>::new());
    }
}
