"""A serial smart card reader on a pty, as Debian's libccid knows it (GemPC Twin, which carries TPDUs), with a card behind it that speaks link records on
a TCP port, or bare characters on another terminal.

    serial_reader.py LINK t0|t1 TCP-PORT|TERMINAL

LINK becomes a symbolic link to the pty's device. For T=1 the driver of the host makes and reads the blocks itself; for T=0 it makes
TPDUs, and this reader does the procedure bytes, as such readers do. Nothing here is the project's: it was written from the page on transports
(LR1, and 7.2) and from what the driver sends. When anything comes on standard input it prints what has gone over the line: how many characters and NULLs, blocks of each kind.
"""

import os
import pty
import select
import socket
import sys
import tty

LINK, PROTOCOL, CARD = sys.argv[1:4]
SYNC, ACK = 0x03, 0x06


class Line:
    """The card's line, by link records."""

    def __init__(self):
        self.stream, self.characters, self.pieces = None, b"", b""
        self.seen = {"characters": 0, "pps": 0, "null": 0, "I": 0, "R": 0, "S": 0}

    def record(self, kind, body=b""):
        self.stream.sendall((len(body) + 1).to_bytes(2, "big") + bytes([kind]) + body)

    def on(self):
        if self.stream is None:
            self.stream = socket.create_connection(("127.0.0.1", int(CARD)))
            self.stream.settimeout(10)
        self.characters = b""
        self.record(1)
        return self.atr()

    def atr(self):
        atr = self.read(2)
        # Interface bytes, historical bytes, check byte.
        y, k, named = atr[1] >> 4, atr[1] & 15, 0
        while True:
            group = self.read(bin(y).count("1"))
            atr += group
            if not y & 8:
                break
            named |= group[-1] & 15
            y = group[-1] >> 4
        return atr + self.read(k + (1 if named else 0))

    def off(self):
        if self.stream is not None:
            self.record(2)

    def write(self, characters):
        self.record(0, characters)

    def read(self, n):
        while len(self.characters) < n:
            while len(self.pieces) < 2 or len(self.pieces) < 2 + int.from_bytes(self.pieces[:2], "big"):
                more = self.stream.recv(4096)
                if not more:
                    raise EOFError("the card has hung up")
                self.pieces += more
            end = 2 + int.from_bytes(self.pieces[:2], "big")
            record, self.pieces = self.pieces[2:end], self.pieces[end:]
            if record[0] != 0:
                raise ValueError(f"record of kind {record[0]}")
            self.take(record[1:])
        return self.taken(n)

    def take(self, characters):
        self.characters += characters
        self.seen["characters"] += len(characters)

    def taken(self, n):
        taken, self.characters = self.characters[:n], self.characters[n:]
        return taken

    def exchange(self, sent):
        if sent[0] == 0xFF:
            self.seen["pps"] += 1
            self.write(sent)
            begin = self.read(2)
            return begin + self.read(1 + bin(begin[1] >> 4 & 7).count("1"))
        return self.block(sent) if PROTOCOL == "t1" else self.tpdu(sent)

    def block(self, sent):
        self.write(sent)
        head = self.read(3)
        kind = "I" if head[1] < 0x80 else "R" if head[1] < 0xC0 else "S"
        self.seen[kind] += 1
        return head + self.read(head[2] + 1)

    def tpdu(self, sent):
        header, data = sent[:5].ljust(5, b"\0"), sent[5:]
        self.write(header)
        ins, answer = header[1], b""
        left = len(data) if data else (header[4] or 256)
        while True:
            byte = self.read(1)[0]
            if byte == 0x60:
                self.seen["null"] += 1
            elif byte in (ins, ins ^ 0xFF):
                n = left if byte == ins else 1
                left -= n
                if data:
                    self.write(data[:n])
                    data = data[n:]
                else:
                    answer += self.read(n)
            else:
                return answer + bytes([byte]) + self.read(1)


class Terminal(Line):
    """The same without records: opening is power on, closing power off."""

    def on(self):
        self.off()
        self.stream, self.characters = os.open(CARD, os.O_RDWR | os.O_NOCTTY), b""
        return self.atr()

    def off(self):
        if self.stream is not None:
            os.close(self.stream)
            self.stream = None

    def write(self, characters):
        os.write(self.stream, characters)

    def read(self, n):
        while len(self.characters) < n:
            ready, _, _ = select.select([self.stream], [], [], 10)
            more = os.read(self.stream, 4096) if ready else b""
            if not more:
                raise EOFError("the card is silent, or has gone")
            self.take(more)
        return self.taken(n)


def main():
    master, slave = pty.openpty()
    tty.setraw(slave)
    if os.path.islink(LINK):
        os.remove(LINK)
    os.symlink(os.ttyname(slave), LINK)
    line = Line() if CARD.isdigit() else Terminal()
    powered, parameters, pending = False, b"\x11\x00\x00\x0a\x00", b""
    print("ready", flush=True)

    def answer(kind, seq, body=b"", last=0, error=0):
        status = (0 if powered else 1) | (0x40 if error else 0)
        message = bytes([kind]) + len(body).to_bytes(4, "little") + bytes([0, seq, status, error, last]) + body
        frame(message)

    def frame(message):
        whole = bytes([SYNC, ACK]) + message
        lrc = 0
        for byte in whole:
            lrc ^= byte
        os.write(master, whole + bytes([lrc]))

    while True:
        ready, _, _ = select.select([master, sys.stdin], [], [])
        if sys.stdin in ready:
            print(" ".join(f"{what}={count}" for what, count in line.seen.items()), flush=True)
            return
        if master not in ready:
            continue
        pending += os.read(master, 4096)
        while len(pending) >= 13:
            end = 13 + int.from_bytes(pending[3:7], "little")
            if len(pending) < end:
                break
            message, pending = pending[2 : end - 1], pending[end:]
            # This reader says again what it was told, and then its answer.
            frame(message)
            kind, seq, body = message[0], message[6], message[10:]
            try:
                if kind == 0x62:
                    atr = line.on()
                    powered = True
                    answer(0x80, seq, atr)
                elif kind == 0x63:
                    line.off()
                    powered = False
                    answer(0x81, seq, last=1)
                elif kind == 0x65:
                    answer(0x81, seq)
                elif kind == 0x61:
                    parameters = body
                    answer(0x82, seq, body, last=message[7])
                elif kind == 0x6C:
                    answer(0x82, seq, parameters, last=int(PROTOCOL == "t1"))
                elif kind == 0x6B:
                    answer(0x83, seq, b"a reader of a test")
                elif kind == 0x6F:
                    answer(0x80, seq, line.exchange(body))
                else:
                    answer(0x81, seq, error=0)
            except (OSError, EOFError, ValueError) as why:
                print(why, file=sys.stderr)
                # ICC_MUTE
                answer(0x80, seq, error=0xFE)


main()
