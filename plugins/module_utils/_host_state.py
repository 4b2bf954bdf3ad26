# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring packages, files and units of one owner to their wanted state, in one pass over the host."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _engines,
    _files,
    _json_keys,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

UNIT_DIR = "/etc/systemd/system/"


@dataclasses.dataclass(frozen=True)
class Refresh:
    """A command to run once when one of the paths (prefixes) changed.

    into: the file that the command makes out of those paths. It also runs when that file lacks the text of one of
    them, so that drift in its result is repaired.
    """

    argv: tuple[str, ...]
    paths: tuple[str, ...]
    into: str = ""

    def concerns(self, path: str) -> bool:
        """Tell whether a path is one of those that the command works on."""
        return any(path.startswith(prefix) for prefix in self.paths)

    def lacks(self, files: t.Iterable[_files.WantedFile]) -> bool:
        """Tell whether the command's result lacks the text of a wanted file."""
        texts = [item.content.strip() for item in files if item.kind == "file" and self.concerns(item.path)]
        if not self.into or not texts:
            return False
        try:
            with open(self.into, "rb") as handle:
                made = handle.read()
        except FileNotFoundError:
            made = b""
        return any(text not in made for text in texts)


@dataclasses.dataclass(kw_only=True)
class Wanted:
    """Everything that one owner wants of a host; see the documentation of the module host_state."""

    owner: str
    packages: list[_packages.WantedPackage] = dataclasses.field(default_factory=list)
    idle_units: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    files: list[_files.WantedFile] = dataclasses.field(default_factory=list)
    json_keys: list[_json_keys.WantedKey] = dataclasses.field(default_factory=list)
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
        _refuse_unusable(wanted.files)
        with self._alone():
            return self._present(wanted)

    @contextlib.contextmanager
    def _alone(self) -> t.Iterator[None]:
        """Wait for what a run that was cut off left working here."""
        if self.check:
            yield
            return
        _files.make_private_dirs(self.ledger.state_dir)
        with _files.alone(self.ledger.state_dir):
            yield
        with contextlib.suppress(OSError):  # somebody needs it, as nearly always
            os.rmdir(self.ledger.state_dir)

    def _present(self, wanted: Wanted) -> Outcome:
        self.ledger.load()
        self._stop_dropped(wanted)
        self._settle_files(wanted)
        self._settle_json_keys(wanted)
        self._settle_packages(wanted)
        self._consequences(wanted)
        self._finish(keep=_kept_directories(wanted.files))
        return self.outcome

    def absent(self, wanted: Wanted) -> Outcome:
        """Undo what the ledger says this owner did: units off, packages that we brought purged, files back."""
        with self._alone():
            return self._absent(wanted)

    def _absent(self, wanted: Wanted) -> Outcome:
        self.ledger.load()
        self._stop_dropped(Wanted(owner=wanted.owner))
        # Before the files: older apt sources that come back may conflict with each other, and apt then refuses to work.
        self._settle_packages(Wanted(owner=wanted.owner))
        for path in self.ledger.get("paths"):
            self._note(_files.forget(path, ledger=self.ledger, check=self.check))
        self._settle_json_keys(Wanted(owner=wanted.owner))
        self._consequences(Wanted(owner=wanted.owner, refresh=wanted.refresh, engines=wanted.engines))
        self._finish(keep=())
        return self.outcome

    def _finish(self, *, keep: t.Collection[str]) -> None:
        """Remove directories that nothing needs any more, and store the ledger."""
        removed = self.outcome.removed_paths
        gone = [path for path in removed if not os.path.lexists(self.ledger.backup_path(path))]
        for change in _files.prune_directories(ledger=self.ledger, keep=keep, check=self.check, gone=gone):
            self._note(change)
        if not self.check:
            self.ledger.save()

    def _note(self, change: _files.Change | None) -> None:
        if change is None:
            return
        written = change.action == "written"
        (self.outcome.changed_paths if written else self.outcome.removed_paths).append(change.path)
        self.outcome.diffs.append(change.diff)

    def _settle_files(self, wanted: Wanted) -> None:
        listed = {item.path for item in wanted.files}
        for item in wanted.files:
            self._note(_files.ensure(item, ledger=self.ledger, check=self.check))
        for path in self.ledger.get("paths"):
            if path not in listed:
                self._note(_files.forget(path, ledger=self.ledger, check=self.check))

    def _settle_json_keys(self, wanted: Wanted) -> None:
        for change in _json_keys.apply(wanted.json_keys, ledger=self.ledger, check=self.check):
            self._note(change)

    def _settle_packages(self, everything: Wanted) -> None:
        wanted = everything.packages
        listed = {package.name for package in wanted}
        ours = self.ledger.get("packages")
        # What is no longer listed goes back to what it was: gone if we brought it, else there without our hold.
        dropped = [name for name in dict.fromkeys([*ours, *self.ledger.get("held")]) if name not in listed]
        if not wanted and not dropped:
            return
        installed = _packages.read_installed([*listed, *dropped])
        undone = [_packages.WantedPackage(name=name, present=name not in ours) for name in dropped if name in installed]
        todo = _packages.plan([*wanted, *undone], installed)
        if not todo.empty:
            self._transact(todo, installed, everything.idle_units)
        if not self.check:
            gone = {*dropped, *todo.remove}
            unheld = {name for name in todo.unhold if name not in todo.hold}
            self.ledger.set("packages", [name for name in self.ledger.get("packages") if name not in gone])
            self.ledger.set("held", [name for name in self.ledger.get("held") if name not in gone | unheld])

    def _transact(
        self,
        todo: _packages.PackagePlan,
        installed: t.Mapping[str, _packages.Installed],
        idle_units: t.Mapping[str, t.Sequence[str]],
    ) -> None:
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
            with self._kept_from_starting([unit for name in new for unit in idle_units.get(name, ())]):
                _packages.apply(todo, runner=self.runner)
        self.outcome.packages += words
        self.outcome.diffs.append(
            {"before_header": "packages", "after_header": "packages", "before": "", "after": "\n".join(words) + "\n"}
        )

    @contextlib.contextmanager
    def _kept_from_starting(self, units: t.Sequence[str]) -> t.Iterator[None]:
        """Mask units while apt installs their packages, which would start them."""
        if not units:
            yield
            return
        _units.systemctl(["mask", "--runtime", *units], runner=self.runner)
        try:
            yield
        finally:
            _units.systemctl(["unmask", "--runtime", *units], runner=self.runner)

    def _idle(self, wanted: Wanted) -> list[_units.WantedUnit]:
        """Units that came with a package of ours and shall not run; a package that was there before keeps its own."""
        ours = self.ledger.get("packages")
        names = [unit for package, units in wanted.idle_units.items() if package in ours for unit in units]
        return [_units.WantedUnit(name=name, enabled=False, started=False) for name in names]

    def _stop_dropped(self, wanted: Wanted) -> None:
        """Stop and disable units that we defined and whose files are about to go, while these are still there."""
        listed = {unit.name for unit in wanted.units}
        listed |= {item.path.removeprefix(UNIT_DIR) for item in wanted.files if item.kind != "absent"}
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
            if any(refresh.concerns(path) for path in touched) or refresh.lacks(wanted.files):
                self._refresh(refresh)
        self._daemon_reload(touched, wanted.units)
        self._apply_units([*self._idle(wanted), *wanted.units], touched=touched)
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
        """Reload systemd when it says that it has loaded an older unit, or when a drop-in of an existing one changed.

        Its word alone is not enough: systemd 252 does not see the first drop-in in a directory that is new.
        """
        matches = [match for path in touched if (match := re.match(rf"{UNIT_DIR}([^/]+?)(\.d/|$)", path))]
        extended = {match[1] for match in matches if match[2]}
        names = {match[1] for match in matches} | {unit.name for unit in units}
        # systemd knows nothing of a template, only of its instances.
        template = any("@." in name for name in names)
        names = {name for name in names if "." in name and "@." not in name}
        status = _units.show(sorted(names), runner=self.runner)
        due = any(unit.needs_reload or (unit.exists and name in extended) for name, unit in status.items())
        if template or due:
            if not self.check:
                _units.systemctl(["daemon-reload"], runner=self.runner)
            self.outcome.actions.append("daemon-reload")

    def _apply_units(self, units: t.Sequence[_units.WantedUnit], *, touched: t.Collection[str] = ()) -> None:
        if not units:
            return
        for action in _units.apply(units, check=self.check, touched=touched, runner=self.runner):
            self.outcome.act(f"{action.verb} {action.unit}")
            if action.verb == "restart":
                self.outcome.restarted.append(action.unit)


def _refuse_unusable(files: t.Sequence[_files.WantedFile]) -> None:
    """Raise HostError for a path that is not absolute or that has two wanted states."""
    seen = set()
    for item in files:
        if not os.path.isabs(item.path) or os.path.normpath(item.path) != item.path or item.path == "/":
            raise HostError(
                f"path {item.path!r} is of no use: it needs to be absolute, without .., // or a slash at the end"
            )
        if item.path in seen:
            raise HostError(f"{item.path} is listed twice: it needs one wanted state")
        seen.add(item.path)


def _kept_directories(files: t.Sequence[_files.WantedFile]) -> set[str]:
    return {item.path for item in files if item.kind == "directory"}
