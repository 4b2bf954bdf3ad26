"""The lab's certificate authority: it signs for the names that `internet` plays."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab import paths

CA_DAYS = 3650
LEAF_DAYS = 365
# A certificate that has less than this left is made anew.
RENEW_DAYS = 30


@dataclass(frozen=True)
class Files:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


def ca_files() -> Files:
    """Where the authority's certificate and key are; inventory/lab reads the certificate."""
    return Files(paths.state() / "internet-ca.crt", paths.state() / "internet-ca.key")


def ensure(names: tuple[str, ...], leaf: Files) -> bool:
    """Make the authority once, and a server certificate when it is missing, other names are wanted or it runs out.

    Returns:
        Whether the server certificate is new.
    """
    with paths.locked("pki"):
        authority = ca_files()
        if not (authority.certificate.exists() and authority.key.exists()):
            _make_authority(authority)
        if leaf.certificate.exists() and leaf.key.exists() and _serves(leaf, authority, names):
            return False
        _make_leaf(names, leaf, authority)
        return True


def _serves(leaf: Files, authority: Files, names: tuple[str, ...]) -> bool:
    certificate = x509.load_pem_x509_certificate(leaf.certificate.read_bytes())
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # any reason why it does not fit is a reason to make a new one
        return False
    limit = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEW_DAYS)
    return certificate.not_valid_after_utc > limit and set(alternative.get_values_for_type(x509.DNSName)) == set(names)


def _make_authority(files: Files) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab internet CA")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(name, name, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    _store(files, builder.sign(key, hashes.SHA256()), key)


def _make_leaf(names: tuple[str, ...], leaf: Files, authority: Files) -> None:
    issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    issuer_key = serialization.load_pem_private_key(authority.key.read_bytes(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = (
        _builder(subject, issuer.subject, key, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(alternative, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    _store(leaf, builder.sign(issuer_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _store(files: Files, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths.write(files.key, pem.decode(), 0o600)
    paths.write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM).decode())
