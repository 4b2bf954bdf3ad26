# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates made for a test: authorities, chains, expired ones."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key; pem and key_pem are their texts."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """The key as text, not encrypted."""
        return self.key_text(serialization.NoEncryption())

    def key_text(self, encryption: serialization.KeySerializationEncryption) -> str:
        """Return the key as text, encrypted as asked."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ).decode()


def make(
    name: str,
    *,
    issuer: Pair | None = None,
    authority: bool | None = True,
    start: int = -1,
    end: int = 1,
    address: str = "",
) -> Pair:
    """Return a certificate, signed by itself unless there is an issuer; start and end are days from now.

    authority None leaves the extension out that says so, like a certificate of version 1. address: an IP address that
    it is good for.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * DAY)
        .not_valid_after(now + end * DAY)
    )
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    if address:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)
