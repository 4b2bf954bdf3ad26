# SPDX-License-Identifier: GPL-3.0-or-later
"""Logins and certificates of the role registry, as its filters make and judge them."""

from __future__ import annotations

import builtins
import datetime
import ipaddress
import re
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


def write_issuer(directory: Path, *, days: float = 1000, names: list[str] | None = None, limit: int | None = 1) -> None:
    """Write an authority and, signed by it, an issuer; limit is how many authorities may stand below."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    root, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("root", "issuer"))
    bound = registry.name_constraints(NAMES if names is None else names)["permitted"]
    subtrees = [
        x509.IPAddress(ipaddress.ip_network(entry[3:])) if entry.startswith("IP:") else x509.DNSName(entry[4:])
        for entry in bound
    ]
    for subject, key, end, extension, name in (
        (root, keys[0], 3000.0, x509.BasicConstraints(ca=True, path_length=limit), "ca.crt"),
        (issuer, keys[1], days, x509.NameConstraints(subtrees, None) if subtrees else None, "HOST.issuer.crt"),
    ):
        until = now + datetime.timedelta(days=end)
        builder = x509.CertificateBuilder(root, subject, key.public_key(), x509.random_serial_number(), now, until)
        builder = builder.add_extension(extension, critical=True) if extension else builder
        text = builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (directory / name.replace("HOST", "registry.corp.lab")).write_bytes(text)
    for name in ("ca.key", "registry.corp.lab.key", "registry.corp.lab.issuer.key"):
        (directory / name).touch()


ITSELF = {"renewal": True, "certificate_days": 365}


def test_an_issuer_stands_for_the_servers_certificate(tmp_path: Path) -> None:
    assert due(tmp_path / "missing", **ITSELF) == ["ca", "issuer"]
    write_issuer(tmp_path)
    assert due(tmp_path, **ITSELF) == []
    assert registry.renews_itself({"directory": tmp_path, "renewal": True}) is True
    assert registry.renews_itself({"directory": tmp_path, "renewal": False}) is False
    assert due(tmp_path) == ["server"]


@pytest.mark.parametrize("issuer", [{"days": 390}, {"names": NAMES[:2]}, {"names": []}, {"names": [*NAMES, "x"]}])
def test_an_issuer_that_does_not_fit_is_due(issuer: dict[str, Any], tmp_path: Path) -> None:
    write_issuer(tmp_path, **issuer)
    assert due(tmp_path, **ITSELF) == ["issuer"]


@pytest.mark.parametrize(
    "lost", ["registry.corp.lab.issuer.crt", "registry.corp.lab.issuer.key", "registry.corp.lab.key"]
)
def test_a_lost_issuer_is_due(lost: str, tmp_path: Path) -> None:
    write_issuer(tmp_path)
    (tmp_path / lost).unlink()
    assert due(tmp_path, **ITSELF) == ["issuer"]


def test_another_authority_makes_the_issuer_due(tmp_path: Path) -> None:
    write_issuer(tmp_path)
    issuer = (tmp_path / "registry.corp.lab.issuer.crt").read_bytes()
    write_issuer(tmp_path)
    (tmp_path / "registry.corp.lab.issuer.crt").write_bytes(issuer)
    assert due(tmp_path, **ITSELF) == ["issuer"]


def test_an_authority_that_may_have_none_below_it_signs_the_server_as_before(tmp_path: Path) -> None:
    write(tmp_path, "registry.corp.lab")
    assert due(tmp_path, **ITSELF) == []
    wanted = {"directory": tmp_path, "renewal": True}
    assert registry.renews_itself(wanted) is False
    write_issuer(tmp_path, limit=None)
    assert registry.renews_itself(wanted) is True
    (tmp_path / "ca.crt").write_bytes((tmp_path / "registry.corp.lab.issuer.crt").read_bytes())
    assert registry.renews_itself(wanted) is False, "it does not say what it may"


def test_constraints_leave_no_kind_of_name_free() -> None:
    assert registry.name_constraints(["a.b", "c"]) == {
        "permitted": ["DNS:a.b", "DNS:c"],
        "excluded": ["IP:0.0.0.0/0", "IP:::/0"],
    }
    assert registry.name_constraints(["a", "10.0.0.5"])["excluded"] == ["IP:::/0"]
    assert registry.name_constraints(["a", "10.0.0.5", "FD00::5"]) == {
        "permitted": ["DNS:a", "IP:10.0.0.5/32", "IP:fd00::5/128"],
        "excluded": [],
    }


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


def maps(text: str) -> dict[str, list[re.Pattern[str]]]:
    """Read nginx's maps: name of the variable to what makes it 1."""
    found: dict[str, list[re.Pattern[str]]] = {}
    for line in text.splitlines():
        if head := re.fullmatch(r'map "[^"]+" \$(\w+) \{', line):
            entries = found.setdefault(head.group(1), [])
        elif entry := re.fullmatch(r' {4}"~(.+)" 1;', line):
            entries.append(re.compile(entry.group(1)))
        else:
            assert line in ("    default 0;", "}")
    return found


RIGHTS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, ["write a/b", "delete a/b", "read a/b", "list ", "other "], []),
    ({"role": "admin"}, ["write a/b", "delete a/b", "list "], []),
    ({"role": "writer"}, ["write a/b", "read a/b", "list "], ["delete a/b", "other ", "write "]),
    ({"write": ["a/"]}, ["write a/b", "write a/b/c", "read x"], ["write a", "write ab/c", "write x/a/b", "delete a/b"]),
    ({"write": ["a.b"]}, ["write a.b"], ["write axb", "write a.b/c", "write a.bc"]),
    ({"role": "writer", "write": ["a/"], "delete": True}, ["delete a/b"], ["delete b", "delete a"]),
    ({"role": "reader"}, ["read a/b", "list "], ["write a/b", "delete a/b", "other "]),
    ({"read": ["a/"]}, ["read a/b"], ["read b", "list ", "write a/b"]),
    ({"write": ["a/"], "read": ["b"]}, ["read a/x", "read b", "write a/x"], ["read c", "write b", "list "]),
]


@pytest.mark.parametrize(("rights", "may", "may_not"), RIGHTS)
def test_what_a_user_may(rights: dict[str, Any], may: list[str], may_not: list[str]) -> None:
    users = [{"name": "me.x", "password": "p", **rights}, {"name": "other", "password": "p", "role": "reader"}]
    patterns = maps(registry.registry_rights(users, "authenticated"))["slipway_may"]

    def allowed(key: str) -> bool:
        return any(pattern.search(key) for pattern in patterns)

    assert [what for what in may if not allowed(f"me.x {what}")] == []
    assert [what for what in may_not if allowed(f"me.x {what}")] == []
    assert not any(allowed(f"{name} read a/b") for name in ("", "mexx", "xme.x", "me.x.y"))


def test_a_mount_is_for_who_may_read_its_source() -> None:
    users = [{"name": "a", "read": ["x/", "y/z"]}, {"name": "b", "write": ["x/"]}]
    patterns = maps(registry.registry_rights(users, "authenticated"))["slipway_may_mount"]

    def allowed(key: str) -> bool:
        return any(pattern.search(key) for pattern in patterns)

    assert all(allowed(key) for key in ("a x/1", "a x%2F1", "a x%2f1/2", "a y%2Fz", "b anything"))
    assert not any(allowed(key) for key in ("a z", "a y/z/1", "a ", "b ", " x/1", "c x/1"))


def test_nobody_reads_unless_pulls_are_anonymous() -> None:
    anonymous = maps(registry.registry_rights([], "anonymous"))["slipway_may"]
    keys = (" read a", " list ", " write a", " delete a", " other ", "x read a")
    assert [any(p.search(key) for p in anonymous) for key in keys] == [True, True, False, False, False, False]
    nobody = {"slipway_may": [], "slipway_may_mount": [], "slipway_may_delete": []}
    assert maps(registry.registry_rights([], "authenticated")) == nobody


def test_retention_rules_get_what_was_left_out() -> None:
    assert registry.registry_retention(
        [{"keep_last": "3"}, {"repositories": ["a/"], "tags": ["x"], "keep_days": 2}]
    ) == [
        {"repositories": ["*"], "tags": ["*"], "keep_last": 3, "keep_days": 0},
        {"repositories": ["a/"], "tags": ["x"], "keep_last": 0, "keep_days": 2},
    ]


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
    assert sorted(registry.FilterModule().filters()) == [
        "certificates_due",
        "htpasswd",
        "name_constraints",
        "registry_retention",
        "registry_rights",
        "renews_itself",
        "subject_alternative_names",
    ]
