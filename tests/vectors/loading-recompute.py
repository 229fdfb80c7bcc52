#!/usr/bin/env python3
"""Recomputes the hashes and keys of docs/spec/loading.md from the page's words alone, and verifies its signature.

A second implementation on another cryptographic library (pip package `cryptography`): it shares nothing with the Rust
code but the page. Run it from the repository's root; it prints what differs and exits 1 if anything does.
"""

import re
import sys
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TEXT = open("docs/spec/loading.md", encoding="utf-8").read()
BLOCKS = {name: bytes.fromhex("".join(digits.split())) for name, digits in re.findall(r"```hex (\S+)\n(.*?)```", TEXT, re.S)}
WRONG = []


def same(name, found, expected):
    if found != expected:
        WRONG.append(name)
        print(f"{name}: the page has {expected.hex()}, computed {found.hex()}")


def verify(key, signature, message):
    numbers = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(*numbers), message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        WRONG.append("dap")
        print("dap: the signature on the page is none of the key's")


hashes = [bytes.fromhex(digits) for digits in re.findall(r"`([0-9A-F]{64})`", TEXT)]
for name in ("empty", "load-file"):
    if sha256(BLOCKS[name]).digest() not in hashes:
        WRONG.append(name)
        print(f"the page does not have the hash of {name}")

private = sha256(b"sekisho loading.md DAP").digest()
key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
same("dap-private", private, BLOCKS["dap-private"])
same("dap-public", key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), BLOCKS["dap-public"])
if len(BLOCKS["dap"]) == 64:
    verify(key.public_key(), BLOCKS["dap"], sha256(BLOCKS["load-file"]).digest())
else:
    WRONG.append("dap")
    print("dap: a signature has 64 bytes")
sys.exit(1 if WRONG else 0)
