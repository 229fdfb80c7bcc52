//! The test of the guides can fail: pages that are wrong in each way, and one that is right in each way.

use core::time::Duration;
use std::time::Instant;

use crate::page::Page;
use crate::run::{Counts, Rules, run};
use crate::shell::own_namespaces;

const QUICK: Rules = Rules {
    limit: Duration::from_secs(10),
    needs_all: true,
};

/// A page of one console block.
fn block(lines: &str) -> String {
    format!("# A page\n\n```console\n{lines}\n```\n")
}

fn outcome(text: &str, rules: Rules) -> Result<Counts, String> {
    run(&Page::parse("page.md", text)?, rules)
}

#[track_caller]
fn fails(text: &str, words: &str) {
    let error = outcome(text, QUICK).expect_err("this page is wrong");
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_page_that_is_right_in_every_way_passes() {
    let page = r#"# A page

```console
$ name=Sekisho    # variables and comments
$ echo "$name and
> two lines"
Sekisho and
two lines
$ echo one \
  two
one two
```

In the same folder and shell:

```console
$ echo "$name" | tee file
Sekisho
$ cat > script <<'END'
> first
>
> last
> END
$ cat script
first

last
$ seq 1 30
1
2
...
29
...
$ echo "3.5 s in $(pwd)"
[..] s in /[..]
$ cargo run --release -- --version
sekisho [..]
```

<!-- varies: 4711, 0.1 s -->
```console
$ printf 'port     4711\nafter%9s, %s\n' '12.5 s' 4711
port     4711
after    0.1 s, 4711
$ (sleep 0.3; echo late; sleep 0.1; echo later; sleep 100) &
late
$ cat /dev/stdin
```

<!-- not run: needs another planet -->
```console
$ false
```

<!-- needs: no-such-tool, bash -->
```console
$ false
```
"#;
    let rules = Rules {
        needs_all: false,
        ..QUICK
    };
    let counts = outcome(page, rules).unwrap();
    assert_eq!((counts.blocks, counts.commands), (3, 12), "{counts:?}");
    assert_eq!(counts.not_run, ["page.md:51: needs another planet"]);
    assert_eq!(counts.skipped, ["page.md:56: this machine lacks no-such-tool"]);
    fails(page, "page.md:56: this machine lacks no-such-tool");
}

#[test]
fn a_changed_line_of_output_fails() {
    fails(
        &block("$ echo right\nwrong"),
        "page.md:4: `echo right`\n  the page shows:\n    wrong\n  the output is:\n    right",
    );
    fails(&block("$ seq 2\n1"), "the output is");
    fails(&block("$ seq 2\n1\n2\n3"), "the output is");
    fails(&block("$ seq 2"), "the output is");
    fails(&block("$ seq 3\n...\n2"), "the output is");
    fails(&block("$ echo a b c\na [..] d"), "the output is");
    fails(&block("$ echo a b c\na [..]b[..]b[..]"), "the output is");
    fails(&block("$ echo error >&2"), "the output is");
    fails(&block("$ sekisho --version\nsekisho 77.[..]"), "the output is");
    fails(
        "<!-- varies: 15 -->\n```console\n$ echo 15 s\n15 m\n```",
        "the output is",
    );
}

#[test]
fn a_command_that_cannot_be_typed_or_fails_is_found() {
    fails(&block("$ no-such-command"), "exit code 127");
    fails(&block("$ sekisho no-such-command\n..."), "exit code 2");
    fails(&block("$ false"), "exit code 1");
    fails(
        &block("$ sekisho fleet do start ..."),
        "page.md:4: \"...\" in a command",
    );
    fails(&block("$ cat <<END\n> ...\n> END"), "\"...\" in a command");
    fails(&block("$ exit"), "ended the shell");
    fails(&block("$ cargo run -- --version"), "page.md:4");
}

#[test]
fn a_command_that_hangs_is_ended() {
    let rules = Rules {
        limit: Duration::from_secs(1),
        ..QUICK
    };
    let started = Instant::now();
    for hung in [
        "$ sleep 1000",
        "$ sleep 1000 &\nawake",
        "$ (trap '' TERM; echo deaf; while :; do sleep 1000; done) &\ndeaf",
    ] {
        let error = outcome(&block(hung), rules).expect_err("this page hangs");
        assert!(error.contains("page.md"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_job_in_the_background_is_looked_at_and_ended() {
    assert_eq!(outcome(&block("$ sleep 1000 &"), QUICK).unwrap().commands, 1);
    fails(
        &block("$ (echo right; sleep 1000) &\nwrong"),
        "the output is:\n    right",
    );
    fails(
        &block("$ (sleep 0.1; exit 3) &\n$ sleep 0.5"),
        "ended with exit code 3",
    );
}

#[test]
fn commands_that_would_escape_the_test_are_refused() {
    fails(
        "```sh\ntrue\n```",
        "page.md:1: commands belong into a console block",
    );
    fails("```\n$ true\n```", "commands belong into a console block");
    fails("* item\n\n  ```console\n  $ true\n  ```", "indented");
    fails("```console\nsekisho card\n```", "page.md:2: output of no command");
    fails("```console\n```", "without a command");
    fails("```console\n$ true\n", "no end");
    fails("<!-- not run: -->\n```console\n$ true\n```", "says nothing");
    fails("<!-- not sure: why -->\n```console\n$ true\n```", "means nothing");
    fails("<!-- varies: 15 -->\n```console\n$ true\n```", "is not there");
    fails(
        "<!-- varies: 5 -->\n```console\n$ echo 5\n5\n```",
        "too many places",
    );
    // A comment with a blank line behind it belongs to no block.
    fails("<!-- not run: why -->\n\n```console\n$ false\n```", "exit code 1");
}

#[test]
fn two_pages_do_not_meet() {
    if own_namespaces().is_none() {
        return;
    }
    let page = block(
        "$ sekisho card --listen 127.0.0.1:9100 &\n...\nListening on 127.0.0.1:9100, [..]\n$ sleep 0.5",
    );
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| outcome(&page, QUICK).unwrap()));
        for one in both {
            assert_eq!(one.join().unwrap().commands, 2);
        }
    });
}
