#!/usr/bin/env python3
"""Recomputes every worked byte of docs/spec/paging.md from the page's words alone.

A second implementation on another cryptographic library (pip package `cryptography`); it shares nothing with the Rust code but the page. Run it from
the repository's root: it prints the blocks that differ and exits 1 if any does. With --print it prints all blocks.
"""

import re
import struct
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.cmac import CMAC

PAGE = "docs/spec/paging.md"


def aes(key, block):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(block) + e.finalize()


def cmac(key, data):
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def kdf(key, label, context, n):
    out = b""
    i = 1
    while len(out) < n:
        out += cmac(key, bytes([i]) + label + b"\0" + context + struct.pack(">H", 8 * n))
        i += 1
    return out[:n]


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def keyspace(domain, generation):
    return bytes([domain]) + generation.to_bytes(3, "big")


def ticket(key, generation, index, counter):
    return aes(key, bytes(4) + b"\1" + generation.to_bytes(3, "big") + struct.pack(">II", index, counter))


def poll(k_siv, uid1, resend, reason, order, nonce):
    text = struct.pack(">BBBBI", 1, 1, resend, reason, order) + nonce
    return uid1 + AESSIV(k_siv).encrypt(text, [uid1])


def answer(k_siv, uid1, v, sent, kind, order, arg, uid_rand):
    text = struct.pack(">BBBBII", 1, sent, kind, 0, order, arg) + uid_rand
    return AESSIV(k_siv).encrypt(text, [uid1, v])


def compute():
    b = {}
    root = b["root"] = bytes(range(0x10, 0x20))
    t = b["ticket-key"] = bytes(range(0xA0, 0xB0))
    k1 = b["k1"] = kdf(root, b"poll1", keyspace(0, 1), 16)
    keys = kdf(k1, b"keys1", b"", 48)
    k_siv, k_uid = keys[:32], keys[32:]
    b["k-siv"], b["k-uid"] = k_siv, k_uid
    uid1 = b["uid1"] = ticket(t, 1, 7, 4)
    p1 = b["poll-1"] = poll(k_siv, uid1, 0, 1, 41, bytes.fromhex("01020304"))
    uid2 = b["uid2"] = ticket(t, 1, 7, 5)
    rand = b["uid-rand"] = xor(uid2, aes(k_uid, uid1))
    b["answer-1"] = answer(k_siv, uid1, p1[16:32], 1, 1, 42, 60, rand)
    p2 = b["poll-2"] = poll(k_siv, uid1, 1, 1, 41, bytes.fromhex("05060708"))
    b["answer-2"] = answer(k_siv, uid1, p2[16:32], 2, 1, 42, 60, rand)
    b["record"] = (bytes([1, 0]) + uid2 + keyspace(0, 1) + root + struct.pack(">II", 41, 900) + struct.pack(">BII", 1, 42, 60))
    b["k2"] = kdf(k1, b"roll1", uid1 + rand, 16)
    # Moved to domain 9, whose ticket key is another.
    t9 = b["ticket-key-9"] = bytes(range(0xC0, 0xD0))
    p3 = b["poll-3"] = poll(k_siv, uid2, 0, 1, 42, bytes.fromhex("090A0B0C"))
    uid3 = b["uid3"] = ticket(t9, 2, 7, 0)
    rand3 = xor(uid3, aes(k_uid, uid2))
    b["answer-3"] = answer(k_siv, uid2, p3[16:32], 1, 6, 43, int.from_bytes(keyspace(9, 2), "big"), rand3)
    k9 = kdf(kdf(root, b"poll1", keyspace(9, 2), 16), b"keys1", b"", 48)
    b["poll-4"] = poll(k9[:32], uid3, 0, 1, 43, bytes.fromhex("0D0E0F10"))
    # Recovery.
    k_rec = b["k-rec"] = kdf(root, b"recover1", b"", 16)
    body = b"\1\1" + bytes.fromhex("0102030405060708090A") + keyspace(9, 2) + bytes(range(0x40, 0x50))
    request = b["request"] = body + cmac(k_rec, body)
    uid4 = b["uid4"] = ticket(t, 3, 7, 0)
    text = b"\1\0\0\0" + keyspace(0, 3) + uid4 + bytes(range(0x60, 0x70))
    b["grant"] = AESSIV(kdf(k_rec, b"siv", b"", 32)).encrypt(text, [request])
    b["chain-key"] = kdf(k_rec, b"chain1", bytes(range(0x40, 0x50)) + bytes(range(0x60, 0x70)), 16)
    return b


def main():
    blocks = compute()
    if "--print" in sys.argv:
        for name, value in blocks.items():
            text = value.hex().upper()
            print(f"```hex {name}\n{text}\n```")
        return 0
    page = open(PAGE, encoding="utf-8").read()
    found = {name: bytes.fromhex("".join(digits.split())) for name, digits in re.findall(r"```hex (\S+)\n(.*?)```", page, re.S)}
    wrong = [name for name in blocks.keys() | found.keys() if blocks.get(name) != found.get(name)]
    for name in sorted(wrong):
        print(f"{name}: the page says {found.get(name, b'').hex()}, its words give {blocks.get(name, b'').hex()}")
    print(f"paging: {len(blocks) - len(wrong)} blocks agree, {len(wrong)} do not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
