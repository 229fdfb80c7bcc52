#!/usr/bin/env bash
# Runs the main job as a user would, small, and checks its report: every SE updated, none failed, faults recovered or named.
set -euo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0
check() { # NAME PYTHON-CONDITION JSON
    if python3 -c 'import json,sys; r=json.loads(sys.argv[2]); sys.exit(0 if eval(sys.argv[1]) else 1)' "$2" "$3"; then
        echo "ok   $1"; passed=$((passed + 1))
    else
        echo "FAIL $1: $3"; failed=$((failed + 1))
    fi
}
# The binary that the tests have built: the release build is for users, and takes minutes.
if [ -z "${SEKISHO:-}" ]; then
    cargo build --locked --quiet --package sekisho
    SEKISHO=$(scripts/target-directory)/debug/sekisho
fi
lab() { timeout 300 "$SEKISHO" lab --once --json "$@" 2>"$errors" || { cat "$errors" >&2; return 1; }; }
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

report=$(lab --devices 100)
check "100 SEs are updated" 'r["devices"] == 100 and r["updated"] == 100 and r["failed"] == 0' "$report"
check "the part behaves as the new version" 'r["version_after"] > r["version_before"]' "$report"
# 207 in version 1; target, wants and the longer lengths of version 2 are 7 more.
check "an authorisation is at most 215 bytes" '0 < r["authorisation_bytes_per_device"] <= 215' "$report"
check "both ways of updating were measured" 'r["server_cpu_us_per_device"] > 0 and r["unicast_cpu_us_per_device"] > 0 and r["bulk_bytes"] > 0' "$report"
# One SE in ten has a session, which begins again where an update's reset has ended it; each reading is that of its own device.
check "SEs have TLS sessions beside the update" 'r["sessions"]["secure_elements"] == 10 and r["sessions"]["begun"] > 10 and r["sessions"]["readings"] >= 10 and r["sessions"]["bytes"] > 1000' "$report"
check "and are asked while they are updated" 'r["sessions"]["commands"] > r["sessions"]["commands_in_updates"] > 0' "$report"
check "no answer is another's, and none is lost" 'r["sessions"]["wrong_answers"] == 0 and r["sessions"]["broken"] == 0' "$report"

report=$(lab --devices 100 --faults --sessions 0)
check "with faults every SE recovers or is refused by name" 'r["updated"] + r["failed"] == 100 and r["resumed"] > 0 and r["failed"] == len(r["refused"])' "$report"
# What an SE refuses in broadcast mode it proves; a changed authorisation no SE takes for one, and what is no command of anybody's it says nothing of.
check "a bulk that is tampered with is refused by SEs that say so" 'all(x["said_by_se"] == (x["fault"] == "bulk tampered with") for x in r["refused"]) and any(x["said_by_se"] for x in r["refused"])' "$report"

report=$(lab --devices 10 --faults --sessions 10)
check "sessions, faults and updates in the same SEs" 'r["updated"] + r["failed"] == 10 and r["sessions"]["begun"] >= 10 and r["sessions"]["wrong_answers"] == 0' "$report"

if timeout 20 "$SEKISHO" lab --devices 0 --once >/dev/null 2>&1; then
    echo "FAIL zero devices are an error"; failed=$((failed + 1))
else
    echo "ok   zero devices are an error"; passed=$((passed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
