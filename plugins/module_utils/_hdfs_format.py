# SPDX-License-Identifier: GPL-3.0-or-later
"""Format a NameNode's directories exactly once: what was lost is restored, never made anew over blocks.

A file system has an ID. It stands in the VERSION file of each directory of each daemon, and in a mark of ours on the
NameNode's machine, outside of these directories. Where two NameNodes share it, what one has
lost comes from the other one.
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
NO_CHECKPOINT = "the other NameNode has none either: put back a copy of the directories of one of them"


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
    """What we know of the file system of this machine: its ID and since when; done is false while it is formatted.

    shared: whether two NameNodes have it: alone, each may lack the last edits.
    """

    cluster: str
    since: str
    done: bool
    shared: bool = False


def read_mark(path: str = MARK) -> Mark | None:
    """Return the mark; None where this machine never formatted."""
    try:
        with open(path, encoding="utf-8") as handle:
            data = json.load(handle)
        return Mark(data["cluster"], data["since"], data["done"], data.get("shared", False))
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
    """The NameNode's directories on this machine; command starts its program with its configuration, as its user.

    failover: whether it is one of two; other: whether the other one has the file system.
    """

    directories: t.Sequence[str]
    command: t.Sequence[str]
    checkpoints: t.Sequence[str] = ()
    failover: bool = False
    other: bool = False
    mark: str = MARK
    runner: Runner = run

    def state(self) -> tuple[str, str]:
        """Return "formatted" or "new" and the ID; raises HostError in one sentence for what must not be formatted."""
        mark = read_mark(self.mark)
        found = cluster_ids(self.directories)
        where = ", ".join(self.directories)
        if mark and mark.shared and not self.failover:
            raise HostError(
                f"{where} holds one half of what two NameNodes share, and may lack its last edits: it needs "
                'hdfs_failover: true; docs/hdfs.md ("Back to one NameNode") says how it becomes whole'
            )
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
        if mark and not self.other:
            raise HostError(
                f"{where} has lost the file system {mark.cluster}, which is there since {mark.since}: "
                f"nothing was formatted; {self._way_back()}"
            )
        return "new", ""

    def _way_back(self) -> str:
        return NO_CHECKPOINT if self.failover else RESTORE

    def refuse_over(
        self, holders: t.Mapping[str, t.Sequence[str]], journals: t.Mapping[str, t.Sequence[str]] | None = None
    ) -> None:
        """Raise HostError when another daemon has a part of a file system: its blocks would be lost.

        A format that was cut off may have reached the JournalNodes; then they do not count.
        """
        elsewhere = {name: list(ids) for name, ids in holders.items() if ids}
        mark = read_mark(self.mark)
        if mark is None or mark.done:
            elsewhere |= {f"the JournalNode {name}": list(ids) for name, ids in (journals or {}).items() if ids}
        own = sorted(set(cluster_ids(self.checkpoints).values()))
        if own:
            elsewhere["the checkpoint on this machine"] = own
        if elsewhere:
            parts = "; ".join(f"{name} has {', '.join(sorted(set(ids)))}" for name, ids in sorted(elsewhere.items()))
            raise HostError(
                f"{', '.join(self.directories)} holds no file system, but others hold parts of one ({parts}): "
                f"nothing was formatted; {self._way_back()}"
            )

    def adopt(self, cluster: str, *, check: bool) -> bool:
        """Note the ID of a file system that is there; tell whether that was news."""
        mark = read_mark(self.mark)
        if mark and mark.done and mark.shared == self.failover:
            return False
        if not check:
            write_mark(Mark(cluster, mark.since if mark else _now(), True, self.failover), self.mark)
        return True

    def format(self) -> str:
        """Format, and return the new ID. One that was cut off is done again: nothing can have been stored yet."""
        return self._made("formatted", "-format", "-nonInteractive", "-force")

    def take_over(self, unit: str) -> str:
        """Take names and ID from the other NameNode, which runs; return the ID. What is here holds no file system.

        The unit starts again and again on directories that hold nothing, and would be in the way.
        """
        self.runner(["systemctl", "stop", unit], timeout=FORMAT_SECONDS)
        return self._made("made a copy of the other one", "-bootstrapStandby", "-nonInteractive", "-force")

    def _made(self, verb: str, *words: str) -> str:
        write_mark(Mark("", _now(), False, self.failover), self.mark)
        self._run(f"the NameNode could not be {verb}", *words)
        found = set(cluster_ids(self.directories).values())
        if len(found) != 1:
            raise HostError(f"the NameNode could not be {verb}: its directories hold {sorted(found)}")
        cluster = found.pop()
        write_mark(Mark(cluster, _now(), True, self.failover), self.mark)
        return cluster

    def shares(self, journals: t.Mapping[str, t.Sequence[str]]) -> bool:
        """Tell whether this NameNode's edits are still to be put into the journal.

        One that was alone does so, whatever is in the journal from a time before: it would read that, and not its own.
        One that we know nothing of does so where the journal is empty.
        """
        mark = read_mark(self.mark)
        alone = not mark.shared if mark else not any(journals.values())
        if alone and self.other:
            raise HostError(
                f"{', '.join(self.directories)} holds a file system that was alone, and so does the other NameNode: "
                "move away the directories of that one which is to take the other one's"
            )
        return alone

    def share(self, unit: str) -> None:
        """Put the edits of a NameNode that was alone into the journal of two. It must not run meanwhile."""
        self.runner(["systemctl", "stop", unit], timeout=FORMAT_SECONDS)
        wrong = "the JournalNodes could not get the NameNode's edits"
        self._run(wrong, "-initializeSharedEdits", "-nonInteractive", "-force")

    def _run(self, wrong: str, *words: str) -> None:
        done = self.runner([*self.command, *words], timeout=FORMAT_SECONDS)
        if done.rc != 0:
            lines = [line for line in done.output.splitlines() if "ERROR" in line or "Exception" in line]
            raise HostError(f"{wrong}: {' '.join(lines[-2:]) or done.output[-300:]}")
