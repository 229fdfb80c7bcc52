#!/usr/bin/env bash
# What a device without an operating system is linked of that carries TLS sessions (examples/device.rs): the bridge, the codec of APDUs, and Rust's core. A symbol of anything else, an engine of TLS, cryptography, a
# heap, would be somebody's mistake: the device has no keys and reads nothing.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
target=thumbv7em-none-eabihf

# The graph: a crate of wire and nothing else.
graph=$(cargo tree --locked --package sekisho-bridge --edges normal,build --target "$target" --prefix none --format '{p}' | sed 's/ .*//' | sort -u | tr '\n' ' ')
[ "$graph" = "sekisho-apdu sekisho-bridge " ] || { echo "sekisho-bridge depends on: $graph" >&2; exit 1; }

# The example by the compiler itself: to Cargo it may need what the tests of its crate need.
cargo build --locked --quiet --package sekisho-bridge --target "$target"
built=$(scripts/target-directory)/$target/debug
rustc --edition 2024 --crate-name device --crate-type lib --target "$target" -C panic=abort -C embed-bitcode=no --extern sekisho_bridge="$built/libsekisho_bridge.rlib" \
    -L dependency="$built/deps" -o "$built/libdevice.rlib" crates/proto/sekisho-bridge/examples/device.rs
of=("$built/libdevice.rlib" "$built/libsekisho_bridge.rlib" "$built"/deps/libsekisho_apdu-*.rlib)

symbols() { arm-none-eabi-nm "$1" --demangle --format=posix "${of[@]}" 2>/dev/null | grep -v ':$' | sed -E 's/ [A-Za-z?]( [0-9a-f]+)*( )*$//' | sort -u; }
has=$(symbols --defined-only)
for ours in device::session sekisho_bridge::bridge::Bridge sekisho_apdu::; do
    grep -qF "$ours" <<<"$has" || { echo "no $ours in what is looked at" >&2; exit 1; }
done
strange=$(comm -13 <(echo "$has") <(symbols --undefined-only) | grep -vE '\bcore::|^(mem(cpy|move|set|cmp|clr)|__aeabi_[a-z0-9_]+)$' || true)
[ -z "$strange" ] || { printf 'a device that carries TLS sessions would need:\n%s\n' "$strange" >&2; exit 1; }
echo "no_std: a device that carries TLS sessions is linked of the bridge, the codec and core for $target"
