# SPDX-License-Identifier: GPL-3.0-or-later
"""One of HDFS' daemons as wanted state: its unit runs with its present configuration, and it does its work."""

from __future__ import annotations

import dataclasses
import socket
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_web, _units
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

COMPONENTS = ("namenode", "secondary", "datanode", "journalnode", "zookeeper", "zkfc")
UNITS = {component: f"slipway-hdfs-{component}.service" for component in COMPONENTS}
PATTERNS = {
    "namenode": "Hadoop:service=NameNode,name=*",
    "secondary": "Hadoop:service=SecondaryNameNode,name=*",
    "datanode": "Hadoop:service=DataNode,name=*",
    "journalnode": "Hadoop:service=JournalNode,name=*",
}


def refuse_loopback(name: str, *, lookup: t.Callable[..., t.Any] = socket.getaddrinfo) -> None:
    """Raise HostError when a daemon's name is no address that others reach: it would listen there and nowhere else.

    Debian's installer writes the machine's own name beside 127.0.1.1 into /etc/hosts.
    """
    try:
        found = {str(entry[4][0]) for entry in lookup(name, None, type=socket.SOCK_STREAM)}
    except OSError as exc:
        raise HostError(f"the name {name} does not resolve on this machine: HDFS needs one that all resolve") from exc
    if wrong := sorted(address for address in found if address.startswith("127.") or address == "::1"):
        raise HostError(
            f"the name {name} is {wrong[0]} on this machine, where no other reaches it: "
            "take it off that line of /etc/hosts, or set hdfs_host to a name that all resolve"
        )


def works(component: str, beans: t.Mapping[str, t.Mapping[str, t.Any]]) -> bool:
    """Tell from a daemon's beans whether it serves; a DataNode does when the NameNode has taken it in."""
    if component == "namenode":
        return beans.get("NameNodeStatus", {}).get("State") in ("active", "standby")
    if component == "datanode":
        actors = str(beans.get("DataNodeInfo", {}).get("BPServiceActorInfo", ""))
        return '"RUNNING"' in actors
    return bool(beans)


def listens(address: str) -> bool:
    """Tell whether a daemon without pages takes connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


@dataclasses.dataclass(kw_only=True)
class Daemon:
    """A daemon on this machine. address: host:port of its pages, or of its service where it has none.

    inputs: globs of the files that it reads.
    """

    component: str
    address: str
    inputs: tuple[str, ...]
    seconds: float = 300.0
    runner: Runner = run
    fetch: _hdfs_web.Fetch = _hdfs_web.fetch
    pause: t.Callable[[float], None] = time.sleep

    @property
    def unit(self) -> str:
        """Name of its unit."""
        return UNITS[self.component]

    def started(self, *, check: bool) -> list[str]:
        """Enable and start it, or restart it where its files have changed, and wait until it works."""
        wanted = _units.WantedUnit(name=self.unit, enabled=True, started=True, inputs=self.inputs)
        actions = [f"{action.verb} {action.unit}" for action in _units.apply([wanted], check=check, runner=self.runner)]
        if not check:
            self._wait()
        return actions

    def stopped(self, *, check: bool) -> list[str]:
        """Stop and disable it."""
        wanted = _units.WantedUnit(name=self.unit, enabled=False, started=False)
        return [f"{action.verb} {action.unit}" for action in _units.apply([wanted], check=check, runner=self.runner)]

    def _wait(self) -> None:
        deadline = time.monotonic() + self.seconds
        while not self._works():
            if time.monotonic() >= deadline:
                raise HostError(f"{self.unit} does not work after {self.seconds:g} seconds: {self._why()}")
            self.pause(1)

    def _works(self) -> bool:
        if self.component not in PATTERNS:
            return listens(self.address)
        return works(self.component, _hdfs_web.beans(self.address, PATTERNS[self.component], self.fetch))

    def _why(self) -> str:
        lines = _units.journal_lines(self.unit, runner=self.runner)
        telling = [line for line in lines if any(word in line for word in ("Exception", "ERROR", "FATAL"))]
        return "; ".join((telling or lines)[-2:])[:600] or f"look at journalctl -u {self.unit}"
