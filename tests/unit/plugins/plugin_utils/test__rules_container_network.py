# SPDX-License-Identifier: GPL-3.0-or-later
"""Switches that contradict each other and proxies that squid cannot use are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action.validate import sentences
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_container_network as rules

PROXY = {"url": "http://proxy.corp.lab:8080", "user": "u", "password": "s3cret"}


def switches(**parts: Any) -> list[str]:
    value = {"containers": False, "builds": False, "http": {}, "https": {}} | parts
    return sentences("", "", rules.container_network_switches(value))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"http": {"url": "https://x"}},
        {"builds": True, "http": PROXY},
        {"containers": True, "builds": True, "https": PROXY},
    ],
)
def test_what_works_together_is_accepted(parts: dict[str, Any]) -> None:
    assert switches(**parts) == []


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"containers": True, "http": PROXY}, ".builds is false: it needs to be true as well"),
        ({"builds": True}, ".http is without one: it needs a url"),
        ({"builds": True, "http": {"url": "https://proxy.corp.lab:8080"}}, "speaks plain HTTP to the proxy"),
        ({"builds": True, "http": PROXY, "https": PROXY | {"user": "*x"}}, ".https is a proxy with credentials"),
        ({"builds": True, "http": PROXY | {"password": "s3" * 64}}, "126 bytes"),
    ],
)
def test_what_does_not_is_refused(parts: dict[str, Any], words: str) -> None:
    found = " ".join(switches(**parts))
    assert words in found
    assert "s3" not in found


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.ipv4_networks, [["172.16.0.0/12"], ["10.0.0.0/8", "192.168.0.0/16"]], ["10.0.0.0/8", [], ["10.0.0.1"]]),
        (rules.ipv4_networks, [], [["172.16.0.1/12"], ["fd00::/8"], [5]]),
        (rules.ipv4_address, ["172.17.0.1"], ["172.17.0.1/16", "::1", "docker0", ""]),
        (rules.user_names, [[], ["root", "ops", "Jane.Doe-x_1"]], ["root", ["a b"], ["../x"], ["a", "a"], [""]]),
    ],
)
def test_values(rule: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if rule(value)] == []
    assert [value for value in bad if not rule(value)] == []
