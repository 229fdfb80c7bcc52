"""A hostile server of a foreign library (tlslite-ng) at the other end of TLS sessions that end in a whole card, carried by `sekisho tls`.

It speaks TLS as it should but for one deed: a message is changed, left out, doubled or put where none belongs, with keys and transcripts that agree with it, so that only who looks at
what is said can notice; or records are. Most deeds have to end the session without an answer, with an alert or because nobody goes on; some are odd and allowed, and the session goes
on. Behind them an honest server is served. Prints lines "ok ..." and "FAIL ...".

    tls_hostile.py SEKISHO [WORD]      WORD: the deeds alone that have it in their names
"""
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading

from tlslite import messages, recordlayer
from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
from tlslite.errors import TLSError, TLSRemoteAlert
from tlslite.messages import Message

SEKISHO = os.path.abspath(sys.argv[1])
ONLY = sys.argv[2] if len(sys.argv) > 2 else ""
SELECT = bytes.fromhex("00A4040007F0534B4F53040100")
READ = bytes.fromhex("00B09E0011")
ANSWER = b"Sekisho test card\x90\x00"
# What the server is to hear of some deeds.
HEARD = {"no certificate in Certificate": "decode_error"}
CCS, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23
# Every session behind so many deeds is an honest one.
HONEST_EVERY = 12


# ---- what becomes of a message: its bytes in, its bytes out

def body(change):
    """Of the body; the message's length is right again."""
    def apply(message):
        new = bytes(change(bytes(message[4:])))
        return message[:1] + len(new).to_bytes(3, "big") + new
    return apply


def left_out(_):
    return b""


def behind(more):
    return lambda message: bytes(message) + more


def before(more):
    return lambda message: more + bytes(message)


def twice(message):
    return bytes(message) * 2


def put(at, new):
    """In the place of as many bytes; from the end if `at` is negative."""
    def apply(text):
        place = at if at >= 0 else len(text) + at
        return text[:place] + new + text[place + len(new):]
    return apply


def flipped(at):
    def apply(text):
        place = at if at >= 0 else len(text) + at
        return text[:place] + bytes([text[place] ^ 1]) + text[place + 1:]
    return apply


def message(number, content=b""):
    return bytes([number]) + len(content).to_bytes(3, "big") + content


def hello(change):
    """Of a ServerHello: a dictionary of its parts."""
    def apply(text):
        sid = text[34]
        end = 35 + sid
        parts = {"version": text[:2], "random": text[2:34], "session": text[34:end], "suite": text[end:end + 2],
                 "compression": text[end + 2:end + 3], "extensions": [], "behind": b""}
        rest = text[end + 5:]
        while rest:
            length = int.from_bytes(rest[2:4], "big")
            parts["extensions"].append((int.from_bytes(rest[:2], "big"), rest[4:4 + length]))
            rest = rest[4 + length:]
        change(parts)
        extensions = b"".join(number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for number, value in parts["extensions"])
        return (parts["version"] + parts["random"] + parts["session"] + parts["suite"] + parts["compression"]
                + len(extensions).to_bytes(2, "big") + extensions + parts["behind"])
    return body(apply)


def part(name, value):
    return hello(lambda parts: parts.update({name: value}))


def extension(number, value):
    """In the place of one, or behind all."""
    def change(parts):
        kept = [(n, value if n == number else v) for n, v in parts["extensions"]]
        parts["extensions"] = kept if number in dict(parts["extensions"]) else kept + [(number, value)]
    return hello(change)


def no_extension(number):
    return hello(lambda parts: parts.update(extensions=[e for e in parts["extensions"] if e[0] != number]))


def share(change):
    """Of the point in a key share of ServerHello."""
    def apply(parts):
        value = dict(parts["extensions"])[51]
        point = change(value[4:])
        new = value[:2] + len(point).to_bytes(2, "big") + point
        parts["extensions"] = [(n, new if n == 51 else v) for n, v in parts["extensions"]]
    return hello(apply)


def compressed(point):
    assert point[0] == 4 and len(point) == 65
    return bytes([2 + (point[64] & 1)]) + point[1:33]


def exchanged(change):
    """Of the point in a ServerKeyExchange of TLS 1.2, which tlslite signs before it writes: the signature is not right any more, but the point is looked at first or never."""
    def apply(text):
        length = text[3]
        point = change(text[4:4 + length])
        return text[:3] + bytes([len(point)]) + point + text[4 + length:]
    return body(apply)


# ---- deeds: (name, message class, change)

SH, CERT, CV, FIN = messages.ServerHello, messages.Certificate, messages.CertificateVerify, messages.Finished
EE, CR, SKE, SHD = messages.EncryptedExtensions, messages.CertificateRequest, messages.ServerKeyExchange, messages.ServerHelloDone
ALPN = bytes.fromhex("0003026832")
DOWN12 = bytes.fromhex("444F574E47524401")

MESSAGES_13 = [
    ("ServerHello says TLS 1.1", SH, part("version", b"\x03\x02")),
    ("ServerHello chooses TLS 1.2 in its extension", SH, extension(43, b"\x03\x03")),
    ("ServerHello chooses a version that there is not", SH, extension(43, b"\x03\x05")),
    ("ServerHello without a version", SH, no_extension(43)),
    ("ServerHello with a suite that was not offered", SH, part("suite", b"\x13\x02")),
    ("ServerHello with a suite of TLS 1.2", SH, part("suite", b"\xC0\x2B")),
    ("ServerHello with no suite", SH, part("suite", b"\x00\x00")),
    ("ServerHello with compression", SH, part("compression", b"\x01")),
    ("ServerHello with an extension that was not offered", SH, extension(16, ALPN)),
    ("ServerHello with an extension twice", SH, hello(lambda parts: parts["extensions"].append(parts["extensions"][0]))),
    ("ServerHello with bytes behind it", SH, part("behind", b"\x00")),
    ("ServerHello without a share", SH, no_extension(51)),
    ("a share of another group", SH, extension(51, b"\x00\x18\x00\x61" + b"\x04" * 97)),
    ("a compressed point", SH, share(compressed)),
    ("a point that is not on the curve", SH, share(flipped(-1))),
    ("a point at infinity", SH, share(lambda _: b"\x00")),
    ("an empty point", SH, share(lambda _: b"")),
    ("a point with bytes behind it", SH, share(lambda point: point + b"\x00")),
    ("a point of zeros", SH, share(lambda _: b"\x04" + bytes(64))),
    ("HelloRetryRequest for what was offered", SH, part("random", bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C"))),
    ("ServerHello twice", SH, twice),
    ("a ticket before ServerHello", SH, before(message(4, bytes(13)))),
    ("EncryptedExtensions with what was not offered", EE, body(lambda _: b"\x00\x09\x00\x10\x00\x05" + ALPN)),
    ("EncryptedExtensions with a share", EE, body(lambda _: b"\x00\x06\x00\x33\x00\x02\x00\x17")),
    ("EncryptedExtensions longer than they are", EE, body(lambda _: b"\x00\x05")),
    ("no EncryptedExtensions", EE, left_out),
    ("EncryptedExtensions twice", EE, twice),
    ("an unknown message", EE, behind(message(99, b"\x00"))),
    ("HelloRequest", EE, behind(message(0))),
    ("a message hash", EE, behind(message(254, bytes(32)))),
    ("KeyUpdate in the handshake", EE, behind(message(24, b"\x00"))),
    ("a ticket in the handshake", EE, behind(message(4, bytes(13)))),
    ("CertificateRequest with a context", CR, body(lambda text: b"\x01\x00" + text[1:])),
    ("CertificateRequest without algorithms", CR, body(lambda _: b"\x00\x00\x00")),
    ("CertificateRequest twice", CR, twice),
    ("Certificate with a context", CERT, body(lambda text: b"\x01\x00" + text[1:])),
    ("no certificate in Certificate", CERT, body(lambda _: bytes(4))),
    ("a certificate of no bytes", CERT, body(lambda _: b"\x00" + b"\x00\x00\x05" + bytes(5))),
    ("Certificate cut", CERT, body(lambda text: text[:-7])),
    ("a certificate that is changed", CERT, body(flipped(200))),
    ("Certificate of 9,000 bytes", CERT, body(lambda text: b"\x00" + (9000).to_bytes(3, "big") + (8995).to_bytes(3, "big") + bytes(8997))),
    ("Certificate that says it has 16 MB", CERT, lambda text: b"\x0B\xFF\xFF\xFF" + bytes(text[4:])),
    ("an extension of a certificate that was not asked for", CERT, body(lambda text: text[:1] + (len(text) - 4 + 5).to_bytes(3, "big") + text[4:-2] + b"\x00\x05\x00\x12\x00\x01\x00")),
    ("no Certificate", CERT, left_out),
    ("Certificate twice", CERT, twice),
    ("a signature that is changed", CV, body(flipped(-1))),
    ("no signature in CertificateVerify", CV, body(lambda text: text[:2] + b"\x00\x00")),
    ("a signature that is not DER", CV, body(lambda text: text[:2] + b"\x00\x40" + b"\x11" * 64)),
    ("a signature of zeros", CV, body(lambda text: text[:2] + b"\x00\x08" + bytes.fromhex("3006020100020100"))),
    ("a signature named RSA-PSS", CV, body(put(0, b"\x08\x04"))),
    ("a signature named SHA-384", CV, body(put(0, b"\x05\x03"))),
    ("a signature named SHA-1", CV, body(put(0, b"\x02\x03"))),
    ("no CertificateVerify", CV, left_out),
    ("CertificateVerify twice", CV, twice),
    ("Finished that is changed", FIN, body(flipped(-1))),
    ("Finished cut", FIN, body(lambda text: text[:-1])),
    ("Finished longer", FIN, body(lambda text: text + b"\x00")),
    ("an empty Finished", FIN, body(lambda _: b"")),
    ("no Finished", FIN, left_out),
    ("Finished twice", FIN, twice),
    ("bytes of a message behind Finished", FIN, behind(b"\x04")),
]
MESSAGES_12 = [
    ("ServerHello says TLS 1.1", SH, part("version", b"\x03\x02")),
    ("ServerHello of who could speak TLS 1.3", SH, hello(lambda parts: parts.update(random=parts["random"][:-8] + DOWN12))),
    ("ServerHello with a suite that was not offered", SH, part("suite", b"\xC0\x2C")),
    ("ServerHello with RSA key transport", SH, part("suite", b"\x00\x9C")),
    ("ServerHello with a suite of TLS 1.3", SH, part("suite", b"\x13\x01")),
    ("ServerHello with compression", SH, part("compression", b"\x01")),
    ("ServerHello with an extension that was not offered", SH, extension(16, ALPN)),
    ("ServerHello with an extension twice", SH, hello(lambda parts: parts["extensions"].append(parts["extensions"][0]))),
    ("ServerHello cut", SH, body(lambda text: text[:-3])),
    ("ServerHello twice", SH, twice),
    ("no certificate in Certificate", CERT, body(lambda _: bytes(3))),
    ("Certificate cut", CERT, body(lambda text: text[:-7])),
    ("a certificate that is changed", CERT, body(flipped(200))),
    ("Certificate of 9,000 bytes", CERT, body(lambda text: (9000).to_bytes(3, "big") + (8997).to_bytes(3, "big") + bytes(8997))),
    ("no Certificate", CERT, left_out),
    ("Certificate twice", CERT, twice),
    ("CertificateStatus that was not asked for", CERT, behind(message(22, b"\x01\x00\x00\x01\x30"))),
    ("a compressed point", SKE, exchanged(compressed)),
    ("a point that is not on the curve", SKE, exchanged(flipped(-1))),
    ("an empty point", SKE, exchanged(lambda _: b"")),
    ("a point of another curve", SKE, body(put(1, b"\x00\x18"))),
    ("a curve of the server's own", SKE, body(put(0, b"\x01"))),
    ("a signature that is changed", SKE, body(flipped(-1))),
    ("a signature named RSA", SKE, body(lambda text: put(4 + text[3], b"\x04\x01")(text))),
    ("a signature named SHA-384", SKE, body(lambda text: put(4 + text[3], b"\x05\x03")(text))),
    ("a signature named SHA-1", SKE, body(lambda text: put(4 + text[3], b"\x02\x03")(text))),
    ("ServerKeyExchange cut", SKE, body(lambda text: text[:-5])),
    ("no ServerKeyExchange", SKE, left_out),
    ("ServerKeyExchange twice", SKE, twice),
    ("CertificateRequest twice", CR, twice),
    ("ServerHelloDone with bytes", SHD, body(lambda _: b"\x00")),
    ("no ServerHelloDone", SHD, left_out),
    ("ServerHelloDone twice", SHD, twice),
    ("an unknown message", SHD, before(message(99, b"\x00"))),
    ("Finished before its time", SHD, behind(message(20, bytes(12)))),
    ("Finished that is changed", FIN, body(flipped(-1))),
    ("Finished cut", FIN, body(lambda text: text[:-1])),
    ("no Finished", FIN, left_out),
    ("Finished twice", FIN, twice),
]
# What the RFCs want refused and the SE's engine lets pass, since it needs nothing of it (docs/spec/tls-apdu.md, 6): the session is as good as any.
LETS_PASS_13 = [
    ("ServerHello with another session", SH, hello(lambda parts: parts.update(session=flipped(-1)(parts["session"])))),
    ("ServerHello without the session", SH, part("session", b"\x00")),
]
LETS_PASS_12 = [
    ("ServerHello of a renegotiation", SH, extension(0xFF01, b"\x01\x00")),
]


# ---- what becomes of a record: the record layer, the number of the record and the record in; what goes out, records as a pair of type and bytes as they are on the line

def raw(kind, content, version=b"\x03\x03"):
    return bytes([kind]) + version + len(content).to_bytes(2, "big") + content


def at(number, deed):
    """Where the number-th record would go, the deed says what goes: `keep` for the record, bytes as they are."""
    return lambda layer, count, sent: deed(sent) if count == number else [sent]


RECORDS_13 = [
    # Record 0 is ServerHello, 1 change_cipher_spec, 2 the server's flight.
    ("a record that is changed", at(2, lambda sent: [flipped(-1)(sent)])),
    ("a record twice", at(2, lambda sent: [sent, sent])),
    ("a record that is cut", at(2, lambda sent: [sent[:3] + (len(sent) - 6).to_bytes(2, "big") + sent[5:-1]])),
    ("handshake in the clear behind ServerHello", at(2, lambda sent: [raw(HANDSHAKE, message(8, b"\x00\x00")), sent])),
    ("application data in the clear", at(2, lambda sent: [raw(APPLICATION, READ), sent])),
    ("a record too short to be one", at(2, lambda sent: [raw(APPLICATION, bytes(15)), sent])),
    ("a record that says it is too long", at(2, lambda sent: [b"\x17\x03\x03\x48\x01" + bytes(64)])),
    ("a record that is longer than the SE takes", at(2, lambda sent: [raw(APPLICATION, bytes(8000))])),
    ("a record of type 24", at(2, lambda sent: [raw(24, b"\x01\x00\x00"), sent])),
    ("a record of type 0", at(0, lambda sent: [raw(0, b""), sent])),
    ("a record of another protocol", at(0, lambda sent: [b"HTTP/1.1 400 Bad Request\r\n\r\n"])),
    ("an empty record of handshake", at(0, lambda sent: [raw(HANDSHAKE, b""), sent])),
    ("change_cipher_spec that is none", at(1, lambda sent: [raw(CCS, b"\x02")])),
    ("change_cipher_spec of two bytes", at(1, lambda sent: [raw(CCS, b"\x01\x01")])),
    ("change_cipher_spec before ServerHello", at(0, lambda sent: [raw(CCS, b"\x01"), raw(CCS, b"\x01"), sent])),
    ("a fatal alert", at(2, lambda sent: [raw(ALERT, b"\x02\x28")])),
    ("an alert of one byte", at(0, lambda sent: [raw(ALERT, b"\x02"), sent])),
]
RECORDS_12 = [
    ("a record of another protocol", at(0, lambda sent: [b"HTTP/1.1 400 Bad Request\r\n\r\n"])),
    ("an empty record of handshake", at(0, lambda sent: [raw(HANDSHAKE, b""), sent])),
    ("application data before Finished", at(0, lambda sent: [raw(APPLICATION, READ), sent])),
    ("change_cipher_spec before its time", at(0, lambda sent: [sent, raw(CCS, b"\x01")])),
    ("a record of type 24", at(0, lambda sent: [raw(24, b"\x01\x00\x00"), sent])),
    ("a fatal alert", at(0, lambda sent: [raw(ALERT, b"\x02\x28")])),
]


# ---- what is said in a session: an open connection in

def say(connection, kind, content):
    for _ in connection._recordLayer.sendRecord(Message(kind, bytearray(content))):
        pass


def in_session(kind, content):
    return lambda connection: say(connection, kind, content)


def as_it_is(content):
    return lambda connection: connection.sock.sendall(content)


def sealed(content, kind):
    """A record of TLS 1.3 with this in it, and what it says it is."""
    def deed(connection):
        layer = connection._recordLayer
        text = layer._encryptThenSeal(bytearray(content) + bytearray([kind] if kind else []), APPLICATION)
        connection.sock.sendall(raw(APPLICATION, bytes(text)))
    return deed


def key_update(asked, times=1):
    def deed(connection):
        for _ in range(times):
            for _ in connection.send_keyupdate_request(asked):
                pass
    return deed


ENDS_13 = [
    ("KeyUpdate that asks for what there is not", in_session(HANDSHAKE, message(24, b"\x02"))),
    ("KeyUpdate of two bytes", in_session(HANDSHAKE, message(24, b"\x00\x00"))),
    ("KeyUpdate with a message behind it", in_session(HANDSHAKE, message(24, b"\x00") + message(4, bytes(13)))),
    ("half a KeyUpdate, and data", lambda connection: (say(connection, HANDSHAKE, message(24, b"\x00")[:2]), say(connection, APPLICATION, READ))),
    ("CertificateRequest in a session", in_session(HANDSHAKE, message(13, bytes.fromhex("000008000D000400020403")))),
    ("ClientHello in a session", in_session(HANDSHAKE, message(1, bytes(40)))),
    ("ServerHello in a session", in_session(HANDSHAKE, message(2, bytes(40)))),
    ("Finished in a session", in_session(HANDSHAKE, message(20, bytes(32)))),
    ("HelloRequest in a session", in_session(HANDSHAKE, message(0))),
    ("an unknown message in a session", in_session(HANDSHAKE, message(99))),
    ("an empty record of handshake in a session", in_session(HANDSHAKE, b"")),
    ("a message that says it has 16 MB", in_session(HANDSHAKE, b"\x04\xFF\xFF\xFF")),
    ("change_cipher_spec in a session", as_it_is(raw(CCS, b"\x01"))),
    ("handshake in the clear in a session", as_it_is(raw(HANDSHAKE, message(24, b"\x00")))),
    ("data in the clear in a session", as_it_is(raw(APPLICATION, READ))),
    ("a record of zeros alone", sealed(bytes(20), 0)),
    ("a record of type 24 inside", sealed(READ, 24)),
    ("a record of type 0 inside", sealed(READ, 0)),
    ("a record that is longer than the SE takes, in a session", in_session(APPLICATION, bytes(5000))),
    ("an alert of one byte in a session", in_session(ALERT, b"\x02")),
    ("a fatal alert in a session", in_session(ALERT, b"\x02\x50")),
    ("a warning that nobody knows", in_session(ALERT, b"\x01\xFE")),
    ("close_notify", in_session(ALERT, b"\x01\x00")),
]
GOES_ON_13 = [
    ("KeyUpdate", key_update(0)),
    ("KeyUpdate that asks for one", key_update(1)),
    ("ten KeyUpdates", key_update(0, 10)),
    ("thirty tickets", lambda connection: [say(connection, HANDSHAKE, message(4, bytes.fromhex("0000001C00000000010100") + b"\x00\x04abcd\x00\x00")) for _ in range(30)]),
    ("twenty records of no data", lambda connection: [say(connection, APPLICATION, b"") for _ in range(20)]),
    ("padding", lambda connection: (sealed(SELECT + b"\x17" + bytes(300), 0)(connection), connection.read(max=4096, min=1))),
]
ENDS_12 = [
    ("ServerHello in a session", in_session(HANDSHAKE, message(2, bytes(40)))),
    ("Finished in a session", in_session(HANDSHAKE, message(20, bytes(12)))),
    ("KeyUpdate in TLS 1.2", in_session(HANDSHAKE, message(24, b"\x00"))),
    ("change_cipher_spec in a session", in_session(CCS, b"\x01")),
    ("data in the clear in a session", as_it_is(raw(APPLICATION, READ))),
    ("a record that is longer than the SE takes, in a session", in_session(APPLICATION, bytes(5000))),
    ("a fatal alert in a session", in_session(ALERT, b"\x02\x50")),
    ("close_notify", in_session(ALERT, b"\x01\x00")),
]
GOES_ON_12 = [
    ("twenty records of no data", lambda connection: [say(connection, APPLICATION, b"") for _ in range(20)]),
]


# ---- a server that does one deed

class Deeds:
    """Puts deeds into the library, and takes them out again."""

    def __init__(self):
        self.undo = []

    def message(self, kind, change):
        honest = kind.write
        kind.write = lambda this: bytearray(change(bytes(honest(this))))
        self.undo.append(lambda: setattr(kind, "write", honest))

    def records(self, change):
        honest, count = recordlayer.RecordSocket.send, [0]

        def send(this, msg, padding=0):
            number, count[0] = count[0], count[0] + 1
            for record in change(this, number, raw(msg.contentType, bytes(msg.write()))):
                this.sock.sendall(record)
            return iter(())
        recordlayer.RecordSocket.send = send
        self.undo.append(lambda: setattr(recordlayer.RecordSocket, "send", honest))

    def end(self):
        for undo in self.undo:
            undo()
        self.undo.clear()


def settings(version):
    made = HandshakeSettings()
    made.minVersion = made.maxVersion = version
    made.cipherNames = ["aes128gcm"]
    made.eccCurves = made.keyShares = ["secp256r1"]
    made.dhGroups = []
    made.ticket_count = 0
    return made


class World:
    def __init__(self, folder):
        self.folder = folder
        self.certify()
        self.card = subprocess.Popen([SEKISHO, "card", "--flash", "tls.flash", "--tls", "tls", "--listen", "127.0.0.1:0"], cwd=folder,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.card.stdout:
            found = re.search(r"127\.0\.0\.1:\d+", line)
            if found:
                self.at = found.group()
                break
        threading.Thread(target=self.card.stdout.read, daemon=True).start()
        self.chain = X509CertChain()
        self.chain.parsePemList(open(f"{folder}/server.pem").read())
        self.key = parsePEMKey(open(f"{folder}/server.key").read(), private=True, implementations=["python"])

    def certify(self):
        def openssl(*more):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *more],
                           cwd=self.folder, check=True, stderr=subprocess.DEVNULL)
        row = f"{self.folder}/tls/peers/0001"
        os.makedirs(row)
        openssl("-keyout", "ca.key", "-out", f"{row}/anchor.pem", "-subj", "/CN=authority")
        signed = ["-CA", f"{row}/anchor.pem", "-CAkey", "ca.key", "-extensions", "usr_cert"]
        for name, key, certificate in [("element", "tls/key.pem", "tls/chain.pem"), ("localhost", "server.key", "server.pem")]:
            openssl(*signed, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
        for name, text in [("name", "localhost"), ("applications", "F0534B4F530401")]:
            open(f"{row}/{name}", "w").write(text + "\n")

    def session(self, version, deed=None):
        """One session: the SE's answers, what the server heard at its end, and what the device says."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(20)
        device = subprocess.Popen([SEKISHO, "tls", "127.0.0.1:%d" % listener.getsockname()[1], "--card", f"tcp:{self.at}", "--idle", "1",
                                   "--duration", "10", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stream, _ = listener.accept()
        stream.settimeout(5)
        connection, answers, heard = TLSConnection(stream), [], "nothing"
        try:
            connection.handshakeServer(certChain=self.chain, privateKey=self.key, reqCert=True, settings=settings(version))
            if deed:
                deed(connection)
            for command in (SELECT, READ):
                connection.write(command)
                answer = bytes(connection.read(max=4096, min=1))
                if not answer:
                    heard = "goodbye"
                    break
                answers.append(answer)
            else:
                connection.close()
                heard = "goodbye"
        except TLSRemoteAlert as alert:
            heard = str(alert)
        except (TLSError, OSError, AssertionError, SyntaxError, ValueError) as error:
            heard = type(error).__name__
        stream.close()
        listener.close()
        said, errors = device.communicate(timeout=30)
        return answers, heard, device.returncode, said, errors


def main():
    passed, alerts = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)

        def honest(version, behind):
            answers, heard, code, said, errors = world.session(version)
            if answers[-1:] != [ANSWER] or code != 0:
                print(f"FAIL an honest server behind {behind}: {answers} {heard} {code} {said} {errors}")

        def attempt(version, name, goes_on, deeds=None, deed=None):
            nonlocal passed
            if ONLY not in name:
                if deeds:
                    deeds.end()
                return
            answers, heard, code, said, errors = world.session(version, deed)
            if deeds:
                deeds.end()
            is_served = answers[-1:] == [ANSWER]
            if HEARD.get(name, "") not in heard:
                print(f"FAIL {name}, {version}: the server heard {heard}")
                return
            if code not in (0, 1) or is_served != goes_on or (answers and not goes_on) or (code == 0) != goes_on:
                # close_notify is an end in good order, which the device says as well.
                print(f"FAIL {name}, {version}: {answers} {heard} {code} {said} {errors}")
                return
            passed += 1
            if not goes_on:
                alert = json.loads(said)["alert"] if said else None
                alerts[heard] = alerts.get(heard, 0) + 1
                if os.environ.get("VERBOSE"):
                    print(f"{version} {name}: {heard}, {alert}")
            if passed % HONEST_EVERY == 0:
                honest(version, name)

        try:
            for version in [(3, 4), (3, 3)]:
                is_13 = version == (3, 4)
                honest(version, "nothing")
                before = passed
                for name, kind, change in MESSAGES_13 if is_13 else MESSAGES_12:
                    deeds = Deeds()
                    deeds.message(kind, change)
                    attempt(version, name, False, deeds)
                for name, change in RECORDS_13 if is_13 else RECORDS_12:
                    deeds = Deeds()
                    deeds.records(change)
                    attempt(version, name, False, deeds)
                for name, deed in ENDS_13 if is_13 else ENDS_12:
                    attempt(version, name, False, deed=deed)
                between = passed
                for name, kind, change in LETS_PASS_13 if is_13 else LETS_PASS_12:
                    deeds = Deeds()
                    deeds.message(kind, change)
                    attempt(version, name, True, deeds)
                for name, deed in GOES_ON_13 if is_13 else GOES_ON_12:
                    attempt(version, name, True, deed=deed)
                honest(version, "all of them")
                words = "TLS 1.3" if is_13 else "TLS 1.2"
                print(f"ok {words}: {between - before} deeds end the session without an answer, {passed - between} do not disturb it, and honest servers are served")
        finally:
            world.card.terminate()
            world.card.wait()
    print("what the server heard at the end:", ", ".join(f"{what} {count}" for what, count in sorted(alerts.items(), key=lambda item: -item[1])), file=sys.stderr)


main()
