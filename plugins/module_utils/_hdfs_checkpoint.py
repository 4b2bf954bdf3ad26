# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints of HDFS' names: made now, looked at, and imported into a NameNode that has lost its directories."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _files,
    _hdfs_format,
    _hdfs_service,
    _hdfs_web,
    _tarball,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

IMAGE = re.compile(r"fsimage_(\d{19})\Z")
MAKE_SECONDS = 3600.0
STOP_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The newest image in a directory: of which file system, up to which transaction, and what stands in VERSION."""

    cluster: str
    transaction: int
    version: str

    @property
    def image(self) -> str:
        """Name of the image's file."""
        return f"fsimage_{self.transaction:019d}"


def look(directory: str) -> Checkpoint | None:
    """Return the newest checkpoint in a directory; None when there is none."""
    clusters = _hdfs_format.cluster_ids([directory])
    current = os.path.join(directory, "current")
    names = os.listdir(current) if clusters else []
    images = [int(match[1]) for match in map(IMAGE.match, names) if match and f"{match[0]}.md5" in names]
    if not images:
        return None
    with open(os.path.join(current, "VERSION"), encoding="utf-8") as handle:
        return Checkpoint(clusters[directory], max(images), handle.read())


def make(directory: str, command: t.Sequence[str], *, runner: Runner = run) -> Checkpoint:
    """Make a checkpoint now: the daemon keeps its directory locked, so it stands aside for that long."""
    unit = _hdfs_service.UNITS["secondary"]
    was_active = _units.show([unit], runner=runner)[unit].active
    if was_active:
        _units.systemctl(["stop", unit], runner=runner)
    try:
        done = runner([*command, "-checkpoint", "force"], timeout=MAKE_SECONDS)
    finally:
        if was_active:
            _units.systemctl(["start", unit], runner=runner)
    found = look(directory)
    if done.rc != 0 or found is None:
        lines = [line for line in done.output.splitlines() if "ERROR" in line or "Exception" in line]
        raise HostError(f"the checkpoint failed: {' '.join(lines[-2:]) or done.output[-300:]}")
    return found


def fetch(source: str, checkpoint: Checkpoint, directory: str, *, open_url: _tarball.Opener) -> None:
    """Fetch a checkpoint from the SecondaryNameNode's pages into a directory of the same form."""
    current = os.path.join(directory, "current")
    os.makedirs(current, exist_ok=True)
    url = f"http://{source}/imagetransfer?getimage=1&txid={checkpoint.transaction}"
    target = os.path.join(current, checkpoint.image)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with open_url(url) as answer, open(target, "wb") as handle:
            wanted = str(answer.headers.get("Content-MD5", ""))
            while chunk := answer.read(_tarball.CHUNK):
                digest.update(chunk)
                handle.write(chunk)
    except OSError as exc:
        raise HostError(f"the checkpoint can't be fetched from {source}: {getattr(exc, 'reason', exc)}") from exc
    if wanted and wanted != digest.hexdigest():
        raise HostError(f"the checkpoint from {source} was cut off on its way: run it again")
    for name, text in {
        f"{checkpoint.image}.md5": f"{digest.hexdigest()} *{checkpoint.image}\n",
        "VERSION": checkpoint.version,
    }.items():
        with open(os.path.join(current, name), "w", encoding="utf-8") as handle:
            handle.write(text)


@dataclasses.dataclass(kw_only=True)
class Importer:
    """Imports a checkpoint into a NameNode's empty directories on this machine.

    command starts Java as the daemons' user with the NameNode's configuration, program is the class; address is that of
    its pages.
    """

    directories: t.Sequence[str]
    user: str
    command: t.Sequence[str]
    program: str
    address: str
    seconds: float
    mark: str = _hdfs_format.MARK
    runner: Runner = run
    web: _hdfs_web.Fetch = _hdfs_web.fetch
    open_url: _tarball.Opener = dataclasses.field(default_factory=lambda: _tarball.opener({}))
    start: t.Callable[..., t.Any] = subprocess.Popen
    pause: t.Callable[[float], None] = time.sleep

    def needed(self, checkpoint: Checkpoint | None) -> bool:
        """Tell whether there is something to import; raises HostError where it would do harm or is impossible."""
        found = _hdfs_format.cluster_ids(self.directories)
        if found:
            return False
        if checkpoint is None:
            raise HostError(
                f"{', '.join(self.directories)} holds no file system, and there is no checkpoint to bring it back from"
            )
        mark = _hdfs_format.read_mark(self.mark)
        if mark and mark.done and mark.cluster != checkpoint.cluster:
            raise HostError(
                f"the checkpoint is of {checkpoint.cluster}, and this NameNode had {mark.cluster}: not imported"
            )
        return True

    def restore(self, checkpoint: Checkpoint, *, source: str, directory: str) -> None:
        """Import: from a directory of this machine, or from another machine's SecondaryNameNode."""
        units = [_hdfs_service.UNITS["namenode"], *([] if source else [_hdfs_service.UNITS["secondary"]])]
        active = [unit for unit, status in _units.show(units, runner=self.runner).items() if status.active]
        for unit in active:
            _units.systemctl(["stop", unit], runner=self.runner)
        parent = os.path.dirname(self.directories[0])
        work = tempfile.mkdtemp(prefix=".slipway-import-", dir=parent)
        try:
            if source:
                fetch(source, checkpoint, work, open_url=self.open_url)
            else:
                shutil.copytree(os.path.join(directory, "current"), os.path.join(work, "current"))
            self._own(work)
            for path in self.directories:
                self._own(path)
            self._import(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            for unit in active:
                if unit != _hdfs_service.UNITS["namenode"]:
                    _units.systemctl(["start", unit], runner=self.runner)
        found = set(_hdfs_format.cluster_ids(self.directories).values())
        if found != {checkpoint.cluster}:
            raise HostError(f"the import has left {found or 'nothing'} in {', '.join(self.directories)}")
        formatter = _hdfs_format.Formatter(directories=self.directories, command=(), mark=self.mark)
        formatter.adopt(checkpoint.cluster, check=False)

    def _own(self, path: str) -> None:
        uid, gid = _files.user_id(self.user), _files.group_id(self.user)
        os.makedirs(path, mode=0o700, exist_ok=True)
        for directory, names, files in os.walk(path):
            for name in [".", *names, *files]:
                os.lchown(os.path.normpath(os.path.join(directory, name)), uid, gid)

    def _import(self, work: str) -> None:
        """Run a NameNode that imports, until it serves; then it has written its directories and may end."""
        key = "dfs.namenode.checkpoint"
        words = [f"-D{key}.dir=file://{work}", f"-D{key}.edits.dir=file://{work}", "-importCheckpoint"]
        with tempfile.TemporaryFile("w+") as log:
            process = self.start([*self.command, self.program, *words], stdout=log, stderr=subprocess.STDOUT)
            try:
                self._until_it_serves(process, log)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                process.wait(timeout=STOP_SECONDS)

    def _until_it_serves(self, process: t.Any, log: t.IO[str]) -> None:
        deadline = time.monotonic() + self.seconds
        while True:
            beans = _hdfs_web.beans(self.address, _hdfs_service.PATTERNS["namenode"], self.web)
            if _hdfs_service.works("namenode", beans):
                return
            if process.poll() is not None or time.monotonic() >= deadline:
                log.seek(0)
                lines = [line.strip() for line in log if "ERROR" in line or "Exception" in line]
                raise HostError(
                    f"the checkpoint was not imported: {' '.join(lines[-2:]) or 'the NameNode said nothing'}"
                )
            self.pause(1)
