#!/usr/bin/env python3
"""Recomputes the hashes and keys of docs/spec/loading.md from the page's words alone, and verifies its signatures.

A second implementation on another cryptographic library (pip package `cryptography`): it shares nothing with the Rust
code but the page. Run it from the repository's root; it prints what differs and exits 1 if anything does.
"""

import re
import sys
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TEXT = open("docs/spec/loading.md", encoding="utf-8").read()
BLOCKS = {name: bytes.fromhex("".join(digits.split())) for name, digits in re.findall(r"```hex (\S+)\n(.*?)```", TEXT, re.S)}
WRONG = []


def same(name, found, expected):
    if found != expected:
        WRONG.append(name)
        print(f"{name}: the page has {expected.hex()}, computed {found.hex()}")


def verify(name, key, signature, message):
    if len(signature) != 64:
        WRONG.append(name)
        print(f"{name}: a signature has 64 bytes")
        return
    numbers = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(*numbers), message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        WRONG.append(name)
        print(f"{name}: the signature on the page is none of the key's")


def key_of(name):
    private = sha256(f"sekisho loading.md {name}".encode()).digest()
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1()).public_key()
    same(f"{name.lower()}-private", private, BLOCKS[f"{name.lower()}-private"])
    same(f"{name.lower()}-public", key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), BLOCKS[f"{name.lower()}-public"])
    return key


hashes = [bytes.fromhex(digits) for digits in re.findall(r"`([0-9A-F]{64})`", TEXT)]
for name in ("empty", "load-file"):
    if sha256(BLOCKS[name]).digest() not in hashes:
        WRONG.append(name)
        print(f"the page does not have the hash of {name}")

verify("dap", key_of("DAP"), BLOCKS["dap"], sha256(BLOCKS["load-file"]).digest())
key = key_of("token")
rows = re.findall(r"^\| `(token-\S+)` \| `(..)` \| `(..)` \| `(\S+)` \| `([^`]*)`(?: and (\d+) bytes `(..)`)? \|$", TEXT, re.M)
if len(rows) != 10:
    WRONG.append("rows")
    print(f"{len(rows)} tokens on the page, 10 are known")
for name, p1, p2, written, field, count, byte in rows:
    data = bytes.fromhex(field) + bytes.fromhex(byte) * int(count or 0)
    length = bytes([len(data)]) if len(data) < 256 else b"\x00" + len(data).to_bytes(2, "big")
    same(f"{name}'s length", length, bytes.fromhex(written))
    verify(name, key, BLOCKS[name], bytes.fromhex(p1 + p2) + length + data)
receipt_key = sha256(b"sekisho loading.md receipt").digest()[:16]
same("receipt-key", receipt_key, BLOCKS["receipt-key"])
rows = re.findall(r"^\| `(receipt-\S+)` \| [^|]* \| `(....)` \| (?:`(\S+)`)? \| `([^`]*)` \|$", TEXT, re.M)
if len(rows) != 6:
    WRONG.append("receipts")
    print(f"{len(rows)} receipts on the page, 6 are known")
unique = BLOCKS["receipt-unique"]
for name, number, token, context in rows:
    token = bytes.fromhex(token)
    token = bytes([len(token)]) + token if token else b""
    mac = CMAC(AES(receipt_key))
    mac.update(b"\x02" + bytes.fromhex(number) + bytes([len(unique)]) + unique + token + bytes.fromhex(context))
    same(name, mac.finalize(), BLOCKS[name])
sys.exit(1 if WRONG else 0)
