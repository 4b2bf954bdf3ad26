# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles that share Docker and containerd may come in any order: the machine ends up the same."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.play import run_play

HERE = Path(__file__).resolve().parent
ROLES = ("docker_engine", "docker_proxy", "nvidia_container_toolkit", "registry_trust")
# Everything that the roles write, and what docker makes of its part.
FILES = "find /etc/docker /etc/containerd /etc/slipway /etc/systemd/system /etc/apt -type f -printf '%m %u %g %p '"
FILES += r" -exec sh -c 'sha256sum <\"$1\"' - {} \; | sort -k4"
ASKED = ("DefaultRuntime", "HttpProxy", "LiveRestoreEnabled", "RegistryConfig", "Runtimes")

Order = tuple[str, ...]


def orders() -> list[Order]:
    """The reverse of molecule's own order, so that every role comes before and after every other; long: all orders."""
    if not os.environ.get("SLIPWAY_LONG"):
        return [("containerd", *reversed(ROLES))]
    every = itertools.permutations(ROLES)
    return [("containerd", *order) if number % 2 else (*order, "containerd") for number, order in enumerate(every)]


def state(host: Any) -> tuple[list[str], dict[str, Any]]:
    """The files with mode, owner and digest, and what the running dockerd says."""
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    return host.check_output(FILES).splitlines(), {key: info[key] for key in ASKED}


@pytest.fixture(scope="module")
def expected(host: Any) -> tuple[list[str], dict[str, Any]]:
    """What molecule's own converge, in the order of the whole site, has left."""
    return state(host)


@pytest.mark.parametrize("order", orders(), ids=lambda order: "-".join(role.split("_")[-1] for role in order))
def test_every_order_ends_in_the_same_state(host: Any, expected: Any, order: Order) -> None:
    before = host.check_output("sha256sum /etc/docker/daemon.json")
    run_play(HERE / "remove.yml", {"roles_in_order": order}).succeeded()
    assert host.check_output("sha256sum /etc/docker/daemon.json") != before
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {"shutdown-timeout": 20}
    run_play(HERE / "converge.yml", {"roles_in_order": order}).succeeded()
    assert state(host) == expected
    assert run_play(HERE / "converge.yml", {"roles_in_order": order}).succeeded().changed == 0
    assert host.run("docker ps").rc == 0
