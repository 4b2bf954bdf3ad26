# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia_container_toolkit accepts, and the sentence that an operator reads of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action import validate
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_nvidia_container_toolkit as rules

from tests.unit.openpgp_keys import ED25519, ED25519_FINGERPRINT, RSA, RSA_FINGERPRINT, armour

PREFIX = "nvidia_container_toolkit_"


def told(rule: str, **values: Any) -> list[str]:
    """Return the sentences of a rule over several variables, as the role's tasks/validate.yml calls it."""
    together = [{"rule": rule, "vars": {name: f"{PREFIX}{name}" for name in values}}]
    return validate.apply_rules({}, together, {f"{PREFIX}{name}": value for name, value in values.items()})


@pytest.mark.parametrize(
    "value", ["1.20.*", "1.20.1-1", "1.18.0-1", "1.18.*", "1.19*", "1.20.0~rc.1-1", "2.*", "2.0.1"]
)
def test_versions(value: str) -> None:
    assert not rules.nvidia_version(value)


@pytest.mark.parametrize(
    "value", ["", "*", "1.*", "1.17.8-1", "1.17.*", "1.1*", "1.1?.0", "1", "latest", 1.2, "1.20.1 x"]
)
def test_wrong_versions(value: Any) -> None:
    assert str(rules.nvidia_version(value)).startswith("a version or pattern of 1.18 or later, such as 1.20.*")


@pytest.mark.parametrize("value", ["https://nvidia.github.io/libnvidia-container/stable/deb", "http://mirror"])
def test_addresses(value: str) -> None:
    assert not rules.nvidia_repository_url(value)


@pytest.mark.parametrize("value", ["", "ftp://mirror/deb", "nvidia.github.io/deb", "https://m/a b", None])
def test_wrong_addresses(value: Any) -> None:
    assert validate.sentences("url", value, rules.nvidia_repository_url(value)) == [
        f"url is {value!r}: it needs an http or https address without credentials."
    ]


def test_a_password_in_an_address_is_not_shown() -> None:
    value = "https://user:s3cret@mirror/deb"
    (sentence,) = validate.sentences("url", value, rules.nvidia_repository_url(value))
    assert "s3cret" not in sentence


@pytest.mark.parametrize("value", [RSA_FINGERPRINT, RSA_FINGERPRINT.lower(), "C95B 321B " * 5, "a" * 64])
def test_fingerprints(value: str) -> None:
    assert not rules.openpgp_fingerprint(value)


@pytest.mark.parametrize("value", ["", "F796ECB0", "g" * 40, "a" * 41, None])
def test_wrong_fingerprints(value: Any) -> None:
    assert "40 or 64 hex digits" in str(rules.openpgp_fingerprint(value))


@pytest.mark.parametrize("fingerprint", [RSA_FINGERPRINT, "54b3 0ca4 dc14 6339 e252  be71 b473 ad80 c397 ef2f"])
def test_the_pinned_key(fingerprint: str) -> None:
    assert told("nvidia_key", enabled=True, key=RSA, fingerprint=fingerprint) == []


def test_no_key_is_needed_where_the_role_is_off() -> None:
    assert told("nvidia_key", enabled=False, key="", fingerprint=RSA_FINGERPRINT) == []


def test_without_a_key_the_sentence_says_where_it_is() -> None:
    assert told("nvidia_key", enabled=True, key="", fingerprint=RSA_FINGERPRINT) == [
        "nvidia_container_toolkit_key is empty: it needs the text of the public key that signs NVIDIA's repository, "
        "which NVIDIA publishes at https://nvidia.github.io/libnvidia-container/gpgkey."
    ]


def test_another_key_is_refused_by_both_fingerprints() -> None:
    assert told("nvidia_key", enabled=True, key=ED25519, fingerprint=RSA_FINGERPRINT) == [
        f"nvidia_container_toolkit_key is the key {ED25519_FINGERPRINT}: it needs the key that "
        f"nvidia_container_toolkit_repository_fingerprint names, {RSA_FINGERPRINT}."
    ]


@pytest.mark.parametrize(
    ("key", "got"), [(armour(b"", "PRIVATE KEY BLOCK"), "a private key"), ("text", "no armoured key")]
)
def test_what_is_no_key(key: str, got: str) -> None:
    assert told("nvidia_key", enabled="yes", key=key, fingerprint=RSA_FINGERPRINT) == [
        f"nvidia_container_toolkit_key is {got}: it needs the armoured public key with the fingerprint "
        f"{RSA_FINGERPRINT} (https://nvidia.github.io/libnvidia-container/gpgkey)."
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"gpu": "absent", "default_runtime": False, "require_gpu": False},
        {"gpu": "auto", "default_runtime": True, "require_gpu": True},
        {"gpu": "present", "default_runtime": True, "require_gpu": True},
    ],
)
def test_gpus(values: dict[str, Any]) -> None:
    assert told("nvidia_gpu", **values) == []


@pytest.mark.parametrize("name", ["default_runtime", "require_gpu"])
def test_nothing_may_ask_for_a_gpu_that_is_said_to_be_absent(name: str) -> None:
    values = {"gpu": "absent", "default_runtime": False, "require_gpu": False, name: True}
    assert told("nvidia_gpu", **values) == [
        f"{PREFIX}{name} is true: it needs to be false, because {PREFIX}gpu is absent."
    ]


def test_every_rule_has_its_name() -> None:
    assert all(rule.__name__ == name for name, rule in rules.RULES.items())
