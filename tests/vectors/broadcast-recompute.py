#!/usr/bin/env python3
"""Recomputes the worked bytes of docs/spec/broadcast-update.md, section 6, from the page's words alone.

A second implementation on another cryptographic library (pip package `cryptography`); it shares nothing with the Rust code but the page. Run it from
the repository's root: it prints the blocks that differ and exits 1 if any does. With --print it prints all blocks. Signatures are verified, since they
cannot be computed twice.
"""

import hashlib
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

PAGE = "docs/spec/broadcast-update.md"
TEXT = open(PAGE, encoding="utf-8").read()
differ = []
made = {}


def block(name):
    return bytes.fromhex(re.search(r"```hex " + re.escape(name) + r"\n([^`]*)```", TEXT)[1])


def check(name, value):
    made[name] = value
    if value != block(name):
        differ.append(name)
    return value


def cmac(key, *parts):
    mac = CMAC(algorithms.AES(key))
    for part in parts:
        mac.update(part)
    return mac.finalize()


def kdf(key, label, context, n):
    out = b""
    while len(out) < n:
        i = len(out) // 16 + 1
        out += cmac(key, bytes([i]), label.encode(), b"\0", context, (8 * n).to_bytes(2, "big"))
    return out[:n]


def ecb(key, data):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)


def cbc(key, iv, data):
    return Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor().update(data)


def ctr(key, first, data):
    return Cipher(algorithms.AES(key), modes.CTR(first)).encryptor().update(data)


def pad(data):
    return data + b"\x80" + bytes(-(len(data) + 1) % 16) if data else b""


def length(n, size):
    return n.to_bytes(size, "big")


def listed(commands, size):
    return b"".join(length(len(command), size) + command for command in commands)


class Channel:
    """C-MAC and C-DECRYPTION of SCP03, and of broadcast mode."""

    def __init__(self, enc, mac, counter=1, chaining=bytes(16)):
        self.enc, self.mac, self.counter, self.chaining = enc, mac, counter, chaining

    def authenticate(self, header, data):
        head = header + bytes([len(data) + 8])
        self.chaining = cmac(self.mac, self.chaining, head, data)
        return head + data + self.chaining[:8]

    def wrap(self, command, le=b"\0"):
        """A command in the clear, with Lc if it has data."""
        field = command[5:-1] if len(command) > 5 else b""
        icv = ecb(self.enc, length(self.counter, 16))
        self.counter += 1
        return self.authenticate(b"\x84" + command[1:4], cbc(self.enc, icv, pad(field))) + le


def scp03(key, constant, bits, context):
    return cmac(key, bytes(11) + bytes([constant, 0]) + length(bits, 2) + b"\1", context)[: bits // 8]


def clear(header, data=b""):
    return bytes.fromhex(header) + (bytes([len(data)]) + data if data else b"") + b"\0"


# 6.1 and 6.2

MASTER, K_BK, K_HCH, _ = (block("hsm-keys")[i : i + 16] for i in range(0, 64, 16))
KOS, K_MAC, SE, CAMPAIGN, ID = (block(name) for name in ("kos", "k-mac", "se-id", "campaign", "package-id"))
MODULE = block("module")


def individual(kvn, kid):
    return cbc(MASTER, bytes(16), SE + bytes(3) + bytes([0, kvn, kid]))


K_ENC = check("k-enc", individual(0x30, 1))
K_MAC_SCP = check("k-mac-scp", individual(0x30, 2))
K_DEK = check("k-dek", individual(0x30, 3))
K_AUT = check("k-aut", individual(0x60, 1))
check("k-aut-31", individual(0x60, 2))
PRIVATE = ec.derive_private_key(int.from_bytes(block("designer-private"), "big"), ec.SECP256R1())
NUMBERS = PRIVATE.public_key().public_numbers()
check("designer-public", b"\4" + length(NUMBERS.x, 32) + length(NUMBERS.y, 32))


def signed(name, signature, message):
    made[name] = signature
    r, s = (int.from_bytes(signature[i : i + 32], "big") for i in (0, 32))
    try:
        PRIVATE.public_key().verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        differ.append(name)
    return signature


# 6.3

DIGEST = hashlib.sha256(MODULE).digest()
MANIFEST = b"\1\1\1\2" + length(2, 4) + length(1, 4) + length(len(MODULE), 4) + ID + DIGEST
check("manifest", MANIFEST)
SIGNATURE = signed("manifest-signature", block("manifest-signature"), b"sekisho manifest v1\0" + MANIFEST)

# 6.5 and 6.6: the broadcast


def design_code(key):
    return cmac(key, b"SKINTG01" + MANIFEST[1:2] + MANIFEST[4:8] + MANIFEST[12:16] + ID + DIGEST)


def p_se(custody, channel, image):
    blocks = [clear("803c0000", MANIFEST + SIGNATURE)]
    blocks += [clear(f"803c{n + 1:04x}", image[i : i + 239]) for n, i in enumerate(range(0, len(image), 239))]
    commands = [channel.wrap(command, b"") for command in blocks + [clear("803a0000")]]
    body = listed(commands, 2)
    return b"SKPS\1" + bytes([custody]) + length(len(commands), 2) + length(len(body), 4) + body


SET = kdf(K_BK, "SK broadcast", CAMPAIGN + ID, 48)
BK_ENC, BK_MAC, CHAINING = check("bk-enc-04", SET[:16]), check("bk-mac-04", SET[16:32]), check("chaining-04", SET[32:])
CODE_04 = check("design-code-04", design_code(K_MAC))
CIPHERTEXT = ctr(kdf(KOS, "SK image", ID, 16), ID, MODULE)
P_SE_04 = check("p-se-04", p_se(4, Channel(BK_ENC, BK_MAC, 1, CHAINING), CIPHERTEXT))
KEYS_04 = CAMPAIGN + length(1, 4) + CHAINING + BK_ENC + BK_MAC

ENC_03, MAC_03, CHAINING_03 = (block(name) for name in ("bk-enc-03", "bk-mac-03", "chaining-03"))
CODE_03 = check("design-code-03", design_code(kdf(MAC_03, "SK integrity", ID, 16)))
P_SE_03 = check("p-se-03", p_se(3, Channel(ENC_03, MAC_03, 1, CHAINING_03), MODULE))
WRAPPED = aes_key_wrap(kdf(KOS, "SK key wrap", b"", 16), ENC_03 + MAC_03)
KEYS_03 = CAMPAIGN + length(1, 4) + CHAINING_03 + WRAPPED

BODY_03 = length(1, 4) + CHAINING_03 + bytes([len(WRAPPED)]) + WRAPPED + length(len(P_SE_03), 4) + P_SE_03
BODY_04 = length(len(CIPHERTEXT), 4) + CIPHERTEXT
for custody, code, body in ((4, CODE_04, BODY_04), (3, CODE_03, BODY_03)):
    package = b"SKPK\1" + bytes([custody]) + MANIFEST + SIGNATURE + code + body
    check(f"package-{custody:02}", package + signed("package-signature", block(f"package-{custody:02}")[-64:], b"sekisho package v1\0" + package))

# 4.5: scripts and their P_AUT

INDIVIDUAL = check(
    "individual-code",
    cmac(K_AUT, b"SKAUTH01\1" + MANIFEST[1:2] + MANIFEST[4:8] + MANIFEST[12:16] + CAMPAIGN + SE + DIGEST),
)
check("discard-code", cmac(K_AUT, b"SKAUTH01\2" + bytes(9) + CAMPAIGN + SE + bytes(32)))


def p_aut(name, counter, wants, splices, commands, first_version):
    script = bytes([len(splices)]) + bytes(splices) + bytes([2 + len(commands)])
    script += listed([clear("80503000", bytes(8)), bytes.fromhex("84823300"), *commands], 2)
    check(f"script-{name}", script)
    count = length(counter, 3)
    host = kdf(K_HCH, "SK host challenge 2", SE + count + CAMPAIGN + hashlib.sha256(script).digest(), 8)
    check("host-challenge" if name == "04" else f"host-challenge-{name}", host)
    card = scp03(K_ENC, 0x02, 64, count + block("isd-aid"))
    context = host + card
    s_enc, s_mac = scp03(K_ENC, 0x04, 128, context), scp03(K_MAC_SCP, 0x06, 128, context)
    if name == "04":
        check("card-challenge", card)
        check("s-enc", s_enc)
        check("s-mac", s_mac)
        check("s-rmac", scp03(K_MAC_SCP, 0x07, 128, context))
    channel = Channel(s_enc, s_mac)
    sent = [clear("80503000", host), channel.authenticate(bytes.fromhex("84823300"), scp03(s_mac, 0x01, 64, context))]
    sent += [channel.wrap(command) for command in commands]
    if first_version:
        head = b"SKAU\1" + SE + CAMPAIGN + count + bytes([splices[0] if splices else 0, len(sent)])
        check(f"p-aut-{name}", head + listed(sent, 1))
    head = b"SKAU\2" + SE + CAMPAIGN + count + bytes([1, wants, len(splices), *splices, len(sent)])
    check(f"p-aut-2-{name}", head + listed(sent, 2))


ACTIVATE = {name: clear("803e0100", CAMPAIGN + code + INDIVIDUAL) for name, code in (("03", CODE_03), ("04", CODE_04))}
for custody, keys in (("04", KEYS_04), ("03", KEYS_03)):
    p_aut(custody, 1, 3, [3], [clear(f"803a01{custody}", keys), ACTIVATE[custody]], True)
APART = [clear("803a0204", KEYS_04), clear("803a0104", CAMPAIGN), clear("803a0001")]
p_aut("load", 2, 1, [4, 7], APART + APART, False)
p_aut("activate", 3, 2, [], [ACTIVATE["04"]], False)

# What the SE says

RECEIPT = b"\1\1\1" + CAMPAIGN + length(1, 4) + length(2, 4) + DIGEST
check("receipt", RECEIPT + cmac(K_AUT, b"SKRCPT01" + SE + RECEIPT))

if "--print" in sys.argv:
    for name, value in made.items():
        digits = value.hex()
        print(f"```hex {name}\n" + "\n".join(digits[i : i + 96] for i in range(0, len(digits), 96)) + "\n```")
print(f"{len(made)} blocks computed, differing: {', '.join(differ) or 'none'}")
sys.exit(bool(differ))
