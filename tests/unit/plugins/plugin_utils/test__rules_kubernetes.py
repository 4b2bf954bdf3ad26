# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles for Kubernetes accept, and the sentence that an operator reads of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action import validate
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_kubernetes as rules

from tests.unit.openpgp_keys import ED25519, ED25519_FINGERPRINT, RSA_FINGERPRINT


def told(rule: str, **values: Any) -> list[str]:
    """Return the sentences of a rule over several variables."""
    together = [{"rule": rule, "vars": {name: name for name in values}}]
    return validate.apply_rules({}, together, values)


@pytest.mark.parametrize("value", ["node7", "node7.example.com", "a", "0-x"])
def test_names(value: str) -> None:
    assert rules.kubernetes_name(value) is None


@pytest.mark.parametrize("value", ["", "Node7", "node_7", "-a", "a-", "a..b", "a" * 254])
def test_wrong_names(value: str) -> None:
    assert validate.sentences("name", value, rules.kubernetes_name(value))[0].startswith("name is '")


@pytest.mark.parametrize("value", ["1.34.*", "1.34.3-1.1", "1.31.0-*", "2.0.*"])
def test_versions(value: str) -> None:
    assert rules.kubernetes_version(value) is None


@pytest.mark.parametrize("value", ["", "*", "1.*", "1.30.*", "1.34", "latest", 1.34, "1.34.3 x"])
def test_wrong_versions(value: Any) -> None:
    assert str(rules.kubernetes_version(value)).startswith("a version or pattern of one minor release from 1.31 on")


def test_addresses() -> None:
    assert rules.kubernetes_repository_url("https://pkgs.k8s.io/core:/stable:/v1.34/deb") is None
    assert rules.kubernetes_repository_url("https://u:p@mirror/deb") is not None


@pytest.mark.parametrize("value", ["control.corp.lab:6443", "10.0.0.1:6443", "[2001:db8::1]:6443"])
def test_endpoints(value: str) -> None:
    assert rules.kubernetes_endpoint(value) is None


@pytest.mark.parametrize("value", ["", "control", "https://control:6443", "control:0", ":6443"])
def test_wrong_endpoints(value: str) -> None:
    assert rules.kubernetes_endpoint(value) == "a host name and a port, such as control.example.com:6443"


def test_labels() -> None:
    assert rules.kubernetes_labels({"team": "a", "example.com/rack": "", "n": "1"}) == []
    assert rules.kubernetes_labels([]) == "a dictionary from a label to its value"
    assert validate.sentences("labels", {}, rules.kubernetes_labels({"a b": "x", "gpu": True, "c": "x y"})) == [
        "labels is the label 'a b': it needs a label such as team or example.com/team.",
        "labels.gpu is True: it needs a text of at most 63 letters, digits, -, _ and . (true and numbers in quotes).",
        "labels.c is 'x y': it needs a text of at most 63 letters, digits, -, _ and . (true and numbers in quotes).",
    ]


def test_taints() -> None:
    good = {"key": "gpu", "value": "", "effect": "NoSchedule"}
    assert rules.kubernetes_taints([good, {**good, "effect": "NoExecute"}]) == []
    assert validate.sentences("taints", [], rules.kubernetes_taints([good, good, {**good, "key": "/x"}])) == [
        "taints[1] is 'gpu:NoSchedule': it needs each key and effect once.",
        "taints[2].key is '/x': it needs a key such as gpu or example.com/gpu.",
    ]


def test_keys() -> None:
    text = ED25519
    assert told("kubernetes_key", key=text, fingerprint=ED25519_FINGERPRINT.lower()) == []
    assert told("kubernetes_key", key="", fingerprint=ED25519_FINGERPRINT)[0].startswith(
        "key is empty: it needs the text"
    )
    assert f"key is the key {ED25519_FINGERPRINT}" in told("kubernetes_key", key=text, fingerprint=RSA_FINGERPRINT)[0]
    assert RSA_FINGERPRINT in told("kubernetes_key", key="nothing", fingerprint=RSA_FINGERPRINT)[0]


def test_subnets() -> None:
    assert told("kubernetes_subnets", pods="10.244.0.0/16", services="10.96.0.0/12") == []
    assert told("kubernetes_subnets", pods="fd00::/64", services="10.96.0.0/12") == []
    assert told("kubernetes_subnets", pods="10.244.0.1/16", services="x") == [
        "pods is '10.244.0.1/16': it needs a network such as 10.244.0.0/16.",
        "services is 'x': it needs a network such as 10.244.0.0/16.",
    ]
    assert told("kubernetes_subnets", pods="10.0.0.0/8", services="10.96.0.0/12") == [
        "services is '10.96.0.0/12': it needs a network apart from that of the pods, 10.0.0.0/8."
    ]
