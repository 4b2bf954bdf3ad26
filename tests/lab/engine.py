"""The Docker engine below the lab: connection, networks, and what a dead dockerd left behind."""

from __future__ import annotations

import functools
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types

from tests.lab import plan
from tests.lab.errors import LabError
from tests.lab.paths import locked

# Every answer of the SDK is untyped: `Any` is what its objects are.
Client = Any
Container = Any

CAP_SYS_RESOURCE = 24


@functools.cache
def client() -> Client:
    """Connection to the engine.

    Raises:
        LabError: No engine answers.
    """
    try:
        connection = docker.from_env(timeout=600)
        connection.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise LabError(f"No Docker engine answers ({error}). Run `make setup`, it installs and starts one.") from error
    return connection


def ensure_networks() -> None:
    """Create the two networks, or replace one that a dead engine left unusable.

    Raises:
        LabError: The host already uses these addresses for something else.
    """
    with locked("networks"):
        _ensure_network(plan.CORP_NAME, plan.CORP, internal=True)
        _ensure_network(plan.OUTSIDE_NAME, plan.OUTSIDE, internal=False)


def _ensure_network(name: str, subnet: IPv4Network, *, internal: bool) -> None:
    found = client().networks.list(names=[f"^{name}$"])
    if found:
        # An engine that was killed can remember a network whose bridge is gone with the machine's restart.
        bridge = found[0].attrs["Options"].get("com.docker.network.bridge.name", "")
        if Path("/sys/class/net", bridge).exists() or not Path("/sys/class/net").is_dir():
            return
        _remove_network(found[0])
    pool = docker.types.IPAMPool(subnet=str(subnet), gateway=str(subnet.network_address + 1))
    try:
        client().networks.create(
            name,
            driver="bridge",
            internal=internal,
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            options={"com.docker.network.bridge.name": name[:15]},
            labels={plan.LABEL_OWNER: "lab"},
        )
    except docker.errors.APIError as error:
        raise LabError(f"Docker can't make the network {name} ({subnet}): {error.explanation}") from error


def _remove_network(network: Any) -> None:
    network.reload()
    for identifier in network.attrs.get("Containers") or {}:
        network.disconnect(identifier, force=True)
    network.remove()


def find(name: str) -> Container | None:
    """Container of that exact name, or None."""
    try:
        return client().containers.get(name)
    except docker.errors.NotFound:
        return None


def own_containers() -> list[Container]:
    """Every container of the lab, running or not. Another process may be removing some of them meanwhile."""
    filters = {"label": plan.LABEL_MACHINE}
    return list(client().containers.list(all=True, filters=filters, ignore_removed=True))


def remove(container: Container) -> bool:
    """Remove a container with its volumes, whoever else does so at the moment.

    Returns:
        Whether there was one.

    Raises:
        LabError: The engine could not.
    """
    try:
        container.remove(v=True, force=True)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if "already in progress" not in str(error):
            raise LabError(f"Container {container.name} could not be removed: {error.explanation}") from error
    return True


def clear_leftovers() -> list[str]:
    """Remove containers that a killed dockerd left in a state from which they can't be started.

    Returns:
        Names of what was removed.
    """
    removed = []
    for container in own_containers():
        if container.status in ("dead", "removing") and remove(container):
            removed.append(container.name)
    return removed


def cgroup_version() -> int:
    """1 or 2: decides how a systemd container has to be started."""
    return int(client().info().get("CgroupVersion", "1"))


def may_raise_limits() -> bool:
    """Whether this machine has CAP_SYS_RESOURCE to give away; without it no container can be privileged."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return True


def remove_networks() -> None:
    """Remove both networks."""
    for name in (plan.CORP_NAME, plan.OUTSIDE_NAME):
        for network in client().networks.list(names=[f"^{name}$"]):
            _remove_network(network)
