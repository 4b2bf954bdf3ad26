# SPDX-License-Identifier: GPL-3.0-or-later
"""Format a NameNode's directories exactly once: what was lost is restored, never made anew over blocks.

A file system has an ID. It stands in the VERSION file of each directory of each daemon, and in a mark of ours on the
NameNode's machine, outside of these directories.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _files
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

MARK = "/var/lib/slipway/hdfs/file-system.json"
FORMAT_SECONDS = 300.0
RESTORE = "playbooks/hdfs_restore.yml brings it back from the last checkpoint"


def cluster_ids(directories: t.Iterable[str]) -> dict[str, str]:
    """Return the ID of the file system by each directory that holds a part of one."""
    found = {}
    for directory in directories:
        try:
            with open(os.path.join(directory, "current", "VERSION"), encoding="utf-8") as handle:
                lines = handle.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise HostError(f"{directory}/current/VERSION can't be read: {exc.strerror or exc}") from exc
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        found[directory] = values.get("clusterID", "without ID")
    return found


@dataclasses.dataclass(frozen=True)
class Mark:
    """What we know of the file system of this machine: its ID and since when; done is false while it is formatted."""

    cluster: str
    since: str
    done: bool


def read_mark(path: str = MARK) -> Mark | None:
    """Return the mark; None where this machine never formatted."""
    try:
        with open(path, encoding="utf-8") as handle:
            data = json.load(handle)
        return Mark(data["cluster"], data["since"], data["done"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise HostError(f"{path} can't be understood ({exc}): nothing was formatted") from exc


def write_mark(mark: Mark, path: str = MARK) -> None:
    """Write the mark."""
    with _files.one_sentence(path):
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        content = json.dumps(dataclasses.asdict(mark), indent=1).encode()
        _files.write_atomic(path=path, content=content, mode=0o644, uid=os.geteuid(), gid=os.getegid())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclasses.dataclass(kw_only=True)
class Formatter:
    """The NameNode's directories on this machine; command starts its program with its configuration, as its user."""

    directories: t.Sequence[str]
    command: t.Sequence[str]
    checkpoints: t.Sequence[str] = ()
    mark: str = MARK
    runner: Runner = run

    def state(self) -> tuple[str, str]:
        """Return "formatted" or "new" and the ID; raises HostError in one sentence for what must not be formatted."""
        mark = read_mark(self.mark)
        found = cluster_ids(self.directories)
        where = ", ".join(self.directories)
        if mark and not mark.done:
            return "new", ""
        if len(set(found.values())) > 1:
            raise HostError(f"the NameNode's directories hold different file systems, {found}: keep those of one")
        if found:
            cluster = next(iter(found.values()))
            if mark and mark.cluster != cluster:
                raise HostError(
                    f"{where} holds the file system {cluster}, and this machine had {mark.cluster} since {mark.since}: "
                    f"somebody has formatted it anew; put the old one back, or delete {self.mark} if that was meant"
                )
            return "formatted", cluster
        if mark:
            raise HostError(
                f"{where} has lost the file system {mark.cluster}, which is there since {mark.since}: "
                f"nothing was formatted; {RESTORE}"
            )
        return "new", ""

    def refuse_over(self, holders: t.Mapping[str, t.Sequence[str]]) -> None:
        """Raise HostError when another daemon has a part of a file system: its blocks would be lost."""
        elsewhere = {name: list(ids) for name, ids in holders.items() if ids}
        own = sorted(set(cluster_ids(self.checkpoints).values()))
        if own:
            elsewhere["the checkpoint on this machine"] = own
        if elsewhere:
            parts = "; ".join(f"{name} has {', '.join(sorted(set(ids)))}" for name, ids in sorted(elsewhere.items()))
            raise HostError(
                f"{', '.join(self.directories)} holds no file system, but others hold parts of one ({parts}): "
                f"nothing was formatted; {RESTORE}"
            )

    def adopt(self, cluster: str, *, check: bool) -> bool:
        """Note the ID of a file system that is there; tell whether that was news."""
        mark = read_mark(self.mark)
        if mark and mark.done:
            return False
        if not check:
            write_mark(Mark(cluster, _now(), True), self.mark)
        return True

    def format(self) -> str:
        """Format, and return the new ID. One that was cut off is done again: nothing can have been stored yet."""
        write_mark(Mark("", _now(), False), self.mark)
        done = self.runner([*self.command, "-format", "-nonInteractive", "-force"], timeout=FORMAT_SECONDS)
        found = set(cluster_ids(self.directories).values())
        if done.rc != 0 or len(found) != 1:
            lines = [line for line in done.output.splitlines() if "ERROR" in line or "Exception" in line]
            raise HostError(f"the NameNode could not be formatted: {' '.join(lines[-2:]) or done.output[-300:]}")
        cluster = found.pop()
        write_mark(Mark(cluster, _now(), True), self.mark)
        return cluster
