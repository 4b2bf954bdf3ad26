# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd units as wanted state, and whether a running instance was started with its current inputs.

A restart follows from what is on the host, not from a handler's memory: an interrupted run is finished by the next,
and nothing restarts twice. Properties are systemctl(1)'s; InvocationID is explained in systemd.exec(5).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import json
import os
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._files import one_sentence, write_atomic
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

RUN_DIR = "/run/slipway"
PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,InvocationID,"
    "ActiveEnterTimestampMonotonic,ExecMainStartTimestampMonotonic,MainPID,Type"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedUnit:
    """A unit, whether it starts at boot (None: leave it), whether it runs (None: leave it), and its inputs.

    inputs are globs of files that the running instance has read; on_change is restart, reload or none.
    """

    name: str
    enabled: bool | None = None
    started: bool | None = None
    inputs: tuple[str, ...] = ()
    on_change: str = "restart"


@dataclasses.dataclass(frozen=True)
class UnitStatus:
    """What systemd says of a unit; started_at is seconds since the epoch, 0 when it does not run.

    enabled is None for a unit that can't be switched: it has no [Install] section, or something generates it.
    """

    exists: bool
    active: bool
    enabled: bool | None
    needs_reload: bool
    invocation: str
    started_at: float
    type: str = ""
    state: str = ""


def show(names: t.Sequence[str], *, runner: Runner = run) -> dict[str, UnitStatus]:
    """Ask systemd for several units in one call."""
    if not names:
        return {}
    output = runner(["systemctl", "show", f"--property={PROPERTIES}", *names]).stdout
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
              for block in output.split("\n\n") if block.strip()]  # fmt: skip
    if len(blocks) != len(names):
        raise HostError(f"systemd does not answer for {', '.join(names)}: is it running on this host?")
    return {name: _status(block) for name, block in zip(names, blocks, strict=True)}


def _status(block: t.Mapping[str, str]) -> UnitStatus:
    started = int(block.get("ExecMainStartTimestampMonotonic") or 0) or int(
        block.get("ActiveEnterTimestampMonotonic") or 0
    )
    return UnitStatus(
        exists=block.get("LoadState") == "loaded",
        active=block.get("ActiveState") in ("active", "reloading", "activating"),
        enabled=_enabled(block.get("UnitFileState", "")),
        needs_reload=block.get("NeedDaemonReload") == "yes",
        invocation=block.get("InvocationID", ""),
        started_at=_epoch(started),
        type=block.get("Type", ""),
        state=block.get("ActiveState", ""),
    )


def _enabled(state: str) -> bool | None:
    """Return whether a unit starts at boot, from systemctl(1)'s is-enabled states."""
    if state in ("static", "alias", "indirect", "generated", "transient"):
        return None
    return state in ("enabled", "enabled-runtime")


def _epoch(monotonic_microseconds: int) -> float:
    if not monotonic_microseconds:
        return 0.0
    return time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - monotonic_microseconds / 1e6)


def fingerprint(inputs: t.Iterable[str]) -> str:
    """Return a digest over the names and contents of every file that the globs match."""
    digest = hashlib.sha256()
    for path in sorted({match for pattern in inputs for match in glob.glob(pattern)}):
        if os.path.isfile(path):
            with open(path, "rb") as handle:
                content = hashlib.sha256(handle.read()).digest()
            digest.update(path.encode() + b"\0" + content)
    return digest.hexdigest()


def newest_change(inputs: t.Iterable[str]) -> float:
    """Return the latest time (seconds since the epoch) at which a matched file, or a directory holding one, changed."""
    newest = 0.0
    for pattern in inputs:
        paths = [match for match in glob.glob(pattern) if os.path.isfile(match)]
        if "*" in pattern and os.path.isdir(os.path.dirname(pattern)):
            paths.append(os.path.dirname(pattern))  # a removed file shows in its directory only
        newest = max([newest, *(os.stat(path).st_mtime for path in paths)])
    return newest


def _record_path(name: str, run_dir: str) -> str:
    return os.path.join(run_dir, f"{name}.json")


def record_inputs(name: str, *, status: UnitStatus, inputs: t.Iterable[str], run_dir: str = RUN_DIR) -> None:
    """Remember which inputs the running instance of a unit was started with."""
    content = json.dumps({"invocation": status.invocation, "fingerprint": fingerprint(inputs)}).encode()
    path = _record_path(name, run_dir)
    with one_sentence(path):
        os.makedirs(run_dir, mode=0o755, exist_ok=True)
        write_atomic(path=path, content=content, mode=0o600, uid=os.geteuid(), gid=os.getegid())


def touches(paths: t.Iterable[str], inputs: t.Sequence[str]) -> bool:
    """Tell whether one of some paths (existing or not) is matched by one of the globs."""
    return any(
        fnmatch.fnmatchcase(path, pattern) and path.count("/") == pattern.count("/")
        for path in paths
        for pattern in inputs
    )


def is_outdated(
    name: str,
    *,
    status: UnitStatus,
    inputs: t.Sequence[str],
    touched: t.Collection[str] = (),
    run_dir: str = RUN_DIR,
) -> bool:
    """Tell whether the running instance of a unit has other inputs than those on disk.

    With a record of this very invocation the contents decide. Without one (a reboot, a restart by hand, a first
    run) the instance is outdated when an input changed after it was started; touched are paths that this run or an
    interrupted one changed, because a file that was removed has no time of change.
    """
    if not inputs or not status.active:
        return False
    try:
        with open(_record_path(name, run_dir), encoding="utf-8") as handle:
            record = json.load(handle)
    except (FileNotFoundError, ValueError):
        record = {}
    if record.get("invocation") == status.invocation:
        return bool(record.get("fingerprint") != fingerprint(inputs))
    removed = [path for path in touched if not os.path.lexists(path)]
    return touches(removed, inputs) or newest_change(inputs) > status.started_at


def has_record(name: str, *, status: UnitStatus, run_dir: str = RUN_DIR) -> bool:
    """Tell whether the inputs of this invocation are on record."""
    try:
        with open(_record_path(name, run_dir), encoding="utf-8") as handle:
            return bool(json.load(handle).get("invocation") == status.invocation)
    except (FileNotFoundError, ValueError):
        return False


def systemctl(arguments: t.Sequence[str], *, runner: Runner = run, timeout: float = 120) -> None:
    """Run systemctl; raises HostError with the unit's last journal lines when it fails."""
    result = runner(["systemctl", *arguments], timeout=timeout)
    if result.rc != 0:
        why = journal_reason(arguments[-1], runner=runner)
        detail = why or (result.output.splitlines() or [f"it ended with {result.rc} and said nothing"])[0]
        raise HostError(f"systemctl {' '.join(arguments)} failed: {detail}")


def journal_lines(unit: str, *, since: float = 0.0, runner: Runner = run) -> list[str]:
    """Return what a unit's own processes logged lately, oldest first; since is seconds since the epoch, 0 for any."""
    window = [f"--since=@{since:.6f}"] if since else []
    result = runner(["journalctl", "-u", unit, "-n", "40", "-o", "json", "--no-pager", *window])
    texts = []
    for line in result.stdout.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("_PID") != "1" and isinstance(entry.get("MESSAGE"), str):
            texts.append(entry["MESSAGE"].strip())
    return texts


def journal_reason(unit: str, *, runner: Runner = run, lines: int = 5) -> str:
    """Return the last lines that a unit's own processes logged since its last start, joined; empty when none."""
    return "; ".join(journal_lines(unit, runner=runner)[-lines:])


@dataclasses.dataclass
class UnitAction:
    """One systemctl call that a unit needs, as words, for diffs and results."""

    unit: str
    verb: str


def plan(
    wanted: WantedUnit,
    status: UnitStatus,
    *,
    touched: t.Collection[str] = (),
    check: bool = False,
    run_dir: str = RUN_DIR,
) -> list[UnitAction]:
    """Return what a unit needs: enable, disable, start, stop, restart or reload, in the order to do it.

    check: the paths in touched are not written, so they decide instead of what is on disk.
    """
    actions = []
    if None not in (wanted.enabled, status.enabled) and wanted.enabled != status.enabled:
        actions.append(UnitAction(wanted.name, "enable" if wanted.enabled else "disable"))
    if wanted.started is False and status.active:
        actions.append(UnitAction(wanted.name, "stop"))
    elif wanted.started and not status.active:
        actions.append(UnitAction(wanted.name, "start"))
    elif wanted.on_change != "none" and status.active:
        predicted = check and touches(touched, wanted.inputs)
        if predicted or is_outdated(wanted.name, status=status, inputs=wanted.inputs, touched=touched, run_dir=run_dir):
            actions.append(UnitAction(wanted.name, wanted.on_change))
    return actions


def apply(
    wanted: t.Sequence[WantedUnit],
    *,
    check: bool,
    touched: t.Collection[str] = (),
    runner: Runner = run,
    run_dir: str = RUN_DIR,
) -> list[UnitAction]:
    """Bring units to their wanted state and remember what the running ones were started with.

    touched: paths that this run or an interrupted one changed (in check mode: would have changed).
    """
    before = show([unit.name for unit in wanted], runner=runner)
    done: list[UnitAction] = []
    for unit in wanted:
        actions = plan(unit, before[unit.name], touched=touched, check=check, run_dir=run_dir)
        if not check:
            for action in actions:
                systemctl([action.verb, action.unit], runner=runner)
        done += actions
    if not check:
        after = show([unit.name for unit in wanted], runner=runner) if done else before
        for unit in wanted:
            status = after[unit.name]
            acted = any(action.unit == unit.name for action in done)
            if unit.inputs and status.active and (acted or not has_record(unit.name, status=status, run_dir=run_dir)):
                record_inputs(unit.name, status=status, inputs=unit.inputs, run_dir=run_dir)
    return done
