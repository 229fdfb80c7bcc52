//! Unsafe code stands in a few files that are known; every other crate forbids it.

use proc_macro2::{TokenStream, TokenTree};

/// Files with unsafe code, and what it is for.
const FILES: [&str; 9] = [
    // Where a chip's cryptography is linked, in a build that names one; every other build forbids unsafe code there too.
    "crates/proto/sekisho-keys/src/custom/symbols.rs",
    // The wasm engine's two allocation functions, and its view of an image.
    "crates/card/sekisho-wasm/src/heap.rs",
    "crates/card/sekisho-wasm/src/image.rs",
    // A board: its registers, its flash, its heap, what a fault does, and a symbol for who measures.
    "firmware/mps2/src/registers.rs",
    "firmware/mps2/src/flash.rs",
    "firmware/mps2/src/heap.rs",
    "firmware/mps2/src/policy.rs",
    "firmware/mps2/src/main.rs",
    // PC/SC's library, opened at run time.
    "crates/host/sekisho-transport/src/winscard.rs",
];
/// What is not part of the product: OS parts call the host across an interface that is unsafe by nature, fuzz targets are made by a macro, valgrind is told of secrets by macros of C, and an
/// emulator writes into the memory of an image.
const ELSEWHERE: [&str; 4] = ["applets/", "fuzz/", "tests/secrets/", "tests/skips/"];
/// What a crate's root says.
const FORBID: &str = "#![forbid(unsafe_code)]";

/// Finds unsafe code outside the known files, and roots of crates that do not forbid it.
pub(crate) fn check(name: &str, text: &str, wrong: &mut Vec<String>) {
    if ELSEWHERE.iter().any(|folder| name.starts_with(folder)) {
        return;
    }
    let known = FILES.contains(&name);
    let tokens: Option<TokenStream> = text.parse().ok();
    // What does not parse is reported where the file is parsed.
    for line in tokens.map(unsafe_lines).unwrap_or_default() {
        if !known {
            wrong.push(format!(
                "{name}:{line}: unsafe code stands in the files that xtask/src/unsafe_code.rs names, and in no other"
            ));
        }
    }
    if let Some(source) = root(name)
        && !FILES.iter().any(|file| file.starts_with(source))
        && !text.lines().any(|line| line == FORBID)
    {
        wrong.push(format!("{name}: a crate's root says {FORBID}"));
    }
}

/// The source folder of the crate whose root this is.
fn root(name: &str) -> Option<&str> {
    let file = ["src/lib.rs", "src/main.rs"]
        .into_iter()
        .find(|file| name.ends_with(file))?;
    name.strip_suffix(file.strip_prefix("src/")?)
}

/// Lines with the keyword, and with attributes that allow what it stands for.
fn unsafe_lines(tokens: TokenStream) -> Vec<usize> {
    let mut found = Vec::new();
    let mut allows = false;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if ident == "unsafe" {
                    found.push(ident.span().start().line);
                }
                allows = ident == "allow" || ident == "expect" || ident == "warn";
            }
            TokenTree::Group(group) => {
                let names_it =
                    |tree: TokenTree| matches!(tree, TokenTree::Ident(ident) if ident == "unsafe_code");
                if allows && group.stream().into_iter().any(names_it) {
                    found.push(group.span_open().start().line);
                }
                found.extend(unsafe_lines(group.stream()));
                allows = false;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => allows = false,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        check(name, text, &mut wrong);
        wrong
    }

    #[test]
    fn unsafe_code_is_found_wherever_it_hides() {
        for text in [
            "fn f() { unsafe { g() } }",
            "unsafe fn f() {}",
            "unsafe impl Send for X {}",
            "m! { a, unsafe { g() } }",
            "#![allow(unsafe_code)]",
            "#[expect(dead_code, unsafe_code)] fn f() {}",
            "#[unsafe(no_mangle)] fn f() {}",
        ] {
            assert_eq!(wrong("crates/card/x/src/a.rs", text).len(), 1, "{text}");
            assert_eq!(wrong("crates/card/x/tests/a.rs", text).len(), 1, "{text}");
            assert!(wrong(FILES[0], text).is_empty(), "{text}");
            assert!(wrong("applets/sdk/src/lib.rs", text).is_empty(), "{text}");
        }
        for text in [
            "// unsafe\nfn f() {}",
            "const A: &str = \"unsafe\";",
            "#![deny(unsafe_code)]",
        ] {
            assert!(wrong("crates/card/x/src/a.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn roots_forbid_it() {
        for name in [
            "crates/card/x/src/lib.rs",
            "apps/x/src/main.rs",
            "xtask/src/main.rs",
        ] {
            assert!(wrong(name, "#![forbid(unsafe_code)]\nfn f() {}\n").is_empty());
            assert_eq!(wrong(name, "#![deny(unsafe_code)]\nfn f() {}\n").len(), 1);
        }
        // The crate of a known file cannot.
        assert!(wrong("crates/host/sekisho-transport/src/lib.rs", "mod a;\n").is_empty());
        assert!(wrong("crates/host/x/src/lib/main_loop.rs", "fn f() {}\n").is_empty());
    }
}
