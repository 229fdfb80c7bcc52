#!/usr/bin/env bash
# Skips instructions in the card, built for an emulated Cortex-M4 as the firmware is, and tries what must be refused: the arguments are those of skips.py. The emulator
# (unicorn) comes from PyPI into a cache.
set -euo pipefail
cd "$(dirname "$0")"

UNICORN=2.1.4
ELFTOOLS=0.33
CACHE=${SEKISHO_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sekisho-interop}
VENV=$CACHE/unicorn-$UNICORN
FIRMWARE=$PWD/../../firmware/target

if [ ! -e "$VENV/ready" ]; then
    rm -rf "$VENV"
    /usr/bin/python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "unicorn==$UNICORN" "pyelftools==$ELFTOOLS"
    touch "$VENV/ready"
fi
# What the card says here, of the tests' own build.
mkdir -p "$FIRMWARE"
SEKISHO_SKIPS=$FIRMWARE/skips.json cargo test --locked --quiet --workspace --test others -- what_is_tried_with_instructions_left_out
cargo xtask firmware skips
exec "$VENV/bin/python" skips.py "$FIRMWARE/images/skips.elf" "$FIRMWARE/skips.json" "$@"
