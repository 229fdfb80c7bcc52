#!/usr/bin/env bash
# Fuzzes each target for a few seconds (SECONDS_EACH, default 8): long enough to find what breaks at once, short enough for every change.
# Without a sanitizer, which would need a nightly toolchain: there is no unsafe code to look for.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${SECONDS_EACH:-8}
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --debug cargo-fuzz
passed=0 failed=0
for target in $(sed -n 's/^name = "\(fuzz_.*\)"$/\1/p' Cargo.toml); do
    if cargo fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=4096 -verbosity=0 >/tmp/fuzz-$$.log 2>&1; then
        echo "ok   $target"; passed=$((passed + 1))
    else
        tail -40 /tmp/fuzz-$$.log; echo "FAIL $target"; failed=$((failed + 1))
    fi
done
rm -f /tmp/fuzz-$$.log
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
