# SPDX-License-Identifier: GPL-3.0-or-later
"""Each rule takes what works, says what it needs where it does not, and never shows a password."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.plugin_utils.certificates import make

CA, OTHER_CA = make("lab CA"), make("other CA")
OLD_CA, FUTURE_CA = make("old CA", start=-9, end=-1), make("future CA", start=1, end=9)
V1_CA = make("version 1 CA", authority=None)
INTERMEDIATE = make("intermediate CA", issuer=CA)
LEAF = make("registry.corp.lab", issuer=CA, authority=False)
BELOW = make("registry.corp.lab", issuer=INTERMEDIATE, authority=False)
OLD = make("registry.corp.lab", issuer=CA, authority=False, start=-9, end=-1)
FUTURE = make("registry.corp.lab", issuer=CA, authority=False, start=1, end=9)


def told(verdict: _rules.Verdict, value: Any = "") -> list[tuple[str, str, str]]:
    """Return path, what was got and what is needed of each problem."""
    problems = verdict if isinstance(verdict, list) else [verdict] if verdict else []
    found = []
    for item in problems:
        problem = _rules.Problem(item) if isinstance(item, str) else item
        found.append((problem.path, problem.got if problem.got is not None else _rules.shown(value), problem.needs))
    return found


def words(verdict: _rules.Verdict, value: Any = "") -> str:
    return "; ".join(" ".join(parts) for parts in told(verdict, value))


# --- showing a value ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", "''"),
        ("a  b\n", "'a b\\n'"),
        (5, "5"),
        ([1, "a"], "[1, 'a']"),
        ("x" * 100, "'" + "x" * 76 + "..."),
        ("http://u:p@ss/word@proxy:1", "'http://***@proxy:1'"),
        (["http://u:p@h"], "['http://***@h']"),
    ],
)
def test_a_value_is_shown_on_one_short_line(value: Any, text: str) -> None:
    assert _rules.shown(value) == text


# --- plain values ---

GOOD: dict[str, list[Any]] = {
    "port": [1, 80, "6001", 65535],
    "host_name": ["a", "registry.corp.lab", "A-1.b", "a.", "10.0.0.1", "::1", "a" * 63, "1a", "3com.com", "xn--a.lab"],
    "absolute_path": ["/srv", "/srv/registry", "/srv/a b/ä"],
    "size": ["10m", "2G", 1024, "5"],
    "duration": ["30s", "15m", "12h", "30d"],
    "dns_servers": [[], ["10.0.0.1"], ["10.0.0.1", "10.0.0.2", "fd00::1"]],
    "dns_search": [[], ["corp.lab", "lab."], [f"d{n}.corp.lab" for n in range(6)]],
    "dns_options": [[], ["ndots:2", "timeout:1", "attempts:3", "rotate", "use-vc", "trust-ad"]],
    "no_proxy": [
        [],
        ["registry.corp.lab", ".corp.lab", "10.0.0.0/8", "10.1.2.3/8", "10.0.0.1", "10.0.0.1:8080"],
        ["registry.corp.lab:6001", ".corp.lab:80", "::1", "[::1]", "[::1]:80", "fd00::/8", "localhost"],
    ],
    "users": [[], [{"name": "a", "password": "12345678"}, {"name": "b@c", "password": "ä" * 36}]],
    "proxy": [
        {},
        {"url": "", "user": None, "password": ""},
        {"url": "http://proxy.corp.lab:8080"},
        {"url": "https://proxy.corp.lab:8080/"},
        {"url": "http://10.0.0.1:3128", "user": "corp\\svc", "password": "p@ss%20#:/w0rd!"},
        {"url": "http://[fd00::1]:3128", "user": "ä", "password": "{{ x }}"},
    ],
}
BAD: list[tuple[str, Any, str, str]] = [
    *(("port", value, "", "a port number from 1 to 65535") for value in (0, 65536, -1, "http", "", None, True, 80.0)),
    ("port", "８０", "", "a port number"),
    *(
        ("host_name", value, "", "a host name or IP address without scheme")
        for value in ("", "http://a", "a:80", "a/b", "a b", "-a", "a-", "a..b", "a\n", "a_b", "b" * 64, 5, None)
    ),
    *(("host_name", value, "", "a host name") for value in ("10.0.0.256", "1.2.3", "123", "a.123.", "x." * 127 + "x")),
    *(
        ("absolute_path", value, "", "an absolute path below /")
        for value in ("", "/", "srv", "/srv/", "/a//b", "/a/../b", "/a/./b", "/a\nb", "/a\0", None, 5)
    ),
    *(("size", value, "", "a size such as 10m") for value in ("", "m", "10 m", "10mb", "-1", "10m\n", None, True)),
    *(("duration", value, "", "a duration such as 30s") for value in ("", "30", "s", "1.5h", "30s\n", None)),
    ("dns_servers", "10.0.0.1", "", "a list of IP addresses"),
    ("dns_servers", ["dns.corp.lab"], "[0]", "an IP address"),
    ("dns_servers", ["10.0.0.1", "10.0.0.1"], "", "each server once"),
    ("dns_servers", [f"10.0.0.{n}" for n in range(4)], "", "at most 3 servers, because resolvers ignore the rest"),
    ("dns_search", "corp.lab", "", "a list of domains"),
    ("dns_search", ["corp.lab", "a b"], "[1]", "a domain name"),
    ("dns_search", ["a.lab\n"], "[0]", "a domain name"),
    ("dns_search", [f"d{n}.lab" for n in range(7)], "", "at most 6 domains of 256 characters together"),
    ("dns_search", [f"{'a' * 60}.{n}.lab" for n in range(5)], "", "at most 6 domains of 256 characters together"),
    ("dns_options", "ndots:2", "", "a list such as"),
    ("dns_options", ["ndots", "rotate"], "[0]", "an option of resolv.conf(5)"),
    ("dns_options", ["rotate\n"], "[0]", "an option of resolv.conf(5)"),
    ("no_proxy", "a,b", "", "a list such as [.corp.lab, 10.0.0.0/8]"),
    ("no_proxy", ["*.corp.lab"], "[0]", "a suffix with a leading dot instead of *"),
    ("no_proxy", ["ok", "a b"], "[1]", "without spaces or commas"),
    ("no_proxy", ["a,b"], "[0]", "without spaces or commas"),
    ("no_proxy", [""], "[0]", "one name"),
    ("no_proxy", ["http://a"], "[0]", "a name without scheme"),
    *(
        ("no_proxy", [value], "[0]", "a name, .suffix, IP address or CIDR")
        for value in ("10.0.0.0/33", "10.0.0.256", "10.0.0", "10.0.0.0/255.0.0.0", "a/8", "..a", ".", "-a")
    ),
    ("users", {"alice": "secretsecret"}, "", "a list of {name, password}"),
    ("users", ["alice:secretsecret"], "[0]", "a dictionary with name and password"),
    ("users", [{"name": "a b", "password": "12345678"}], "[0].name", "a name of letters, digits and . _ @ + -"),
    ("users", [{"name": "a"}], "[0].password", "a password for user 'a'"),
    ("users", [{"name": "a", "password": "1234567"}], "[0].password", "8 to 72 bytes"),
    ("users", [{"name": "a", "password": "ä" * 37}], "[0].password", "8 to 72 bytes"),
    ("users", [{"name": "a", "password": "12345678\n"}], "[0].password", "to be without control characters"),
    ("users", [{"name": "a", "password": "12345678"}] * 2, "", "each name once"),
    ("proxy", "http://u:secret@p:1", "", "a dictionary with url"),
    ("proxy", {"user": "u", "password": "p"}, ".url", "a URL, because user or password is set"),
    ("proxy", {"url": "http://p:1", "user": "u"}, ".password", "a value, because user is set"),
    ("proxy", {"url": "http://p:1", "password": "p"}, ".user", "a value, because password is set"),
    ("proxy", {"url": "http://p:1", "user": "a:b", "password": "p"}, ".user", "to be without a colon"),
    ("proxy", {"url": "http://p:1", "user": "a\tb", "password": "p"}, ".user", "to be without control characters"),
    ("proxy", {"url": "http://p:1", "user": "a", "password": "p\x7f"}, ".password", "to be without control characters"),
    *(
        ("proxy", {"url": url}, ".url", needs)
        for url, needs in (
            ("proxy:8080", "a scheme, for example http://proxy.corp.lab:8080"),
            ("socks5://proxy:1080", "the scheme http or https, not socks5, for example"),
            ("http://u:p@proxy:8080", "no user or password inside: give them as .user and .password, raw"),
            ("u:p@proxy:8080", "no user or password inside"),
            ("http://proxy", "a host and a port"),
            ("http://proxy:0", "a host and a port"),
            ("http://:8080", "a host and a port"),
            ("http://a_b:8080", "a host and a port"),
            ("http://10.0.0.256:8080", "a host and a port"),
            ("http://[::1:8080", "a host and a port"),
            ("http://pro\nxy:8080", "a host and a port"),
            ("http://proxy:8080\t", "a host and a port"),
            ("http://proxy:http", "a port from 1 to 65535"),
            ("http://proxy:65536", "a port from 1 to 65535"),
            ("http://proxy:8080/path", "to end after the port"),
            ("http://proxy:8080?q", "to end after the port"),
            ("http://proxy:8080#f", "to end after the port"),
        )
    ),
]


@pytest.mark.parametrize(("rule", "value"), [(rule, value) for rule, values in GOOD.items() for value in values])
def test_what_works_is_taken(rule: str, value: Any) -> None:
    assert told(_rules.RULES[rule](value)) == []


@pytest.mark.parametrize(("rule", "value", "path", "needs"), BAD)
def test_what_can_not_work_is_told(rule: str, value: Any, path: str, needs: str) -> None:
    found = told(_rules.RULES[rule](value), value)
    assert [part for part, _, _ in found] == [path]
    assert needs in found[0][2]
    assert "secret" not in words(_rules.RULES[rule](value)).replace("a secret value", "")


def test_all_mistakes_are_told_at_once() -> None:
    found = told(_rules.proxy({"url": "proxy", "user": "a:b", "password": "\x00"}))
    assert [path for path, _, _ in found] == [".url", ".user", ".password"]
    assert len(told(_rules.dns_servers(["x", "x", "y", "z"]))) == 6


# --- passwords are never shown ---

PASSWORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=100).filter(
    lambda text: not any(text in word for word in ("http://proxy.corp.lab:8080", "a text with control characters"))
)
SHAPES: list[Any] = [
    lambda word: {"url": f"http://svc:{word}@proxy:8080"},
    lambda word: {"url": f"svc:{word}@proxy:8080"},
    lambda word: {"url": f"ftp://svc:{word}@proxy:8080"},
    lambda word: {"url": f"//{word}@proxy"},
    lambda word: {"url": "proxy", "user": "svc", "password": word},
    lambda word: {"url": "http://proxy:1", "user": f"svc:{word}", "password": word},
    lambda word: {"password": word},
    lambda word: f"http://svc:{word}@proxy:8080",
    lambda word: [word],
]


@given(password=PASSWORDS.map(lambda text: f"pw{text}wp"), shape=st.sampled_from(SHAPES))
def test_no_proxy_rule_shows_a_password(password: str, shape: Any) -> None:
    shown = words(_rules.proxy(shape(password)))
    assert shown and password not in shown and repr(password)[1:-1] not in shown


@given(password=PASSWORDS.map(lambda text: f"pw{text}wp"), name=st.sampled_from(["", "a b", "alice", None]))
def test_no_user_rule_shows_a_password(password: str, name: str | None) -> None:
    for value in ([{"name": name, "password": password}] * 2, {name: password}, [password], password):
        shown = words(_rules.users(value))
        assert shown and password not in shown and repr(password)[1:-1] not in shown


@given(user=st.text(st.characters(exclude_categories=["Cc", "Cs"]).filter(lambda c: c != ":"), min_size=1))
def test_any_printable_credentials_are_taken(user: str) -> None:
    assert _rules.proxy({"url": "http://proxy:8080", "user": user, "password": user + ":"}) == []


# --- certificates ---


@pytest.mark.parametrize("value", [None, "", CA.pem, V1_CA.pem, CA.pem + OTHER_CA.pem, "comment\n" + CA.pem])
def test_authorities_are_taken(value: Any) -> None:
    assert _rules.ca_certificate(value) is None


@pytest.mark.parametrize(
    ("value", "got", "needs"),
    [
        ("nonsense", "a text that is no certificate", "PEM text of a CA certificate (-----BEGIN CERTIFICATE-----)"),
        (CA.pem.replace("M", "N"), "a text that is no certificate", "PEM text of a CA certificate"),
        (OLD_CA.pem, "a certificate that ended on ", "a CA certificate that is valid today"),
        (FUTURE_CA.pem, "a certificate that starts on ", "a CA certificate that is valid today"),
        (CA.pem + OLD_CA.pem, "a certificate that ended on ", "a CA certificate that is valid today"),
        (LEAF.pem, "the certificate of 'CN=registry.corp.lab', no CA", "the certificate of the CA, not of a server"),
        (CA.pem + CA.key_pem, "a text with a private key", "the certificate alone, without its private key"),
    ],
)
def test_what_is_no_authority_is_told(value: str, got: str, needs: str) -> None:
    ((path, shown, needed),) = told(_rules.ca_certificate(value))
    assert path == "" and shown.startswith(got) and needed.startswith(needs)
    ((path, shown, needed),) = told(_rules.ca_certificates({"lab": value}))
    assert path == ".lab" and shown.startswith(got) and needed.startswith(needs)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, []),
        ({"lab": CA.pem, "other-2.x_y": OTHER_CA.pem}, []),
        ("text", [("", "'text'", "a dictionary from a short name to PEM text")]),
        ({"lab": ""}, [(".lab", "empty", "PEM text of a CA certificate")]),
        ({"../x": CA.pem}, [("", "the name '../x'", "a name of a-z, 0-9, dot, dash and underscore")]),
    ],
)
def test_named_authorities(value: Any, expected: list[tuple[str, str, str]]) -> None:
    assert told(_rules.ca_certificates(value), value) == expected


def bundle(certificate: str, key: str, ca: str | None = None) -> dict[str, Any]:
    return {"certificate": certificate, "private_key": key, "ca": ca}


@pytest.mark.parametrize(
    "value",
    [
        bundle(LEAF.pem, LEAF.key_pem),
        bundle(LEAF.pem, LEAF.key_pem, ""),
        bundle(LEAF.pem, LEAF.key_pem, CA.pem),
        bundle(LEAF.pem, LEAF.key_pem, OTHER_CA.pem + CA.pem),
        bundle(BELOW.pem + INTERMEDIATE.pem, BELOW.key_pem, CA.pem),
        bundle(BELOW.pem + OTHER_CA.pem + INTERMEDIATE.pem, BELOW.key_pem, CA.pem),
        bundle(BELOW.pem, BELOW.key_pem, INTERMEDIATE.pem),
        bundle(CA.pem, CA.key_pem, CA.pem),
    ],
)
def test_a_certificate_with_its_key_and_its_authority_is_taken(value: dict[str, Any]) -> None:
    assert _rules.certificate(value) is None


@pytest.mark.parametrize(
    ("value", "path", "got", "needs"),
    [
        ({}, ".certificate", "a text that is no certificate", "PEM text of a certificate"),
        (bundle("x", LEAF.key_pem), ".certificate", "a text that is no certificate", "PEM text of a certificate"),
        (bundle(OLD.pem, OLD.key_pem), ".certificate", "a certificate that ended on", "valid today"),
        (bundle(FUTURE.pem, FUTURE.key_pem), ".certificate", "a certificate that starts on", "valid today"),
        (bundle(LEAF.pem, ""), ".private_key", "a text that is no such key", "PEM text of an unencrypted private key"),
        (
            bundle(LEAF.pem, CA.key_pem),
            ".private_key",
            "the key of another certificate",
            "the private key that belongs",
        ),
        (
            bundle(LEAF.pem, LEAF.key_text(serialization.BestAvailableEncryption(b"secret"))),
            ".private_key",
            "a text that is no such key",
            "PEM text of an unencrypted private key",
        ),
        (bundle(LEAF.pem, LEAF.key_pem, "x"), ".ca", "a text that is no certificate", "PEM text of the CA's"),
        (
            bundle(LEAF.pem, LEAF.key_pem, OTHER_CA.pem),
            ".ca",
            "a CA that did not sign it (it was 'CN=lab CA')",
            "the CA that signed the certificate",
        ),
        (
            bundle(BELOW.pem + INTERMEDIATE.pem, BELOW.key_pem, OTHER_CA.pem),
            ".ca",
            "a CA that did not sign it (it was 'CN=lab CA')",
            "the CA that signed",
        ),
        (bundle(BELOW.pem, BELOW.key_pem, CA.pem), ".ca", "a CA that did not sign it (it was 'CN=inter", "the CA that"),
    ],
)
def test_a_certificate_that_can_not_work_is_told(value: dict[str, Any], path: str, got: str, needs: str) -> None:
    ((found, shown, needed),) = told(_rules.certificate(value))
    assert found == path and shown.startswith(got) and needs in needed


def test_every_rule_has_a_name() -> None:
    assert {name: rule.__name__ for name, rule in _rules.RULES.items()} == {name: name for name in _rules.RULES}
