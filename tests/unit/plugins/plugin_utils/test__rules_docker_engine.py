# SPDX-License-Identifier: GPL-3.0-or-later
"""What docker_engine accepts, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_docker_engine as rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n..."


def told(verdict: Any) -> list[str]:
    """Return a verdict as texts: path and what is needed."""
    if not verdict:
        return []
    items = verdict if isinstance(verdict, list) else [verdict]
    return [f"{item.path}: {item.needs}" if isinstance(item, Problem) else item for item in items]


@pytest.mark.parametrize("value", [1, 3, "5"])
def test_log_files(value: Any) -> None:
    assert not rules.docker_log_files(value)


@pytest.mark.parametrize("value", [0, -1, "x", True, 1.5, ""])
def test_wrong_log_files(value: Any) -> None:
    assert rules.docker_log_files(value) == "a number of files, at least 1"


@pytest.mark.parametrize("value", [None, {}, {"dns": ["192.0.2.1"]}, {"bip": "172.30.0.1/16"}, {"bip": "fd00::1/64"}])
def test_options(value: Any) -> None:
    assert not rules.docker_options(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"--dns": ["x"]}, ".--dns: daemon.json's name for it, without dashes: dns"),
        ({"dns": None}, ".dns: a value; leave the key out to have dockerd's default"),
        ({"bip": "999.1.1.1/24"}, ".bip: an address with its prefix, such as 172.30.0.1/16"),
        ({"bip": "172.30.0.1"}, ".bip: an address with its prefix, such as 172.30.0.1/16"),
    ],
)
def test_wrong_options(value: Any, text: str) -> None:
    assert told(rules.docker_options(value)) == [text]


def test_users() -> None:
    assert not rules.docker_users(["ops", "_x", "build-1"])
    assert not rules.docker_users(None)
    assert told(rules.docker_users(["ops", "Bad Name", 5])) == ["[1]: a user name", "[2]: a user name"]


@pytest.mark.parametrize(
    "value",
    [
        {"source": "debian", "url": "", "key": ""},
        {"source": "docker", "url": "https://mirror/linux", "key": KEY},
    ],
)
def test_repository(value: Any) -> None:
    assert not rules.docker_repository(value)


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({"source": "docker", "url": "https://m", "key": ""}, [".key"]),
        ({"source": "docker", "url": "ftp://m", "key": "text"}, [".url", ".key"]),
        ({"source": "docker", "url": "https://u:p@m", "key": KEY}, [".url"]),
    ],
)
def test_wrong_repository(value: Any, paths: list[str]) -> None:
    verdict = rules.docker_repository(value)
    assert isinstance(verdict, list)
    assert [item.path for item in verdict] == paths


def test_every_rule_has_its_name() -> None:
    assert all(rule.__name__ == name for name, rule in rules.RULES.items())
