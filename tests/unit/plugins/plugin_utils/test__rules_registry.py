# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role registry refuses, beyond the common rules."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_registry
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_registry import RULES
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.plugins.plugin_utils.certificates import make


def files(*names: str, **changes: str) -> dict[str, str]:
    """Return what registry_tls is given, with a certificate for the names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=9)
    )
    if names:
        general = [x509.DNSName(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    given = {"tls": "files", "host": "registry.corp.lab", "certificate": certificate, "private_key": pem, "ca": ""}
    return given | changes


@pytest.mark.parametrize("name", ["registry.corp.lab", "REGISTRY.corp.lab", "*.corp.lab"])
def test_a_certificate_for_the_host_is_taken(name: str) -> None:
    assert RULES["registry_tls"](files("other.corp.lab", name)) is None


@pytest.mark.parametrize("names", [(), ("other.corp.lab",), ("*.lab",)])
def test_a_certificate_for_another_host_is_refused(names: tuple[str, ...]) -> None:
    verdict = RULES["registry_tls"](files(*names))
    assert isinstance(verdict, Problem)
    assert verdict.path == ".certificate"
    assert all(name in (verdict.got or "") for name in names)


def test_a_key_of_another_certificate_is_refused_and_not_shown() -> None:
    other = files("x")["private_key"]
    verdict = RULES["registry_tls"](files("registry.corp.lab", private_key=other))
    assert isinstance(verdict, Problem)
    assert verdict.path == ".private_key"
    assert other not in str(verdict)


@pytest.mark.parametrize("tls", ["own_ca", None])
def test_files_without_the_switch_are_a_mistake(tls: str | None) -> None:
    verdict = RULES["registry_tls"]({"tls": tls, "host": "h", "certificate": "x", "private_key": "y"})
    assert isinstance(verdict, list)
    assert [item.path for item in verdict if isinstance(item, Problem)] == [".certificate", ".private_key"]
    assert RULES["registry_tls"]({"tls": tls, "host": "h"}) == []


@pytest.mark.parametrize(
    ("value", "wrong"),
    [(["registry", "10.0.0.5", "::1"], []), (["*.corp"], ["[0]"]), (["ok", "a b", 5.5], ["[1]"])],
)
def test_names(value: list[Any], wrong: list[str]) -> None:
    verdict = RULES["registry_names"](value)
    assert isinstance(verdict, list)
    assert [item.path for item in verdict if isinstance(item, Problem)][: len(wrong)] == wrong
    assert bool(verdict) == bool(wrong)


def test_names_are_a_list() -> None:
    assert RULES["registry_names"]("registry") == "a list of host names and IP addresses"


def test_authenticated_pulls_need_a_user() -> None:
    assert RULES["registry_pull"]({"pull": "anonymous", "users": []}) is None
    assert RULES["registry_pull"]({"pull": "authenticated", "users": [{}]}) is None
    verdict = RULES["registry_pull"]({"pull": "authenticated", "users": []})
    assert isinstance(verdict, Problem)
    assert verdict.path == ".users"


def test_limits_to_reading_need_authenticated_pulls() -> None:
    users = [{"name": "bob", "read": ["a/"]}, {"name": "eve"}]
    assert RULES["registry_pull"]({"pull": "authenticated", "users": users}) is None
    verdict = RULES["registry_pull"]({"pull": "anonymous", "users": users})
    assert isinstance(verdict, Problem)
    assert "what bob may read" in (verdict.got or "")


@pytest.mark.parametrize(
    "user",
    [
        {},
        {"role": "admin"},
        {"role": "writer", "delete": True},
        {"write": ["team-a/", "tools/curl", "a__b/c.d-e--f"]},
        {"read": ["a/b/"], "write": ["a/"], "delete": False},
        {"role": "reader", "read": ["library"]},
    ],
)
def test_rights_that_fit_together(user: dict[str, Any]) -> None:
    assert RULES["registry_rights"]([user]) == []


@pytest.mark.parametrize(
    ("user", "path"),
    [
        ({"role": "reader", "write": ["a/"]}, "[0].write"),
        ({"role": "reader", "delete": True}, "[0].delete"),
        ({"role": "admin", "read": ["a/"]}, "[0].read"),
        ({"delete": True}, "[0].delete"),
        ({"read": ["a/"], "delete": True}, "[0].delete"),
        ({"write": []}, "[0].write"),
        ({"write": ["a/", "a/*"]}, "[0].write[1]"),
        ({"write": ["Team/"]}, "[0].write[0]"),
        ({"write": ["/a"]}, "[0].write[0]"),
        ({"write": ["a/\n"]}, "[0].write[0]"),
        ({"write": ["a//b"]}, "[0].write[0]"),
        ({"write": [""]}, "[0].write[0]"),
        ({"write": [5]}, "[0].write[0]"),
        ({"read": ["library/app"]}, "[0].read[0]"),
    ],
)
def test_rights_that_mean_nothing_are_a_mistake(user: dict[str, Any], path: str) -> None:
    verdict = RULES["registry_rights"]([user])
    assert isinstance(verdict, list)
    assert [item.path for item in verdict if isinstance(item, Problem)] == [path]


def test_rights_leave_other_mistakes_to_other_rules() -> None:
    assert RULES["registry_rights"]("bob") == []
    assert RULES["registry_rights"](["bob", {"write": "a/"}]) == []


def paths(verdict: Any) -> list[str]:
    assert isinstance(verdict, list)
    return [item.path for item in verdict if isinstance(item, Problem)]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({}, "[0]"),
        ({"keep_last": 0}, "[0]"),
        ({"keep_last": 0, "keep_days": 0}, "[0]"),
        ({"keep_last": -1, "keep_days": 5}, "[0]"),
        ({"keep_last": 1, "tags": []}, "[0].tags"),
        ({"keep_last": 1, "repositories": [""]}, "[0].repositories"),
        ({"keep_last": 1, "repositories": ["a", 5]}, "[0].repositories"),
    ],
)
def test_a_rule_that_keeps_nothing_is_refused(rule: dict[str, Any], path: str) -> None:
    assert paths(RULES["registry_retention"]([rule])) == [path]


def test_rules_that_keep_something() -> None:
    assert RULES["registry_retention"]([{"keep_last": 1}, {"keep_days": "7", "repositories": ["a/"]}]) == []
    assert RULES["registry_retention"]("x") == []


@pytest.mark.parametrize(
    ("image", "good"),
    [
        ("a/app", True),
        ("a/*", True),
        ("*", True),
        ("*:v*", True),
        ("a/app:1.2", True),
        ("registry.corp.lab:6001/a/app:1", True),
        (f"a/app@sha256:{'0' * 64}", True),
        (f"registry.corp.lab:6001/a/app:1@sha256:{'0' * 64}", True),
        ("a/app@latest", False),
        ("a app", False),
        ("", False),
        (5, False),
    ],
)
def test_protected_images(image: Any, good: bool) -> None:
    assert paths(RULES["registry_protected"]([image])) == ([] if good else ["[0]"])


@pytest.mark.parametrize(
    ("text", "good"),
    [("Sun 04:00", True), ("*-*-1 3:30", True), ("", True), (None, True), ("daily\n", False), (5, False)],
)
def test_times(text: Any, good: bool) -> None:
    assert (RULES["registry_calendar"](text) is None) is good


@pytest.mark.parametrize(
    ("days", "share", "wrong"),
    [(0, 50, []), (30, 100, []), (-1, 50, [".untagged_days"]), (0, 0, [".share"]), (0, 101, [".share"])],
)
def test_bounds_of_a_collection(days: int, share: int, wrong: list[str]) -> None:
    assert paths(RULES["registry_collection"]({"untagged_days": days, "share": share})) == wrong


@pytest.mark.parametrize(
    ("days", "before", "good"), [(365, 30, True), ("90", "89", True), (30, 30, False), (9, 0, False)]
)
def test_a_certificate_outlives_its_renewal(days: Any, before: Any, good: bool) -> None:
    verdict = RULES["registry_renewal"]({"days": days, "before": before})
    assert (verdict is None) is good


CLUSTER = {"server": "https://kube.corp.lab:6443", "token": "a.b.c"}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"server": "http://kube.corp.lab"}, "[0].server"),
        ({"server": "https://user@kube.corp.lab"}, "[0].server"),
        ({"server": None}, "[0].server"),
        ({"token": ""}, "[0].token"),
        ({"token": "two\nlines"}, "[0].token"),
        ({"ca_certificate": "no certificate"}, "[0].ca_certificate"),
        ({"resources": ["/apis/a.io/v1/b", "rollouts"]}, "[0].resources[1]"),
        ({"resources": ["/apis/a.io/v1/b?limit=1"]}, "[0].resources[0]"),
    ],
)
def test_a_cluster_that_nobody_can_ask_is_refused(change: dict[str, Any], path: str) -> None:
    verdict: Any = RULES["registry_clusters"]([{**CLUSTER, **change}])
    assert paths(verdict) == [path]
    assert "two" not in str(verdict)


def test_clusters_that_can_be_asked() -> None:
    more = {"server": "https://[fd00::1]:443/k8s/clusters/c-1", "token": "t\n", "resources": ["/apis/a.io/v1/rollouts"]}
    assert RULES["registry_clusters"]([CLUSTER, {**CLUSTER, **more, "ca_certificate": None}]) == []
    assert RULES["registry_clusters"]("x") == []


@pytest.mark.parametrize(
    ("issuer", "renewal", "good"), [(396, True, True), (395, True, False), ("0", True, False), (1, False, True)]
)
def test_an_issuer_outlives_what_it_signs(issuer: Any, renewal: bool, good: bool) -> None:
    verdict = RULES["registry_renewal"]({"days": 365, "before": 30, "issuer": issuer, "renewal": renewal})
    assert (verdict is None) is good


@pytest.mark.parametrize(
    ("damage", "needs"),
    [
        ({}, []),
        ({"root": "", "issuer": "", "certificate": "", "key": ""}, []),
        ({"root": "x"}, ["ca.crt to be a certificate"]),
        ({"issuer": "x", "certificate": "x"}, ["HOST.issuer.crt to be a certificate", "HOST.crt to be a certificate"]),
        ({"key": "s3cret"}, ["HOST.key to be a private key"]),
        ({"tls": "files", "key": "x"}, []),
    ],
)
def test_a_damaged_file_of_the_own_ca_is_refused(damage: dict[str, str], needs: list[str]) -> None:
    pair = make("ca")
    good = {"tls": "own_ca", "root": pair.pem, "issuer": pair.pem, "certificate": pair.pem, "key": pair.key_pem}
    verdict = RULES["registry_pki"](good | damage) or []
    assert isinstance(verdict, list)
    assert [problem.needs.partition(",")[0] for problem in verdict] == needs
    assert "s3cret" not in str(verdict)


def test_all_rules_are_offered() -> None:
    assert sorted(_rules_registry.RULES) == [
        "registry_calendar",
        "registry_clusters",
        "registry_collection",
        "registry_names",
        "registry_pki",
        "registry_protected",
        "registry_pull",
        "registry_renewal",
        "registry_retention",
        "registry_rights",
        "registry_storage",
        "registry_tls",
    ]


BUCKET: dict[str, Any] = {
    "storage": "s3", "endpoint": "https://s3.corp.lab:9000", "region": "us-east-1", "bucket": "images", "prefix": "a/b",
    "access_key": "registry", "secret_key": "s3cr+t/key=", "retention": [], "schedule": "", "beside": ["r.corp.lab"],
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"endpoint": ""}, {"prefix": ""}, {"beside": []}, {"endpoint": "http://s3"}])
def test_a_bucket_with_all_that_it_takes_is_taken(changes: dict[str, Any]) -> None:
    assert RULES["registry_storage"](BUCKET | changes) == []


@pytest.mark.parametrize(
    ("part", "bad"),
    [
        ("endpoint", "s3.corp.lab"),
        ("endpoint", "https://s3.corp.lab/bucket"),
        ("endpoint", "https://user:pass@s3.corp.lab"),
        ("region", ""),
        ("region", "eu west"),
        ("bucket", ""),
        ("bucket", "UPPER"),
        ("bucket", "a/b"),
        ("prefix", "/a"),
        ("prefix", "a/"),
        ("prefix", "a/../b"),
        ("access_key", ""),
        ("secret_key", ""),
        ("secret_key", "top secret"),
        ("retention", [{"keep_last": 1}]),
        ("schedule", "daily"),
        ("clusters", [{"server": "https://kube.corp.lab"}]),
    ],
)
def test_a_bucket_that_cannot_work_is_refused_by_name(part: str, bad: Any) -> None:
    verdict = RULES["registry_storage"](BUCKET | {part: bad})
    assert isinstance(verdict, list)
    assert [problem.path for problem in verdict] == [f".{part}"]
    assert part not in ("access_key", "secret_key") or "top secret" not in str(verdict)
    assert "pass@" not in str(verdict)


def test_several_machines_cannot_share_a_directory() -> None:
    assert RULES["registry_storage"]({"storage": "filesystem", "schedule": "daily", "beside": []}) is None
    verdict = RULES["registry_storage"]({"storage": "filesystem", "beside": ["r.corp.lab", "r.corp.lab"]})
    assert isinstance(verdict, Problem)
    assert (verdict.path, verdict.got) == (".storage", "filesystem")
    assert "2 more" in verdict.needs
