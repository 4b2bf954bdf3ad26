# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container gets: the company's DNS, seen from inside one."""

from __future__ import annotations

from typing import Any

from tests.testinfra.verify.machine import Machine, borrowed_image, need


def inside(machine: Machine, host: Any, command: str) -> str:
    """Return what a command prints inside a container of the probe image; the container is gone afterwards."""
    image = machine.probe("private")
    with borrowed_image(host, image):
        done = host.run(f"docker run --rm {image} {command}")
    need(done.rc == 0, f"docker run {image} {command}: {(done.stderr or done.stdout).strip()}")
    return str(done.stdout)


def test_container_resolver(machine: Machine, host: Any) -> None:
    """a container asks the site's DNS servers"""
    dns = machine.fact("dns")
    lines = [line.split() for line in inside(machine, host, "cat /etc/resolv.conf").splitlines()]
    servers = [line[1] for line in lines if line[:1] == ["nameserver"]]
    wanted = list(dns.get("servers") or [])
    need(servers == wanted, f"a container's DNS servers are {servers}, site_dns.servers is {wanted}")
    search = [name for line in lines if line[:1] == ["search"] for name in line[1:]]
    missed = [name for name in dns.get("search") or [] if name not in search]
    need(not missed, f"a container's search list {search} lacks {', '.join(missed)}")


def test_container_resolves(machine: Machine, host: Any) -> None:
    """a container resolves the registry's name"""
    machine.fact("dns")
    name, _ = machine.registry()
    done = inside(machine, host, f"getent hosts {name}")
    need(done.strip(), f"{name} has no address inside a container")
