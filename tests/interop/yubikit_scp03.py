"""yubikit, Yubico's library, against the card: SCP03 at level 33, GET DATA, PUT KEY, and all again with the new keys; a load file comes and goes.

usage: yubikit_scp03.py READER initial|changed|load [--extended]
`initial` authenticates with the initial keys and puts a key set of version 1; `changed` and `load` expect the card to have kept it, `load` one with flash for load files.
Prints "ok NAME" or "FAIL NAME: why" for each check.
"""

import pathlib
import re
import sys

from smartcard.System import readers
from yubikit.core import TRANSPORT
from yubikit.core.smartcard import ApduError, SmartCardConnection
from yubikit.core.smartcard.scp import KeyRef, Scp03KeyParams, ScpKid, StaticKeys
from yubikit.securitydomain import SecurityDomainSession

NEW_KVN = 0x01
NEW = StaticKeys(bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30)), bytes(range(0x30, 0x40)))


class Connection(SmartCardConnection):
    """What yubikit wants of a connection; as USB it speaks extended length, as NFC short with chaining."""

    def __init__(self, reader, transport):
        self._transport = transport
        self.connection = reader.createConnection()
        self.connection.connect()

    @property
    def transport(self):
        return self._transport

    def close(self):
        self.connection.disconnect()

    def send_and_receive(self, apdu):
        data, sw1, sw2 = self.connection.transmit(list(apdu))
        return bytes(data), sw1 << 8 | sw2


def check(name, condition, why=""):
    print(f"ok {name}" if condition else f"FAIL {name}: {why}", flush=True)


def refused(action, *sws):
    try:
        action()
    except ApduError as error:
        return error.sw in sws, f"{error.sw:04X}"
    except ValueError as error:  # yubikit's word for a card cryptogram that is not the keys'
        return 0 in sws, str(error)
    return False, "it was accepted"


def key_versions(domain):
    return {key.kvn for key in domain.get_key_information()}


def session(connection, kvn=None, keys=None):
    domain = SecurityDomainSession(connection)
    if keys is not None:
        domain.authenticate(Scp03KeyParams(KeyRef(ScpKid.SCP03, kvn), keys))
    return domain


def initial(connection):
    wrong = StaticKeys(bytes(16), bytes(16), bytes(16))
    check("wrong keys are noticed", *refused(lambda: session(connection, 0xFF, wrong), 0, 0x6300))
    check("an unknown key version is refused", *refused(lambda: session(connection, 0x2A, StaticKeys.default()), 0, 0x6A88))
    domain = session(connection)
    check("key information lists the initial keys", 0xFF in key_versions(domain), key_versions(domain))
    check("PUT KEY needs a secure channel", *refused(lambda: plain_put_key(domain), 0x6982, 0x6985))
    domain = session(connection, 0xFF, StaticKeys.default())
    check("mutual authentication at level 33", True)
    check("GET DATA through the channel", 0xFF in key_versions(domain), key_versions(domain))
    recognition = domain.get_card_recognition_data()
    check("card recognition data", recognition.startswith(bytes.fromhex("06072A864886FC6B01")), recognition.hex())
    domain.put_key(KeyRef(ScpKid.SCP03, NEW_KVN), NEW)
    check("PUT KEY, with the key check values that yubikit expects", True)
    changed(connection)


def plain_put_key(domain):
    domain.protocol.send_apdu(0x80, 0xD8, 0x00, 0x81, bytes([NEW_KVN]) + bytes(60))


def changed(connection):
    check("the initial keys are gone", *refused(lambda: session(connection, 0xFF, StaticKeys.default()), 0, 0x6A88))
    domain = session(connection, NEW_KVN, NEW)
    versions = key_versions(domain)
    check("authentication with the new keys", NEW_KVN in versions and 0xFF not in versions, versions)
    domain = session(connection, 0x00, NEW)
    check("key version 00 means them too", NEW_KVN in key_versions(domain))
    for _ in range(20):
        domain.get_card_recognition_data()
    check("20 more commands in one channel", True)


def load_file():
    """The load file data block of docs/spec/loading.md, 2."""
    page = pathlib.Path(__file__).parents[2] / "docs/spec/loading.md"
    block = re.search(r"```hex load-file\n(.*?)```", page.read_text(), re.DOTALL)
    return bytes.fromhex("".join(block[1].split()))


def field(data):
    return bytes([len(data)]) + data


def load(connection):
    file, module = bytes.fromhex("F0534B4C4600"), bytes.fromhex("F0534B4C460001")
    card = session(connection, NEW_KVN, NEW).protocol
    card.send_apdu(0x80, 0xE6, 0x02, 0x00, field(file) + bytes(4))
    data = load_file()
    check("the load file of the page is a long one", 0x80 <= len(data) <= 0xFF, len(data))
    blocks = b"\xC4\x81" + field(data)
    blocks = [blocks[at : at + 90] for at in range(0, len(blocks), 90)]
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        answer = card.send_apdu(0x80, 0xE8, 0x80 if last else 0x00, number, block)
        check(f"LOAD, block {number}", answer == (b"\0" if last else b""), answer.hex())
    card.send_apdu(0x80, 0xE6, 0x0C, 0x00, field(file) + field(module) + field(module) + bytes.fromhex("0100 02C900 00"))
    select = bytes([0x00, 0xA4, 0x04, 0x00, *field(module), 0x00])
    answers = [connection.send_and_receive(apdu)[1] for apdu in (select, bytes.fromhex("00010203"))]
    check("what was loaded answers", answers == [0x9000, 0x9000], answers)
    card = session(connection, NEW_KVN, NEW).protocol
    in_use = refused(lambda: card.send_apdu(0x80, 0xE4, 0x00, 0x00, b"\x4F" + field(file)), 0x6985)
    check("a load file from which something comes stays", *in_use)
    card.send_apdu(0x80, 0xE4, 0x00, 0x80, b"\x4F" + field(file))
    answer = connection.send_and_receive(select)[1]
    check("it goes with what comes from it", answer == 0x6A82, f"{answer:04X}")


def main():
    name, step = sys.argv[1:3]
    transport = TRANSPORT.USB if "--extended" in sys.argv else TRANSPORT.NFC
    reader = next(reader for reader in readers() if reader.name == name)
    connection = Connection(reader, transport)
    try:
        {"initial": initial, "changed": changed, "load": load}[step](connection)
    except Exception as error:  # every surprise is one failed check, not a stack trace alone
        check(f"{step} goes to its end", False, f"{type(error).__name__}: {error}")
        raise
    finally:
        connection.close()


main()
