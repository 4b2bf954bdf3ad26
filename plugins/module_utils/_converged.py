# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a machine still as the last run left it? One look at everything our ledgers know, instead of every role again.

A run that ends well records a digest of its input and a snapshot of the machine: packages, files, units, group
members, containers. The next run with the same input ends early where the snapshot is still true. Any difference, also
a harmless one, only means that the roles look again: what they repair is decided by them, never here.
"""

from __future__ import annotations

import contextlib
import glob
import grp
import hashlib
import json
import os
import pwd
import stat
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _containers,
    _engines,
    _files,
    _gpus,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

RECORD = "converged.json"
# Of what is mounted read-only into our containers, only what lies below is configuration; /run holds switches.
MOUNTED = "/etc/"
Snapshot = dict[str, str]
Asker = t.Callable[[str], t.Any]


def _ledgers(state_dir: str) -> t.Iterator[dict[str, list[str]]]:
    for path in sorted(glob.glob(os.path.join(state_dir, "ledger", "*.json"))):
        with open(path, encoding="utf-8") as handle, contextlib.suppress(ValueError):
            yield json.load(handle)


def owners(*, state_dir: str = _files.STATE_DIR) -> list[str]:
    """Return the roles that have something on this machine, by their ledgers."""
    return sorted(os.path.basename(path)[:-5] for path in glob.glob(os.path.join(state_dir, "ledger", "*.json")))


def _paths(ledgers: t.Sequence[t.Mapping[str, list[str]]], state_dir: str) -> set[str]:
    """Return every path that a role has written, that an engine reads, and the ledgers themselves."""
    found = {path for ledger in ledgers for key in ("paths", "directories") for path in ledger.get(key, [])}
    found |= {path for engine in _engines.ENGINES.values() for pattern in engine.inputs for path in glob.glob(pattern)}
    found |= {"/etc/os-release", *glob.glob(os.path.join(state_dir, "ledger", "*.json"))}
    for ledger in ledgers:
        for entry in map(json.loads, ledger.get("json_keys", [])):
            with contextlib.suppress(KeyError):
                found.add(os.path.join(pwd.getpwnam(entry["user"]).pw_dir, entry["path"]))
    return found


def describe(path: str) -> str:
    """Return kind, mode, owner, time and a digest of the content of a path; empty when there is nothing."""
    try:
        info = os.lstat(path)
    except OSError:
        return ""
    text = f"{info.st_mode:o} {info.st_uid}:{info.st_gid}"
    if stat.S_ISLNK(info.st_mode):
        return f"{text} {os.readlink(path)}"
    if not stat.S_ISREG(info.st_mode):
        return text
    # O_NOFOLLOW: a user may swap his own file for a link between the two calls.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        return f"{text} {info.st_mtime_ns} {hashlib.sha256(stream.read()).hexdigest()}"


def _unit_states(names: t.Sequence[str], runner: Runner) -> Snapshot:
    return {
        f"unit {name}": f"{unit.state} enabled={unit.enabled} needs_reload={unit.needs_reload} exists={unit.exists}"
        for name, unit in _units.show(names, runner=runner).items()
    }


def _own_units(paths: t.Iterable[str]) -> set[str]:
    """Return the units of which we wrote the file or a drop-in, if they run on their own.

    The state of a oneshot changes by itself; that of the timer or path which starts it does not.
    """
    prefix = "/etc/systemd/system/"
    names = {path.removeprefix(prefix).partition(".d/")[0] for path in paths if path.startswith(prefix)}
    names = {name for name in names if "/" not in name and "." in name and "@." not in name and name[-2:] != ".d"}
    starters = {name.rpartition(".")[0] for name in names if name.endswith((".timer", ".path"))}
    return {name for name in names if not (name.endswith(".service") and name.removesuffix(".service") in starters)}


def _stacks(state_dir: str) -> t.Iterator[tuple[str, dict[str, t.Any]]]:
    """Yield name and record of each container that container_stack keeps."""
    for path in sorted(glob.glob(os.path.join(state_dir, "stack", "*.json"))):
        with open(path, encoding="utf-8") as handle, contextlib.suppress(ValueError):
            yield from json.load(handle).get("containers", {}).items()


def _mounted_files(binds: t.Iterable[str]) -> t.Iterator[str]:
    """Yield the files of /etc that a container reads, whoever wrote them; it may bring forth others of its own."""
    for bind in binds:
        source, _, options = bind.partition(":")
        if source.startswith(MOUNTED) and options.endswith(":ro"):
            for directory, _, names in os.walk(source):
                yield from (os.path.join(directory, name) for name in names)


def _container_states(state_dir: str, ask: Asker) -> Snapshot:
    """Return how our containers are, and whether their images are there, by the socket of dockerd.

    A machine without such containers costs nothing. When they were started says nothing: a reboot changes it.
    """
    snapshot: Snapshot = {}
    for name, record in _stacks(state_dir):
        try:
            found = ask(f"/containers/{name}/json")
            seen = json.dumps(_containers.view(found), sort_keys=True)
            state = f"{found['State']['Status']} {found['Id']} {hashlib.sha256(seen.encode()).hexdigest()}"
        except (OSError, KeyError, TypeError) as exc:
            state = f"not to be seen: {exc}"
        snapshot[f"container {name}"] = state
        image = str(record.get("spec", {}).get("image", ""))
        try:
            snapshot[f"image {image}"] = str(ask(f"/images/{image}/json")["Id"])
        except (OSError, KeyError, TypeError):
            snapshot[f"image {image}"] = ""
        for path in _mounted_files(record.get("view", {}).get("HostConfig.Binds") or []):
            snapshot[path] = describe(path)
    return snapshot


def take(
    *,
    state_dir: str = _files.STATE_DIR,
    status_path: str = _packages.DPKG_STATUS,
    runner: Runner = run,
    ask: Asker = _engines.ask_docker,
) -> Snapshot:
    """Return the snapshot of this machine: what is looked at, and how it is."""
    ledgers = list(_ledgers(state_dir))
    paths = _paths(ledgers, state_dir)
    snapshot = {path: describe(path) for path in paths}
    packages = {name for ledger in ledgers for key in ("packages", "held") for name in ledger.get(key, [])}
    installed = _packages.read_installed(sorted(packages))
    snapshot.update({f"package {name}": str(installed.get(name)) for name in packages})
    engines = {unit for engine in _engines.ENGINES.values() for unit in (engine.unit, *engine.also_reset)}
    units = engines | _own_units(paths)
    snapshot.update(_unit_states(sorted(units), runner))
    if os.path.exists(os.path.join(state_dir, "ledger", "nvidia_container_toolkit.json")):
        snapshot["gpus"] = _gpus.signature()
    snapshot.update(_container_states(state_dir, ask))
    with contextlib.suppress(KeyError):
        snapshot["group docker"] = " ".join(sorted(grp.getgrnam("docker").gr_mem))
    return snapshot


def difference(before: t.Mapping[str, str], now: t.Mapping[str, str]) -> list[str]:
    """Return the names of what differs, sorted."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def recorded(*, state_dir: str = _files.STATE_DIR) -> dict[str, t.Any]:
    """Return what the last good run recorded; empty when there is nothing that can be read."""
    try:
        with open(os.path.join(state_dir, RECORD), encoding="utf-8") as handle:
            data = json.load(handle)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def check(
    key: str,
    digest: str,
    *,
    state_dir: str = _files.STATE_DIR,
    runner: Runner = run,
    ask: Asker = _engines.ask_docker,
) -> list[str]:
    """Return why the machine is not as the last good run with this input left it; empty when it is."""
    record = recorded(state_dir=state_dir).get(key)
    if not isinstance(record, dict):
        return ["no run has ended well here yet"]
    if record.get("digest") != digest:
        return ["the input or the collection has changed"]
    return difference(record.get("snapshot", {}), take(state_dir=state_dir, runner=runner, ask=ask))


def record(
    key: str,
    digest: str,
    *,
    state_dir: str = _files.STATE_DIR,
    runner: Runner = run,
    ask: Asker = _engines.ask_docker,
) -> None:
    """Remember that a run with this input has ended well, and how the machine is now."""
    data = recorded(state_dir=state_dir)
    data[key] = {"digest": digest, "snapshot": take(state_dir=state_dir, runner=runner, ask=ask)}
    _files.make_private_dirs(state_dir)
    path = os.path.join(state_dir, RECORD)
    _files.write_atomic(path=path, content=json.dumps(data, indent=1).encode(), mode=0o600)
