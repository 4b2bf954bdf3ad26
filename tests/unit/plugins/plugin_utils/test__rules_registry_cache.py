# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role registry_cache refuses, beyond the common rules."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_registry_cache import RULES

HUB = {"name": "docker.io", "port": 6011}
FULL = {
    "name": "vault.corp.lab:5000",
    "port": "6012",
    "url": "http://vault.corp.lab:5000/",
    "user": "rack",
    "password": "x",
    "proxy": {"url": "http://proxy.corp.lab:8080", "user": "u", "password": "p"},
    "max_size": "20g",
    "probe": "team/app",
}
TOGETHER = {"host": "cache.corp.lab", "upstreams": [HUB], "version": "3.1.2", "tls": "own_ca"}


def test_what_can_work_is_taken() -> None:
    assert RULES["registry_cache_upstreams"]([HUB, FULL]) == []
    assert RULES["registry_cache_upstreams"]([]) == []
    assert RULES["registry_cache_together"](TOGETHER) == []
    assert RULES["registry_cache_together"]({"host": "", "upstreams": [], "version": "2.8.2"}) is None


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "https://docker.io"}, ".name"),
        ({"name": "docker.io/library"}, ".name"),
        ({"name": "a.b:99999"}, ".name"),
        ({"name": ""}, ".name"),
        ({"port": 0}, ".port"),
        ({"port": True}, ".port"),
        ({"url": "registry-1.docker.io"}, ".url"),
        ({"url": "https://u:p@docker.io"}, ".url"),
        ({"url": "https://docker.io/v2/"}, ".url"),
        ({"url": "https://docker.io:0"}, ".url"),
        ({"user": "u"}, ".password"),
        ({"password": "p"}, ".user"),
        ({"user": "u:v", "password": "p"}, ".user"),
        ({"user": "u", "password": "p\n"}, ".password"),
        ({"proxy": {"url": "proxy:8080"}}, ".proxy.url"),
        ({"proxy": "http://proxy:8080"}, ".proxy"),
        ({"max_size": "much"}, ".max_size"),
        ({"probe": "docker.io/library/Hello:1"}, ".probe"),
    ],
)
def test_what_cannot_work_is_named(changes: dict[str, Any], path: str) -> None:
    verdict = RULES["registry_cache_upstreams"]([FULL, {**HUB, **changes}])
    assert isinstance(verdict, list)
    assert [problem.path for problem in verdict] == [f"[1]{path}"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("other", "path"),
    [({"name": "docker-io", "port": 2}, "[1].name"), ({"name": "quay.io", "port": "6011"}, "[1].port")],
)
def test_two_caches_share_nothing(other: dict[str, Any], path: str) -> None:
    verdict = RULES["registry_cache_upstreams"]([HUB, other])
    assert isinstance(verdict, list)
    assert [problem.path for problem in verdict] == [path]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"host": ""}, ".host"),
        ({"host": "10.0.0.1"}, ".host"),
        ({"host": "a b"}, ".host"),
        ({"version": "2.8.2"}, ".version"),
        ({"version": "3.0.0"}, ".version"),
        ({"version": ""}, ".version"),
        ({"tls": "files", "certificate": "", "private_key": ""}, ".certificate"),
    ],
)
def test_caches_need_a_name_a_version_and_a_certificate(changes: dict[str, Any], path: str) -> None:
    verdict = RULES["registry_cache_together"]({**TOGETHER, **changes})
    assert isinstance(verdict, list)
    assert all(isinstance(problem, Problem) for problem in verdict)
    assert [problem.path for problem in verdict] == [path]  # type: ignore[union-attr]


def test_a_secret_is_never_shown() -> None:
    verdict = RULES["registry_cache_upstreams"](
        [{**HUB, "user": "", "password": "s3cret\n", "url": "http://a:s3cret@b"}]
    )
    assert "s3cret" not in str(verdict)
