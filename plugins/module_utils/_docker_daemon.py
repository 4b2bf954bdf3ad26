# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker on one host: daemon.json made of fragments, the packages, the users, and a daemon that runs with all of it."""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import pwd
import shutil
import stat
import tempfile
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _apt_sources,
    _daemon_json,
    _engines,
    _files,
    _host_state,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

GROUP = "docker"
FRAGMENT = "docker_engine"
UNITS = ("docker.service", "docker.socket")
# Drivers that know max-size and max-file; any other refuses to start with them (docker's logging driver reference).
ROTATING_DRIVERS = ("json-file", "local")
# Debian's docker.io deletes /var/lib/docker when it is purged, by a script that it copies there on removal.
NUKE_SCRIPTS = ("/usr/share/docker.io/contrib/nuke-graph-directory.sh", "/var/lib/docker/nuke-graph-directory.sh")


@dataclasses.dataclass(frozen=True)
class Places:
    """Where things are on a host; tests put them elsewhere."""

    config: str = "/etc/docker/daemon.json"
    fragments: str = "/etc/slipway/docker/daemon.json.d"
    state_dir: str = _files.STATE_DIR
    run_dir: str = _engines.RUN_DIR

    @property
    def private(self) -> str:
        """Directory of the last good file and of what we know of keys."""
        return os.path.join(self.state_dir, "docker")


@dataclasses.dataclass
class Outcome:
    """What changed, for the module's result; diffs hold no credentials."""

    diffs: list[dict[str, str]] = dataclasses.field(default_factory=list)
    changed_paths: list[str] = dataclasses.field(default_factory=list)
    packages: list[str] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    unknown_keys: tuple[str, ...] = ()
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was or would be done."""
        return bool(self.changed_paths or self.packages or self.actions)

    def note(self, change: _files.Change | None) -> None:
        """Add a changed file."""
        if change is not None:
            self.changed_paths.append(change.path)
            self.diffs.append({key: _engines.mask(value) for key, value in change.diff.items()})

    def act(self, text: str) -> None:
        """Add something that is no file, and show it in the diff."""
        self.actions.append(text)
        self.diffs.append({"before_header": "", "after_header": "", "before": "", "after": text + "\n"})


def read_text(path: str) -> str | None:
    """Return the text of a file, None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


class DaemonJson:
    """The file and its fragments. unknown_keys: keep, remove or fail, see _daemon_json.compose."""

    def __init__(
        self, *, places: Places, runner: Runner, check: bool, outcome: Outcome, unknown_keys: str = "keep"
    ) -> None:
        self.places = places
        self.runner = runner
        self.check = check
        self.outcome = outcome
        self.unknown_keys = unknown_keys
        self.ledger = _files.Ledger(owner="docker", state_dir=places.state_dir)
        self.ledger.load()

    def fragment_path(self, name: str) -> str:
        """Return the file of a fragment."""
        return os.path.join(self.places.fragments, f"50-{name}.json")

    def fragments(self) -> dict[str, _daemon_json.Config]:
        """Return every fragment by name; HostError names one that is not JSON."""
        found: dict[str, _daemon_json.Config] = {}
        if not os.path.isdir(self.places.fragments):
            return found
        for entry in sorted(os.listdir(self.places.fragments)):
            if entry.startswith("50-") and entry.endswith(".json"):
                path = os.path.join(self.places.fragments, entry)
                try:
                    found[entry[3:-5]] = _daemon_json.parse(read_text(path) or "")
                except _daemon_json.BrokenJsonError as exc:
                    raise HostError(f"{path} is not valid JSON ({exc}): remove it and run its role again") from exc
        return found

    def put(self, name: str, config: _daemon_json.Config) -> None:
        """Set one fragment ({} removes it) and write the merged file; HostError when docker would refuse it."""
        fragments = self._other_fragments(name)
        without = dict(fragments)
        if config:
            fragments[name] = config
        current = self._current()
        composed = self._compose(fragments, current)
        if not fragments:
            self._leave(name, composed.config)
            return
        text = _daemon_json.render(composed.config)
        self.outcome.unknown_keys = composed.unknown
        if text != read_text(self.places.config):
            self._refuse_early(name, text, _daemon_json.render(self._compose(without, current).config))
        self._write(name, config, composed, text)

    def restore_fragment(self, name: str, config: _daemon_json.Config) -> None:
        """Put a fragment back as it was before this run, without a word in the result."""
        self._put_file(self.fragment_path(name), _daemon_json.render(config) if config else None)

    def _other_fragments(self, name: str) -> dict[str, _daemon_json.Config]:
        fragments = self.fragments()
        fragments.pop(name, None)
        return fragments

    def _compose(
        self, fragments: t.Mapping[str, _daemon_json.Config], current: _daemon_json.Config
    ) -> _daemon_json.Composed:
        try:
            return _daemon_json.compose(fragments, current, self._owned(), self.unknown_keys)
        except _daemon_json.MergeError as exc:
            raise HostError(str(exc)) from exc

    def _current(self) -> _daemon_json.Config:
        """Return daemon.json as it stands; a broken one is replaced by the last good one, if there is one."""
        path = self.places.config
        try:
            return _daemon_json.parse(read_text(path) or "")
        except _daemon_json.BrokenJsonError as exc:
            good = read_text(os.path.join(self.places.private, "daemon.json.good"))
            if good is None:
                raise HostError(
                    f"{path} is not valid JSON ({exc}) and was not written by this role: "
                    "repair it or move it away; nothing was changed"
                ) from exc
            self.outcome.warnings.append(
                f"{path} was not valid JSON ({exc}): it is made again from the fragments and the last good file, "
                f"and the broken one is kept in {self.places.private}/daemon.json.broken"
            )
            if not self.check:
                broken = (read_text(path) or "").encode()
                self._write_private("daemon.json.broken", broken)
            return _daemon_json.parse(good)

    def _refuse_early(self, name: str, text: str, without: str) -> None:
        """Ask dockerd for its opinion on the text before anything is written."""
        why = self._preflight(text)
        if not why:
            return
        if name != FRAGMENT and self._preflight(without):
            self.outcome.warnings.append(f"dockerd refuses daemon.json for another fragment than '{name}': {why}")
            return
        what = "docker_engine_options" if name == FRAGMENT else f"the fragment '{name}'"
        raise HostError(f"docker refuses {what}: {_engines.mask(why)}; nothing was changed")

    def _preflight(self, text: str) -> str:
        if shutil.which("dockerd") is None:
            return ""
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as handle:  # mode 0600
            handle.write(text)
            handle.flush()
            return _engines.preflight_docker(self.runner, handle.name)

    def _write(self, name: str, config: _daemon_json.Config, composed: _daemon_json.Composed, text: str) -> None:
        before = frozenset(self._owned())
        if not composed.owned <= before:  # first, so that a killed run leaves no key without an owner
            self._write_owned(composed.owned | before)
        self.outcome.note(self._put_file(self.fragment_path(name), _daemon_json.render(config) if config else None))
        self.outcome.note(self._put_file(self.places.config, text))
        self._write_owned(composed.owned | (before & self._in_good()))
        self._close()

    def _close(self) -> None:
        _files.prune_directories(ledger=self.ledger, keep=(), check=self.check)
        if not self.check:
            self.ledger.set("pending", [])
            self.ledger.save()

    def _leave(self, name: str, rest: _daemon_json.Config) -> None:
        """Take the last fragment out and give the file back: what was there before us, and what was added since."""
        path = self.places.config
        backup = self.ledger.backup_path(path)
        original = _daemon_json.parse(read_text(backup) or "")
        owned = set(self._owned())
        for key, value in _daemon_json.leaves(original).items():
            if key in owned:
                rest = _daemon_json.overlay(_daemon_json.nested(key, value), rest)
        self.outcome.note(self._put_file(self.fragment_path(name), None))
        if path in self.ledger.get("paths"):
            if not _daemon_json.same(rest, original):
                self.outcome.note(self._put_file(path, _daemon_json.render(rest) if rest else None))
                if rest and not self.check:  # from now on it is somebody else's
                    self.ledger.set("paths", [known for known in self.ledger.get("paths") if known != path])
                    _files.remove_path(backup)
            else:
                self.outcome.note(self._put_file(path, None))
        self._write_owned(())
        self._close()

    def _put_file(self, path: str, text: str | None) -> _files.Change | None:
        if text is None:
            if path not in self.ledger.get("paths"):
                return None
            return _files.forget(path, ledger=self.ledger, check=self.check)
        content = text.encode()
        user, group = str(os.geteuid()), str(os.getegid())
        wanted = _files.WantedFile(
            path=path, content=content, mode=_engines.config_mode(content), owner=user, group=group
        )
        return _files.ensure(wanted, ledger=self.ledger, check=self.check)

    def _in_good(self) -> frozenset[_daemon_json.Path]:
        """Return the keys of the last good file: as long as it may come back, ours in it stay ours."""
        try:
            good = _daemon_json.parse(read_text(os.path.join(self.places.private, "daemon.json.good")) or "")
        except _daemon_json.BrokenJsonError:
            return frozenset()
        return frozenset(_daemon_json.leaves(good))

    def _owned(self) -> list[_daemon_json.Path]:
        text = read_text(os.path.join(self.places.private, "owned.json"))
        try:
            return [tuple(path) for path in json.loads(text or "[]")]
        except ValueError:
            return []

    def _write_owned(self, owned: t.Collection[_daemon_json.Path]) -> None:
        if not self.check and set(owned) != set(self._owned()):
            self._write_private("owned.json", json.dumps(sorted(owned)).encode())

    def _write_private(self, name: str, content: bytes) -> None:
        _files.make_private_dirs(self.places.state_dir, self.places.private)
        path = os.path.join(self.places.private, name)
        _files.write_atomic(path=path, content=content, mode=0o600, uid=os.geteuid(), gid=os.getegid())


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedEngine:
    """What the role docker_engine wants; defaults give way to options, options are a site's own daemon.json keys."""

    packages: tuple[_packages.WantedPackage, ...] = ()
    repository: _apt_sources.Repository | None = None
    defaults: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    options: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    users: tuple[str, ...] = ()
    unknown_keys: str = "keep"


def base_fragment(wanted: WantedEngine, *, in_swarm: bool) -> tuple[_daemon_json.Config, str]:
    """Return the engine's own fragment and a warning, empty when there is none.

    Raises HostError where live-restore is asked for on a host in a swarm: dockerd refuses the pair.
    """
    config = _daemon_json.overlay(wanted.defaults, wanted.options)
    if config.get("log-driver") not in ROTATING_DRIVERS and "log-opts" not in wanted.options:
        config.pop("log-opts", None)
    if not (in_swarm and config.get("live-restore")):
        return config, ""
    if wanted.options.get("live-restore"):
        raise HostError(
            "docker_engine_options has live-restore: true, but this host is in a swarm, with which docker refuses it: "
            "leave the key out"
        )
    config.pop("live-restore")
    return config, "live-restore is off: this host is in a swarm, so its containers stop when docker restarts"


def in_swarm(config: t.Mapping[str, t.Any]) -> bool:
    """Tell whether dockerd's data directory has the state of a swarm member."""
    root = str(config.get("data-root") or "/var/lib/docker")
    text = read_text(os.path.join(root, "swarm", "docker-state.json"))
    return bool(text and text.strip() not in ("", "{}"))


class DockerHost:
    """Docker on one host, whole: packages, daemon.json, users, units, and the running daemon."""

    def __init__(self, *, check: bool, runner: Runner = run, places: Places | None = None) -> None:
        self.check = check
        self.runner = runner
        self.places = places or Places()
        self.outcome = Outcome()

    def _file(self, unknown_keys: str) -> DaemonJson:
        return DaemonJson(
            places=self.places,
            runner=self.runner,
            check=self.check,
            outcome=self.outcome,
            unknown_keys=unknown_keys,
        )

    @property
    def _engine(self) -> _engines.Engine:
        return dataclasses.replace(_engines.ENGINES["docker"], config=self.places.config)

    def _keeper(self) -> _engines.Keeper:
        return _engines.Keeper(
            engine=self._engine,
            runner=self.runner,
            check=self.check,
            state_dir=self.places.state_dir,
            run_dir=self.places.run_dir,
        )

    def fragment(self, name: str, config: _daemon_json.Config) -> Outcome:
        """Set one role's fragment; the running daemon is left alone."""
        self._file("keep").put(name, config)
        return self.outcome

    def present(self, wanted: WantedEngine) -> Outcome:
        """Reach the wanted state; HostError after a refused configuration is replaced by the last good one."""
        config, warning = base_fragment(wanted, in_swarm=in_swarm(wanted.options))
        if warning:
            self.outcome.warnings.append(warning)
        file = self._file(wanted.unknown_keys)
        before = file.fragments().get(FRAGMENT, {})
        running = _engines.read_config(self._engine) if self.check else None
        file.put(FRAGMENT, config)
        self._install(wanted)
        self._users(wanted.users, file.ledger)
        self._enable()
        try:
            self._run_daemon(running)
        except HostError:
            if before != config:
                file.restore_fragment(FRAGMENT, before)
            raise
        return self.outcome

    def absent(self) -> Outcome:
        """Undo everything; the data under /var/lib/docker stays."""
        file = self._file("keep")
        self._users((), file.ledger)
        file.put(FRAGMENT, {})
        state = self._state()
        state.ledger.load()
        ours = {"docker.io", "docker-ce"} & set(state.ledger.get("packages"))
        if ours:
            self._stop_containers()
            protect_data(check=self.check)
        self._leave_containerd(state)
        done = state.absent(_host_state.Wanted(owner=FRAGMENT))
        self._take_over(done)
        if ours:
            self._forget_state()
        else:
            self._run_daemon(None)
        return self.outcome

    def _state(self) -> _host_state.HostState:
        return _host_state.HostState(
            owner=FRAGMENT, check=self.check, runner=self.runner, state_dir=self.places.state_dir
        )

    def _take_over(self, done: _host_state.Outcome) -> None:
        self.outcome.changed_paths += done.changed_paths + done.removed_paths
        self.outcome.packages += done.packages
        self.outcome.actions += done.actions
        self.outcome.diffs += done.diffs

    def _install(self, wanted: WantedEngine) -> None:
        state = self._state()
        state.ledger.load()
        files = []
        if wanted.repository is not None:
            files = _apt_sources.files(wanted.repository, known=state.ledger.get("paths"))
        self._make_way(wanted.packages)
        self._take_over(state.present(_host_state.Wanted(owner=FRAGMENT, packages=list(wanted.packages), files=files)))

    def _make_way(self, packages: t.Sequence[_packages.WantedPackage]) -> None:
        """Lift the hold of packages that conflict with wanted ones, and keep their removal from deleting data."""
        unwanted = [package.name for package in packages if not package.present]
        installed = _packages.read_installed(unwanted)
        held = [name for name in unwanted if name in installed and installed[name].held]
        if held and not self.check:
            # dpkg's own command: apt-mark reads the sources, which conflict until the older ones are adopted.
            wanted = "".join(f"{name} install\n" for name in held)
            result = self.runner(["dpkg", "--set-selections"], stdin=wanted)
            if result.rc != 0:
                raise HostError(f"dpkg --set-selections failed: {result.output}")
        if "docker.io" in installed:
            protect_data(check=self.check)

    def _leave_containerd(self, state: _host_state.HostState) -> None:
        """Keep containerd where the role containerd (its ledger) wants it too."""
        if self._is_wanted_by_its_role("containerd") and not self.check:
            for key in ("packages", "held"):
                state.ledger.set(key, [name for name in state.ledger.get(key) if not name.startswith("containerd")])
            state.ledger.save()

    def _users(self, wanted: t.Sequence[str], ledger: _files.Ledger) -> None:
        """Put users into the group docker, and take out those whom we put in and who are no longer listed."""
        members = _members(GROUP)
        ours = ledger.get("users")
        for name in wanted:
            if name not in members:
                self._add_user(name, ledger)
        for name in (name for name in ours if name not in wanted):
            if name in members:
                self.outcome.act(f"take {name} out of the group {GROUP}")
                self._command(["gpasswd", "-d", name, GROUP])
            if not self.check:
                ledger.set("users", [known for known in ledger.get("users") if known != name])
        if not self.check:
            ledger.save()

    def _add_user(self, name: str, ledger: _files.Ledger) -> None:
        self.outcome.act(f"put {name} into the group {GROUP}")
        if self.check:  # an earlier task of the same play may be about to make the user
            return
        try:
            pwd.getpwnam(name)
        except KeyError as exc:
            raise HostError(f"docker_engine_users has '{name}': it needs a user that exists on this host") from exc
        ledger.set("users", [*ledger.get("users"), name])
        ledger.save()
        self._command(["usermod", "-aG", GROUP, name])

    def _command(self, argv: list[str]) -> None:
        if not self.check:
            result = self.runner(argv)
            if result.rc != 0:
                raise HostError(f"{' '.join(argv)} failed: {result.output}")

    def _enable(self) -> None:
        status = _units.show(UNITS, runner=self.runner)
        missing = [name for name in UNITS if not status[name].exists]
        if missing:
            if not self.check:
                raise HostError(f"systemd has no usable {missing[0]}: is it masked (systemctl unmask {missing[0]})?")
            return
        for action in _units.apply(
            [_units.WantedUnit(name=name, enabled=True) for name in UNITS], check=self.check, runner=self.runner
        ):
            self.outcome.act(f"{action.verb} {action.unit}")

    def _run_daemon(self, running: _daemon_json.Config | None) -> None:
        applied = self._keeper().apply(must_run=True)
        verb = next((word for word in ("started", "restarted", "reloaded") if getattr(applied, word)), "")
        reason = applied.reason
        if self.check and not verb and self.places.config in self.outcome.changed_paths and running is not None:
            verb, reason = self._predict(running)
        if verb:
            self.outcome.act(f"{verb} docker: {reason}")

    def _predict(self, running: _daemon_json.Config) -> tuple[str, str]:
        """Return what a real run would do to a running daemon for the file that check mode has not written."""
        status = _units.show(UNITS[:1], runner=self.runner)[UNITS[0]]
        if status.state != "active":
            return "", ""
        after = next(d["after"] for d in self.outcome.diffs if d["after_header"] == self.places.config)
        new = _daemon_json.parse(after.partition("\n")[2]) if "{" in after else {}
        verb = "reloaded" if _daemon_json.reload_is_enough(running, new) else "restarted"
        return verb, f"{', '.join(_daemon_json.changed_keys(running, new))} changed in {self.places.config}"

    def _stop_containers(self) -> None:
        """Stop what runs: with live-restore it would outlive the daemon, and nobody would be left to manage it."""
        try:
            running = _engines.ask_docker("/containers/json")
        except OSError:
            return
        names = [str(container["Id"])[:12] for container in running]
        if names:
            self.outcome.act(f"stop {len(names)} container(s)")
            if not self.check:
                self.runner(["docker", "stop", *names], timeout=300)

    def _forget_state(self) -> None:
        if self.check:
            return
        gone = ["docker"] if self._is_wanted_by_its_role("containerd") else ["docker", "containerd"]
        for name in gone:  # containerd's was made for Docker where no role of its own wants it
            shutil.rmtree(os.path.join(self.places.state_dir, name), ignore_errors=True)
            _files.remove_path(os.path.join(self.places.run_dir, f"engine-{name}.json"))

    def _is_wanted_by_its_role(self, name: str) -> bool:
        ledger = _files.Ledger(owner=name, state_dir=self.places.state_dir)
        ledger.load()
        return bool(ledger.get("paths"))


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []


def protect_data(*, check: bool, scripts: t.Sequence[str] = NUKE_SCRIPTS) -> None:
    """Take the right to run from the script by which purging docker.io would delete all images and volumes."""
    for path in scripts:
        if not check and os.path.exists(path) and os.stat(path).st_mode & stat.S_IXUSR:
            os.chmod(path, 0o644)
