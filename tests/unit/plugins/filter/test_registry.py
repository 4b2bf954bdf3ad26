# SPDX-License-Identifier: GPL-3.0-or-later
"""Logins and certificates of the role registry, as its filters make and judge them."""

from __future__ import annotations

import builtins
import datetime
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter import registry
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = ["registry.corp.lab", "registry", "10.0.0.5"]
USERS = [{"name": "ci", "password": "pä ss:w0rd"}, {"name": "bob", "password": "p"}]


def write(directory: Path, host: str, *, days: float = 300, names: list[str] | None = None, ca: bool = True) -> None:
    """Write a CA and, signed by it, a server's certificate; ca False signs with another one that is not written."""
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])

    def sign(subject: x509.Name, public: Any, end: datetime.datetime, extension: Any, by: Any) -> bytes:
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), now, end)
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    far = now + datetime.timedelta(days=3000)
    is_ca = x509.BasicConstraints(ca=True, path_length=0)
    (directory / "ca.crt").write_bytes(sign(issuer, authority.public_key(), far, is_ca, authority))
    (directory / "ca.key").touch()
    wanted = NAMES if names is None else names
    general = [
        x509.IPAddress(address) if (address := registry._address(name)) else x509.DNSName(name) for name in wanted
    ]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    end = now + datetime.timedelta(days=days)
    signer = authority if ca else ec.generate_private_key(ec.SECP256R1())
    extension = x509.SubjectAlternativeName(general) if general else None
    (directory / f"{host}.crt").write_bytes(sign(subject, key.public_key(), end, extension, signer))
    (directory / f"{host}.key").touch()


def due(directory: Path, **changes: Any) -> list[str]:
    wanted = {"directory": str(directory), "host": "registry.corp.lab", "names": NAMES, "renew_before": 30}
    return registry.certificates_due(wanted | changes)


def test_nothing_is_due_while_all_is_well(tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab")
    assert due(tmp_path) == []
    assert due(tmp_path, names=[*reversed(NAMES)]) == []


def test_everything_is_due_at_first(tmp_path: Path) -> None:
    assert due(tmp_path / "missing") == ["ca", "server"]


@pytest.mark.parametrize("lost", ["ca.crt", "ca.key"])
def test_a_lost_ca_makes_both_due(lost: str, tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab")
    (tmp_path / lost).unlink()
    assert due(tmp_path) == ["ca", "server"]


def test_a_ca_that_ends_soon_is_due(tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab")
    assert due(tmp_path, renew_before=3001) == ["ca", "server"]


@pytest.mark.parametrize("lost", ["registry.corp.lab.crt", "registry.corp.lab.key"])
def test_a_lost_server_certificate_is_due(lost: str, tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab")
    (tmp_path / lost).unlink()
    assert due(tmp_path) == ["server"]


@pytest.mark.parametrize(
    "certificate",
    [{"days": 29}, {"names": ["registry.corp.lab"]}, {"names": []}, {"names": [*NAMES, "x"]}, {"ca": False}],
)
def test_a_server_certificate_that_does_not_fit_is_due(certificate: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab", **certificate)
    assert due(tmp_path) == ["server"]


def test_a_file_that_is_no_certificate_is_due(tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab")
    (tmp_path / "registry.corp.lab.crt").write_text("-----BEGIN", encoding="utf-8")
    assert due(tmp_path) == ["server"]


def test_alternative_names_know_addresses() -> None:
    assert registry.subject_alternative_names(["a.b", "10.0.0.5", "::1"]) == ["DNS:a.b", "IP:10.0.0.5", "IP:::1"]


def test_logins_are_bcrypt_and_always_the_same() -> None:
    text = registry.htpasswd(USERS, "registry.corp.lab")
    assert text == registry.htpasswd(list(reversed(USERS)), "registry.corp.lab")
    logins = dict(line.split(":", 1) for line in text.splitlines())
    assert list(logins) == ["bob", "ci"]
    for user in USERS:
        assert bcrypt.checkpw(user["password"].encode(), logins[user["name"]].encode())
        assert not bcrypt.checkpw(b"wrong", logins[user["name"]].encode())


def test_salts_differ_by_user_and_site_and_not_by_password() -> None:
    salts = {registry.salt(site, user) for site in ("a", "b") for user in ("x", "y")}
    assert len(salts) == 4
    same = [registry.htpasswd([{"name": "x", "password": p}], "a")[:31] for p in ("one", "two")]
    assert same[0] == same[1]


def test_without_bcrypt_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "bcrypt":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(AnsibleFilterError, match="package bcrypt"):
        registry.htpasswd(USERS, "x")


def test_filters_have_their_names() -> None:
    assert sorted(registry.FilterModule().filters()) == ["certificates_due", "htpasswd", "subject_alternative_names"]
