# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian host for unit tests: systemctl, apt and journalctl as far as the modules use them, without the real ones."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.slipway.platform.plugins.module_utils._run import Result


@dataclasses.dataclass
class FakeUnit:
    """A unit as systemd sees it; started is seconds since the epoch."""

    active: str = "inactive"
    file_state: str = "disabled"
    needs_reload: bool = False
    started: float = 0.0
    generation: int = 0
    type: str = "simple"


@dataclasses.dataclass
class FakePackage:
    """A package in dpkg's status file."""

    version: str = "1.0"
    selection: str = "install"
    state: str = "installed"


@dataclasses.dataclass
class FakeHost:
    """Answers commands like a host whose changing parts live below one directory; `calls` holds what it was asked.

    answers: results by the start of a command line, given instead of the host's own.
    available: what apt could install. brings: the unit that a package brings and starts.
    dies_at: the start of a command line at which the run is killed.
    """

    root: Path
    units: dict[str, FakeUnit] = dataclasses.field(default_factory=dict)
    packages: dict[str, FakePackage] = dataclasses.field(default_factory=dict)
    available: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    brings: dict[str, str] = dataclasses.field(default_factory=dict)
    masked: set[str] = dataclasses.field(default_factory=set)
    answers: dict[str, Result] = dataclasses.field(default_factory=dict)
    journal: list[dict[str, object]] = dataclasses.field(default_factory=list)
    calls: list[str] = dataclasses.field(default_factory=list)
    dies_at: str = ""

    @property
    def state_dir(self) -> str:
        """Where ledgers and originals are kept."""
        return str(self.root / "state")

    @property
    def run_dir(self) -> str:
        """Where the inputs of running units are on record."""
        return str(self.root / "run")

    @property
    def unit_dir(self) -> str:
        """Stands for /etc/systemd/system/."""
        return str(self.root / "units") + "/"

    @property
    def status_path(self) -> str:
        """Stands for /var/lib/dpkg/status, written anew each time it is asked for."""
        path = self.root / "status"
        blocks = [
            f"Package: {name}\nStatus: {p.selection} ok {p.state}\nPriority: optional\nVersion: {p.version}\n"
            for name, p in self.packages.items()
        ]
        path.write_text("\n".join(blocks) + "\n", encoding="utf-8")
        return str(path)

    def did(self, pattern: str) -> list[str]:
        """Return the commands that match a shell pattern, in order."""
        return [call for call in self.calls if fnmatch.fnmatchcase(call, pattern)]

    def acts(self) -> list[str]:
        """Return the commands that change something."""
        return [call for call in self.calls if not call.startswith(("systemctl show", "journalctl", "apt-cache"))]

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        """Run a command: the protocol Runner."""
        del timeout, stdin
        line = " ".join(argv)
        if self.dies_at and line.startswith(self.dies_at):
            raise KeyboardInterrupt(line)
        self.calls.append(line)
        for start, result in self.answers.items():
            if line.startswith(start):
                return result
        known: dict[str, Callable[[Sequence[str]], Result]] = {
            "systemctl": self._systemctl,
            "journalctl": self._journalctl,
            "apt-get": self._apt_get,
            "apt-cache": self._apt_cache,
            "apt-mark": self._apt_mark,
        }
        command = known.get(argv[0])
        return command(argv[1:]) if command else Result(0, "", "")

    def _systemctl(self, arguments: Sequence[str]) -> Result:
        verb, names = arguments[0], [name for name in arguments[1:] if not name.startswith("-")]
        if verb == "show":
            return Result(0, "\n".join(self._properties(name) for name in names), "")
        if verb == "daemon-reload":
            for unit in self.units.values():
                unit.needs_reload = False
            return Result(0, "", "")
        if verb in ("mask", "unmask"):
            self.masked = self.masked | {*names} if verb == "mask" else self.masked - {*names}
            return Result(0, "", "")
        for name in names:
            if name not in self.units:
                return Result(1, "", f"Failed to {verb} {name}: Unit {name} not found.\n")
            self._act(verb, self.units[name])
        return Result(0, "", "")

    @staticmethod
    def _act(verb: str, unit: FakeUnit) -> None:
        if verb in ("enable", "disable") and unit.file_state in ("enabled", "disabled"):
            unit.file_state = f"{verb}d"
        elif verb in ("start", "restart"):
            unit.active, unit.started, unit.generation = "active", time.time(), unit.generation + 1
        elif verb == "stop":
            unit.active, unit.started = "inactive", 0.0

    def _properties(self, name: str) -> str:
        unit = self.units.get(name)
        if unit is None:
            return f"Id={name}\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n"
        offset = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        started = int((unit.started - offset) * 1e6) if unit.started else 0
        return (
            f"Type={unit.type}\nExecMainStartTimestampMonotonic={started}\nId={name}\nLoadState=loaded\n"
            f"ActiveState={unit.active}\nUnitFileState={unit.file_state}\n"
            f"NeedDaemonReload={'yes' if unit.needs_reload else 'no'}\nInvocationID={name}-{unit.generation}\n"
        )

    def _journalctl(self, arguments: Sequence[str]) -> Result:
        del arguments
        return Result(0, "".join(json.dumps(entry) + "\n" for entry in self.journal), "")

    def _apt_get(self, arguments: Sequence[str]) -> Result:
        words = [word for word in arguments if not word.startswith("-")]
        if words[0] == "install":
            for word in words[1:]:
                name, _, version = word.partition("=")
                self.packages[name] = FakePackage(version)
                if unit := self.brings.get(name):
                    active = "inactive" if unit in self.masked else "active"
                    self.units[unit] = FakeUnit(active, "enabled", started=time.time())
        elif words[0] == "purge":
            for name in words[1:]:
                del self.packages[name]
                self.units.pop(self.brings.get(name, ""), None)
        return Result(0, "", "")

    def _apt_cache(self, arguments: Sequence[str]) -> Result:
        lines = [
            f" {name} | {version} | http://mirror/debian trixie/main amd64 Packages"
            for name in arguments[1:]
            for version in self.available.get(name, [])
        ]
        return Result(0, "\n".join(lines), "")

    def _apt_mark(self, arguments: Sequence[str]) -> Result:
        words = [word for word in arguments if not word.startswith("-")]
        for name in words[1:]:
            self.packages[name].selection = "hold" if words[0] == "hold" else "install"
        return Result(0, "", "")
