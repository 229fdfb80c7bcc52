#!/usr/bin/env python3
"""Makes scp03-s16.txt and scp03-broadcast.txt beside it: SCP03 conversations in S16 and a broadcast, which no published vectors cover.

Written from Amendment D v1.1.1 and v1.2 and docs/spec/broadcast-update.md with python-cryptography (OpenSSL), not from the Rust code.
Run by hand: python3 scp03-s16.py. The tests read only the text files.
"""
import pathlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

HERE = pathlib.Path(__file__).parent
AID = bytes.fromhex("A000000151000000")
KDD = bytes.fromhex("00112233445566778899")


def cmac(key, message):
    mac = CMAC(algorithms.AES(key))
    mac.update(message)
    return mac.finalize()


def aes_cbc(key, iv, data):
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def kdf(key, constant, length, context):  # 4.1.5
    blocks = (cmac(key, bytes(11) + bytes([constant, 0]) + (8 * length).to_bytes(2, "big") + bytes([i]) + context) for i in (1, 2))
    return b"".join(blocks)[:length]


def pad(data):
    return data + b"\x80" + bytes(-(len(data) + 1) % 16)


class Session:
    """Level 33; S16 unless told."""

    def __init__(self, enc, mac, rmac, size=16, chaining=bytes(16), counter=0):
        self.enc, self.mac, self.rmac, self.size, self.chaining, self.counter = enc, mac, rmac, size, chaining, counter

    def icv(self, top):
        return aes_cbc(self.enc, bytes(16), bytes([top]) + self.counter.to_bytes(15, "big"))

    def command(self, header, data, le=b"", extended=False, encrypt=True):
        if data and encrypt:
            data = aes_cbc(self.enc, self.icv(0x00), pad(data))
        lc = len(data) + self.size
        lc = b"\0" + lc.to_bytes(2, "big") if extended else bytes([lc])
        self.chaining = cmac(self.mac, self.chaining + header + lc + data)
        self.counter += 1
        return header + lc + data + self.chaining[: self.size] + le

    def response(self, data, sw):
        self.counter -= 1  # the ICV is that of the command before
        if data:
            data = aes_cbc(self.enc, self.icv(0x80), pad(data))
        self.counter += 1
        return data + cmac(self.rmac, self.chaining + data + sw)[: self.size] + sw


def s16(key_length):
    enc, mac = bytes(range(key_length)), bytes(range(0x40, 0x40 + key_length))
    seq = bytes.fromhex("0000A5")
    host_challenge = bytes(range(0xE0, 0xF0))
    card_challenge = kdf(enc, 0x02, 16, seq + AID)
    context = host_challenge + card_challenge
    s_enc, s_mac, s_rmac = kdf(enc, 4, key_length, context), kdf(mac, 6, key_length, context), kdf(mac, 7, key_length, context)
    yield "init_upd_rsp", KDD + bytes.fromhex("300371") + card_challenge + kdf(s_mac, 0x00, 16, context) + seq
    session = Session(s_enc, s_mac, s_rmac)
    yield "ext_auth_cmd", session.command(bytes.fromhex("84823300"), kdf(s_mac, 0x01, 16, context), encrypt=False)
    steps = [  # name, header, data, Le, extended, response data, SW
        ("store", "84E29100", bytes.fromhex("BF3E035C015A"), b"\0", False, bytes(range(21)), "9000"),
        ("case_1", "84F22002", b"", b"", False, b"", "9000"),
        ("warning", "80CA0066", b"", b"\0", False, bytes(range(32)), "6310"),
        ("extended", "84E80000", bytes(i % 251 for i in range(300)), b"\0\0", True, bytes(i % 241 for i in range(400)), "9000"),
        ("block", "84E80001", bytes(range(16)), b"", False, b"", "9000"),
    ]
    for name, header, data, le, extended, answer, sw in steps:
        header = bytes([0x84]) + bytes.fromhex(header)[1:]
        yield f"{name}_plain_cmd", data
        yield f"{name}_cmd", session.command(header, data, le, extended)
        yield f"{name}_plain_rsp", answer
        yield f"{name}_rsp", session.response(answer, bytes.fromhex(sw))


def broadcast():
    bk_enc, bk_mac, chaining = bytes(range(16)), bytes(range(0x20, 0x30)), bytes(range(0x80, 0x90))
    session = Session(bk_enc, bk_mac, None, 8, chaining, 7)
    for block in range(3):
        data = bytes((block + i) % 256 for i in range((128, 239, 5)[block]))
        yield f"write_{block}_plain", data
        yield f"write_{block}", session.command(bytes([0x84, 0x3C, 0, block]), data)
    yield "back", session.command(bytes.fromhex("843A0000"), b"")


def save(name, note, sections):
    lines = [f"# {line}" for line in note]
    for section, values in sections:
        lines += ["", f"[{section}]"] + [f"{key} = {value.hex()}" for key, value in values]
    (HERE / name).write_text("\n".join(lines) + "\n")


save(
    "scp03-s16.txt",
    [
        "SCP03 conversations in S16 at level 33, i = 71, made by scp03-s16.py (python-cryptography 48.0.0); see there.",
        "Key-ENC 00 01 02.., Key-MAC 40 41 42..; KVN 30; sequence counter 0000A5; AID A000000151000000; host challenge E0..EF.",
    ],
    [(f"AES{8 * n}", s16(n)) for n in (16, 24, 32)],
)
save(
    "scp03-broadcast.txt",
    [
        "Commands in broadcast mode, made by scp03-s16.py (python-cryptography 48.0.0); see there.",
        "BK-ENC 00..0F, BK-MAC 20..2F, chaining value 80..8F, counter 7.",
    ],
    [("broadcast", broadcast())],
)
