# SPDX-License-Identifier: GPL-3.0-or-later
"""What containerd accepts, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_containerd as rules


@pytest.mark.parametrize(
    "value",
    [
        "pause:3.10",
        "registry.corp.lab:6001/k8s/pause:3.10",
        f"reg/pause@sha256:{'0' * 64}",
        f"reg:5000/pause:3.10@sha256:{'0' * 64}",
    ],
)
def test_pinned_image(value: str) -> None:
    assert rules.pinned_image(value) is None


@pytest.mark.parametrize(
    "value", ["pause", "pause:latest", "https://reg/pause:1", "reg/pause@sha256:0", "", 5, "a b:1"]
)
def test_unpinned_image(value: Any) -> None:
    assert rules.pinned_image(value)


@pytest.mark.parametrize(
    "value", [None, {}, {"debug": {"level": "info"}, "plugins": {"x": {"registry": {"config_path": "/y"}}}}]
)
def test_options(value: Any) -> None:
    assert rules.containerd_options(value) == []


def test_null_and_registries_are_refused() -> None:
    verdict = rules.containerd_options(
        {
            "debug": {"level": None},
            "plugins": {
                "cri": {
                    "registry": {
                        "mirrors": {"docker.io": {"endpoint": ["https://m"]}},
                        "configs": {"m": {"auth": {"password": "s3cret"}}},
                    }
                }
            },
        }
    )
    assert isinstance(verdict, list)
    assert [getattr(item, "path", "") for item in verdict] == [
        ".debug.level",
        ".plugins.cri.registry.mirrors.docker.io.endpoint",
        ".plugins.cri.registry.configs.m.auth.password",
    ]
    assert "s3cret" not in str(verdict)


def test_every_rule_has_its_name() -> None:
    assert all(rule.__name__ == name for name, rule in rules.RULES.items())
