#!/usr/bin/env python3
"""A reader in another language, written from docs/spec/rolling-secure-messaging.md: opens secure messaging in every mode with the card in a
PC/SC reader and works on a file. Cryptography by the package `cryptography`, PC/SC by pyscard. Prints "ok ..." or "FAIL ..." lines.

Usage: rolling_client.py READER (the test card of `sekisho card`, all modes allowed)
"""

import importlib.util
import os
import sys
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from smartcard.System import readers

HERE = os.path.dirname(os.path.abspath(__file__))
SPEC = importlib.util.spec_from_file_location("page", os.path.join(HERE, "../vectors/sm-rolling-recompute.py"))
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)

AID = bytes.fromhex("F0534B4F530401")


def objects(data):
    found = []
    while data:
        tag, length, data = data[0], data[1], data[2:]
        if length == 0x81:
            length, data = data[0], data[1:]
        found.append((tag, data[:length]))
        data = data[length:]
    return found


class Card:
    def __init__(self, name):
        reader = next(r for r in readers() if str(r).startswith(name))
        self.connection = reader.createConnection()
        self.connection.connect()

    def send(self, capdu):
        data, sw1, sw2 = self.connection.transmit(list(capdu))
        while sw1 == 0x61:
            more, sw1, sw2 = self.connection.transmit([0, 0xC0, 0, 0, sw2])
            data += more
        return bytes(data), sw1 << 8 | sw2

    def ok(self, capdu):
        data, sw = self.send(capdu)
        if sw != 0x9000:
            raise ValueError(f"{capdu.hex()}: {sw:04X}")
        return data

    def challenge(self):
        select = bytes.fromhex("00A4040007") + AID
        # In the clear under secure messaging: it ends, and nothing is selected.
        if self.send(select) != (b"", 0x6987):
            self.ok(select)
        self.ok(select)
        return self.ok(bytes.fromhex("0084000010"))


class Session:
    """Both ends' counter, and `keys(ssc)`, which gives the pairs of command and response and a selector, and moves on."""

    def __init__(self, card, challenge, keys):
        self.card, self.counter, self.keys = card, page.Counter(challenge), keys

    def send(self, header, data=b"", ne=None):
        ssc = self.counter.next()
        command_keys, response_keys, selector = self.keys(ssc)
        protected = page.command(command_keys, ssc, bytes.fromhex(header), selector + data, ne)
        answer, sw = self.card.send(protected)
        again, same = self.card.send(protected)
        if (again, same) != (answer, sw):
            raise ValueError("the same command has another answer")
        ssc = self.counter.next()
        enc, mac = response_keys
        found = objects(answer)
        body = answer[:-10]
        if found[-1] != (0x8E, page.cmac(mac, page.pad(ssc + body))[:8]):
            raise ValueError("wrong MAC")
        if dict(found)[0x99] != sw.to_bytes(2, "big"):
            raise ValueError("another status word inside")
        cryptogram = dict(found).get(0x87)
        plain = b""
        if cryptogram:
            iv = page.ecb(enc, ssc)
            cipher = Cipher(algorithms.AES(enc), modes.CBC(iv)).decryptor()
            plain = (cipher.update(cryptogram[1:]) + cipher.finalize()).rstrip(b"\x00")[:-1]
        return plain, sw


MKEY = page.named("MKEY")


def open_wrapped(card, mode, separate, keys, schedule):
    challenge = card.challenge()
    command, confirmation = page.opening(MKEY, challenge, mode, separate, keys)
    if card.ok(command) != confirmation:
        raise ValueError("the card does not confirm the opening")
    return Session(card, challenge, schedule)


def fixed(card, separate):
    keys = [os.urandom(16) for _ in range(4 if separate else 2)]
    pairs = (keys[:2], keys[-2:])
    return open_wrapped(card, 0, separate, keys, lambda ssc: (*pairs, b""))


def old_and_current(card, mode, separate, operations):
    """The operations take turns over the old and the current key."""
    keys = [os.urandom(16) for _ in range(4 if separate else 2)]
    lanes = [keys[:2], keys[-2:]]
    done = [0]

    def schedule(_ssc):
        now = [current for _, current in lanes]
        operation = operations[done[0] % len(operations)]
        done[0] += 1
        for lane in lanes if separate else lanes[:1]:
            lane[:] = [lane[1], operation(*lane)]
        return (now[0],) * 2, (now[1] if separate else now[0],) * 2, b""

    return open_wrapped(card, mode, separate, keys, schedule)


def xor(card, separate):
    return old_and_current(card, 1, separate, [page.xor])


def turns(card, separate):
    return old_and_current(card, 4, separate, [page.xor, page.land])


def listed(card, separate):
    keys = [None] + [os.urandom(16) for _ in range(18)]
    order = [[1, 12, 5, 17], [2, 3, 9, 18]]

    def schedule(_ssc):
        one, other = order[0].pop(0), order[1].pop(0)
        selector = bytes([order[0][0], order[1][0]] if separate else [order[0][0]])
        return (keys[one],) * 2, (keys[other if separate else one],) * 2, selector

    return open_wrapped(card, 2, separate, keys[1:], schedule)


def operations(card, separate):
    keys = [None] + [os.urandom(16) for _ in range(18)]
    lanes = [[keys[1], 1, [12, 5, 17]], [keys[2], 2, [3, 9, 18]]]
    turn = [0]

    def schedule(_ssc):
        now = [lane[0] for lane in lanes]
        selector = b""
        for lane in lanes:
            key, last, order = lane
            chosen = order.pop(0)
            follow = (page.xor(key, keys[chosen]), page.land(key, keys[chosen]), page.xor(keys[last], keys[chosen]))
            lane[:] = [follow[turn[0] % 3], chosen, order]
            selector += bytes([chosen])
        turn[0] += 1
        return (now[0],) * 2, (now[1 if separate else 0],) * 2, selector[:1 + separate]

    return open_wrapped(card, 3, separate, keys[1:], schedule)


def public(key):
    return key.public_key().public_bytes(page.Encoding.X962, page.PublicFormat.UncompressedPoint)


def agree(key, peer):
    return key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), peer))


def ratchet(card, separate):
    challenge = card.challenge()
    own = ec.generate_private_key(ec.SECP256R1())
    command = page.ratchet_opening(separate, public(own), 3)
    answer = card.ok(command)
    card_key, confirmation = answer[:65], answer[65:]
    first, expected = page.ratchet_opened(MKEY, challenge, command, card_key, agree(own, card_key))
    if confirmation != expected:
        raise ValueError("the card does not confirm the opening")
    chain = [first]

    def schedule(ssc):
        chain[0], command_keys, response_keys = page.ratchet_keys(chain[0], ssc, separate)
        return command_keys, response_keys, b""

    session = Session(card, challenge, schedule)
    session.chain = chain
    return session


def refresh(session):
    own = ec.generate_private_key(ec.SECP256R1())
    card_key, sw = session.send("805C0000", public(own), 256)
    if sw != 0x9000:
        raise ValueError(f"refresh: {sw:04X}")
    secret = page.combine(MKEY, b"sekisho sm fresh", sha256(public(own) + card_key).digest(), agree(own, card_key))
    session.chain[0] = sha256(b"sekisho sm refresh" + session.chain[0] + secret).digest()[:16]


def work(session, value):
    """The three commands of the figures."""
    for header, data, ne, expected in (("00A4020C", b"\x00\x11", None, b""), ("00D00000", value, None, b""),
                                       ("00B00000", b"", len(value), value)):
        plain, sw = session.send(header, data, ne)
        if (plain, sw) != (expected, 0x9000):
            raise ValueError(f"{header}: {plain.hex()} {sw:04X}")


def main():
    card = Card(sys.argv[1])
    for opener in (fixed, xor, listed, operations, turns, ratchet):
        for separate in (0, 1):
            name = f"{opener.__name__}, {'separate keys' if separate else 'one key'}"
            try:
                session = opener(card, separate)
                work(session, os.urandom(3) + b"\x5a")
                if opener is ratchet:
                    refresh(session)
                    work(session, os.urandom(3) + b"\xa5")
                print(f"ok {name}")
            except Exception as error:  # every failure is a line
                print(f"FAIL {name}: {error}")


if __name__ == "__main__":
    main()
