# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system consists of: which DataNodes belong to it, which leave, and the directories in it.

The NameNode reads its lists again when told to, so that a DataNode comes and goes without a restart of anything else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _files,
    _hdfs_conf,
    _hdfs_web,
    _host_state,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

OWNER = "hdfs_datanodes"
RACKS = f"{_hdfs_conf.ETC}/racks"
HEADER = "# Managed by slipway.platform.hdfs. Edits are undone by the next run.\n"
DEFAULT_RACK = "/default-rack"
NAMENODE = "slipway-hdfs-namenode.service"
STARTING_SECONDS = 60.0
LEAVING = ("Decommission In Progress", "Decommissioned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A DataNode as the inventory has it."""

    name: str
    rack: str = ""
    decommission: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Directory:
    """A directory of HDFS as wanted."""

    path: str
    owner: str
    group: str
    mode: str


def files(members: t.Sequence[Member]) -> dict[str, str]:
    """Return the NameNode's lists by their paths."""
    leaving = [member.name for member in members if member.decommission]
    racks = [f"{member.name} {member.rack or DEFAULT_RACK}" for member in members]
    return {
        _hdfs_conf.INCLUDE: "".join(f"{member.name}\n" for member in members),
        _hdfs_conf.EXCLUDE: "".join(f"{name}\n" for name in leaving),
        RACKS: HEADER + "".join(f"{line}\n" for line in racks),
    }


def refuse_unknown_names(members: t.Iterable[Member], *, lookup: t.Callable[..., t.Any] = socket.getaddrinfo) -> None:
    """Raise HostError for names that the NameNode would leave out of its list without a word."""
    wrong = []
    for member in members:
        try:
            lookup(member.name, None, type=socket.SOCK_STREAM)
        except OSError:
            wrong.append(member.name)
    if wrong:
        raise HostError(
            f"{', '.join(wrong)} does not resolve on the NameNode's machine, which would refuse its DataNode"
        )


def refuse_lost(members: t.Iterable[Member], before: t.Iterable[str], view: _hdfs_web.View | None) -> None:
    """Raise HostError when a DataNode is taken off the list whose blocks may be nowhere else."""
    names = {member.name for member in members}
    dropped = sorted({*before, *(view.nodes if view else ())} - names)
    if dropped and view is None:
        raise HostError(
            f"{', '.join(dropped)} is no DataNode any more, and the NameNode does not answer whether it still has "
            "blocks: start the NameNode"
        )
    for name in dropped:
        node = view.nodes.get(name) if view else None
        if node is None or node.state == "Decommissioned":
            continue
        if node.live and node.blocks:
            raise HostError(
                f"{name} is no DataNode any more and still has {node.blocks} blocks: put it back with "
                "hdfs_decommission: true, run hdfs.yml, and take it out when that is done"
            )
        if not node.live and view and view.missing:
            raise HostError(
                f"{name} is no DataNode any more, is dead, and {view.missing} blocks are missing: bring it back, "
                "or give those files up with hdfs fsck / -delete"
            )


class Cluster:
    """The file system of a NameNode on this machine; address is that of its pages."""

    def __init__(
        self,
        address: str,
        user: str,
        *,
        check: bool,
        fetch: _hdfs_web.Fetch = _hdfs_web.fetch,
        pause: t.Callable[[float], None] = time.sleep,
        lookup: t.Callable[..., t.Any] = socket.getaddrinfo,
        runner: Runner = run,
    ) -> None:
        self.address = address
        self.runner = runner
        self.system = _hdfs_web.FileSystem(address, user, fetch=fetch, pause=pause)
        self.check = check
        self.fetch = fetch
        self.pause = pause
        self.lookup = lookup

    def serve_from(self, address: str) -> None:
        """Ask another NameNode from now on, the active one of two."""
        self.address = self.system.address = address

    def listed(self, members: t.Sequence[Member], refresh: t.Sequence[str]) -> _host_state.Outcome:
        """Write the lists, and have a NameNode that runs read them; one that does not reads them when it starts."""
        view = _hdfs_web.view(self.address, self.fetch)
        if not self.check:
            view = view or self._starting()
            refuse_unknown_names(members, lookup=self.lookup)
        wanted = files(members)
        refuse_lost(members, _read(_hdfs_conf.INCLUDE), view)
        lists = tuple(path for path in wanted if path != RACKS)
        told = [_host_state.Refresh(argv=tuple(refresh), paths=lists)] if view else []
        host = _host_state.HostState(owner=OWNER, check=self.check)
        return host.present(
            _host_state.Wanted(
                owner=OWNER,
                files=[_files.WantedFile(path=path, content=text.encode()) for path, text in wanted.items()],
                refresh=told,
            )
        )

    def _starting(self) -> _hdfs_web.View | None:
        """Wait for a NameNode that just starts: it has read the old lists. One that ends again and again has not."""
        if _units.show([NAMENODE], runner=self.runner)[NAMENODE].state != "active":
            return None
        with contextlib.suppress(HostError):
            return _hdfs_web.wait_for_view(self.address, seconds=STARTING_SECONDS, fetch=self.fetch, pause=self.pause)
        return None

    def out_of_safe_mode(self, seconds: float) -> _hdfs_web.View:
        """Wait until files can be written; raises HostError with the NameNode's own reason."""
        deadline = time.monotonic() + seconds
        view = _hdfs_web.wait_for_view(self.address, seconds=seconds, fetch=self.fetch, pause=self.pause)
        while view.safe_mode:
            if time.monotonic() >= deadline:
                raise HostError(f"HDFS is read-only after {seconds:g} seconds: {view.safe_mode}")
            self.pause(1)
            view = _hdfs_web.view(self.address, self.fetch) or view
        return view

    def directories(self, wanted: t.Iterable[Directory]) -> list[str]:
        """Make the directories that are missing; owner and permission of all are as wanted. Nothing is deleted."""
        actions = []
        for item in wanted:
            found = self.system.status(item.path)
            if found is not None and found.get("type") != "DIRECTORY":
                raise HostError(f"{item.path} in HDFS is a file: it needs to be a directory")
            actions += [f"{verb} {item.path}" for verb, _ in self._steps(item, found)]
            if not self.check:
                for _, (operation, values) in self._steps(item, found):
                    self.system.change(item.path, operation, **values)
        return actions

    @staticmethod
    def _steps(item: Directory, found: t.Mapping[str, t.Any] | None) -> list[tuple[str, tuple[str, dict[str, str]]]]:
        steps: list[tuple[str, tuple[str, dict[str, str]]]] = []
        mode = item.mode.lstrip("0") or "0"
        if found is None:
            steps.append(("make", ("MKDIRS", {"permission": mode})))
        if found is None or (found["owner"], found["group"]) != (item.owner, item.group):
            steps.append(("own", ("SETOWNER", {"owner": item.owner, "group": item.group})))
        if found is None or str(found["permission"]) != mode:
            steps.append(("permit", ("SETPERMISSION", {"permission": mode})))
        return steps

    def leaving(self, members: t.Iterable[Member], seconds: float) -> dict[str, str]:
        """Wait a while for DataNodes that leave; return those that are not done, with how far they are."""
        names = [member.name for member in members if member.decommission]
        deadline = time.monotonic() + seconds
        while True:
            view = _hdfs_web.view(self.address, self.fetch)
            waiting = _waiting(names, view) if view else dict.fromkeys(names, "the NameNode does not answer")
            if not waiting or time.monotonic() >= deadline:
                return waiting
            self.pause(1)


def _waiting(names: t.Iterable[str], view: _hdfs_web.View) -> dict[str, str]:
    found = {}
    for name in names:
        node = view.nodes.get(name)
        if node is None or node.state == "Decommissioned":
            continue
        if not node.live:
            found[name] = "dead, so it can move nothing: start it"
        elif node.state not in LEAVING:
            found[name] = f"still {node.state or 'without state'}"
        else:
            found[name] = f"{node.moving} of {node.blocks} blocks are still to be copied"
    return found


def problems(members: t.Iterable[Member], view: _hdfs_web.View) -> list[str]:
    """Return a sentence for each thing that a run cannot mend, and somebody should know."""
    found = []
    if view.missing:
        found.append(f"{view.missing} blocks of HDFS are missing: no DataNode that lives has them")
    for member in members:
        node = view.nodes.get(member.name)
        if not member.decommission and (node is None or not node.live):
            found.append(f"the DataNode {member.name} is {'dead' if node else 'unknown to the NameNode'}")
        elif node and node.live and node.rack and node.rack != (member.rack or DEFAULT_RACK):
            found.append(
                f"{member.name} is in rack {node.rack} until the NameNode is restarted, and then in {member.rack}"
            )
    return found


def _read(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as handle:
            return [line for line in handle.read().split() if line]
    except FileNotFoundError:
        return []
