# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role registry_mirror refuses, beyond the common rules."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_registry_mirror import RULES


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("mirror_images", []),
        ("mirror_images", ["debian:13", {"name": "quay.io/a/b:1", "target": "vendor/b:1"}, {"name": "c:1"}]),
        ("mirror_images", ["quay.io/a:1", "quay.io/a:1"]),
        ("mirror_images", ["quay.io/a:1", {"name": "ghcr.io/a:1", "target": "ghcr/a:1"}]),
        ("mirror_registry", "registry.corp.lab:6001"),
        ("mirror_upstreams", [{"registry": "docker.io", "user": "u", "password": "p"}, {"registry": "r.lab:5000"}]),
        ("mirror_host", {"host": "", "machines": []}),
        ("mirror_host", {"host": "node1", "machines": ["node1"]}),
        ("mirror_login", {"user": "", "password": ""}),
        ("mirror_login", {"user": "u", "password": "p"}),
    ],
)
def test_what_can_work_is_taken(rule: str, value: Any) -> None:
    assert not RULES[rule](value)


@pytest.mark.parametrize(
    ("rule", "value", "path"),
    [
        ("mirror_images", ["debian"], "[0]"),
        ("mirror_images", ["a:1", 5], "[1]"),
        ("mirror_images", [{"name": "a:1", "tag": "b"}], "[0]"),
        ("mirror_images", [{"target": "a:1"}], "[0]"),
        ("mirror_images", [{"name": "a:1", "target": "quay.io/a:1"}], "[0].target"),
        ("mirror_images", ["quay.io/a:1", "ghcr.io/a:1"], "[1]"),
        ("mirror_images", ["a:1", "quay.io/library/a:1"], "[1]"),
        ("mirror_upstreams", [{"registry": "https://quay.io"}], "[0].registry"),
        ("mirror_upstreams", [{"registry": "a.lab"}, {"registry": "a.lab"}], "[1].registry"),
        ("mirror_upstreams", ["quay.io"], "[0].registry"),
        ("mirror_host", {"host": "nowhere", "machines": ["node1"]}, ".host"),
        ("mirror_login", {"user": "u", "password": ""}, ".password"),
        ("mirror_login", {"user": "", "password": "secret"}, ".user"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is(rule: str, value: Any, path: str) -> None:
    verdict = RULES[rule](value)
    (problem,) = verdict if isinstance(verdict, list) else [verdict]
    assert isinstance(problem, Problem)
    assert problem.path == path
    assert "secret" not in str(problem)


@pytest.mark.parametrize("value", ["", "registry.corp.lab", "https://registry.corp.lab:6001", "registry:0", ":6001"])
def test_an_address_needs_host_and_port(value: str) -> None:
    assert RULES["mirror_registry"](value) == "host:port of the private registry"
