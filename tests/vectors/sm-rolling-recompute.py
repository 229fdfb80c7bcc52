#!/usr/bin/env python3
"""Recomputes every worked byte of docs/spec/rolling-secure-messaging.md from the page's words alone.

A second implementation on another cryptographic library (pip package `cryptography`): it shares nothing with the Rust
code but the page. Run it from the repository's root; it prints the blocks that differ and exits 1 if any does.
"""

import re
import sys
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PAGE = "docs/spec/rolling-secure-messaging.md"
STEPS = [("select", "00A4020C", "0011", None, "", "9000"),
         ("write", "00D00000", "DEADBEEF", None, "", "9000"),
         ("read", "00B00000", "", 4, "DEADBEEF", "9000")]


def named(name):
    return sha256(name.encode()).digest()[:16]


def cmac(key, data):
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def ecb(key, data):
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return cipher.update(data) + cipher.finalize()


def pad(data):
    data += b"\x80"
    return data + bytes(-len(data) % 16)


def cbc(key, ssc, data):
    cipher = Cipher(algorithms.AES(key), modes.CBC(ecb(key, ssc))).encryptor()
    return cipher.update(pad(data)) + cipher.finalize()


def tlv(tag, value):
    length = bytes([len(value)]) if len(value) < 128 else bytes([0x81, len(value)])
    return bytes([tag]) + length + value


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def land(a, b):
    return bytes(x & y for x, y in zip(a, b))


class Counter:
    def __init__(self, start):
        self.value = int.from_bytes(start, "big")

    def next(self):
        self.value = (self.value + 1) % 2**128
        return self.value.to_bytes(16, "big")


def command(keys, ssc, header, data, ne):
    enc, mac = keys
    header = bytes([header[0] | 0x0C]) + header[1:]
    objects = tlv(0x87, b"\x01" + cbc(enc, ssc, data)) if data else b""
    if ne is not None:
        objects += tlv(0x97, bytes([ne % 256]))
    tag = cmac(mac, pad(ssc + pad(header) + objects))[:8]
    body = objects + tlv(0x8E, tag)
    return header + bytes([len(body)]) + body + b"\x00"


def response(keys, ssc, data, status):
    enc, mac = keys
    objects = tlv(0x87, b"\x01" + cbc(enc, ssc, data)) if data else b""
    objects += tlv(0x99, status)
    return objects + tlv(0x8E, cmac(mac, pad(ssc + objects))[:8]) + status


def three_steps(out, prefix, keys, selectors):
    """keys: for each step the command key and the response key, each used for both encryption and MAC."""
    three_steps_with_pairs(out, prefix, [((c, c), (r, r)) for c, r in keys], selectors)


def three_steps_with_pairs(out, prefix, keys, selectors):
    """keys: for each step KSenc and KSmac of the command, and those of the response."""
    ssc = Counter(named("challenge"))
    for step, (command_keys, response_keys), selector in zip(STEPS, keys, selectors):
        name, header, data, ne, reply, status = step
        plain = bytes(selector) + bytes.fromhex(data)
        out[f"{prefix}-{name}-command"] = command(command_keys, ssc.next(), bytes.fromhex(header), plain, ne)
        out[f"{prefix}-{name}-response"] = response(
            response_keys, ssc.next(), bytes.fromhex(reply), bytes.fromhex(status))


def kdf(key, label, context, length):
    """SP 800-108 in counter mode over AES-CMAC."""
    bits = (8 * length).to_bytes(2, "big")
    blocks = (cmac(key, bytes([i]) + label + b"\x00" + context + bits) for i in range(1, -(-length // 16) + 1))
    return b"".join(blocks)[:length]


def opening_header(mode, separate):
    return bytes([0x80, 0x5A, mode, 0x10 | separate])


def opening(mkey, challenge, mode, separate, keys):
    """SESSION KEY DECRYPTION with wrapped keys, and the card's answer to it."""
    header = opening_header(mode, separate)
    data = aes_key_wrap(kdf(mkey, b"sekisho sm wrap", header + challenge, len(mkey)), b"".join(keys))
    transcript = sha256(header + challenge + data).digest()
    answer = cmac(kdf(mkey, b"sekisho sm confirm", transcript, 16), transcript)
    short = len(data) < 256
    length = bytes([len(data)]) if short else b"\x00" + len(data).to_bytes(2, "big")
    return header + length + data + (b"\x00" if short else b"\x01\x00"), answer


def legacy(out):
    def opened(prefix, mode, separate, keys):
        out[f"{prefix}-open"], out[f"{prefix}-open-response"] = opening(
            named("MKEY"), named("challenge"), mode, separate, keys)

    k0, k1, r0, r1 = (named(name) for name in ("K0", "K1", "R0", "R1"))
    none = [b""] * 3
    pair, answer_pair = [named("KSenc"), named("KSmac")], [named("KSenc R"), named("KSmac R")]
    opened("fixed", 0, 0, pair)
    three_steps_with_pairs(out, "fixed", [(pair, pair)] * 3, none)
    opened("fixed-separate", 0, 1, pair + answer_pair)
    three_steps_with_pairs(out, "fixed-separate", [(pair, answer_pair)] * 3, none)

    opened("xor", 1, 0, [k0, k1])
    three_steps(out, "xor", [(k1, k1), (xor(k0, k1),) * 2, (k0, k0)], none)
    opened("xor-separate", 1, 1, [k0, k1, r0, r1])
    three_steps(out, "xor-separate", [(k1, r1), (xor(k0, k1), xor(r0, r1)), (k0, r0)], none)

    k2, r2 = xor(k0, k1), xor(r0, r1)
    opened("turns", 4, 0, [k0, k1])
    three_steps(out, "turns", [(k1, k1), (k2, k2), (land(k1, k2),) * 2], none)
    opened("turns-separate", 4, 1, [k0, k1, r0, r1])
    three_steps(out, "turns-separate", [(k1, r1), (k2, r2), (land(k1, k2), land(r1, r2))], none)

    k = [None] + [named(f"K{i}") for i in range(1, 19)]
    opened("list", 2, 0, k[1:])
    three_steps(out, "list", [(k[1],) * 2, (k[12],) * 2, (k[5],) * 2], [[12], [5], [17]])
    opened("list-separate", 2, 1, k[1:])
    three_steps(out, "list-separate", [(k[1], k[2]), (k[12], k[3]), (k[5], k[18])], [[12, 3], [5, 18], [0, 0]])

    ek = [None] + [named(f"EK{i}") for i in range(1, 19)]
    second = xor(ek[1], ek[12])
    opened("operations", 3, 0, ek[1:])
    three_steps(out, "operations", [(ek[1],) * 2, (second,) * 2, (land(second, ek[5]),) * 2], [[12], [5], [17]])
    other = xor(ek[2], ek[3])
    opened("operations-separate", 3, 1, ek[1:])
    three_steps(out, "operations-separate",
                [(ek[1], ek[2]), (second, other), (land(second, ek[5]), land(other, ek[9]))],
                [[12, 3], [5, 9], [0, 0]])


def ephemeral(name):
    key = ec.derive_private_key(int.from_bytes(sha256(name.encode()).digest(), "big"), ec.SECP256R1())
    return key, key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def combine(mkey, label, transcript, secret):
    return sha256(label + kdf(mkey, b"sekisho sm agree", transcript, 32) + secret + transcript).digest()


def ratchet_opening(separate, reader_key, every):
    data = every.to_bytes(2, "big") + reader_key
    return opening_header(0x10, separate) + bytes([len(data)]) + data + b"\x00"


def ratchet_opened(mkey, challenge, command, card_key, secret):
    """The first chain key and the confirmation."""
    transcript = sha256(command[:4] + challenge + command[5:-1] + card_key).digest()
    confirmation = cmac(combine(mkey, b"sekisho sm confirm", transcript, secret)[:16], transcript)
    return combine(mkey, b"sekisho sm open", transcript, secret)[:len(mkey)], confirmation


def ratchet_keys(chain, ssc, separate):
    block = [ecb(chain, b"SMR1" + bytes([purpose, 0, 0, 0]) + ssc[8:]) for purpose in range(1, 6)]
    return block[0], (block[1], block[2]), (block[3], block[4]) if separate else (block[1], block[2])


def ratchet(out, prefix, separate):
    (reader, reader_key), (card, card_key) = ephemeral("reader 1"), ephemeral("card 1")
    opening_command = ratchet_opening(separate, reader_key, 3)
    chain, confirmation = ratchet_opened(named("MKEY"), named("challenge"), opening_command, card_key,
                                         reader.exchange(ec.ECDH(), card.public_key()))
    out[f"{prefix}-open"], out[f"{prefix}-open-response"] = opening_command, card_key + confirmation
    out[f"{prefix}-chain-1"] = chain
    ssc = Counter(named("challenge"))

    def exchange(chain, name, header, data, ne, reply, status):
        at = ssc.next()
        chain, command_keys, response_keys = ratchet_keys(chain, at, separate)
        out[f"{prefix}-{name}-command"] = command(command_keys, at, bytes.fromhex(header), data, ne)
        out[f"{prefix}-{name}-response"] = response(response_keys, ssc.next(), reply, bytes.fromhex(status))
        return chain

    for name, header, data, ne, reply, status in STEPS:
        chain = exchange(chain, name, header, bytes.fromhex(data), ne, bytes.fromhex(reply), status)
    (reader, reader_key), (card, card_key) = ephemeral("reader 2"), ephemeral("card 2")
    chain = exchange(chain, "refresh", "805C0000", reader_key, 256, card_key, "9000")
    secret = combine(named("MKEY"), b"sekisho sm fresh", sha256(reader_key + card_key).digest(),
                     reader.exchange(ec.ECDH(), card.public_key()))
    chain = sha256(b"sekisho sm refresh" + chain + secret).digest()[:16]
    out[f"{prefix}-chain-5"] = chain
    at = ssc.next()
    out[f"{prefix}-read-after-refresh"] = command(
        ratchet_keys(chain, at, separate)[1], at, bytes.fromhex("00B00000"), b"", 4)


def main():
    expected = {"mkey": named("MKEY"), "wrapping-key": kdf(named("MKEY"), b"sekisho sm wrap", opening_header(0, 0) + named("challenge"), 16),
                "challenge": named("challenge"), "reader-ephemeral": sha256(b"reader 1").digest()}
    legacy(expected)
    ratchet(expected, "ratchet", 0)
    ratchet(expected, "ratchet-separate", 1)
    with open(PAGE, encoding="utf-8") as page:
        blocks = dict(re.findall(r"^```hex name=(\S+)\n(.*?)^```$", page.read(), re.M | re.S))
    wrong = [name for name in sorted(expected.keys() | blocks.keys())
             if "".join(blocks.get(name, "").split()).lower() != expected.get(name, b"").hex()]
    for name in wrong:
        print("differs:", name, expected.get(name, b"").hex().upper())
    print(f"{len(expected) - len(wrong)} of {len(expected)} blocks agree")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
