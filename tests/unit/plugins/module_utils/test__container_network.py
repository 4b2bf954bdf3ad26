# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers see holds no credential; what squid reads holds exactly those that went in."""

from __future__ import annotations

import json
import os
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _container_network, _proxy
from ansible_collections.slipway.platform.plugins.module_utils._container_network import Network
from hypothesis import given
from hypothesis import strategies as st

PROXY = {"url": "http://proxy.corp.lab:8080", "user": "corp\\svc", "password": "p@ss%20#:/w0rd!"}
ENCODED = "login=corp%5Csvc:p%40ss%2520%23%3A%2Fw0rd%21"
ON = {"containers": True, "builds": True, "http": PROXY, "https": PROXY, "script": "s", "unit": "u"}


def network(**settings: Any) -> Network:
    return Network.parse({**ON, **settings})


def by_path(given_network: Network) -> dict[str, dict[str, str]]:
    return {item["path"]: item for item in _container_network.files(given_network)}


def squid_unescape(text: bytes) -> bytes:
    """What squid's rfc1738_unescape does: %XX to a byte (not 00), %% to %, anything else as it is."""
    result, position = bytearray(), 0
    while position < len(text):
        digits = text[position + 1 : position + 3]
        if text[position : position + 1] != b"%":
            result += text[position : position + 1]
        elif digits[:1] == b"%":
            result += b"%"
            position += 1
        elif len(digits) == 2 and all(chr(c) in string.hexdigits for c in digits) and digits != b"00":
            result.append(int(digits, 16))
            position += 2
        else:
            result += b"%"
        position += 1
    return bytes(result)


@given(
    user=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"], exclude_characters=":"), min_size=1),
    password=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1),
)
def test_any_login_reaches_squid_unchanged(user: str, password: str) -> None:
    proxy = _proxy.Proxy("http", "proxy.corp.lab", 8080, user, password)
    option = _container_network.squid_login(proxy)
    assert option.isascii()
    words = option.split()
    assert len(words) == 1
    assert not set("#'\"\\") & set(option)
    assert squid_unescape(words[0].removeprefix("login=").encode()).decode() == f"{user}:{password}"


@pytest.mark.parametrize("user", ["*", "*x", "NEGOTIATE", "negotiate:x"])
def test_words_that_squid_takes_for_instructions_are_refused(user: str) -> None:
    assert "squid takes for instructions" in _container_network.refused_login(user, "p")


def test_a_login_longer_than_squids_buffer_is_refused() -> None:
    assert _container_network.refused_login("u" * 63, "p" * 63) == ""
    assert "126 bytes" in _container_network.refused_login("u" * 64, "p" * 63)
    assert "126 bytes" in _container_network.refused_login("u", "ü" * 63)


def test_off_is_nothing() -> None:
    cases: list[dict[str, Any]] = [{"containers": False, "builds": False}, {"http": {}, "https": {}}]
    for settings in cases:
        assert _container_network.host_state(network(**settings)) == {
            "packages": [],
            "files": [],
            "json_keys": [],
            "units": [],
        }


def test_credentials_stand_in_one_file_for_squid_only() -> None:
    state = _container_network.host_state(network())
    peers = f"{_container_network.DIRECTORY}/peers.conf"
    secret = [item for item in state["files"] if ENCODED in str(item)]
    assert [(item["path"], item["mode"], item["group"]) for item in secret] == [(peers, "0640", "proxy")]
    assert "secret_content" in secret[0]
    rest = json.dumps([item for item in state["files"] if item["path"] != peers] + state["json_keys"])
    assert "corp%5C" not in rest
    assert "p@ss" not in rest


def test_one_proxy_for_both_schemes_is_one_peer() -> None:
    peers = _container_network.peers_conf(network())
    assert peers.count("cache_peer ") == 1
    assert "cache_peer proxy.corp.lab parent 8080 0 " in peers
    assert ENCODED in peers


def test_two_proxies_are_told_apart_by_the_method() -> None:
    https = {"url": "http://other.corp.lab:3128"}
    lines = _container_network.peers_conf(network(https=https)).splitlines()[1:]
    assert [line for line in lines if line.startswith("cache_peer_access")] == [
        "cache_peer_access http deny CONNECT",
        "cache_peer_access http allow all",
        "cache_peer_access https allow CONNECT",
        "cache_peer_access https deny all",
    ]
    assert [line for line in lines if "other.corp.lab parent 3128" in line and "login" not in line] != []


def test_squid_sends_everything_to_the_company_and_serves_only_this_machine() -> None:
    lines = _container_network.squid_conf(network(subnets=["172.16.0.0/12", "10.99.0.0/16"])).splitlines()
    assert "never_direct allow all" in lines
    assert "cache deny all" in lines
    assert "http_port 172.17.0.1:3128" in lines
    assert "acl containers src 172.16.0.0/12 10.99.0.0/16" in lines
    access = [line for line in lines if line.startswith("http_access")]
    assert access == [
        "http_access allow self",
        "http_access deny neighbours",
        "http_access allow containers",
        "http_access deny all",
    ]


def test_each_user_gets_the_forwarder_and_the_way_around_it() -> None:
    keys = _container_network.json_keys(network(users=["root", "ops"], no_proxy=[".corp.lab", "10.0.0.0/8"]))
    assert [key["user"] for key in keys] == ["root", "ops"]
    assert keys[0]["keys"] == ["proxies", "default"]
    assert keys[0]["value"] == {
        "httpProxy": "http://172.17.0.1:3128",
        "httpsProxy": "http://172.17.0.1:3128",
        "noProxy": ".corp.lab,10.0.0.0/8,172.16.0.0/12",
    }


def test_only_a_scheme_that_has_a_proxy_is_forwarded() -> None:
    (key,) = _container_network.json_keys(network(http={}))
    assert set(key["value"]) == {"httpsProxy", "noProxy"}


def test_builds_alone_get_a_command_and_no_users_setting(tmp_path: Path) -> None:
    given_network = network(containers=False, no_proxy=[".corp.lab"])
    assert _container_network.json_keys(given_network) == []
    command = by_path(given_network)[_container_network.BUILD_COMMAND]
    assert command["mode"] == "0755"
    script = tmp_path / "slipway-build"
    script.write_text(command["content"])
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", str(script), "-t", "a b", "."], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[0] == "build"
    assert words[-3:] == ["-t", "a b", "."]
    assert "https_proxy=http://172.17.0.1:3128" in words
    assert "NO_PROXY=.corp.lab,172.16.0.0/12" in words
    assert _container_network.BUILD_COMMAND not in by_path(network())


def test_the_unit_restarts_with_its_files_and_the_distributions_own_stays_off() -> None:
    state = _container_network.host_state(network())
    assert state["packages"] == [{"name": "squid", "idle_units": ["squid.service"]}]
    assert state["units"][0]["inputs"] == [
        "/etc/slipway/proxy_forwarder/*",
        "/etc/systemd/system/slipway-proxy-forwarder.service",
    ]


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({}, {}),
        (
            {"dns_servers": ["10.0.0.1", "10.0.0.2"], "dns_search": ["corp.lab"], "dns_options": ["ndots:2"]},
            {"dns": ["10.0.0.1", "10.0.0.2"], "dns-search": ["corp.lab"], "dns-opts": ["ndots:2"]},
        ),
        ({"dns_search": ["corp.lab"]}, {"dns-search": ["corp.lab"]}),
    ],
)
def test_dns_goes_to_the_engine(settings: dict[str, Any], config: dict[str, Any]) -> None:
    assert _container_network.daemon_json(Network.parse(settings)) == config


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(_proxy.ProxyError, match="does not know dns: it takes dns_servers"):
        Network.parse({"dns": []})
