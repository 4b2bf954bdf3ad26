# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine as the inventory describes it: how to reach it, and what the site says it should have."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never
from urllib.parse import quote

import pytest
import testinfra

SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10"  # seconds


def missing(reason: str) -> Never:
    """Skip the check: the site has not what it looks at. The reason stands in the verdict."""
    pytest.skip(reason)


def wrong(message: str) -> Never:
    """Fail the check with one sentence; it must not hold a secret, because it is printed."""
    pytest.fail(message, pytrace=False)


def need(condition: object, message: str) -> None:
    """Fail the check unless the condition holds."""
    if not condition:
        wrong(message)


def control_path() -> Path:
    """Return where ssh keeps the one connection that all checks of a machine share."""
    directory = Path.home() / ".ansible/cp"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / "slipway-%C"  # ssh makes %C of user, host and port


def need_running(host: Any, unit: str) -> None:
    """Fail the check unless a systemd unit is enabled and active."""
    shown = host.run(f"systemctl show --property=UnitFileState,ActiveState {unit}").stdout
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    need(state.get("UnitFileState") == "enabled", f"{unit} is {state.get('UnitFileState') or 'not there'}, not enabled")
    need(state.get("ActiveState") == "active", f"{unit} is {state.get('ActiveState')}; see journalctl -u {unit}")


def daemon_json(host: Any) -> dict[str, Any]:
    """Return docker's daemon.json; without one, nothing is set."""
    file = host.file("/etc/docker/daemon.json")
    return dict(json.loads(file.content_string)) if file.exists else {}


@contextlib.contextmanager
def borrowed_image(host: Any, image: str) -> Iterator[None]:
    """Take an image away from docker again that was not there before; skips where no docker is."""
    if not host.exists("docker"):
        missing("docker is not installed")
    known = host.run("docker image inspect %s", image).rc == 0
    try:
        yield
    finally:
        if not known:
            host.run("docker image rm %s", image)


def proxy_url(proxy: dict[str, str]) -> str:
    """Return a site_proxy entry as URL, user and password percent-encoded once (RFC 3986, section 2.1).

    Written again here, not taken from the filter that the roles use: a proof may not share the mistake it looks for.
    """
    scheme, separator, rest = proxy["url"].partition("://")
    if not proxy.get("user"):
        return proxy["url"]
    login = quote(proxy["user"], safe="")
    if proxy.get("password"):
        login += ":" + quote(proxy["password"], safe="")
    return f"{scheme}{separator}{login}@{rest}"


@dataclass
class Machine:
    """One machine of the inventory.

    Attributes:
        name: its name in the inventory.
        groups: the groups it is in.
        connection: how to reach it: kind (ssh, local, docker), address, port, user, key, arguments.
        site: the site's facts for this machine: proxy, dns, registry, registry_caches, ca_certificates, verify.
        node: its name in the cluster.
        control: name and connection of the machine where its cluster can be asked.
    """

    name: str
    groups: list[str] = field(default_factory=list)
    connection: dict[str, Any] = field(default_factory=dict)
    site: dict[str, Any] = field(default_factory=dict)
    node: str = ""
    control: dict[str, Any] = field(default_factory=dict)

    def api(self) -> Any:
        """Return testinfra's host of the machine where the cluster can be asked; skips where there is none."""
        if not self.control:
            missing("the inventory names no site_kubernetes.control_plane")
        return Machine(name=self.control["name"], connection=self.control).host()

    def host(self) -> Any:
        """Return testinfra's host, commands run as root."""
        kind = self.connection.get("kind", "ssh")
        address = self.connection.get("address") or self.name
        if kind == "local":
            return testinfra.get_host("local://", sudo=os.geteuid() != 0)
        if kind.endswith("docker"):
            return testinfra.get_host(f"docker://{address}")
        spec = f"{self.connection['user']}@{address}" if self.connection.get("user") else address
        spec += f":{self.connection['port']}" if self.connection.get("port") else ""
        return testinfra.get_host(
            f"ssh://{spec}",
            sudo=self.connection.get("user") != "root",
            ssh_identity_file=self.connection.get("key") or None,
            ssh_extra_args=f"{SSH_OPTIONS} -o ControlPath={control_path()} {self.connection.get('arguments', '')}",
        )

    def put(self, source: Path, target: str) -> None:
        """Copy a program to the machine, executable for root only. Fails the check when that does not work."""
        if self.connection.get("kind", "ssh") != "ssh":
            missing("a program can be copied over ssh only")
        command = ["ssh", *shlex.split(SSH_OPTIONS)]
        command += shlex.split(self.connection.get("arguments", ""))
        for option, name in (("-i", "key"), ("-p", "port"), ("-l", "user")):
            if self.connection.get(name):
                command += [option, str(self.connection[name])]
        remote = f"sudo sh -c 'umask 077 && cat > {target} && chmod 700 {target}'"
        command += [self.connection.get("address") or self.name, remote]
        with source.open("rb") as program:
            done = subprocess.run(command, stdin=program, capture_output=True, text=True, check=False)
        need(done.returncode == 0, f"copying {source.name} failed: {done.stderr.strip()}")

    def fact(self, name: str) -> dict[str, Any]:
        """Return one of the site's facts; skips the check when the site does not have it."""
        value = self.site.get(name)
        if not value:
            missing(f"the inventory sets no site_{name}")
        return dict(value)

    def proxy(self, scheme: str) -> dict[str, str]:
        """Return the proxy for http or https; skips the check when the site has none."""
        proxy = self.fact("proxy").get(scheme)
        if not proxy or not proxy.get("url"):
            missing(f"the inventory sets no site_proxy.{scheme}")
        return dict(proxy)

    def registry(self) -> tuple[str, int]:
        """Return the registry's host and port; skips the check when the site has none."""
        registry = self.fact("registry")
        return str(registry["host"]), int(registry.get("port", 6001))

    def probe(self, name: str) -> str:
        """Return a probe image of site_verify: private or upstream; skips when the site allows none."""
        image = (self.site.get("verify") or {}).get(name)
        if not image:
            missing(f"the inventory names no site_verify.{name}, so nothing is pulled")
        return str(image)

    def secrets(self) -> list[str]:
        """Return every password of the site in each form in which it may leak: raw, in a URL, as basic login."""
        proxy, registry = self.site.get("proxy") or {}, self.site.get("registry") or {}
        caches = (self.site.get("registry_caches") or {}).get("upstreams") or []
        known = [proxy.get("http"), proxy.get("https"), registry, *caches, *(cache.get("proxy") for cache in caches)]
        logins = [login for login in known if login]
        forms = set()
        for login in logins:
            password = login.get("password")
            if password:
                basic = b64encode(f"{login.get('user', '')}:{password}".encode()).decode()
                forms |= {password, quote(password, safe=""), basic}
        return sorted(forms)
