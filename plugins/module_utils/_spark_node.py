# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's directory for the shuffle data that outlives executors: made for one user, and gone with what Spark wrote.

Sources: Spark's DiskBlockManager and ExternalShuffleService (names of directories and of the service's own records).
"""

from __future__ import annotations

import os
import re
import shutil
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _files, _host_state
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

OWNER = "spark_shuffle"
# An application's directory, and what the service remembers of executors, by LevelDB or by RocksDB.
SPARKS_OWN = re.compile(r"(spark-[0-9a-f]{32}|registeredExecutors\.[lr]db)\Z")
# What a file system of its own has anyway.
OF_THE_MOUNT = "lost+found"


class SparkNode:
    """One node; state_dir is for tests."""

    def __init__(self, *, check: bool, runner: Runner = run, state_dir: str = _files.STATE_DIR) -> None:
        self.check = check
        self.state = _host_state.HostState(owner=OWNER, check=check, runner=runner, state_dir=state_dir)
        self.outcome = self.state.outcome

    def present(self, directory: str, user: int) -> _host_state.Outcome:
        """Have the directory, for that user alone; HostError where it holds what is not Spark's."""
        others = [name for name in _entries(directory) if not SPARKS_OWN.match(name) and name != OF_THE_MOUNT]
        if others:
            raise HostError(
                f"{directory} holds {others[0]}, which is not Spark's: spark_shuffle_dir needs a directory of its own"
            )
        self._empty(but=directory)
        wanted = _files.WantedFile(path=directory, kind="directory", mode=0o700, owner=str(user))
        return self.state.present(_host_state.Wanted(owner=OWNER, files=[wanted]))

    def absent(self, directory: str) -> _host_state.Outcome:
        """Take it away with the shuffle data in it; anything else in it stays, and so does the directory then."""
        self._empty(directory)
        return self.state.absent(_host_state.Wanted(owner=OWNER))

    def _empty(self, *more: str, but: str = "") -> None:
        """Remove shuffle data from the directories that we made, and from more."""
        self.state.ledger.load()
        made = [path for path in self.state.ledger.get("directories") if path != but]
        for directory in dict.fromkeys([*made, *more]):
            found = [name for name in _entries(directory) if SPARKS_OWN.match(name)]
            if not found:
                continue
            self.outcome.act(f"remove {len(found)} of Spark's directories from {directory}")
            for name in found if not self.check else ():
                with _files.one_sentence(os.path.join(directory, name)):
                    shutil.rmtree(os.path.join(directory, name))


def _entries(directory: str) -> t.Sequence[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return ()
