# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask HDFS' daemons over HTTP: their beans (JMX) and the file system (WebHDFS). No JVM has to start for that."""

from __future__ import annotations

import dataclasses
import json
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

SECONDS = 10.0
# A NameNode that is busy, or comes back, is asked again for so long.
PATIENCE = 60.0
# Method, URL -> status, body; OSError where nobody answers.
Fetch = t.Callable[[str, str], tuple[int, bytes]]


def fetch(method: str, url: str) -> tuple[int, bytes]:
    """Send a request, never through a proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, method=method), timeout=SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()


def beans(address: str, pattern: str, fetch: Fetch = fetch) -> dict[str, dict[str, t.Any]]:
    """Return a daemon's beans by the last part of their name; empty when it does not answer (yet).

    address: host:port of its pages. pattern: such as Hadoop:service=NameNode,name=*.
    """
    try:
        status, body = fetch("GET", f"http://{address}/jmx?qry={urllib.parse.quote(pattern, safe='')}")
        found = json.loads(body)["beans"] if status == 200 else []
    except (OSError, ValueError, KeyError):
        return {}
    return {str(bean.get("name", "")).rpartition("name=")[2]: bean for bean in found}


@dataclasses.dataclass(frozen=True)
class Node:
    """A DataNode as the NameNode sees it."""

    name: str
    live: bool
    state: str
    blocks: int = 0
    moving: int = 0
    rack: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """The file system as the NameNode sees it; safe_mode is its own sentence, empty when it is off."""

    active: bool
    cluster: str
    safe_mode: str
    missing: int
    nodes: t.Mapping[str, Node]


def _nodes(info: t.Mapping[str, t.Any]) -> dict[str, Node]:
    moving = {_host(key): value for key, value in json.loads(info.get("DecomNodes") or "{}").items()}
    found = {}
    for key, value in json.loads(info.get("LiveNodes") or "{}").items():
        left = int(moving.get(_host(key), {}).get("underReplicatedBlocks", 0))
        name = _host(key)
        state, blocks = str(value.get("adminState", "")), int(value.get("numBlocks", 0))
        found[name] = Node(name, True, state, blocks, left, str(value.get("location", "")))
    for key, value in json.loads(info.get("DeadNodes") or "{}").items():
        state = "Decommissioned" if value.get("decommissioned") else str(value.get("adminState", ""))
        found.setdefault(_host(key), Node(_host(key), False, state))
    return found


def _host(key: str) -> str:
    return key.rpartition(":")[0] or key


def view(address: str, fetch: Fetch = fetch) -> View | None:
    """Return what the NameNode says of its file system; None while it does not answer or has not read it yet."""
    found = beans(address, "Hadoop:service=NameNode,name=*", fetch)
    info, status, system = (found.get(name) for name in ("NameNodeInfo", "NameNodeStatus", "FSNamesystem"))
    if info is None or status is None or system is None:
        return None
    try:
        return View(
            active=status.get("State") == "active",
            cluster=str(info.get("ClusterId", "")),
            safe_mode=" ".join(str(info.get("Safemode") or "").split()),
            missing=int(system.get("MissingBlocks", 0)),
            nodes=_nodes(info),
        )
    except (ValueError, TypeError, AttributeError):
        return None


def active_view(addresses: t.Iterable[str], fetch: Fetch = fetch) -> View | None:
    """Return what the NameNode that serves says; None where none of them does."""
    found = (view(address, fetch) for address in addresses)
    return next((one for one in found if one is not None and one.active), None)


def wait_for_active(
    addresses: t.Sequence[str], *, seconds: float, fetch: Fetch = fetch, pause: t.Callable[[float], None] = time.sleep
) -> str:
    """Return which of the NameNodes serves; raises HostError when none does in time."""
    deadline = time.monotonic() + seconds
    while True:
        for address in addresses:
            found = view(address, fetch)
            if found is not None and found.active:
                return address
        if time.monotonic() >= deadline:
            raise HostError(
                f"no NameNode at {' or '.join(addresses)} serves after {seconds:g} seconds: "
                "look at journalctl -u slipway-hdfs-namenode -u slipway-hdfs-zkfc on their machines"
            )
        pause(1)


def wait_for_view(
    address: str, *, seconds: float, fetch: Fetch = fetch, pause: t.Callable[[float], None] = time.sleep
) -> View:
    """Return the view of a NameNode that serves; raises HostError when it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = view(address, fetch)
        if found is not None and found.active:
            return found
        if time.monotonic() >= deadline:
            raise HostError(
                f"the NameNode at {address} does not serve after {seconds:g} seconds: "
                "look at journalctl -u slipway-hdfs-namenode on its machine"
            )
        pause(1)


class FileSystem:
    """Directories of HDFS, by WebHDFS, as one user."""

    def __init__(
        self, address: str, user: str, *, fetch: Fetch = fetch, pause: t.Callable[[float], None] = time.sleep
    ) -> None:
        self.address = address
        self.user = user
        self.fetch = fetch
        self.pause = pause

    def _ask(self, method: str, path: str, operation: str, **more: str) -> tuple[int, dict[str, t.Any]]:
        query = urllib.parse.urlencode({"op": operation, "user.name": self.user, **more})
        url = f"http://{self.address}/webhdfs/v1{urllib.parse.quote(path)}?{query}"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                status, body = self.fetch(method, url)
                return status, json.loads(body or b"{}")
            except (OSError, ValueError) as exc:
                if time.monotonic() >= deadline:
                    message = f"{operation} of {path} failed: the NameNode at {self.address} says {exc}"
                    raise HostError(message) from exc
            self.pause(1)

    def status(self, path: str) -> dict[str, t.Any] | None:
        """Return owner, group, permission and type of a path; None when there is nothing."""
        status, answer = self._ask("GET", path, "GETFILESTATUS")
        if status == 404:
            return None
        self._need(status, answer, path)
        return t.cast("dict[str, t.Any]", answer["FileStatus"])

    def _need(self, status: int, answer: t.Mapping[str, t.Any], path: str) -> None:
        if status != 200:
            reason = str(answer.get("RemoteException", {}).get("message", f"the answer is {status}")).splitlines()[0]
            raise HostError(f"{path} in HDFS: {reason}")

    def change(self, path: str, operation: str, **more: str) -> None:
        """Carry out an operation that is a PUT."""
        status, answer = self._ask("PUT", path, operation, **more)
        self._need(status, answer, path)
