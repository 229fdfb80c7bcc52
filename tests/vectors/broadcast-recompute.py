#!/usr/bin/env python3
"""Recomputes the worked bytes of docs/spec/broadcast-update.md, section 6, from the page's words alone.

A second implementation on another cryptographic library (pip package `cryptography`); it shares nothing with the Rust code but the page. Run it from
the repository's root: it prints the blocks that differ and exits 1 if any does. With --print it prints all blocks. Signatures are those of
RFC 6979, which are the same each time.
"""

import hashlib
import hmac
import re
import sys

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


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2, 2.4.2)


def nonce(private, digest):
    """k of RFC 6979, 3.2; not every python-cryptography makes such signatures itself."""
    seed = private + length(int.from_bytes(digest, "big") % ORDER, 32)
    key, value = bytes(32), b"\1" * 32
    mac = lambda *parts: hmac.digest(key, b"".join(parts), "sha256")
    for mark in (b"\0", b"\1"):
        key = mac(value, mark, seed)
        value = mac(value)
    while True:
        value = mac(value)
        k = int.from_bytes(value, "big")
        if 0 < k < ORDER:
            return k
        key = mac(value, b"\0")
        value = mac(value)


def signed(message):
    """The designer's signature: that of RFC 6979, so that it is the same each time. Any other that verifies is as good."""
    digest = hashlib.sha256(message).digest()
    private = PRIVATE.private_numbers().private_value
    k = nonce(length(private, 32), digest)
    r = ec.derive_private_key(k, ec.SECP256R1()).public_key().public_numbers().x % ORDER
    s = pow(k, -1, ORDER) * (int.from_bytes(digest, "big") + r * private) % ORDER
    PRIVATE.public_key().verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    return length(r, 32) + length(s, 32)


# 6.3


def sha256(data):
    return hashlib.sha256(data).digest()


class Part:
    """A manifest and what follows from it."""

    def __init__(self, target, code_format, abi, version, image, package_id):
        self.target, self.version, self.image, self.id, self.digest = target, version, image, package_id, sha256(image)
        self.manifest = bytes([1, target, code_format, abi]) + length(version, 4) + length(1, 4) + length(len(image), 4)
        self.manifest += package_id + self.digest
        self.signature = signed(b"sekisho manifest v1\0" + self.manifest)

    def named(self):
        """What codes say of it."""
        return bytes([self.target]) + length(self.version, 4) + length(len(self.image), 4)

    def design_code(self, key):
        return cmac(key, b"SKINTG01" + self.named() + self.id + self.digest)

    def individual_code(self, campaign):
        return cmac(K_AUT, b"SKAUTH01\1" + self.named() + campaign + SE + self.digest)

    def ciphertext(self):
        return ctr(kdf(KOS, "SK image", self.id, 16), self.id, self.image)

    def package(self, version, custody, code, body):
        head = b"SKPK" + bytes([version, custody]) + (b"\1" if version == 2 else b"")
        head += self.manifest + self.signature + code + (bytes(4) if version == 2 else b"") + body
        return head + signed(b"sekisho package v" + str(version).encode() + b"\0" + head)


def p_se(part, custody, channel, image):
    blocks = [clear("803c0000", part.manifest + part.signature)]
    blocks += [clear(f"803c{n + 1:04x}", image[i : i + 239]) for n, i in enumerate(range(0, len(image), 239))]
    commands = [channel.wrap(command, b"") for command in blocks + [clear("803a0000")]]
    body = listed(commands, 2)
    return b"SKPS\1" + bytes([custody]) + length(len(commands), 2) + length(len(body), 4) + body


def key_set(campaign, package_id):
    """BK-ENC, BK-MAC and the chaining value of custody 04."""
    keys = kdf(K_BK, "SK broadcast", campaign + package_id, 48)
    return keys[:16], keys[16:32], keys[32:]


PART = Part(1, 1, 2, 2, MODULE, ID)
check("manifest", PART.manifest)
check("manifest-signature", PART.signature)

# 6.5 and 6.6: the broadcast

BK_ENC, BK_MAC, CHAINING = key_set(CAMPAIGN, ID)
check("bk-enc-04", BK_ENC)
check("bk-mac-04", BK_MAC)
check("chaining-04", CHAINING)
CODE_04 = check("design-code-04", PART.design_code(K_MAC))
P_SE_04 = check("p-se-04", p_se(PART, 4, Channel(BK_ENC, BK_MAC, 1, CHAINING), PART.ciphertext()))
KEYS_04 = CAMPAIGN + length(1, 4) + CHAINING + BK_ENC + BK_MAC

ENC_03, MAC_03, CHAINING_03 = (block(name) for name in ("bk-enc-03", "bk-mac-03", "chaining-03"))
CODE_03 = check("design-code-03", PART.design_code(kdf(MAC_03, "SK integrity", ID, 16)))
P_SE_03 = check("p-se-03", p_se(PART, 3, Channel(ENC_03, MAC_03, 1, CHAINING_03), MODULE))
WRAPPED = aes_key_wrap(kdf(KOS, "SK key wrap", b"", 16), ENC_03 + MAC_03)
KEYS_03 = CAMPAIGN + length(1, 4) + CHAINING_03 + WRAPPED

BODY_03 = length(1, 4) + CHAINING_03 + bytes([len(WRAPPED)]) + WRAPPED + length(len(P_SE_03), 4) + P_SE_03
BODY_04 = length(len(MODULE), 4) + PART.ciphertext()
for custody, code, body in ((4, CODE_04, BODY_04), (3, CODE_03, BODY_03)):
    for version, name in ((1, f"package-{custody:02}"), (2, f"package-2-{custody:02}")):
        check(name, PART.package(version, custody, code, body))

# 4.5: scripts and their P_AUT

INDIVIDUAL = check("individual-code", PART.individual_code(CAMPAIGN))
check("discard-code", cmac(K_AUT, b"SKAUTH01\2" + bytes(9) + CAMPAIGN + SE + bytes(32)))


def p_aut(name, counter, wants, splices, commands, first_version=False, campaign=CAMPAIGN, target=1):
    script = bytes([len(splices)]) + bytes(splices) + bytes([2 + len(commands)])
    script += listed([clear("80503000", bytes(8)), bytes.fromhex("84823300"), *commands], 2)
    check(f"script-{name}", script)
    count = length(counter, 3)
    host = kdf(K_HCH, "SK host challenge 2", SE + count + campaign + sha256(script), 8)
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
        head = b"SKAU\1" + SE + campaign + count + bytes([splices[0] if splices else 0, len(sent)])
        check(f"p-aut-{name}", head + listed(sent, 1))
    head = b"SKAU\2" + SE + campaign + count + bytes([target, wants, len(splices), *splices, len(sent)])
    check(f"p-aut-2-{name}", head + listed(sent, 2))


ACTIVATE = {name: clear("803e0100", CAMPAIGN + code + INDIVIDUAL) for name, code in (("03", CODE_03), ("04", CODE_04))}
for custody, keys in (("04", KEYS_04), ("03", KEYS_03)):
    p_aut(custody, 1, 3, [3], [clear(f"803a01{custody}", keys), ACTIVATE[custody]], True)
APART = [clear("803a0204", KEYS_04), clear("803a0104", CAMPAIGN), clear("803a0001")]
p_aut("load", 2, 1, [4, 7], APART + APART)
p_aut("activate", 3, 2, [], [ACTIVATE["04"]])

# What the SE says


def receipt(name, part, campaign):
    body = bytes([1, 1, part.target]) + campaign + length(1, 4) + length(part.version, 4) + part.digest
    check(name, body + cmac(K_AUT, b"SKRCPT01" + SE + body))


receipt("receipt", PART, CAMPAIGN)

# 6.8: the key change

NEXT, CAMPAIGN_KEYS, ID_KEYS = block("kos-next") + block("k-mac-next"), block("campaign-keys"), block("package-id-keys")
POINT = ec.derive_private_key(int.from_bytes(block("designer-private-next"), "big"), ec.SECP256R1()).public_key()
DESIGNER = b"\4" + length(POINT.public_numbers().x, 32) + length(POINT.public_numbers().y, 32)
check("designer-public-next", DESIGNER)
for suffix, which, kck, counter in (
    ("", 0x03, kdf(KOS, "SK key change", ID_KEYS, 16), 4),
    ("-individual", 0x83, kdf(K_DEK, "SK key change", ID_KEYS + SE, 16), 5),
):
    wrapped = aes_key_wrap(kck, NEXT)
    image = check(f"key-change{suffix}", b"SKKC\1" + bytes([which, len(wrapped)]) + wrapped + DESIGNER)
    name = f"package-keys{suffix}"
    keys = Part(2, 0, 0, 2, image, ID_KEYS)
    code = keys.design_code(K_MAC)
    check(name, keys.package(2, 4, code, length(len(image), 4) + keys.ciphertext()))
    enc, mac, chaining = key_set(CAMPAIGN_KEYS, ID_KEYS)
    check(f"p-se-keys{suffix}", p_se(keys, 4, Channel(enc, mac, 1, chaining), keys.ciphertext()))
    commands = [
        clear("803a0104", CAMPAIGN_KEYS + length(1, 4) + chaining + enc + mac),
        clear("803e0100", CAMPAIGN_KEYS + code + keys.individual_code(CAMPAIGN_KEYS)),
    ]
    p_aut(f"keys{suffix}", counter, 3, [3], commands, campaign=CAMPAIGN_KEYS, target=2)
    if not suffix:
        receipt("receipt-keys", keys, CAMPAIGN_KEYS)

# 6.9: a refusal: load, target 01, sequence counter 1, 9504 for block 2, version 1

refusal = bytes([2, 3, 1]) + CAMPAIGN + length(1, 3) + bytes.fromhex("9504") + length(2, 2) + length(1, 4) + PART.digest
refusal = check("refusal", refusal + cmac(K_AUT, b"SKRFSL02" + SE + refusal))

# 6.7, 6.9: what goes over HTTPS, version 2 beside version 1

states = [bytes([1, target, 0]) + length(1, 4) + bytes([abi, 0]) + bytes(10) for target, abi in ((1, PART.manifest[3]), (2, 0))]
asked, told = SE + CAMPAIGN + bytes.fromhex("3070000000"), b"SKST\2" + SE + CAMPAIGN
check("equ", b"SKEQ\1" + asked + b"\x13" + states[0])
check("equ-2", b"SKEQ\2" + asked + b"\3\0\0\2" + b"".join(b"\x13" + state for state in states))
offered = length(len(block("delivery")), 4) + hashlib.sha256(block("delivery")).digest()
check("offer", b"SKOF\1" + CAMPAIGN + offered)
check("offer-2", b"SKOF\2" + CAMPAIGN + b"\1" + offered + b"\0")
check("status-2", told + bytes.fromhex("0000009000") + b"\x43" + block("receipt"))
check("status-2-refused", told + bytes.fromhex("0100049504") + b"\x46" + refusal)

if "--print" in sys.argv:
    for name, value in made.items():
        digits = value.hex()
        print(f"```hex {name}\n" + "\n".join(digits[i : i + 96] for i in range(0, len(digits), 96)) + "\n```")
print(f"{len(made)} blocks computed, differing: {', '.join(differ) or 'none'}")
sys.exit(bool(differ))
