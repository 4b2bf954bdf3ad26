# SPDX-License-Identifier: GPL-3.0-or-later
"""What a runtime cannot do is refused in one sentence, before anything changes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action.validate import sentences
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_registry_trust as rules

SETTINGS = {
    "host": "registry.corp.lab",
    "port": 6001,
    "mirrors": ["docker.io"],
    "runtimes": ["docker", "containerd", "containers"],
    "docker_mirror": True,
    "user": "",
    "password": "",
}


def together(**changes: Any) -> list[str]:
    return sentences("", "", rules.registry_trust_runtimes(SETTINGS | changes))


@pytest.mark.parametrize("value", [[], ["docker.io"], ["quay.io", "registry.example:5000", "10.0.0.1:443"]])
def test_registries_are_accepted(value: Any) -> None:
    assert not rules.upstream_names(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("docker.io", "a list of registries"),
        (["https://docker.io"], "x[0] is 'https://docker.io': it needs a registry's name such as docker.io"),
        (["docker.io/library"], "without scheme and path"),
        (["docker.io:x"], "x[0] is 'docker.io:x'"),
        (["*"], "x[0] is '*'"),
        ([5], "x[0] is 5"),
        (["a.io", "a.io"], "x is 'a.io' twice: it needs each name once"),
    ],
)
def test_what_is_no_registry_is_refused(value: Any, words: str) -> None:
    assert words in " ".join(sentences("x", value, rules.upstream_names(value)))


def test_nothing_is_a_host_and_a_ca() -> None:
    assert rules.registry_trust_optional_host("") is None
    assert rules.registry_trust_optional_ca("") is None
    assert rules.registry_trust_optional_host("a b") is not None
    assert rules.registry_trust_optional_ca("no PEM") is not None


def test_what_works_together_is_accepted() -> None:
    login = {"user": "u", "password": "p"}
    for changes in ({}, {**login, "docker_mirror": False}, {**login, "runtimes": ["containerd"]}):
        assert together(**changes) == []
    assert together(**login, mirrors=["quay.io"]) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"user": "puller", "password": "s"},
            ".user is 'puller': it needs to be empty, or registry_trust_docker_mirror",
        ),
        ({"user": "puller"}, ".password is empty: it needs a value, because registry_trust_user is set"),
        ({"password": "s3cret"}, ".user is empty: it needs a value, because registry_trust_password is set"),
        ({"user": "a:b", "password": "s", "docker_mirror": False}, "a name without colon"),
        ({"user": "u", "password": "s3\ncret", "docker_mirror": False}, "a password without control characters"),
        ({"mirrors": ["registry.corp.lab:6001"]}, "a list with the registry itself (registry.corp.lab:6001)"),
        ({"mirrors": ["registry.corp.lab"]}, "other registries only"),
    ],
)
def test_what_does_not_is_refused(changes: dict[str, Any], words: str) -> None:
    found = " ".join(together(**changes))
    assert words in found
    assert "s3" not in found


CACHE = {"upstream": "docker.io", "host": "cache.corp.lab", "port": 6011}


def test_caches_are_complete_and_differ() -> None:
    rule = rules.RULES["registry_trust_caches"]
    assert rule([CACHE, {**CACHE, "upstream": "vault.corp.lab:5000", "port": "6012"}]) == []
    verdict = rule([CACHE, CACHE, {"upstream": "https://x", "host": "a b", "port": 0}])
    assert isinstance(verdict, list)
    assert [problem.path for problem in verdict] == ["[1].upstream", "[2].upstream", "[2].host", "[2].port"]
