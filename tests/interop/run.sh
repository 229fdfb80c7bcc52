#!/usr/bin/env bash
# Foreign software against `sekisho card` through pcscd and its virtual reader (vpcd): opensc-tool, pcsc_scan, scriptor, yubikit, Java's
# smartcardio where there is a JDK, a reader in Python for secure messaging, a whole broadcast update in Python, a hostile TLS server; then the rate
# of commands beside that of a trivial card; then T=0, PPS and T=1 as libccid's serial driver speaks them. Ends with "N passed, N failed".
#
# Runs in network and mount namespaces of its own, since vpcd listens on all addresses without authentication, and so that a pcscd of the
# machine is left alone. Installs the Debian packages that are missing (as root), yubikit and tlslite-ng into a cache. SEKISHO names a ready binary.
set -euo pipefail
cd "$(dirname "$0")/../.."

YUBIKIT=5.9.2
CACHE=${SEKISHO_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sekisho-interop}
VENV=$CACHE/yubikit-$YUBIKIT
TLSLITE=$CACHE/tlslite-ng-0.8.2
READER="Virtual PCD 00 00"
TRIVIAL="Virtual PCD 00 01"

prepare() {
    local missing=()
    local -A provides=(
        [pcscd]=pcscd [opensc-tool]=opensc [pcsc_scan]=pcsc-tools [scriptor]=pcsc-tools [cc]=gcc [unshare]=util-linux [ip]=iproute2
        [openssl]=openssl
    )
    for command in "${!provides[@]}"; do
        command -v "$command" >/dev/null || missing+=("${provides[$command]}")
    done
    [ -e /usr/lib/pcsc/drivers/serial/libccidtwin.so ] || missing+=(libccid)
    [ -e /etc/reader.conf.d/vpcd ] || missing+=(vsmartcard-vpcd)
    [ -e /usr/include/PCSC/winscard.h ] || missing+=(libpcsclite-dev)
    [ -e /usr/bin/python3 ] && /usr/bin/python3 -c 'import ensurepip, smartcard' 2>/dev/null || missing+=(python3-venv python3-pyscard)
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
            { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null ||
            { echo "install these first: ${missing[*]}" >&2; exit 1; }
    fi
    if [ ! -x "$VENV/bin/ykman" ]; then
        rm -rf "$VENV"
        /usr/bin/python3 -m venv --system-site-packages "$VENV"
        "$VENV/bin/pip" install --quiet --disable-pip-version-check "yubikey-manager==$YUBIKIT"
    fi
    if [ ! -e "$TLSLITE/ready" ]; then
        rm -rf "$TLSLITE"
        /usr/bin/python3 -m venv "$TLSLITE"
        "$TLSLITE/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement tests/interop/tlslite.txt
        touch "$TLSLITE/ready"
    fi
    if [ -z "${SEKISHO:-}" ]; then
        cargo build --locked --quiet --package sekisho
        SEKISHO=$(scripts/target-directory)/debug/sekisho
    fi
    export SEKISHO
}

if [ "${1:-}" != inside ]; then
    prepare
    unshare --net --mount true 2>/dev/null || { echo "this needs namespaces of its own: run it as root" >&2; exit 1; }
    exec unshare --net --mount -- "$0" inside
fi

work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
ip link set lo up
mkdir -p /run/pcscd
mount -t tmpfs tmpfs /run/pcscd

passed=0 failed=0
ok() { echo "ok   $1"; passed=$((passed + 1)); }
fail() { echo "FAIL $1"; failed=$((failed + 1)); }
check() { # NAME, then a command that must succeed
    local name=$1
    shift
    if "$@" >"$work/out" 2>&1; then ok "$name"; else fail "$name: $(tail -c 300 "$work/out")"; fi
}
shows() { # PATTERN, then a command whose output must have it
    local pattern=$1
    shift
    timeout 20 "$@" >"$work/shown" 2>&1 || true
    cat "$work/shown"
    grep -Eqi "$pattern" "$work/shown"
}
count() { # takes "ok ..." and "FAIL ..." lines of another program
    while read -r line; do
        case $line in
            "ok "*) ok "$1: ${line#ok }" ;;
            "FAIL "*) fail "$1: ${line#FAIL }" ;;
        esac
    done <"$work/lines"
}
within() { # SECONDS, then a command that must succeed in that time
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
card_is_there() { timeout 5 opensc-tool --reader "$READER" --atr; }
start_card() {
    # Emptied here: the new card does so at a moment of its own, and what the last one said is no sign of it.
    : >"$work/screen"
    : >"$work/card.log"
    "$SEKISHO" card --flash "$work/card.flash" --load-files 64K --vpcd 127.0.0.1:35963 \
        --allow fixed,legacy-xor,legacy-list,legacy-operations,legacy-turns >"$work/screen" 2>"$work/card.log" &
    card=$!
    pids+=("$card")
    # pcscd believes in a card that was killed for a moment longer: wait until the new one says that it is connected.
    within 15 grep -q 'is there' "$work/card.log" || true
    within 15 card_is_there || { cat "$work/screen" "$work/card.log" >&2; echo "the card is not in the reader" >&2; exit 1; }
}

pcscd --foreground >"$work/pcscd.log" 2>&1 &
pcscd=$!
pids+=("$pcscd")
within 15 test -S /run/pcscd/pcscd.comm || { cat "$work/pcscd.log" >&2; exit 1; }
start_card
atr=$(sed -n 's/^ *ATR *//p' "$work/screen")
spaced=$(sed 's/../& /g; s/ $//' <<<"$atr")

check "opensc-tool -l sees the card" shows "$READER" opensc-tool -l
check "opensc-tool -a shows its ATR" shows "${spaced// /:}" opensc-tool -r "$READER" -a
check "opensc-tool -s selects the ISD" shows 'SW1=0x90, SW2=0x00' opensc-tool -r "$READER" -s 00A4040000
check "opensc-tool -s reads the loader's state" shows 'DF 20 13 01 01' opensc-tool -r "$READER" -s 80CADF2000
check "an unknown AID is plain 6A82" shows 'SW1=0x6A, SW2=0x82' opensc-tool -r "$READER" -s 00A4040005F011223344
check "pcsc_scan -n shows the ATR" shows "$spaced" timeout 3 pcsc_scan -n
printf 'reset\n00 A4 04 00 00\n80 CA 00 CF 00\n00 A4 04 00 08 A0 00 00 01 51 00 00 00 00\n80 CA 00 66\n00 A4 04 00 05 01\n80 CA 00 66 00\n' >"$work/script"
check "scriptor runs a script" shows '^< CF 0A .* 90 00' scriptor -r "$READER" "$work/script"
check "scriptor: a command with a wrong Lc is 6700" grep -q '^< 67 00' "$work/shown"
check "scriptor: and the card goes on" grep -q '^< 66 ' "$work/shown"
# vpcd takes a command of one byte for a control code, and its client would wait for an answer for ever.
printf 'reset\n00\n' >"$work/byte"
begun=$SECONDS
timeout 20 scriptor -r "$READER" "$work/byte" >/dev/null 2>&1 || true
check "a command of one byte hangs nobody" test $((SECONDS - begun)) -lt 8
within 5 card_is_there || true
check "and the card is there afterwards" card_is_there

se_id=$(sed -n 's/^ *SE-id *//p' "$work/screen")
printf -- '-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n' >"$work/ca.pem"
check "sekisho agent reads the SE through PC/SC" shows "secure element $se_id: version 1" \
    "$SEKISHO" agent --once --card "pcsc:$READER" --server https://127.0.0.1:1 --ca "$work/ca.pem" \
    --token 00112233445566778899aabbccddeeff --spool "$work/spool"
check "sekisho agent takes the only reader that holds a card" shows "secure element $se_id: version 1" \
    "$SEKISHO" agent --once --card pcsc:virtual --server https://127.0.0.1:1 --ca "$work/ca.pem" \
    --token 00112233445566778899aabbccddeeff --spool "$work/spool"
check "sekisho reader does as well" shows 'answer  *DEADBEEF  9000' \
    "$SEKISHO" reader --card pcsc: send 00D6810004DEADBEEF 00B0810004
check "sekisho reader names the readers that there are" shows "no reader is named 'omnikey'; there are: .*$TRIVIAL" \
    "$SEKISHO" reader --card pcsc:omnikey send 00B0810004

# A broadcast update by a design system, an administrator and a device that know the page alone.
timeout 120 "$VENV/bin/python" tests/interop/broadcast_client.py "$SEKISHO" >"$work/lines" 2>"$work/trace" || cat "$work/trace" >&2
count "a broadcast update in Python"
check "it came to its end" grep -q "^ok there is nothing more" "$work/lines"
timeout 120 "$VENV/bin/python" tests/interop/broadcast_client_2.py "$SEKISHO" >"$work/lines" 2>"$work/trace" || cat "$work/trace" >&2
count "version 2 in Python"
check "it came to its end as well" grep -q "^ok there is nothing more in version 2" "$work/lines"

# A TLS server that lies in a hundred and fifty ways, one at a time, with right keys.
timeout 240 "$TLSLITE/bin/python" tests/interop/tls_hostile.py "$SEKISHO" >"$work/lines" 2>"$work/trace" || cat "$work/trace" >&2
count "a hostile server of tlslite-ng"
tail -1 "$work/trace"
check "it came to its end in both versions" grep -q "^ok TLS 1.2" "$work/lines"

# The worked bytes of the specification pages, computed a second time from their words alone.
for page in broadcast paging sm-rolling loading tls-key; do
    check "python-cryptography computes the bytes of the page on $page" "$VENV/bin/python" "tests/vectors/$page-recompute.py"
done

AID=F0534B4F530401
check "opensc-tool reads a file of the file system" shows '53 65 6B 69 73 68 6F 20 74 65 73 74' \
    opensc-tool -r "$READER" -s 00A4040007$AID -s 00B09E0000
printf 'reset\n00 A4 04 00 07 F0 53 4B 4F 53 04 01\n00 20 00 01 04 30 30 30 30\n00 20 00 01 04 31 32 33 34\n00 E2 00 10 02 AB CD\n00 B2 01 14 00\n' >"$work/script"
check "scriptor: a wrong PIN, the right one, a record" shows '^< AB CD 90 00' scriptor -r "$READER" "$work/script"
check "scriptor: the wrong PIN cost a try" grep -q '^< 63 C2' "$work/shown"
check "sekisho reader speaks secure messaging through PC/SC" shows 'answer  *DEADBEEF  9000' \
    "$SEKISHO" reader --card "pcsc:$READER" send 00D6810004DEADBEEF 00B0810004
for figure in 6 12 18; do
    check "sekisho reader plays figure $figure through PC/SC" shows 'answer  *DEADBEEF  9000' \
        "$SEKISHO" reader --card "pcsc:$READER" figure $figure --separate
done
timeout 60 "$VENV/bin/python" tests/interop/rolling_client.py "$READER" >"$work/lines" 2>"$work/trace" || cat "$work/trace" >&2
count "a reader in Python"

# Java's own smart card classes, where there is a JDK: they cut Le off on T=0 and fetch in the class of the command.
if command -v javac >/dev/null; then
    javac -d "$work" tests/interop/Smartcardio.java
    library=$(ldconfig -p | sed -n 's/.*=> \(.*libpcsclite\.so\.1\)$/\1/p' | head -1)
    timeout 60 java "-Dsun.security.smartcardio.library=$library" -cp "$work" Smartcardio "$READER" >"$work/lines" 2>"$work/trace" ||
        { cat "$work/trace" >&2; fail "Java's smartcardio ran to its end"; }
    count "Java's smartcardio"
else
    echo "no javac here: Java's smartcardio is not tried"
fi

yubikit() {
    timeout 60 "$VENV/bin/python" tests/interop/yubikit_scp03.py "$READER" "$@" >"$work/lines" 2>"$work/trace" || cat "$work/trace" >&2
    count "yubikit"
}
yubikit initial
kill -9 "$card"
wait "$card" 2>/dev/null || true
start_card
check "after kill -9 it is the same card" grep -q "$se_id" "$work/screen"
yubikit changed --extended
yubikit load

# Both cards in one run, turn by turn.
cc -O2 -o "$work/trivial_card" tests/interop/trivial_card.c
cc -O2 -I/usr/include/PCSC -o "$work/apdu_rate" tests/interop/apdu_rate.c -lpcsclite
"$work/trivial_card" 35964 &
trivial=$!
pids+=("$trivial")
trivial_is_there() { timeout 5 opensc-tool --reader "$TRIVIAL" --atr; }
within 15 trivial_is_there || true
check "sekisho reader names those that hold a card when there is doubt" shows "these hold a card: $READER, $TRIVIAL" \
    "$SEKISHO" reader --card pcsc:virtual send 00B0810004
if rates=$("$work/apdu_rate" 11 1000 "$READER" "$TRIVIAL" 2>&1); then
    read -r ours theirs ratio <<<"$rates"
    echo "SELECT through pcscd: $ours/s, trivial card $theirs/s, ratio $ratio"
    check "the rate through pcscd could be measured" test -n "$theirs"
else
    fail "rate: $rates"
fi

kill -TERM "$card"
code=0
wait "$card" || code=$?
check "SIGTERM ends the card with exit code 0" test "$code" = 0
kill "$trivial" && wait "$trivial" 2>/dev/null || true

# One SE with two containers in both readers: two cards under one AID, with commands in turn and at once.
"$SEKISHO" card --flash "$work/both.flash" --containers 2 --on t0=vpcd:127.0.0.1:35963 --on spi-ese=vpcd:127.0.0.1:35964 \
    >"$work/screen" 2>"$work/card.log" &
pids+=($!)
within 15 test "$(grep -c 'is there' "$work/card.log")" = 2 || true
within 15 card_is_there || true
within 15 trivial_is_there || true
mapfile -t ids < <(sed -n 's/^ *SE-id *//p' "$work/screen" | tr a-f A-F | sed 's/../& /g; s/ $//')
SAME=00A4040008A000000151000000
own() { opensc-tool -r "$1" -s "$SAME" -s 00CA00CF00 | tail -1 | cut -c1-29; }
check "two readers show one AID" shows 'A0 00 00 01 51 00 00 00.*' opensc-tool -r "$TRIVIAL" -s "$SAME"
wrong=0
for _ in 1 2 3 4 5 6 7 8; do
    [ "$(own "$READER")" = "${ids[1]}" ] && [ "$(own "$TRIVIAL")" = "${ids[0]}" ] || wrong=$((wrong + 1))
done
check "and two cards, in turn: opensc-tool" test "$wrong" = 0
{
    printf 'reset\n'
    for _ in $(seq 50); do printf '00 A4 04 00 08 A0 00 00 01 51 00 00 00\n00 CA 00 CF 00\n'; done
} >"$work/script"
scriptor -r "$READER" "$work/script" >"$work/contacts" 2>&1 &
first=$!
scriptor -r "$TRIVIAL" "$work/script" >"$work/spi" 2>&1 || true
wait "$first" || true
check "and at once: scriptor on the contacts" test "$(grep -c "^< ${ids[1]} 90 00" "$work/contacts")" = 50
check "scriptor on SPI" test "$(grep -c "^< ${ids[0]} 90 00" "$work/spi")" = 50

# The characters of T=0 and T=1 themselves: libccid's driver for serial readers that carry TPDUs, with a reader in Python between it and the line: of link records, and
# of bare characters on a terminal.
kill "$pcscd"
wait "$pcscd" 2>/dev/null || true
mkdir "$work/serial.d"
number=0 ins=()
for line in t0-records t1-records t0-bare t1-bare; do
    protocol=${line%-*} port=$((9100 + number)) number=$((number + 1))
    case $line in *-records) endpoint=tcp:127.0.0.1:$port card=$port ;; *) card=$work/$line.card endpoint=pty:$card ;; esac
    "$SEKISHO" card --flash "$work/$line.flash" --on "$protocol=$endpoint" >"$work/$line.screen" 2>&1 &
    pids+=($!)
    within 15 grep -q 'It keeps its state' "$work/$line.screen" || true
    mkfifo "$work/$line.in"
    /usr/bin/python3 tests/interop/serial_reader.py "$work/$line.tty" "$protocol" "$card" <"$work/$line.in" >"$work/$line.out" 2>&1 &
    pids+=($!)
    exec {open}>"$work/$line.in"
    ins+=("$open")
    within 10 grep -q ready "$work/$line.out" || true
    printf 'FRIENDLYNAME "Serial %s"\nDEVICENAME %s:GemPCTwin\nLIBPATH /usr/lib/pcsc/drivers/serial/libccidtwin.so\nCHANNELID %d\n' \
        "$line" "$work/$line.tty" "$number" >"$work/serial.d/$line"
done
pcscd --foreground --config "$work/serial.d" >"$work/serial.log" 2>&1 &
pids+=($!)
all_are_there() { [ "$(opensc-tool -l | grep -c 'Yes .*Serial')" = 4 ]; }
within 20 all_are_there || true
# On T=0 a host has no Le behind data, and fetches what 61XX and 6CXX tell of.
{
    printf 'reset\n00 A4 04 00 07 F0 53 4B 4F 53 04 01\n00 20 00 01 04 31 32 33 34\n00 D6 9E 00 F0'
    printf ' 5A%.0s' $(seq 240)
    printf '\n00 A4 04 00 05 F0 11 22 33 44\n00 A4 04 00 08 A0 00 00 01 51 00 00 00\n00 CA 00 CF 0A\n80 CA DF 20 16\n'
} >"$work/script"
for reader in "Serial t0-records 00 00" "Serial t1-records 01 00" "Serial t0-bare 02 00" "Serial t1-bare 03 00"; do
    line=${reader#Serial } line=${line%% *}
    id=$(sed -n 's/^ *SE-id *//p' "$work/$line.screen" | tr a-f A-F | sed 's/../& /g; s/ $//')
    check "libccid's serial driver: $reader: data, and as much as a short answer has" \
        shows '53 65 6B 69 73 68 6F 20 74 65 73 74' opensc-tool -r "$reader" -s 00A4040007$AID -s 00B09E0000
    check "$reader: scriptor, commands of each case" shows '^< 6A 82' scriptor -r "$reader" "$work/script"
    check "$reader: the loader's state" grep -q '^< DF 20 13' "$work/shown"
    check "$reader: the SE-id" grep -q "^< $id 90 00" "$work/shown"
done
for open in "${ins[@]}"; do echo >&"$open"; done
for line in t0-records t1-records t0-bare t1-bare; do
    within 5 grep -q characters "$work/$line.out" || true
    echo "on the line $line: $(tail -1 "$work/$line.out")"
done
for kind in records bare; do
    check "the driver spoke blocks, and chose a rate: $kind" grep -Eq 'pps=[1-9].* I=[1-9]' "$work/t1-$kind.out"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
