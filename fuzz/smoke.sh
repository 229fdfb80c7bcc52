#!/usr/bin/env bash
# Fuzzes each target for a few seconds (SECONDS_EACH, default 8): long enough to find what breaks at once, short enough for every change.
# Without a sanitizer, which would need a nightly toolchain: there is no unsafe code to look for. cargo-fuzz, which knows how to build for libFuzzer too, takes
# longer to compile than all targets to run, and works here as well.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${SECONDS_EACH:-8}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
target=$(../scripts/target-directory)/fuzz
# Of the machine by name, so that build scripts and macros are built without it.
machine=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_WRAPPER=$PWD/rustc-with-coverage RUSTFLAGS="--cfg fuzzing -Cdebug-assertions" \
    cargo build --locked --quiet --release --bins --target "$machine" --target-dir "$target"
passed=0 failed=0
for name in $(sed -n 's/^name = "\(fuzz_.*\)"$/\1/p' Cargo.toml); do
    # Where cargo-fuzz has them.
    mkdir -p "corpus/$name" "artifacts/$name"
    if "$target/$machine/release/$name" -max_total_time="$seconds" -max_len=4096 -verbosity=0 -artifact_prefix="artifacts/$name/" \
        "corpus/$name" >"$log" 2>&1; then
        echo "ok   $name"; passed=$((passed + 1))
    else
        tail -40 "$log"; echo "FAIL $name"; failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
