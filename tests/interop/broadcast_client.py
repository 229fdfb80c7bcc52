"""Two whole broadcast updates, by a design system, an administrator and a device that are written from docs/spec/broadcast-update.md alone.

Starts `sekisho server` and `sekisho card --listen` (the binary is the one argument), makes the product's keys and packages itself, uploads
them, and then is the device: asks for the offer and the delivery, sends EQU, splices P_SE into P_AUT, plays, and reports. What the server
made is computed a second time with the card's keys, byte for byte. Custody 04 is torn in the middle and goes on; custody 03 follows it.
Knows nothing of the project but that page; AES, ECDSA and key wrap are python-cryptography's. Prints "ok ..." or "FAIL ..." for each check.
"""

import hashlib
import http.client
import json
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PAGE = (Path(__file__).parents[2] / "docs/spec/broadcast-update.md").read_text()
SE_ID = bytes.fromhex("5ec1540000000000beef")
failures = 0


def check(name, good):
    global failures
    failures += not good
    print("ok" if good else "FAIL", name, flush=True)


def block(name):
    """A block of hexadecimal digits of the page."""
    return bytes.fromhex(re.search(r"```hex " + re.escape(name) + r"\n([^`]*)```", PAGE)[1])


# Primitives (conventions and section 1 of the page).


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


def aes_block(key, data):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)


def cbc(key, iv, data, decrypt=False):
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
    return (cipher.decryptor() if decrypt else cipher.encryptor()).update(data)


def ctr(key, first, data):
    return Cipher(algorithms.AES(key), modes.CTR(first)).encryptor().update(data)


def pad(data):
    return data + b"\x80" + bytes(-(len(data) + 1) % 16) if data else b""


def unpad(data):
    return data.rstrip(b"\0")[:-1] if data else b""


class Protection:
    """C-MAC and C-DECRYPTION of SCP03, and the R-MAC and R-ENCRYPTION of its answers."""

    def __init__(self, enc, mac, rmac=None, counter=1, chaining=bytes(16)):
        self.enc, self.mac, self.rmac, self.counter, self.chaining = enc, mac, rmac, counter, chaining

    def authenticate(self, header, data):
        """A command with its C-MAC and without encipherment: EXTERNAL AUTHENTICATE."""
        head = header + bytes([len(data) + 8])
        self.chaining = cmac(self.mac, self.chaining, head, data)
        return head + data + self.chaining[:8]

    def wrap(self, ins, p1, p2, data=b"", le=None):
        icv = aes_block(self.enc, self.counter.to_bytes(16, "big"))
        self.counter += 1
        command = self.authenticate(bytes([0x84, ins, p1, p2]), cbc(self.enc, icv, pad(data)))
        return command + (b"" if le is None else bytes([le]))

    def plain(self, command):
        """The data field of a protected command whose turn it is; the counter and the chaining value stay."""
        icv = aes_block(self.enc, self.counter.to_bytes(16, "big"))
        field = command[5 : 5 + command[4] - 8]
        return unpad(cbc(self.enc, icv, field, decrypt=True))

    def unwrap(self, data):
        """The data field of a 9000 answer to the last command."""
        field, mac = data[:-8], data[-8:]
        if cmac(self.rmac, self.chaining, field, b"\x90\x00")[:8] != mac:
            raise ValueError("R-MAC")
        icv = aes_block(self.enc, b"\x80" + (self.counter - 1).to_bytes(15, "big"))
        return unpad(cbc(self.enc, icv, field, decrypt=True))


def scp03(key, constant, bits, context):
    return cmac(key, bytes(11) + bytes([constant, 0]) + bits.to_bytes(2, "big") + b"\x01", context)[: bits // 8]


# The design system (sections 1, 3 and 4.2).


class Design:
    def __init__(self):
        self.kos, self.k_mac = os.urandom(16), os.urandom(16)
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.public = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, label, data):
        r, s = decode_dss_signature(self.private.sign(label.encode() + b"\0" + data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def pack(self, image, version, custody, part=None, package_id=None):
        """A package of version 1. part: target, code format, ABI, if it is not the OS part."""
        package_id = package_id or os.urandom(16)
        length = len(image).to_bytes(4, "big")
        digest = hashlib.sha256(image).digest()
        self.manifest = b"\1" + (part or b"\1\1" + block("manifest")[3:4]) + version.to_bytes(4, "big") + (1).to_bytes(4, "big") + length + package_id + digest
        self.signature = self.sign("sekisho manifest v1", self.manifest)
        if custody == 4:
            self.body = ctr(kdf(self.kos, "SK image", package_id, 16), package_id, image)
            body, k_int = length + self.body, self.k_mac
        else:
            self.body = image
            enc, mac, chaining, counter = os.urandom(16), os.urandom(16), os.urandom(16), 7
            wrapped = aes_key_wrap(kdf(self.kos, "SK key wrap", b"", 16), enc + mac)
            bulk = p_se(3, Protection(enc, mac, None, counter, chaining), self, 200)
            head = counter.to_bytes(4, "big") + chaining
            self.change_mode = head + wrapped
            body = head + bytes([len(wrapped)]) + wrapped + len(bulk).to_bytes(4, "big") + bulk
            k_int = kdf(mac, "SK integrity", package_id, 16)
        code = b"SKINTG01" + self.manifest[1:2] + self.manifest[4:8] + length + package_id + digest
        self.design_code, self.package_id = cmac(k_int, code), package_id
        head = b"SKPK\1" + bytes([custody]) + self.manifest + self.signature + self.design_code
        return head + body + self.sign("sekisho package v1", head + body)


def p_se(custody, protection, design, size):
    blocks = [design.manifest + design.signature]
    blocks += [design.body[at : at + size] for at in range(0, len(design.body), size)]
    commands = [protection.wrap(0x3C, n >> 8, n & 0xFF, data) for n, data in enumerate(blocks)]
    commands.append(protection.wrap(0x3A, 0, 0))
    listed = b"".join(len(c).to_bytes(2, "big") + c for c in commands)
    return b"SKPS\1" + bytes([custody]) + len(commands).to_bytes(2, "big") + len(listed).to_bytes(4, "big") + listed


def commands_of(bulk):
    """The commands of P_SE."""
    count, at, found = int.from_bytes(bulk[6:8], "big"), 12, []
    for _ in range(count):
        size = int.from_bytes(bulk[at : at + 2], "big")
        found.append(bulk[at + 2 : at + 2 + size])
        at += 2 + size
    return found


# The card, behind its socket (section 8.2), and what it says in the clear (section 2.4).


class Card:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.frame(b"\1")

    def frame(self, body):
        self.socket.sendall(len(body).to_bytes(2, "big") + body)

    def exact(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise EOFError("the card hung up")
            data += more
        return data

    def send(self, command):
        self.frame(command)
        answer = self.exact(int.from_bytes(self.exact(2), "big"))
        return answer[:-2], answer[-2:].hex()

    def value(self, tag):
        """GET DATA in class 00: the bare value."""
        data, sw = self.send(bytes([0x00, 0xCA]) + tag.to_bytes(2, "big") + b"\0")
        return data if sw == "9000" else None

    def facts(self):
        self.send(bytes.fromhex("00A4040000"))
        keys, at, kvn = self.value(0x00E0), 0, 0
        while at < len(keys):
            if keys[at] == 0xC0 and 0x30 <= keys[at + 3] <= 0x3F:
                kvn = kvn or keys[at + 3]
            at += 2 + keys[at + 1]
        card_data = self.value(0x0066)
        oid = bytes.fromhex("2A864886FC6B0403")
        i = card_data[card_data.index(oid) + len(oid)]
        return {"kvn": kvn, "i": i, "id": self.value(0x00CF), "counter": self.value(0x00C1), "state": self.value(0xDF20)}


# The server (section 5).


class Server:
    version = 1  # of the messages

    def __init__(self, device, admin, folder):
        self.device, self.admin = device, admin
        self.tls = ssl.create_default_context(cafile=folder / "certificate.pem")
        self.token = (folder / "admin.token").read_text().strip()

    def ask(self, method, path, token=None, body=None, **headers):
        connection = http.client.HTTPSConnection("127.0.0.1", self.device, context=self.tls, timeout=20)
        if token:
            headers["Authorization"] = "Bearer " + token
        connection.request(method, f"/device/v{self.version}" + path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, answer.headers

    def administer(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        connection.request(method, "/api/v1" + path, body, {"Authorization": "Bearer " + self.token})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        if answer.status >= 300:
            raise ValueError(f"{path}: {content}")
        return content

    def campaign(self, package, design, name, p_mob):
        self.administer("POST", "/packages?designer=" + design.public.hex(), package)
        wanted = {"name": name, "package_id": design.package_id.hex(), "p_mob": p_mob.hex(), "canary": 0}
        made = self.administer("POST", "/campaigns", json.dumps(wanted))
        self.administer("POST", f"/campaigns/{made['id']}/start")
        return made["id"]


def delivery(server, offer):
    """The delivery in two pieces, as the offer says it is: P_SE and P_MOB."""
    campaign, size, digest = offer[5:13], int.from_bytes(offer[13:17], "big"), offer[17:49]
    status, first, headers = server.ask("GET", f"/deliveries/{campaign.hex()}", Range="bytes=0-99")
    check("a range of the delivery is 206", (status, len(first)) == (206, 100))
    rest = {"Range": "bytes=100-", "If-Range": headers["ETag"]}
    status, second, _ = server.ask("GET", f"/deliveries/{campaign.hex()}", **rest)
    whole = first + second
    check("the delivery is the one that was offered", len(whole) == size and hashlib.sha256(whole).digest() == digest)
    check("and covers itself", hashlib.sha256(whole[:-32]).digest() == whole[-32:] and whole[:13] == b"SKDL\1" + campaign)
    at = 17 + int.from_bytes(whole[13:17], "big")
    return whole[17:at], whole[at + 4 : -32]


def permission(server, card, token, campaign):
    """EQU, and P_AUT's commands."""
    facts = card.facts()
    equ = b"SKEQ\1" + facts["id"] + campaign + bytes([facts["kvn"], facts["i"]]) + facts["counter"]
    equ += bytes([len(facts["state"])]) + facts["state"]
    status, p_aut, _ = server.ask("POST", f"/{SE_ID.hex()}/equ", token, equ)
    check("EQU is granted", status == 200)
    again = server.ask("POST", f"/{SE_ID.hex()}/equ", token, equ)[1]
    check("and asked for again it is the same bytes", again == p_aut)
    counter = (int.from_bytes(facts["counter"], "big") + 1).to_bytes(3, "big")
    check("P_AUT is for this SE, campaign and counter", p_aut[:26] == b"SKAU\1" + SE_ID + campaign + counter)
    commands, at = [], 28
    for _ in range(p_aut[27]):
        commands.append(p_aut[at + 1 : at + 1 + p_aut[at]])
        at += 1 + p_aut[at]
    return facts, counter, p_aut[26], commands, p_aut[28:at] == p_aut[28:]


def recompute(perso, design, campaign, counter, splice, commands, custody):
    """P_AUT once more, from the card's keys; the HSM's own host challenge and broadcast keys are taken from it."""
    key = {name: bytes.fromhex(perso[name]) for name in ("k_enc", "k_mac_scp", "k_aut")}
    host = commands[0][5:13]
    check("INITIALIZE UPDATE", commands[0] == bytes([0x80, 0x50, perso["kvn"], 0, 8]) + host + b"\0")
    card = scp03(key["k_enc"], 0x02, 64, counter + block("isd-aid"))
    context = host + card
    s_mac = scp03(key["k_mac_scp"], 0x06, 128, context)
    s_enc, s_rmac = scp03(key["k_enc"], 0x04, 128, context), scp03(key["k_mac_scp"], 0x07, 128, context)
    session = Protection(s_enc, s_mac, s_rmac)
    proof = session.authenticate(bytes.fromhex("84823300"), scp03(s_mac, 0x01, 64, context))
    check("EXTERNAL AUTHENTICATE", commands[1] == proof)
    broadcast = None
    if splice:
        data = session.plain(commands[2])
        check("CHANGE MODE", commands[2] == session.wrap(0x3A, 1, custody, data, 0) and data[:8] == campaign)
        if custody == 4:
            broadcast = Protection(data[28:44], data[44:60], None, int.from_bytes(data[8:12], "big"), data[12:28])
        else:
            check("CHANGE MODE has what the design system wrapped", data[8:] == design.change_mode)
    manifest = design.manifest
    code = b"SKAUTH01\1" + manifest[1:2] + manifest[4:8] + manifest[12:16] + campaign + SE_ID + manifest[32:]
    data = campaign + design.design_code + cmac(key["k_aut"], code)
    check("AUTHORIZE ACTION", commands[-1] == session.wrap(0x3E, 1, 0, data, 0))
    return session, broadcast


def update(port, server, token, perso, design, version, custody, tear):
    status, offer, _ = server.ask("GET", f"/{SE_ID.hex()}/offer", token)
    check("there is an offer", status == 200 and len(offer) == 49)
    campaign = offer[5:13]
    bulk, p_mob = delivery(server, offer)
    check("P_MOB comes with it", p_mob == b"for the device")
    card = Card(port)
    resumed = 0
    for last in [False, True] if tear else [True]:
        facts, counter, splice, commands, exact = permission(server, card, token, campaign)
        check("P_AUT is exact", exact and splice == 3)
        session, broadcast = recompute(perso, design, campaign, counter, splice, commands, custody)
        if broadcast:
            check("P_SE is computed a second time", bulk == p_se(4, broadcast, design, 239))
        if facts["state"][9:17] == campaign:
            resumed = int.from_bytes(facts["state"][17:19], "big")
        played = commands[:splice] + commands_of(bulk)[resumed:] + commands[splice:]
        if not last:
            played = played[: splice + 30]
        for step, command in enumerate(played):
            data, sw = card.send(command)
            if sw != "9000":
                check(f"step {step} is 9000 and not {sw}", False)
                return
        if not last:
            card.socket.close()
            card = Card(port)
    # 30 commands of P_SE are block 0 and 29 of 239 bytes: the only full page of 4,096 bytes ends in block 18.
    check("the torn one went on behind its last checkpoint", resumed == (19 if tear else 0))
    receipt = session.unwrap(data)
    card.socket.close()
    card = Card(port)
    card.facts()
    check("the receipt is read in the clear as well", card.value(0xDF21) == receipt)
    body = b"\1\1\1" + campaign + (version - 1).to_bytes(4, "big") + version.to_bytes(4, "big") + design.manifest[32:]
    mac = cmac(bytes.fromhex(perso["k_aut"]), b"SKRCPT01" + SE_ID + body)
    check("the receipt is right in every field", receipt == body + mac)
    status, verdict, _ = server.ask(
        "POST", f"/{SE_ID.hex()}/status", token, b"SKST\1" + SE_ID + campaign + bytes.fromhex("00009000") + b"\x43" + receipt
    )
    check("the verdict allows network access", (status, verdict) == (200, b"SKVD\1" + bytes(5)))
    shown = server.administer("GET", f"/campaigns/{campaign.hex()}")
    check("the campaign is done", (shown["state"], shown["canary"]["updated"] + shown["rest"]["updated"]) == ("done", 1))
    check("there is nothing more", server.ask("GET", f"/{SE_ID.hex()}/offer", token)[0] == 204)
    card.socket.close()


def started(arguments, patterns, **more):
    """Starts a process and reads from what it writes, both streams, until every pattern has been found."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    text = ""
    while not all(re.search(pattern, text) for pattern in patterns):
        if not select.select([process.stdout], [], [], 30)[0]:
            raise TimeoutError(text)
        more_text = os.read(process.stdout.fileno(), 4096).decode()
        if not more_text:
            raise EOFError(text)
        text += more_text
    return process, [re.search(pattern, text)[1] for pattern in patterns]


def personalisation(binary, folder, design):
    """The files of section 8.1: the HSM's keys of this SE, and this design system's own."""
    for command in (["hsm", "init"], ["hsm", "perso", "--in-the-clear", "--se-id", SE_ID.hex()]):
        subprocess.run([binary, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60)
    own = {"kos": design.kos, "k_mac": design.k_mac, "designer": design.public}
    (folder / "product.json").write_text(json.dumps({name: value.hex() for name, value in own.items()}))
    return json.loads((folder / "perso.json").read_text())


def started_card(binary, folder):
    made = [binary, "card", "--perso", "perso.json", "--product", "product.json", "--listen", "127.0.0.1:0"]
    return started(made, [r"127\.0\.0\.1:(\d+)"], cwd=folder)


def main(binary):
    os.environ["SEKISHO_PASSPHRASE"] = "of this test"
    processes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            design = Design()
            perso = personalisation(binary, folder, design)
            process, [card] = started_card(binary, folder)
            processes.append(process)
            free = ["--device-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]
            process, [device, admin] = started(
                [binary, "server", "--folder", "server", *free], [r"https://127\.0\.0\.1:(\d+)", r"http://127\.0\.0\.1:(\d+)"], cwd=folder
            )
            processes.append(process)
            server = Server(int(device), int(admin), folder / "server")
            [registered] = server.administer("POST", "/devices", json.dumps([{"se_id": SE_ID.hex(), "kvn": perso["kvn"]}]))["devices"]
            token = registered["link_token"]
            # The page's module, made longer by a custom section, which WebAssembly ignores.
            filler = b"\4fill" + os.urandom(9000)
            image = block("module") + b"\0" + bytes([len(filler) & 0x7F | 0x80, len(filler) >> 7]) + filler
            for version, custody, tear in ((2, 4, True), (3, 3, False)):
                server.campaign(design.pack(image, version, custody), design, f"version {version}", b"for the device")
                update(int(card), server, token, perso, design, version, custody, tear)
        finally:
            for process in processes:
                process.terminate()
                process.wait(10)
    return failures != 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
