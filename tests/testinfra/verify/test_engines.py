# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker and containerd: running, set up as promised, and running with what their files say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.testinfra.verify.machine import Machine, daemon_json, missing, need, need_running


@pytest.mark.parametrize("unit", ["docker", "containerd"])
def test_unit(unit: str, machine: Machine, host: Any) -> None:
    """{unit}.service is enabled and active"""
    need_running(host, f"{unit}.service")


def test_docker_answers(machine: Machine, host: Any) -> None:
    """docker answers on its socket"""
    done = host.run("docker version --format '{{.Server.Version}}'")
    need(done.rc == 0, f"docker version: {done.stderr.strip()}")


def test_containerd_answers(machine: Machine, host: Any) -> None:
    """containerd answers and has its CRI plugin"""
    done = host.run("ctr plugins ls")
    need(done.rc == 0, f"ctr plugins ls: {done.stderr.strip()}")
    lines = [line.split() for line in done.stdout.splitlines()]
    state = {line[-1] for line in lines if len(line) > 2 and "grpc" in line[0] and line[1] == "cri"}
    need(state == {"ok"}, f"the CRI plugin is {', '.join(state) or 'not there'}, kubelet cannot use containerd")


def test_live_restore(machine: Machine, docker: dict[str, Any]) -> None:
    """containers survive a restart of docker (live-restore)"""
    need(docker["LiveRestoreEnabled"], "live-restore is off in the running daemon")


def test_log_rotation(machine: Machine, host: Any, docker: dict[str, Any]) -> None:
    """container logs are rotated"""
    driver = docker["LoggingDriver"]
    if driver != "json-file":
        missing(f"the log driver is {driver}, which bounds its logs elsewhere")
    need(
        daemon_json(host).get("log-opts", {}).get("max-size"),
        "log-opts has no max-size: a container's log can fill the disk",
    )


def test_daemon_started_with_its_file(machine: Machine, host: Any, docker: dict[str, Any]) -> None:
    """docker runs with the registry mirrors of its file"""
    wanted = [url.rstrip("/") for url in daemon_json(host).get("registry-mirrors", [])]
    running = [url.rstrip("/") for url in docker["RegistryConfig"].get("Mirrors") or []]
    need(wanted == running, f"daemon.json says {wanted}, the running daemon has {running}")
