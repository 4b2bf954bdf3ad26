# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials survive every file that they are written to, whatever characters they are made of."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _proxy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils import proxy_consumers as consumers

HOSTILE = " '\"%$\\{}#;@:/!?&=+`|<>*~^()[],äß€漢🐳"
CHARACTERS = st.one_of(st.sampled_from(HOSTILE), st.characters(exclude_categories=["Cc", "Cs"]))
PASSWORDS = st.text(CHARACTERS, min_size=1, max_size=40)
USERS = st.text(CHARACTERS.filter(lambda char: char != ":"), min_size=1, max_size=40)
SEED_USER, SEED_PASSWORD = "corp\\svc", "p@ss%20#:/w0rd!"


def hostile_credentials(test: Any) -> Any:
    """Feed a test with generated credentials, and always with those that broke other tools."""
    for user, password in (
        (SEED_USER, SEED_PASSWORD),
        ("a b", " leading and trailing "),
        ("it's", 'say "hi"'),
        ("{{ user }}", "{{ 7 * 7 }}{% raw %}"),
        ("$HOME", "${PATH}$(id)`id`"),
        ("back\\slash\\", "\\n\\x41\\\\"),
        ("50%", "%n%H%%41%"),
        ("#user", ";comment # not"),
        ("jürgen", "пароль€🐳"),
        ("+plus", "+-._~"),
    ):
        test = example(user=user, password=password)(test)
    return given(user=USERS, password=PASSWORDS)(test)


def proxy(user: str, password: str, url: str = "http://proxy.corp.lab:8080") -> dict[str, str]:
    return {"url": url, "user": user, "password": password}


@hostile_credentials
def test_a_url_gives_the_credentials_back(user: str, password: str) -> None:
    url = _proxy.proxy_url(proxy(user, password))
    assert url.startswith("http://") and url.endswith("@proxy.corp.lab:8080")
    assert consumers.credentials_of(url) == (user, password)
    assert url.isascii() and url.isprintable() and not set(url) & set(" '\"\\$`{}#;")


@hostile_credentials
def test_an_environment_file_gives_the_credentials_back(user: str, password: str) -> None:
    values = _proxy.variables(http=proxy(user, password), https=proxy(user, password, "https://tls.corp.lab"))
    text = _proxy.systemd_environment_file(values)
    assert consumers.read_environment_file(text) == values
    assert consumers.credentials_of(values["HTTPS_PROXY"]) == (user, password)


@hostile_credentials
def test_a_unit_gives_the_credentials_back(user: str, password: str) -> None:
    values = _proxy.variables(http=proxy(user, password), no_proxy=[".corp.lab"])
    found = consumers.read_environment_directives(_proxy.systemd_environment(values))
    assert found == values
    assert consumers.credentials_of(found["http_proxy"]) == (user, password)


@given(value=st.text(CHARACTERS, max_size=60))
@example(value="\\")
@example(value="%'\"$\\`")
def test_any_value_survives_both_forms_of_systemd(value: str) -> None:
    """A URL holds only harmless characters; the encoders are right for every other value, too."""
    assert consumers.read_environment_file(_proxy.systemd_environment_file({"A_1": value})) == {"A_1": value}
    assert consumers.read_environment_directives(_proxy.systemd_environment({"A_1": value})) == {"A_1": value}


@hostile_credentials
def test_json_gives_the_credentials_back(user: str, password: str) -> None:
    text = json.dumps({"proxies": {"default": {"httpProxy": _proxy.proxy_url(proxy(user, password))}}})
    url = json.loads(text)["proxies"]["default"]["httpProxy"]
    assert consumers.credentials_of(url) == (user, password)


@pytest.mark.skipif(not consumers.HAS_APT, reason="apt-config is not on this machine")
@settings(max_examples=40, deadline=None)
@hostile_credentials
def test_apt_reads_the_credentials_back(user: str, password: str) -> None:
    text = _proxy.apt_proxy(http=proxy(user, password), https=proxy(user, password), no_proxy=["mirror.corp.lab:80"])
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        found = consumers.read_apt_config(Path(handle.name))
    assert consumers.credentials_of(found["Acquire::http::Proxy"]) == (user, password)
    assert found["Acquire::https::Proxy"] == found["Acquire::http::Proxy"]
    assert found["Acquire::http::Proxy::mirror.corp.lab"] == "DIRECT"


@pytest.mark.skipif(not consumers.HAS_APT, reason="apt-get is not on this machine")
@settings(max_examples=5, deadline=None)
@hostile_credentials
def test_apt_sends_the_credentials_to_the_proxy(user: str, password: str) -> None:
    """Not only the parser: what the real apt-get puts into Proxy-Authorization."""
    with consumers.recording_proxy() as server, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        configuration = directory / "80slipway-proxy"
        text = _proxy.apt_proxy(http=proxy(user, password, f"http://127.0.0.1:{server.port}"))
        configuration.write_text(text, encoding="utf-8")
        consumers.run_apt_update(configuration, directory)
        assert server.credentials and set(server.credentials) == {f"{user}:{password}"}


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        (None, ""),
        ({}, ""),
        ({"url": "", "user": "u"}, ""),
        ({"url": "http://proxy:3128"}, "http://proxy:3128"),
        ({"url": "HTTP://Proxy.Corp.LAB:3128/", "user": None, "password": ""}, "http://proxy.corp.lab:3128"),
        ({"url": "http://proxy"}, "http://proxy:80"),
        ({"url": "https://proxy"}, "https://proxy:443"),
        ({"url": "http://[fd00::1]:8080"}, "http://[fd00::1]:8080"),
        ({"url": "http://p:1", "user": "u", "password": 12345}, "http://u:12345@p:1"),
    ],
)
def test_urls(setting: Any, url: str) -> None:
    assert _proxy.proxy_url(setting) == url


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"url": "proxy:8080"}, "'proxy:8080' is not usable: it needs a scheme"),
        ({"url": "ftp://proxy:8080"}, "needs a scheme"),
        ({"url": "http://proxy:8080/path"}, "nothing else"),
        ({"url": "http://proxy:99999"}, "port is 99999"),
        ({"url": "http://proxy:http"}, "needs a scheme"),
        ({"url": "http://pröxy:8080"}, "needs a scheme"),
        ({"url": "http://p:1", "user": "u"}, "has no password"),
        ({"url": "http://p:1", "password": "secret"}, "has no user"),
        ({"url": "http://p:1", "user": "a:b", "password": "secret"}, "colon"),
        ({"url": "http://p:1", "user": "a", "password": "secret\n"}, "control character"),
        ({"url": "http://p:1", "user": "a", "password": "secret\ud800"}, "UTF-8"),
        ({"url": "http://u:secret@p:1"}, "beside it"),
    ],
)
def test_useless_settings_are_refused_without_their_password(setting: Any, words: str) -> None:
    with pytest.raises(_proxy.ProxyError) as caught:
        _proxy.proxy_url(setting)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_proxy_does_not_print_its_password() -> None:
    parsed = _proxy.parse(proxy("user", "secret"))
    assert parsed is not None
    assert "secret" not in repr(parsed)
    assert parsed.address == "proxy.corp.lab:8080"
    assert parsed.basic == "Basic dXNlcjpzZWNyZXQ="
    assert _proxy.Proxy("http", "p", 1).basic == ""


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([], ""),
        (["b", "a", "b", "A"], "a,b"),
        ([".corp.lab", "10.0.0.0/8", "registry.corp.lab:6001"], ".corp.lab,10.0.0.0/8,registry.corp.lab:6001"),
        (["10.1.2.3/8"], "10.0.0.0/8"),
        (["FD00::/8", "[fd00::1]:443", "fd00::1"], "[fd00::1]:443,fd00::/8,fd00::1"),
    ],
)
def test_no_proxy_lists(entries: list[str], text: str) -> None:
    assert _proxy.no_proxy_string(entries) == text
    assert _proxy.no_proxy_string(list(reversed(entries))) == text


@pytest.mark.parametrize("entry", ["*.corp.lab", "a b", "", "a,b", "10.0.0.0/33", "a/b", "a\n", "{{ x }}"])
def test_useless_no_proxy_entries_are_refused(entry: str) -> None:
    with pytest.raises(_proxy.ProxyError, match="no_proxy holds"):
        _proxy.no_proxy_string(["ok.corp.lab", entry])


def test_variables_stand_in_both_cases_and_only_when_given() -> None:
    assert _proxy.variables(no_proxy=["a"]) == {}
    assert _proxy.variables(https={"url": "http://p:1"}, no_proxy=["b", "a"]) == {
        "HTTPS_PROXY": "http://p:1",
        "https_proxy": "http://p:1",
        "NO_PROXY": "a,b",
        "no_proxy": "a,b",
    }
    assert list(_proxy.variables(http={"url": "http://p:1"})) == ["HTTP_PROXY", "http_proxy"]


@pytest.mark.parametrize("values", [{"A B": "x"}, {"1A": "x"}, {"A": "x\ny"}, {"A": "\x07"}])
@pytest.mark.parametrize("encode", [_proxy.systemd_environment, _proxy.systemd_environment_file])
def test_what_systemd_would_drop_is_refused(encode: Any, values: dict[str, str]) -> None:
    with pytest.raises(_proxy.ProxyError):
        encode(values)


def test_apt_goes_direct_where_no_proxy_is_given() -> None:
    text = _proxy.apt_proxy(
        http={"url": "http://p:1"}, no_proxy=["b.lab:80", ".suffix", "10.0.0.0/8", "a.lab", "fd00::1", "[fd00::1]:1"]
    )
    assert text.splitlines() == [
        'Acquire::http::Proxy "http://p:1";',
        'Acquire::https::Proxy "DIRECT";',
        'Acquire::http::Proxy::a.lab "DIRECT";',
        'Acquire::http::Proxy::b.lab "DIRECT";',
        'Acquire::https::Proxy::a.lab "DIRECT";',
        'Acquire::https::Proxy::b.lab "DIRECT";',
    ]
    assert _proxy.apt_proxy(no_proxy=["a.lab"]) == ""


HEADER = "# Managed"


def test_drop_ins_name_a_file_for_root_only() -> None:
    files = _proxy.drop_ins(
        http=proxy("u", "50%"), no_proxy=["a"], units=["docker", "containerd"], in_unit=False, header=HEADER
    )
    assert [(item["path"], item["mode"]) for item in files] == [
        ("/etc/slipway/docker_proxy", "0700"),
        ("/etc/slipway/docker_proxy/http.env", "0600"),
        ("/etc/systemd/system/docker.service.d/http-proxy.conf", "0644"),
        ("/etc/systemd/system/containerd.service.d/http-proxy.conf", "0644"),
    ]
    assert "50%25" in files[1]["secret_content"]
    assert files[2]["content"].splitlines() == [
        HEADER,
        "[Service]",
        "EnvironmentFile=/etc/slipway/docker_proxy/http.env",
    ]


@hostile_credentials
def test_drop_ins_hold_the_variables_where_asked(user: str, password: str) -> None:
    files = _proxy.drop_ins(
        http=proxy(user, password),
        https=proxy("other", "else", "http://second:3128"),
        no_proxy=["b", "a"],
        units=["docker"],
        in_unit=True,
        header=HEADER,
    )
    assert [(item["path"], item["mode"]) for item in files] == [
        ("/etc/systemd/system/docker.service.d/http-proxy.conf", "0600"),
        ("/etc/systemd/system/docker.service.d/https-proxy.conf", "0600"),
    ]
    assert all(item["secret_content"].startswith(f"{HEADER}\n[Service]\n") for item in files)
    found: dict[str, str] = {}
    for item in files:
        found |= consumers.read_environment_directives(item["secret_content"].split("[Service]\n")[1])
    assert found["NO_PROXY"] == found["no_proxy"] == "a,b"
    assert consumers.credentials_of(found["HTTP_PROXY"]) == (user, password)
    assert consumers.credentials_of(found["https_proxy"]) == ("other", "else")


@pytest.mark.parametrize("in_unit", [True, False])
def test_no_proxy_no_files(in_unit: bool) -> None:
    assert _proxy.drop_ins(no_proxy=["a"], units=["docker"], in_unit=in_unit, header=HEADER) == []
