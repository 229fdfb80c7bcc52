#!/usr/bin/env bash
# Builds the card for an emulated Cortex-M4 and what is tried on it, and skips instructions: the arguments are those of skips.py. The emulator
# (unicorn) comes from PyPI into a cache.
set -euo pipefail
cd "$(dirname "$0")"

UNICORN=2.1.4
ELFTOOLS=0.33
CACHE=${SEKISHO_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sekisho-interop}
VENV=$CACHE/unicorn-$UNICORN
target=$(../../scripts/target-directory)/skips
export CARGO_TARGET_DIR=$target

if [ ! -e "$VENV/ready" ]; then
    rm -rf "$VENV"
    /usr/bin/python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "unicorn==$UNICORN" "pyelftools==$ELFTOOLS"
    touch "$VENV/ready"
fi
cargo build --locked --quiet --release --package image --target thumbv7em-none-eabihf
cargo build --locked --quiet --profile scenarios --package scenarios
"$target/scenarios/scenarios" >"$target/scenarios.json"
exec "$VENV/bin/python" skips.py "$target/thumbv7em-none-eabihf/release/image" "$target/scenarios.json" "$@"
