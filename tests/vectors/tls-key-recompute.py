#!/usr/bin/env python3
"""Looks at the request and the certificate of docs/spec/tls-manager.md, 7, with another library (pip package `cryptography`), and certifies the request.

It shares nothing with the Rust code but the page. Run it from the repository's root; it prints what differs and exits 1 if anything does.
"""

import re
import sys
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

TEXT = open("docs/spec/tls-manager.md", encoding="utf-8").read()
LINES = [line.split(" ", 1) for line in re.search(r"```tls-key\n(.*?)```", TEXT, re.S)[1].splitlines()]
BYTES = [(who, bytes.fromhex(digits.replace(" ", ""))) for who, digits in LINES]
WRONG = []


def check(what, is_right):
    if not is_right:
        WRONG.append(what)
        print(f"not as the page says: {what}")


def point(key):
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


scalar = next(value for who, value in BYTES if who == "key")
public = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()).public_key()
subject, chain = [value for who, value in BYTES if who == "root"]
answer = next(value for who, value in BYTES if who == "<" and value[0] == 0x30)
check("the request's status word", answer[-2:] == b"\x90\x00")
request = x509.load_der_x509_csr(answer[:-2])
check("the request is DER, with nothing behind it", request.public_bytes(Encoding.DER) == answer[:-2])
check("the request's signature", request.is_signature_valid)
check("it is ECDSA with SHA-256", isinstance(request.signature_hash_algorithm, SHA256))
check("the request's key", point(request.public_key()) == point(public))
check("the request's subject", subject == b"\x05" + request.subject.public_bytes())
usage = request.extensions.get_extension_for_class(x509.KeyUsage)
bits = [usage.value.digital_signature, usage.value.content_commitment, usage.value.key_encipherment, usage.value.data_encipherment,
        usage.value.key_agreement, usage.value.key_cert_sign, usage.value.crl_sign]
check("keyUsage", usage.critical and bits == [True] + [False] * 6)
extended = request.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
check("extendedKeyUsage", list(extended.value) == [ExtendedKeyUsageOID.CLIENT_AUTH])
check("no other extension", len(request.extensions) == 2)

length = int.from_bytes(chain[1:3], "big")
check("object 02 has one certificate", chain[0] == 2 and len(chain) == 3 + length)
certificate = x509.load_der_x509_certificate(chain[3:])
check("it is of the same key", point(certificate.public_key()) == point(public))
check("it is of the same subject", certificate.subject == request.subject)

# An authority of this library takes the request, and what it certifies is of the key.
authority = ec.generate_private_key(ec.SECP256R1())
now = datetime.now(timezone.utc)
builder = x509.CertificateBuilder(issuer_name=certificate.issuer, subject_name=request.subject, public_key=request.public_key(),
                                  serial_number=x509.random_serial_number(), not_valid_before=now, not_valid_after=now + timedelta(days=1))
for extension in request.extensions:
    builder = builder.add_extension(extension.value, extension.critical)
signed = builder.sign(authority, SHA256())
check("a certificate of it", point(signed.public_key()) == point(public))

if WRONG:
    sys.exit(1)
print(f"request of {len(answer) - 2} bytes, certificate of {length}: as the page says")
