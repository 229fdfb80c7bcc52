#!/usr/bin/env python3
"""Recomputes what is protected in tests/scripts/gp.apdu and gp_s16.apdu: keys, cryptograms, every MAC, and what is encrypted.

Those conversations were recorded with GlobalPlatformPro's library; where the card shows more of itself since, an answer in them is the card's own. Here every one of them is held to another library (pip package
`cryptography`), written from Amendment D v1.2, and what a session with encryption shows of the card to what one without shows. Run it from the repository's root; it prints what differs and exits 1 if anything does.
"""

import sys

from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

KEY = bytes(range(0x40, 0x50))
ROOT = bytes.fromhex("A000000151000000")
C_MAC, C_DECRYPTION, R_MAC, R_ENCRYPTION = 0x01, 0x02, 0x10, 0x20
WRONG = []


def same(what, found, expected):
    if found != expected:
        WRONG.append(what)
        print(f"{what}: the script has {expected.hex()}, computed {found.hex()}")


def cmac(key, message):
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


def derive(key, constant, length, context):  # 4.1.5
    blocks = (cmac(key, bytes(11) + bytes([constant, 0]) + (8 * length).to_bytes(2, "big") + bytes([i]) + context) for i in (1, 2))
    return b"".join(blocks)[:length]


def plain(key, icv, data):
    decryptor = Cipher(AES(key), modes.CBC(icv)).decryptor()
    padded = decryptor.update(data) + decryptor.finalize()
    return padded[: padded.rindex(b"\x80")]


class Session:
    def __init__(self, command, answer):
        self.size = 16 if answer[12] & 1 else 8
        host, size = command[5 : 5 + self.size], self.size
        card, cryptogram, counter = answer[13 : 13 + size], answer[13 + size : 13 + 2 * size], answer[13 + 2 * size : 16 + 2 * size]
        self.context, self.level, self.chaining, self.count = host + card, 0, bytes(16), 0
        same("card challenge", derive(KEY, 0x02, size, counter + ROOT), card)
        self.enc, self.mac, self.rmac = (derive(KEY, constant, 16, self.context) for constant in (4, 6, 7))
        same("card cryptogram", derive(self.mac, 0x00, size, self.context), cryptogram)

    def icv(self, top):
        encryptor = Cipher(AES(self.enc), modes.ECB()).encryptor()
        return encryptor.update(bytes([top]) + self.count.to_bytes(15, "big"))

    def exchange(self, command, answer):
        """The command and its answer without protection."""
        length = command[4]
        data, mac = command[5 : 5 + length - self.size], command[5 + length - self.size : 5 + length]
        self.chaining = cmac(self.mac, self.chaining + command[:5] + data)
        same(f"C-MAC of {command[:4].hex()}", self.chaining[: self.size], mac)
        if command[1] == 0x82:
            same("host cryptogram", derive(self.mac, 0x01, self.size, self.context), data)
            self.level = command[2]
            return command[:4], answer
        self.count += 1
        if self.level & C_DECRYPTION and data:
            data = plain(self.enc, self.icv(0x00), data)
        body, sw = answer[:-2], answer[-2:]
        if self.level & R_MAC and sw == b"\x90\x00":
            body, mac = body[: -self.size], body[-self.size :]
            same(f"R-MAC of {command[:4].hex()}", cmac(self.rmac, self.chaining + body + sw)[: self.size], mac)
            if self.level & R_ENCRYPTION and body:
                body = plain(self.enc, self.icv(0x80), body)
        return command[:4] + data, body + sw


def play(name):
    lines = [line.strip() for line in open(f"tests/scripts/{name}", encoding="utf-8")]
    steps = [line for line in lines if line[:1] in "<>" and line]
    session, said, sessions, exchanges = None, {}, 0, 0
    for command, answer in zip(steps[::2], steps[1::2]):
        command, answer = (bytes.fromhex(line[1:]) for line in (command, answer))
        if command[1] == 0x50:
            session, sessions = Session(command, answer), sessions + 1
        elif command[0] & 0x04 and session:
            asked, told = session.exchange(command, answer)
            exchanges += 1
            # Registry and keys are the same in each session.
            if command[1] in (0xF2, 0xCA):
                same(f"{name}: {asked.hex()}", told, said.setdefault(asked, told))
    print(f"{name}: {sessions} sessions, {exchanges} commands")
    if sessions < 3 or exchanges < 12:
        WRONG.append(name)


for script in ("gp.apdu", "gp_s16.apdu"):
    play(script)
sys.exit(1 if WRONG else 0)
