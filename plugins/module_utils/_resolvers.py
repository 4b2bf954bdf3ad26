# SPDX-License-Identifier: GPL-3.0-or-later
"""Which DNS servers Docker gives a container when none are configured.

The rule is dockerd's (moby, libnetwork/internal/resolvconf): the machine's resolv.conf, but systemd-resolved's own one
where 127.0.0.53 is the only server; loopback addresses are left out, as a container cannot reach them. Where nothing is
left, dockerd before 28 takes Google's servers and later ones leave the container without DNS (moby#49665).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

RESOLV_CONF = "etc/resolv.conf"
RESOLVED_CONF = "run/systemd/resolve/resolv.conf"
STUB = "127.0.0.53"


@dataclasses.dataclass(frozen=True)
class Resolvers:
    """Servers that containers get, and the file they come from."""

    servers: list[str]
    source: str


def nameservers(text: str) -> list[str]:
    """Servers of a resolv.conf (resolv.conf(5)), in order."""
    found = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) >= 2 and words[0] == "nameserver":
            found.append(words[1])
    return found


def is_loopback(server: str) -> bool:
    """Tell whether a server is this machine itself; what is no address is not."""
    try:
        return ipaddress.ip_address(server.split("%")[0]).is_loopback
    except ValueError:
        return False


def _read(root: str, path: str) -> list[str]:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as handle:
            return nameservers(handle.read())
    except OSError:
        return []


def find(*, root: str = "/") -> Resolvers:
    """Return what a container would get; raises HostError where it would get nothing it can reach."""
    path, servers = RESOLV_CONF, _read(root, RESOLV_CONF)
    if servers == [STUB]:
        path, servers = RESOLVED_CONF, _read(root, RESOLVED_CONF)
    usable = [server for server in servers if not is_loopback(server)]
    if not usable:
        named = ", ".join(servers) or "no server"
        raise HostError(
            f"container_network_dns_servers is empty and /{path} names {named}: it needs one to three DNS servers, "
            "because a container can't reach a server on the machine's loopback"
        )
    return Resolvers(usable, f"/{path}")
