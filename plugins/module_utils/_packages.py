# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages as wanted state: pinned by a version pattern, held, all in one apt transaction.

Reads dpkg's status file itself (dpkg(1), /var/lib/dpkg/status) because starting dpkg-query and apt-mark costs more
than everything else a converged host needs.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

DPKG_STATUS = "/var/lib/dpkg/status"
APT_LISTS = "/var/lib/apt/lists"
APT_SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d")
# A package index older than this is fetched again before something is installed (seconds).
INDEX_MAX_AGE = 3600
LOCK_WAIT = "-oDPkg::Lock::Timeout=120"
# Our configuration is written before the package is unpacked; dpkg must keep it (dpkg(1), --force-confold).
KEEP_CONFIG = ("-oDpkg::Options::=--force-confold", "-oDpkg::Options::=--force-confdef")
TRIES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedPackage:
    """A package name, a shell pattern its version has to match (empty: any), and whether apt holds it."""

    name: str
    version: str = ""
    hold: bool = False
    present: bool = True


@dataclasses.dataclass(frozen=True)
class Installed:
    """Version and selection of an installed package."""

    version: str
    held: bool


@dataclasses.dataclass
class PackagePlan:
    """What one transaction has to do: install and remove by name, set and clear holds."""

    install: list[WantedPackage]
    remove: list[str]
    hold: list[str]
    unhold: list[str]

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.install or self.remove or self.hold or self.unhold)


def read_installed(names: t.Collection[str], *, status_path: str = DPKG_STATUS) -> dict[str, Installed]:
    """Return the installed ones of some packages from dpkg's status file."""
    with open(status_path, encoding="utf-8", errors="replace") as handle:
        text = handle.read()
    found: dict[str, Installed] = {}
    for name in names:
        block = re.search(rf"(?:^|\n)Package: {re.escape(name)}\n(?:.+\n)*", text)
        if not block:
            continue
        status = re.search(r"^Status: (\S+) (\S+) (\S+)$", block[0], re.M)
        version = re.search(r"^Version: (\S+)$", block[0], re.M)
        if status and version and status[3] == "installed":
            found[name] = Installed(version[1], status[1] == "hold")
    return found


def plan(wanted: t.Sequence[WantedPackage], installed: t.Mapping[str, Installed]) -> PackagePlan:
    """Compare wanted packages with installed ones; a version that does not match its pattern is installed anew."""
    todo = PackagePlan([], [], [], [])
    for package in wanted:
        have = installed.get(package.name)
        if not package.present:
            if have:
                todo.remove.append(package.name)
            continue
        held = have is not None and have.held
        new = have is None or bool(package.version and not fnmatch.fnmatchcase(have.version, package.version))
        if new:
            todo.install.append(package)
        if held and (new or not package.hold):
            todo.unhold.append(package.name)
        if package.hold and (new or not held):
            todo.hold.append(package.name)
    return todo


def candidates(names: t.Sequence[str], *, runner: Runner = run, options: t.Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the versions that apt could install for each package, newest first (apt-cache madison)."""
    versions: dict[str, list[str]] = {name: [] for name in names}
    for line in runner(["apt-cache", *options, "madison", *names], timeout=120).stdout.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[0] in versions and fields[2].endswith("Packages"):
            versions[fields[0]].append(fields[1])
    return versions


def choose(package: WantedPackage, available: t.Sequence[str]) -> str:
    """Return apt's argument for a package: name=newest matching version.

    Raises HostError naming the pattern and what there is.
    """
    matching = [version for version in available if fnmatch.fnmatchcase(version, package.version or "*")]
    if matching:
        return f"{package.name}={matching[0]}"
    offered = ", ".join(available) or "nothing"
    wanted = f" {package.version}" if package.version else ""
    raise HostError(f"package {package.name}{wanted} is not in this host's apt sources, which offer {offered}")


def index_is_fresh(*, lists: str = APT_LISTS, sources: t.Sequence[str] = APT_SOURCES, now: float | None = None) -> bool:
    """Tell whether apt has package indexes, younger than INDEX_MAX_AGE and than every source definition."""
    try:
        indexes = [entry.stat().st_mtime for entry in os.scandir(lists) if "Packages" in entry.name]
        partial = os.stat(os.path.join(lists, "partial")).st_mtime
    except FileNotFoundError:
        return False
    if not indexes:
        return False
    changes = [os.stat(path).st_mtime for path in sources if os.path.exists(path)]
    current = time.time() if now is None else now
    return current - partial < INDEX_MAX_AGE and all(changed <= partial for changed in changes)


def _apt(arguments: t.Sequence[str], *, runner: Runner, timeout: float) -> None:
    output = ""
    for attempt in range(TRIES):
        result = runner(["apt-get", "-qq", "-y", LOCK_WAIT, *arguments], timeout=timeout)
        output = result.output
        if result.rc == 0:
            return
        if "dpkg --configure -a" in output:  # a run that was killed left packages half installed
            runner(["dpkg", "--force-confold", "--force-confdef", "--configure", "-a"], timeout=timeout)
        elif _is_network(output):
            time.sleep(2 * (attempt + 1) if attempt < TRIES - 1 else 0)
        else:
            break
    raise HostError(f"apt-get {' '.join(a for a in arguments if not a.startswith('-'))} failed: {reason(output)}")


def _is_network(output: str) -> bool:
    return "407" not in output and any(
        word in output for word in ("Could not connect", "Connection failed", "Hash Sum", "timed out", "503", "502")
    )


def reason(output: str) -> str:
    """Return the lines of apt's output that say why it failed, joined to one sentence."""
    lines = [line.strip() for line in output.splitlines() if line.startswith(("E:", "Err:", "dpkg: error", " "))]
    text = "; ".join(dict.fromkeys(line for line in lines if line)) or output.strip() or "no output"
    # apt prints the proxy's URL in some errors; credentials in a URL never leave the host, raw ones (p@ss/word) either.
    return re.sub(r"://\S*@", "://***@", text)[:600]


def update_index(*, runner: Runner = run, options: t.Sequence[str] = ()) -> None:
    """Fetch the package indexes; raises HostError when a source can't be reached (apt-get(8): Error-Mode=any)."""
    timeouts = ("-oAcquire::http::Timeout=20", "-oAcquire::https::Timeout=20")
    _apt(["-oAPT::Update::Error-Mode=any", *timeouts, *options, "update"],
         runner=runner, timeout=300)  # fmt: skip


def apply(todo: PackagePlan, *, runner: Runner = run) -> None:
    """Carry out a plan: holds off, one install transaction, one removal, holds on."""
    if todo.unhold:
        _mark("unhold", todo.unhold, runner)
    if todo.install:
        names = [package.name for package in todo.install]
        updated = not index_is_fresh()
        if updated:
            update_index(runner=runner)
        available = candidates(names, runner=runner)
        if not updated and any(not _has_match(package, available[package.name]) for package in todo.install):
            update_index(runner=runner)
            available = candidates(names, runner=runner)
        chosen = [choose(package, available[package.name]) for package in todo.install]
        _apt([*KEEP_CONFIG, "--no-install-recommends", "--allow-downgrades", "install", *chosen],
             runner=runner, timeout=1200)  # fmt: skip
    if todo.remove:
        _apt(["purge", "--allow-change-held-packages", *todo.remove], runner=runner, timeout=600)
    if todo.hold:
        _mark("hold", todo.hold, runner)


def _has_match(package: WantedPackage, available: t.Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(version, package.version or "*") for version in available)


def _mark(action: str, names: t.Sequence[str], runner: Runner) -> None:
    result = runner(["apt-mark", "-qq", action, *names])
    if result.rc != 0:
        raise HostError(f"apt-mark {action} {' '.join(names)} failed: {reason(result.output)}")
