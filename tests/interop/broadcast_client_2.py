"""Version 2 of the update's messages, by a design system, an administrator and a device that are written from docs/spec/broadcast-update.md alone.

As broadcast_client.py, of which it takes the primitives. An OS part is loaded in three sessions that leave broadcast mode at blocks of the
device's choice, the last one with pauses; then the design system's keys change, loaded and activated apart; then an update of the old designer's
is refused, which the SE proves, and one of the new designer's is activated. Prints "ok ..." or "FAIL ..." for each check.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import broadcast_client as first
from broadcast_client import (
    SE_ID,
    Card,
    Design,
    Protection,
    Server,
    aes_key_wrap,
    block,
    check,
    cmac,
    commands_of,
    delivery,
    kdf,
    personalisation,
    scp03,
    started,
    started_card,
)

LOAD, ACTIVATE, BOTH = 1, 2, 3


class Design2(Design):
    """Packages of version 2 (section 4.2), and the image of a key change (3.1)."""

    def pack(self, *arguments, **more):
        old = super().pack(*arguments, **more)
        unsigned = b"SKPK\2" + old[5:6] + b"\1" + old[6:150] + bytes(4) + old[150:-64]
        return unsigned + self.sign("sekisho package v2", unsigned)

    def change(self, successor, version):
        package_id = os.urandom(16)
        wrapped = aes_key_wrap(kdf(self.kos, "SK key change", package_id, 16), successor.kos + successor.k_mac)
        image = b"SKKC\1\3" + bytes([len(wrapped)]) + wrapped + successor.public
        return self.pack(image, version, 4, part=b"\2\0\0", package_id=package_id)


class Device:
    """The device: offer, delivery, EQU, P_AUT, ST in version 2 (sections 4.4 to 4.6, 5.2)."""

    def __init__(self, server, port, token, perso):
        self.server, self.port, self.token, self.perso = server, port, token, perso
        self.k_aut = bytes.fromhex(perso["k_aut"])
        self.card = Card(port)

    def restart(self):
        self.card.socket.close()
        self.card = Card(self.port)
        return self.facts()

    def facts(self):
        facts = self.card.facts()
        facts["keys"], facts["refusal"] = self.card.value(0xDF22), self.card.value(0xDF23)
        return facts

    def ask(self, method, what, body=None):
        return self.server.ask(method, f"/{SE_ID.hex()}/{what}", self.token, body)[:2]

    def offered(self, target):
        status, offer = self.ask("GET", "offer")
        check(f"there is an offer of target {target}", status == 200 and offer[:5] == b"SKOF\2" and len(offer) == 51)
        check("it names target and no places", (offer[13], offer[50]) == (target, 0))
        self.campaign, self.target = offer[5:13], target
        bulk, _ = delivery(self.server, b"SKOF\1" + self.campaign + offer[14:50])
        self.bulk = commands_of(bulk)

    def equ(self, facts, wants, pauses, proof=b""):
        states = [state for state in (facts["state"], facts["keys"]) if state]
        head = b"SKEQ\2" + SE_ID + self.campaign + bytes([facts["kvn"], facts["i"]]) + facts["counter"]
        listed = b"".join(bytes([len(state)]) + state for state in states)
        return head + bytes([wants, pauses, len(proof)]) + proof + bytes([len(states)]) + listed

    def next_block(self, facts):
        state = facts["state"] if self.target == 1 else facts["keys"]
        return int.from_bytes(state[17:19], "big") if state[9:17] == self.campaign else 0

    def session(self, design, wants, pieces):
        """One session that sends these pieces of the bulk, each up to a block: the answer to its last command, and the channel."""
        facts = self.restart()
        request = self.equ(facts, wants, max(len(pieces) - 1, 0))
        status, p_aut = self.ask("POST", "equ", request)
        check(f"EQU for wants {wants:02x} with {max(len(pieces) - 1, 0)} pauses is granted", status == 200)
        check("and asked for again it is the same bytes", self.ask("POST", "equ", request)[1] == p_aut)
        counter = (int.from_bytes(facts["counter"], "big") + 1).to_bytes(3, "big")
        head = b"SKAU\2" + SE_ID + self.campaign + counter + bytes([self.target, wants, len(pieces)])
        check("P_AUT is for SE, campaign, counter, target and wants", p_aut[: len(head)] == head)
        splices, at = list(p_aut[len(head) : len(head) + len(pieces)]), len(head) + len(pieces)
        own, count = [], p_aut[at]
        at += 1
        for _ in range(count):
            size = int.from_bytes(p_aut[at : at + 2], "big")
            own.append(p_aut[at + 2 : at + 2 + size])
            at += 2 + size
        check("P_AUT is exact", at == len(p_aut))
        check("its splices stand behind each CHANGE MODE", splices == [3 + 2 * n for n in range(len(pieces))])
        channel = self.recompute(design, counter, own, wants, len(pieces))
        played, taken, start = [], 0, self.next_block(facts)
        for splice, end in zip(splices, pieces):
            played += own[taken:splice] + self.bulk[start:end]
            taken, start = splice, end
        played += own[taken:]
        for step, command in enumerate(played):
            data, sw = self.card.send(command)
            if sw != "9000":
                return step, data, sw, counter
        return None, channel.unwrap(data), sw, counter

    def recompute(self, design, counter, own, wants, pieces):
        """P_AUT once more, from the card's keys, the design system's codes and the page's list of its commands."""
        key = {name: bytes.fromhex(self.perso[name]) for name in ("k_enc", "k_mac_scp")}
        host = own[0][5:13]
        good = own[0] == bytes([0x80, 0x50, self.perso["kvn"], 0, 8]) + host + b"\0"
        context = host + scp03(key["k_enc"], 0x02, 64, counter + block("isd-aid"))
        s_mac = scp03(key["k_mac_scp"], 0x06, 128, context)
        s_enc, s_rmac = scp03(key["k_enc"], 0x04, 128, context), scp03(key["k_mac_scp"], 0x07, 128, context)
        channel = Protection(s_enc, s_mac, s_rmac)
        proof = channel.authenticate(bytes.fromhex("84823300"), scp03(s_mac, 0x01, 64, context))
        good = good and own[1] == proof
        rest = iter(own[2:])
        for piece in range(pieces):
            if piece:
                good = good and next(rest) == channel.wrap(0x3A, 0, 1, b"", 0)
            command = next(rest)
            data = channel.plain(command)
            good = good and command == channel.wrap(0x3A, 1, 4, data, 0) and data[:8] == self.campaign
        if wants & ACTIVATE:
            manifest = design.manifest
            code = b"SKAUTH01\1" + manifest[1:2] + manifest[4:8] + manifest[12:16] + self.campaign + SE_ID + manifest[32:]
            data = self.campaign + design.design_code + cmac(self.k_aut, code)
            good = good and next(rest) == channel.wrap(0x3E, 1, 0, data, 0)
        else:
            good = good and next(rest) == channel.wrap(0x3A, 0, 1, b"", 0)
        check("each of its commands is computed a second time", good and next(rest, None) is None)
        return channel

    def receipt(self, design, answer, before, after):
        body = b"\1\1" + bytes([self.target]) + self.campaign + before.to_bytes(4, "big") + after.to_bytes(4, "big")
        body += design.manifest[32:]
        check("the receipt is right in every field", answer == body + cmac(self.k_aut, b"SKRCPT01" + SE_ID + body))
        check("and read in the clear", self.restart() and self.card.value(0xDF21) == answer)

    def report(self, outcome, step, sw, proof):
        st = b"SKST\2" + SE_ID + self.campaign + bytes([outcome]) + step.to_bytes(2, "big") + bytes.fromhex(sw)
        return self.ask("POST", "status", st + bytes([len(proof)]) + proof)

    def activated(self, design, answer, before, after):
        self.receipt(design, answer, before, after)
        check("the verdict allows network access", self.report(0, 0, "9000", answer) == (200, b"SKVD\1" + bytes(5)))


def load_in_pieces(device, server, design, image):
    server.campaign(design.pack(image, 2, 4), design, "version 2", b"for the device")
    device.offered(1)
    facts = device.restart()
    for wants, pauses, proof, status in ((0x83, 0, b"", 501), (0x07, 0, b"", 501), (3, 0, b"\1", 501), (0, 0, b"", 400)):
        check(f"EQU for wants {wants:02x} is {status}", device.ask("POST", "equ", device.equ(facts, wants, pauses, proof))[0] == status)
    check("EQU to activate what is not there is 400", device.ask("POST", "equ", device.equ(facts, ACTIVATE, 0))[0] == 400)
    for pieces, at in (([10], 10), ([15, 20], 20)):
        step, _, sw, _ = device.session(design, LOAD, pieces)
        check("broadcast mode is left at any block", (step, sw) == (None, "9000"))
        state = device.restart()["state"]
        check("and the SE keeps where it was", (state[8], int.from_bytes(state[17:19], "big")) == (1, at))
    _, answer, sw, _ = device.session(design, BOTH, [25, 30, len(device.bulk)])
    check("the last session loads the rest and activates", sw == "9000")
    device.activated(design, answer, 1, 2)


def change_keys(device, server, design, successor):
    server.campaign(design.change(successor, 2), design, "keys 2", b"")
    server.version = 1
    check("a device of version 1 hears nothing of it", device.ask("GET", "offer")[0] == 204)
    server.version = 2
    device.offered(2)
    _, _, sw, _ = device.session(design, LOAD, [len(device.bulk) - 1])
    facts = device.restart()
    check("the keys are staged and the OS part is not", (sw, facts["keys"][8], facts["state"][8]) == ("9000", 2, 0))
    _, answer, sw, _ = device.session(design, ACTIVATE, [])
    check("they are changed by an authorisation of its own", sw == "9000")
    device.activated(design, answer, 1, 2)
    facts = device.restart()
    check("DF22 has the new key version", facts["keys"] == bytes.fromhex("010200000000020000") + bytes(10))
    shown = server.administer("GET", "/devices?key_version=2")["devices"]
    check("the server shows it", [device["se_id"] for device in shown] == [SE_ID.hex()])


def old_designer(device, server, design, image):
    package = design.pack(image, 3, 4)
    made = server.campaign(package, design, "of the old designer", b"for the device")
    check("a package for the keys before is not offered", device.ask("GET", "offer")[0] == 204)
    server.administer("POST", f"/packages?designer={design.public.hex()}&key_version=2", package)
    server.administer("POST", f"/campaigns/{made}/retry")
    device.offered(1)
    step, _, sw, counter = device.session(design, BOTH, [len(device.bulk)])
    check("the old designer is obeyed no more", (step, sw) == (3, "9501"))
    refusal = device.restart()["refusal"]
    body = b"\2\3\0" + device.campaign + counter + bytes.fromhex("9501") + bytes(2 + 4 + 32)
    check("which the SE proves", refusal == body + cmac(device.k_aut, b"SKRFSL02" + SE_ID + body))
    verdict = b"SKVD\1\1" + (2).to_bytes(4, "big")
    for time in ("once", "again"):
        check(f"the refusal is taken {time}", device.report(1, step, sw, refusal) == (200, verdict))
    shown = server.administer("GET", f"/campaigns/{made}")
    counted = [sum(shown[cohort][what] for cohort in ("canary", "rest")) for what in ("refusals", "reports")]
    check("and counted once, not against an SE of which nobody else has taken it", counted == [0, 1])
    server.administer("POST", f"/campaigns/{made}/abort")


def main(binary):
    os.environ["SEKISHO_PASSPHRASE"] = "of this test"
    processes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            design, successor = Design2(), Design2()
            perso = personalisation(binary, folder, design)
            process, [card] = started_card(binary, folder)
            processes.append(process)
            free = ["--device-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]
            patterns = [r"https://127\.0\.0\.1:(\d+)", r"http://127\.0\.0\.1:(\d+)"]
            process, [port, admin] = started([binary, "server", "--folder", "server", *free], patterns, cwd=folder)
            processes.append(process)
            server = Server(int(port), int(admin), folder / "server")
            server.version = 2
            registered = server.administer("POST", "/devices", json.dumps([{"se_id": SE_ID.hex(), "kvn": perso["kvn"]}]))
            device = Device(server, int(card), registered["devices"][0]["link_token"], perso)
            filler = b"\4fill" + os.urandom(9000)
            image = block("module") + b"\0" + bytes([len(filler) & 0x7F | 0x80, len(filler) >> 7]) + filler
            load_in_pieces(device, server, design, image)
            change_keys(device, server, design, successor)
            old_designer(device, server, design, image)
            server.campaign(successor.pack(image, 3, 4), successor, "of the new designer", b"for the device")
            device.offered(1)
            _, answer, _, _ = device.session(successor, BOTH, [len(device.bulk)])
            device.activated(successor, answer, 2, 3)
            check("there is nothing more in version 2", device.ask("GET", "offer")[0] == 204)
        finally:
            for process in processes:
                process.terminate()
                process.wait(10)
    return first.failures != 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
