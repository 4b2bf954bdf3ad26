# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia_device_plugin accepts, and the sentence that an operator reads of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action import validate
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_nvidia_device_plugin as rules


@pytest.mark.parametrize("value", [["cdi-cri"], ["cdi-cri", "envvar"], ["cdi-annotations"], ["envvar"]])
def test_strategies(value: list[str]) -> None:
    assert rules.device_plugin_strategies(value) is None


@pytest.mark.parametrize(
    ("value", "needs"), [([], "at least one of"), (["cdi-cri", "cdi-annotations"], "cdi-cri or cdi-annotations, not")]
)
def test_strategies_that_cannot_be(value: list[str], needs: str) -> None:
    assert str(rules.device_plugin_strategies(value)).startswith(needs)


def test_labels() -> None:
    assert rules.device_plugin_labels(["nvidia.com/gpu.present"]) == []
    assert "at least one label" in str(rules.device_plugin_labels([]))
    assert validate.sentences("labels", [], rules.device_plugin_labels(["a", "a b"])) == [
        "labels[1] is 'a b': it needs a label such as nvidia.com/gpu.present."
    ]


def config(**sharing: Any) -> dict[str, Any]:
    return {"sharing": {"timeSlicing": {"resources": [{"name": "nvidia.com/gpu", **sharing}]}}}


@pytest.mark.parametrize("value", [{}, config(replicas=2), {"version": "v1", "flags": {"migStrategy": "none"}}])
def test_config(value: dict[str, Any]) -> None:
    assert rules.device_plugin_config(value) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"share": {}}, "c.share is a part: it needs one of version, flags, imex, resources, sharing."),
        ({"version": "v2"}, "c.version is 'v2': it needs v1."),
        (config(replicas=1), "c.sharing.timeSlicing.resources[0].replicas is 1: it needs a whole number from 2 on."),
        (config(), "c.sharing.timeSlicing.resources[0].replicas is None: it needs a whole number from 2 on."),
        (
            {"sharing": {"mps": {}}},
            "c.sharing.mps is set: it needs to go: the daemon that MPS needs is not part of this role; timeSlicing is.",
        ),
        (
            {"flags": {"plugin": {"deviceListStrategy": "envvar"}}},
            "c.flags.plugin.deviceListStrategy is 'envvar': it needs to go: nvidia_device_plugin_strategies says it.",
        ),
    ],
)
def test_config_that_cannot_be(value: dict[str, Any], said: str) -> None:
    assert validate.sentences("c", value, rules.device_plugin_config(value)) == [said]
