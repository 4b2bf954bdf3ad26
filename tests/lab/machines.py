"""Machines, one by one: create, boot, stop, start, reboot, destroy."""

from __future__ import annotations

import io
import json
import secrets
import socket
import tarfile
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import docker.errors

from tests.lab import engine, gateway, images, paths, plan, ssh
from tests.lab.engine import client
from tests.lab.errors import LabError
from tests.lab.plan import Machine
from tests.lab.progress import say

# A clean shutdown of a container's systemd.
STOP_SIGNAL = "SIGRTMIN+3"
STOP_SECONDS = 30
BOOT_SECONDS = 90

USER_ID = 1000
NVIDIA_RULE = "c 195:* rwm"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What distinguishes the gateway and the internet from a machine.

    Attributes:
        networks: Network name to address; the first one gives the default route where it isn't internal.
        binds: Host directory to path in the container.
        nameserver: Goes to /etc/resolv.conf.
        route: Default route on a network where the engine gives none of ours.
        ssh: Whether an SSH server has to answer.
    """

    networks: dict[str, IPv4Address]
    binds: dict[Path, str] = field(default_factory=dict)
    nameserver: IPv4Address = plan.GATEWAY
    route: IPv4Address | None = None
    ssh: bool = True

    def key(self) -> str:
        """Hash of what can't be changed in a container that exists."""
        binds = sorted(f"{source}:{target}" for source, target in self.binds.items())
        return paths.digest(ssh.user_public_key(), *binds)


def create(machine: Machine, form: Form | None = None) -> bool:
    """Make a container for a machine and start it; an existing one of the same image is kept and started.

    Returns:
        Whether it boots now; it ran already otherwise.

    Raises:
        LabError: The engine refuses.
    """
    container = engine.find(machine.container)
    if container:
        # "created" is what is left of a run that was cut off before the machine had its keys.
        if container.status != "created" and _is_as_wanted(container, machine, form):
            return _start_existing(machine.name, container)
        say(f"lab: {machine.name} is of another image, or was left half made: it is made anew")
        destroy(machine.name)
    full_tag = images.ensure(machine.image)
    try:
        with paths.locked("addresses"):
            form = form or Form(networks={plan.CORP_NAME: machine.address or _free_address()}, route=plan.GATEWAY)
            identifier = _create_container(machine, form, full_tag)
        key = ssh.new_key()
        client().api.put_archive(identifier, "/", _own_files(machine, form, key))
        for name, address in list(form.networks.items())[1:]:
            client().api.connect_container_to_network(identifier, name, ipv4_address=str(address))
        client().api.start(identifier)
    except docker.errors.APIError as error:
        raise LabError(f"Machine {machine.name} could not be made: {error.explanation}") from error
    if form.ssh:
        ssh.remember(_ssh_names(machine.name, str(_corp_address(form))), key.public)
    return True


def _start_existing(name: str, container: Any) -> bool:
    if container.status == "running":
        return False
    try:
        try:
            container.start()
        except docker.errors.APIError:
            # A dockerd that was killed can remember the container as still being on its networks.
            _reconnect(container)
            container.start()
    except docker.errors.APIError as error:
        how = f"`python -m tests.lab destroy {name}` and up again"
        raise LabError(
            f"Machine {name} can't be started: {error.explanation}. A new one can be had by {how}."
        ) from error
    return True


def _reconnect(container: Any) -> None:
    """Take a container off its networks and put it back under the same addresses."""
    for name, endpoint in container.attrs["NetworkSettings"]["Networks"].items():
        wanted = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
        client().api.disconnect_container_from_network(container.id, name, force=True)
        client().api.connect_container_to_network(container.id, name, ipv4_address=wanted)


def destroy(name: str) -> bool:
    """Throw a machine away, with its volumes.

    Returns:
        Whether there was one.
    """
    container = engine.find(plan.PREFIX + name)
    if container is None:
        return False
    ssh.forget(_ssh_names(name, container.labels.get(plan.LABEL_ADDRESS, "")))
    return engine.remove(container)


def stop(name: str) -> None:
    """Shut a machine down."""
    existing(name).stop(timeout=STOP_SECONDS)


def start(name: str) -> None:
    """Start a machine and wait until it has booted."""
    existing(name).start()
    wait(name, healthy=False)


def reboot(name: str) -> None:
    """Shut a machine's systemd down cleanly, start it again, and wait until it has booted."""
    existing(name).restart(timeout=STOP_SECONDS)
    wait(name, healthy=False)


def existing(name: str) -> Any:
    """Container of a machine.

    Raises:
        LabError: There is no such machine.
    """
    container = engine.find(plan.PREFIX + name)
    if container is None:
        raise LabError(f"Machine '{name}' does not exist: see `python -m tests.lab status`.")
    return container


def address(name: str) -> str:
    """Address of a machine on the corporate network."""
    return str(existing(name).labels[plan.LABEL_ADDRESS])


def wait(name: str, *, with_ssh: bool = True, healthy: bool = True) -> None:
    """Wait until systemd has booted and SSH answers.

    Args:
        name: The machine.
        with_ssh: Whether it has an SSH server.
        healthy: Whether a failed unit is an error: it is on a fresh machine, not on one that is being worked on.

    Raises:
        LabError: It did not within BOOT_SECONDS, or a unit failed; the message says which.
    """
    container = existing(name)
    deadline = time.monotonic() + BOOT_SECONDS
    state = ""
    while time.monotonic() < deadline:
        container.reload()
        if container.status != "running":
            raise LabError(f"Machine {name} died while booting: {container.logs(tail=20).decode(errors='replace')}")
        state = _system_state(container)
        if state in ("running", "degraded"):
            break
        time.sleep(0.3)
    if state != "running" and (healthy or state != "degraded"):
        failed = _exec(container, ["systemctl", "list-units", "--failed", "--plain", "--no-legend"])
        raise LabError(f"Machine {name} did not boot: systemd says '{state}'. Failed units: {failed or 'none'}")
    if with_ssh:
        _wait_for_port(name, container.labels[plan.LABEL_ADDRESS], deadline)


def _system_state(container: Any) -> str:
    try:
        return _exec(container, ["systemctl", "is-system-running", "--wait"])
    except docker.errors.APIError:
        return "starting"


def _exec(container: Any, words: list[str]) -> str:
    return str(container.exec_run(words).output.decode(errors="replace").strip())


def _wait_for_port(name: str, host: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, 22), timeout=2) as connection:
                if connection.recv(3) == b"SSH":
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise LabError(f"Machine {name} booted, but no SSH server answers at {host}.")


def _is_as_wanted(container: Any, machine: Machine, form: Form | None) -> bool:
    labels = container.labels
    return (
        labels.get(plan.LABEL_IMAGE) == images.tag(machine.image)
        and labels.get(plan.LABEL_FORM) == (form or Form(networks={})).key()
        and (machine.address is None or labels.get(plan.LABEL_ADDRESS) == str(machine.address))
    )


def _free_address() -> IPv4Address:
    found = (container.labels.get(plan.LABEL_ADDRESS) for container in engine.own_containers())
    return plan.free_address({IPv4Address(text) for text in found if text})


def _corp_address(form: Form) -> IPv4Address | None:
    return form.networks.get(plan.CORP_NAME)


def _ssh_names(name: str, corp_address: str) -> list[str]:
    return [word for word in (corp_address, f"{name}.{plan.ZONE}", name) if word]


def _create_container(machine: Machine, form: Form, full_tag: str) -> str:
    api = client().api
    network, first = next(iter(form.networks.items()))
    corp = _corp_address(form)
    labels = {
        plan.LABEL_MACHINE: machine.name,
        plan.LABEL_IMAGE: full_tag,
        plan.LABEL_OWNER: machine.owner,
        plan.LABEL_FORM: form.key(),
        plan.LABEL_ADDRESS: str(corp) if corp else "",
    }
    made = api.create_container(
        full_tag,
        ["/sbin/init"],
        name=machine.container,
        hostname=machine.name,
        domainname=plan.ZONE,
        environment=_environment(),
        volumes=["/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet"],
        labels=labels,
        stop_signal=STOP_SIGNAL,
        host_config=_host_config(form),
        networking_config=api.create_networking_config({network: api.create_endpoint_config(ipv4_address=str(first))}),
    )
    return str(made["Id"])


def _environment() -> dict[str, str]:
    environment = {"container": "docker"}
    if engine.cgroup_version() == 1:
        # Debian 13's systemd refuses to boot on a cgroup v1 host without both.
        environment["SYSTEMD_PROC_CMDLINE"] = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    return environment


def _host_config(form: Form) -> dict[str, Any]:
    """How the container is allowed to be a machine: docs/decisions/0009 has the reasons."""
    binds = {str(source): {"bind": target, "mode": "rw"} for source, target in form.binds.items()}
    common: dict[str, Any] = {
        "tmpfs": {"/run": "exec", "/run/lock": "", "/tmp": "exec"},
        "network_mode": next(iter(form.networks)),
    }
    if engine.cgroup_version() == 1:
        binds["/sys/fs/cgroup"] = {"bind": "/sys/fs/cgroup", "mode": "rw"}
    if engine.cgroup_version() == 2 and engine.may_raise_limits():
        config: dict[str, Any] = client().api.create_host_config(privileged=True, binds=binds, **common)
        config["CgroupnsMode"] = "private"
        return config
    config = client().api.create_host_config(
        binds=binds,
        cap_add=["ALL"],
        cap_drop=[] if engine.may_raise_limits() else ["SYS_RESOURCE"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        devices=["/dev/kmsg"],
        device_cgroup_rules=[NVIDIA_RULE],
        **common,
    )
    # Both are what the client's `--security-opt systempaths=unconfined` turns into.
    config["MaskedPaths"] = []
    config["ReadonlyPaths"] = []
    # A private cgroup namespace breaks a runc inside the machine.
    config["CgroupnsMode"] = "host"
    return config


# Machines share the host's cgroup tree: a kubelet gets a branch of its own, which it wants to find there. In version 1
# every controller is a tree; kubelet_root() is what the kubelet is told.
KUBELET_DROP_IN = """\
[Service]
ExecStartPre=/bin/sh -c 'for tree in /sys/fs/cgroup/*/; do mkdir -p $${tree}{root} || true; done'
ExecStartPre=/bin/sh -c 'cat $${tree:=/sys/fs/cgroup/cpuset}/cpuset.cpus >$${tree}{root}/cpuset.cpus || true'
ExecStartPre=/bin/sh -c 'cat $${tree:=/sys/fs/cgroup/cpuset}/cpuset.mems >$${tree}{root}/cpuset.mems || true'
"""


def kubelet_root(name: str) -> str:
    """Branch of the cgroup tree for a machine's kubelet, on a host with version 1."""
    return f"/{plan.PREFIX}{name}"


def _own_files(machine: Machine, form: Form, key: ssh.KeyPair) -> bytes:
    """What makes one machine differ from another, as a tar archive."""
    own_address = _corp_address(form) or next(iter(form.networks.values()))
    files = {
        "etc/slipway-lab/resolv.conf": (f"search {plan.ZONE}\nnameserver {form.nameserver}\n", 0o644, 0),
        "etc/slipway-lab/hosts": (_hosts(machine, own_address), 0o644, 0),
        "etc/slipway-lab/hostname": (f"{machine.name}\n", 0o644, 0),
        "etc/machine-id": (secrets.token_hex(16) + "\n", 0o444, 0),
        "etc/ssh/ssh_host_ed25519_key": (key.private, 0o600, 0),
        "etc/ssh/ssh_host_ed25519_key.pub": (key.public, 0o644, 0),
        "home/ops/.ssh/authorized_keys": (ssh.user_public_key(), 0o600, USER_ID),
    }
    if engine.cgroup_version() == 1:
        drop_in = KUBELET_DROP_IN.replace("{root}", kubelet_root(machine.name))
        files["etc/systemd/system/kubelet.service.d/slipway-lab.conf"] = (drop_in, 0o644, 0)
    if form.route:
        files["etc/slipway-lab/route"] = (f"{form.route}\n", 0o644, 0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode, owner in (("etc/slipway-lab", 0o755, 0), ("home/ops/.ssh", 0o700, USER_ID)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
            archive.addfile(entry)
        for name, (text, mode, owner) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(text.encode()), mode, owner, owner
            entry.mtime = int(time.time())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _hosts(machine: Machine, own_address: IPv4Address) -> str:
    return (
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
        f"{own_address} {machine.full_name} {machine.name}\n"
    )


def publish() -> None:
    """Tell the corporate name server about the machines that exist."""
    gateway.publish_names()


def facts(container: Any) -> dict[str, str]:
    """What `status` shows of a machine."""
    return {
        "machine": container.labels[plan.LABEL_MACHINE],
        "state": container.status,
        "address": container.labels.get(plan.LABEL_ADDRESS) or "-",
        "image": container.labels.get(plan.LABEL_IMAGE, "").removeprefix(images.PREFIX),
        "owner": container.labels.get(plan.LABEL_OWNER, ""),
    }


def as_json(rows: list[dict[str, str]]) -> str:
    """Rows of `status` for programs."""
    return json.dumps(rows, indent=1)
