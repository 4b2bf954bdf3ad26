# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring packages, files and units of one owner to their wanted state, in one pass over the host."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _engines, _files, _packages, _units
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

UNIT_DIR = "/etc/systemd/system/"


@dataclasses.dataclass(frozen=True)
class Refresh:
    """A command to run once when one of the paths (prefixes) changed."""

    argv: tuple[str, ...]
    paths: tuple[str, ...]


@dataclasses.dataclass(kw_only=True)
class Wanted:
    """Everything that one owner wants of a host; see the documentation of the module host_state."""

    owner: str
    packages: list[_packages.WantedPackage] = dataclasses.field(default_factory=list)
    files: list[_files.WantedFile] = dataclasses.field(default_factory=list)
    refresh: list[Refresh] = dataclasses.field(default_factory=list)
    units: list[_units.WantedUnit] = dataclasses.field(default_factory=list)
    engines: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Outcome:
    """What changed: diffs per path, paths, packages and unit actions, in the order they happened."""

    diffs: list[dict[str, str]] = dataclasses.field(default_factory=list)
    changed_paths: list[str] = dataclasses.field(default_factory=list)
    removed_paths: list[str] = dataclasses.field(default_factory=list)
    packages: list[str] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    restarted: list[str] = dataclasses.field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was or would be done."""
        return bool(self.changed_paths or self.removed_paths or self.packages or self.actions)

    def act(self, text: str) -> None:
        """Note an action that is no file, and show it in the diff."""
        self.actions.append(text)
        self.diffs.append({"before_header": "", "after_header": "", "before": "", "after": text + "\n"})


class HostState:
    """One run over one host for one owner.

    check: predict only. runner runs commands; state_dir holds ledgers and originals.
    """

    def __init__(self, *, owner: str, check: bool, runner: Runner = run, state_dir: str = _files.STATE_DIR) -> None:
        self.check = check
        self.runner = runner
        self.ledger = _files.Ledger(owner=owner, state_dir=state_dir)
        self.outcome = Outcome()

    def present(self, wanted: Wanted) -> Outcome:
        """Reach the wanted state; raises HostError in one sentence where that fails."""
        self.ledger.load()
        self._stop_dropped(wanted.units)
        self._files(wanted)
        self._packages(wanted.packages)
        self._consequences(wanted)
        _files.prune_directories(ledger=self.ledger, keep=_kept_directories(wanted.files), check=self.check)
        if not self.check:
            self.ledger.save()
        return self.outcome

    def absent(self, wanted: Wanted) -> Outcome:
        """Undo what the ledger says this owner did: units off, files back, packages that we brought purged."""
        self.ledger.load()
        self._stop_dropped(())
        for path in self.ledger.get("paths"):
            self._note(_files.forget(path, ledger=self.ledger, check=self.check), removed=True)
        self._remove_packages()
        self._consequences(Wanted(owner=wanted.owner, refresh=wanted.refresh, engines=wanted.engines))
        _files.prune_directories(ledger=self.ledger, keep=(), check=self.check)
        if not self.check:
            self.ledger.save()
        return self.outcome

    def _note(self, change: _files.Change | None, *, removed: bool = False) -> None:
        if change is None:
            return
        (self.outcome.removed_paths if removed else self.outcome.changed_paths).append(change.path)
        self.outcome.diffs.append(change.diff)

    def _files(self, wanted: Wanted) -> None:
        listed = {item.path for item in wanted.files}
        for item in wanted.files:
            self._note(_files.ensure(item, ledger=self.ledger, check=self.check))
        for path in self.ledger.get("paths"):
            if path not in listed:
                self._note(_files.forget(path, ledger=self.ledger, check=self.check), removed=True)

    def _packages(self, wanted: t.Sequence[_packages.WantedPackage]) -> None:
        known = [name for name in self.ledger.get("packages") if name not in {package.name for package in wanted}]
        dropped = [_packages.WantedPackage(name=name, present=False) for name in known]
        if not wanted and not dropped:
            return
        everything = [*wanted, *dropped]
        installed = _packages.read_installed([package.name for package in everything])
        todo = _packages.plan(everything, installed)
        if todo.empty:
            return
        words = [
            *(f"install {package.name} {package.version}".rstrip() for package in todo.install),
            *(f"remove {name}" for name in todo.remove),
            *(f"hold {name}" for name in todo.hold),
            *(f"unhold {name}" for name in todo.unhold if name not in todo.hold),
        ]
        if not self.check:
            new = [package.name for package in todo.install if package.name not in installed]
            self.ledger.set("packages", [*self.ledger.get("packages"), *new])
            self.ledger.set("held", [*self.ledger.get("held"), *todo.hold])
            self.ledger.save()
            _packages.apply(todo, runner=self.runner)
            gone = set(todo.remove)
            self.ledger.set("packages", [name for name in self.ledger.get("packages") if name not in gone])
        self.outcome.packages += words
        self.outcome.diffs.append(
            {"before_header": "packages", "after_header": "packages", "before": "", "after": "\n".join(words) + "\n"}
        )

    def _remove_packages(self) -> None:
        ours = self.ledger.get("packages")
        held = [name for name in self.ledger.get("held") if name not in ours]
        names = [*ours, *held]
        if not names:
            return
        wanted = [_packages.WantedPackage(name=name, present=name not in ours) for name in names]
        todo = _packages.plan(wanted, _packages.read_installed(names))
        if not todo.empty:
            for name in todo.remove:
                self.outcome.packages.append(f"remove {name}")
            for name in todo.unhold:
                self.outcome.packages.append(f"unhold {name}")
            if not self.check:
                _packages.apply(todo, runner=self.runner)
        if not self.check:
            self.ledger.set("packages", [])
            self.ledger.set("held", [])

    def _stop_dropped(self, wanted: t.Sequence[_units.WantedUnit]) -> None:
        """Stop and disable units that we defined and that are no longer wanted, while their files are still there."""
        listed = {unit.name for unit in wanted}
        dropped = [name for name in self._own_units() if name not in listed]
        status = _units.show(dropped, runner=self.runner)
        off = [_units.WantedUnit(name=name, enabled=False, started=False) for name in dropped if status[name].exists]
        self._apply_units(off)
        if off and not self.check:
            # A unit that ended with an error would stay on systemd's list of failed ones without its file.
            self.runner(["systemctl", "reset-failed", *(unit.name for unit in off)])

    def _own_units(self) -> list[str]:
        names = (path.removeprefix(UNIT_DIR) for path in self.ledger.get("paths") if path.startswith(UNIT_DIR))
        return [name for name in names if "/" not in name and "@." not in name]

    def _consequences(self, wanted: Wanted) -> None:
        """Run what the changed files call for, also those of an earlier run that did not get that far."""
        touched = {*self.outcome.changed_paths, *self.outcome.removed_paths, *self.ledger.get("pending")}
        for refresh in wanted.refresh:
            if any(path.startswith(prefix) for path in touched for prefix in refresh.paths):
                self._refresh(refresh)
        self._daemon_reload(touched, wanted.units)
        self._apply_units(wanted.units)
        for engine in wanted.engines:
            applied = _engines.apply(self.runner, engine, check=self.check)
            if applied.restarted or applied.reloaded:
                self.outcome.act(f"{'restart' if applied.restarted else 'reload'} {engine}: {applied.reason}")
            if applied.restarted:
                self.outcome.restarted.append(engine)
        if not self.check:
            self.ledger.set("pending", [])

    def _refresh(self, refresh: Refresh) -> None:
        self.outcome.act(" ".join(refresh.argv))
        if not self.check:
            result = self.runner(list(refresh.argv), timeout=300)
            if result.rc != 0:
                raise HostError(f"{' '.join(refresh.argv)} failed: {result.output}")

    def _daemon_reload(self, touched: t.Iterable[str], units: t.Sequence[_units.WantedUnit]) -> None:
        """Reload systemd only when it says that a unit on disk is newer than the one it has loaded."""
        names = {match[1] for path in touched if (match := re.match(rf"{UNIT_DIR}([^/]+?)(?:\.d/|$)", path))}
        names |= {unit.name for unit in units}
        names = {name for name in names if "." in name}
        if not names or self.check:
            return
        status = _units.show(sorted(names), runner=self.runner)
        if any(unit.needs_reload for unit in status.values()):
            _units.systemctl(["daemon-reload"], runner=self.runner)
            self.outcome.actions.append("daemon-reload")

    def _apply_units(self, units: t.Sequence[_units.WantedUnit]) -> None:
        if not units:
            return
        actions = _units.apply(units, check=self.check, runner=self.runner)
        if self.check:
            actions += self._predicted_restarts(units, {action.unit for action in actions})
        for action in actions:
            self.outcome.act(f"{action.verb} {action.unit}")
            if action.verb == "restart":
                self.outcome.restarted.append(action.unit)

    def _predicted_restarts(
        self, units: t.Sequence[_units.WantedUnit], acted: t.Collection[str]
    ) -> list[_units.UnitAction]:
        """Return the restarts that a real run would make because it would have written the inputs."""
        touched = [*self.outcome.changed_paths, *self.outcome.removed_paths]
        return [
            _units.UnitAction(unit.name, unit.on_change)
            for unit in units
            if unit.name not in acted
            and unit.on_change != "none"
            and unit.started is not False
            and any(fnmatch.fnmatchcase(path, pattern) for path in touched for pattern in unit.inputs)
        ]


def _kept_directories(files: t.Sequence[_files.WantedFile]) -> set[str]:
    return {item.path for item in files if item.kind == "directory"}
