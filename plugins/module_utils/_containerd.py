# SPDX-License-Identifier: GPL-3.0-or-later
"""containerd for Kubernetes on one host: its configuration for each config version, and what it replaces.

Sources: containerd's docs/cri/config.md, docs/cri/registry.md and docs/hosts.md. Version 2 of the format is for
containerd 1.3 to 1.7, version 3 for 2.x.
"""

from __future__ import annotations

import base64
import dataclasses
import glob
import json
import os
import re
import shutil
import tomllib
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _daemon_json,
    _engines,
    _files,
    _host_state,
    _packages,
    _toml,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

OWNER = "containerd"
CONFIG = "/etc/containerd/config.toml"
CERTS_DIR = "/etc/containerd/certs.d"
CONF_DIR = "/etc/containerd/conf.d"
# Debian's package and Docker's: the same program, and either conflicts with the other.
PACKAGE, PACKAGE_OF_DOCKER = "containerd", "containerd.io"
DOCKER_PACKAGES = ("docker.io", "docker-ce")
CRI = "io.containerd.grpc.v1.cri"
# Where each version of the format keeps the settings of CRI's runtime half: runtimes, CDI, CNI.
RUNTIME_TABLES = {2: CRI, 3: "io.containerd.cri.v1.runtime"}
# What other roles want of that table; they write the files, we merge them (decision 0015).
FRAGMENTS = "/etc/slipway/containerd/config.toml.d"
HEADER = f"{_engines.MANAGED.decode()} Edits are undone by the next run.\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say; options are a site's own keys of config.toml as nested maps."""

    version: str
    sandbox_image: str
    systemd_cgroup: bool = True
    restrict_oom_score_adj: bool = False
    cni_bin_dir: str = "/opt/cni/bin"
    options: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)


def config_version(pattern: str, installed: str = "") -> int:
    """Return the config format for a version pattern; one without a number (`*`) goes by what is installed.

    With neither the answer is 2: containerd 2.x still reads that and converts it.
    """
    match = re.match(r"(?:\d+:)?(\d+)\.", pattern) or re.match(r"(?:\d+:)?(\d+)\.", installed)
    return 3 if match and int(match[1]) >= 2 else 2


def build(settings: Settings, *, version: int) -> dict[str, t.Any]:
    """Return the whole configuration as nested maps."""
    runtimes = {
        "runc": {"runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": settings.systemd_cgroup}}
    }
    cni = {"bin_dir": settings.cni_bin_dir, "conf_dir": "/etc/cni/net.d"}
    runtime = {"restrict_oom_score_adj": settings.restrict_oom_score_adj, "cni": cni}
    registry = {"config_path": CERTS_DIR}
    plugins: dict[str, t.Any]
    if version == 2:
        plugins = {
            CRI: {
                "sandbox_image": settings.sandbox_image,
                **runtime,
                "registry": registry,
                "containerd": {"runtimes": runtimes},
            }
        }
    else:
        plugins = {
            "io.containerd.cri.v1.images": {
                "pinned_images": {"sandbox": settings.sandbox_image},
                "registry": registry,
            },
            "io.containerd.cri.v1.runtime": {**runtime, "containerd": {"runtimes": runtimes}},
        }
    # Debian's choice: the default is /opt/containerd, which is not where distributions keep state.
    plugins["io.containerd.internal.v1.opt"] = {"path": "/var/lib/containerd/opt"}
    return {"version": version, "imports": [f"{CONF_DIR}/*.toml"], "plugins": plugins}


def compose(
    own: t.Mapping[str, t.Any], fragments: t.Mapping[str, _daemon_json.Config], options: t.Mapping[str, t.Any]
) -> dict[str, t.Any]:
    """Return the configuration of this role, what other roles add to CRI's runtime table, and the site's own keys.

    A runtime that a fragment adds starts from runc's settings, so that it shares its cgroup driver. The site's options
    win. Raises HostError where two fragments set one key differently.
    """
    table = RUNTIME_TABLES[own["version"]]
    with_options = _daemon_json.overlay(own, options)
    runc = with_options["plugins"][table]["containerd"]["runtimes"]["runc"]
    try:
        added = _daemon_json.merge(dict(fragments))
    except _daemon_json.MergeError as exc:
        raise HostError(str(exc)) from exc
    containerd = added.get("containerd", {})
    runtimes = {name: _daemon_json.overlay(runc, runtime) for name, runtime in containerd.get("runtimes", {}).items()}
    added = _daemon_json.overlay(added, {"containerd": {"runtimes": runtimes}} if runtimes else {})
    return _daemon_json.overlay(_daemon_json.overlay(own, {"plugins": {table: added}}), options)


def render(config: t.Mapping[str, t.Any]) -> str:
    """Return config.toml; HostError when containerd_options holds what TOML cannot say."""
    try:
        return HEADER + _toml.render(config)
    except TypeError as exc:
        raise HostError(f"containerd_options cannot be written as TOML: {exc}") from exc


def fragment_path(name: str) -> str:
    """Return the file in which a role says what it wants of CRI's runtime table."""
    return os.path.join(FRAGMENTS, f"50-{name}.json")


def read_fragments() -> dict[str, _daemon_json.Config]:
    """Return every fragment by name; HostError names one that is not a JSON object."""
    found = {}
    for path in sorted(glob.glob(fragment_path("*"))):
        with open(path, encoding="utf-8") as handle:
            try:
                found[os.path.basename(path)[3:-5]] = _daemon_json.parse(handle.read())
            except _daemon_json.BrokenJsonError as exc:
                raise HostError(f"{path} is not valid JSON ({exc}): remove it and run its role again") from exc
    return found


# --- A configuration that was there before ----------------------------------------------------------------------


@dataclasses.dataclass
class Legacy:
    """What an older configuration holds that moves elsewhere: hosts.toml texts by registry; and what is not kept."""

    hosts: dict[str, str] = dataclasses.field(default_factory=dict)
    dropped: list[str] = dataclasses.field(default_factory=list)


def read_legacy(text: str, wanted: t.Mapping[str, t.Any]) -> Legacy:
    """Read a configuration that we did not write; HostError when it is not TOML."""
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise HostError(
            f"{CONFIG} is not valid TOML ({exc}) and was not written by this role: repair it or move it away"
        ) from exc
    plugins = config.get("plugins", {})
    registries = [plugins.get(name, {}).get("registry", {}) for name in ("cri", CRI, "io.containerd.cri.v1.images")]
    legacy = Legacy()
    for registry in registries:
        for name in registry.get("mirrors", {}):
            legacy.hosts["_default" if name == "*" else name] = hosts_toml(name, registry)
    known = _daemon_json.leaves(wanted)
    replaced = {"version", "imports", "disabled_plugins", "registry"}
    legacy.dropped = [
        _daemon_json.dotted(path)
        for path in _daemon_json.leaves(config)
        if path not in known and not replaced & {*path}
    ]
    return legacy


def hosts_toml(name: str, registry: t.Mapping[str, t.Any]) -> str:
    """Return the hosts.toml that says what `mirrors` and `configs` of an old configuration said of a registry."""
    endpoints = registry["mirrors"][name].get("endpoint", [])
    document: dict[str, t.Any] = {"host": {}}
    for endpoint in endpoints:
        address = re.sub(r"^https?://", "", endpoint).partition("/")[0]
        entry: dict[str, t.Any] = {"capabilities": ["pull", "resolve"]}
        settings = registry.get("configs", {}).get(address, {})
        tls = settings.get("tls", {})
        if tls.get("insecure_skip_verify"):
            entry["skip_verify"] = True
        if tls.get("ca_file"):
            entry["ca"] = tls["ca_file"]
        if tls.get("cert_file") and tls.get("key_file"):
            entry["client"] = [[tls["cert_file"], tls["key_file"]]]
        if header := _authorization(settings.get("auth", {})):
            entry["header"] = {"authorization": header}
        document["host"][endpoint] = entry
    head = "# Moved here from config.toml by slipway.platform.containerd; it is yours to edit.\n"
    return head + _toml.render(document)


def _authorization(auth: t.Mapping[str, t.Any]) -> str:
    """Return the header for a registry's credentials: hosts.toml has no other way to give them."""
    if auth.get("username"):
        pair = f"{auth['username']}:{auth.get('password', '')}"
        return "Basic " + base64.b64encode(pair.encode()).decode()
    return f"Basic {auth['auth']}" if auth.get("auth") else ""


def hide(text: str) -> str:
    """Hide a registry's credentials in a configuration that is shown."""
    secret = r'(?m)^(\s*"?(?:auth|authorization|identitytoken|password)"?\s*=\s*)(?!\[).*$'
    return re.sub(secret, r'\1"***"', _engines.mask(text))


# --- One host ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What host_state did, and what the operator has to know."""

    warnings: list[str] = dataclasses.field(default_factory=list)


class ContainerdHost:
    """containerd on one host, whole: package, configuration, unit and a CRI that answers."""

    def __init__(self, *, check: bool, runner: Runner = run, state_dir: str = _files.STATE_DIR) -> None:
        self.check = check
        self.runner = runner
        self.state = _host_state.HostState(owner=OWNER, check=check, runner=runner, state_dir=state_dir)
        self.warnings: list[str] = []

    def present(self, settings: Settings) -> Outcome:
        """Reach the wanted state; HostError after the last good configuration is back."""
        installed = _packages.read_installed([PACKAGE, PACKAGE_OF_DOCKER])
        name = PACKAGE_OF_DOCKER if PACKAGE_OF_DOCKER in installed else PACKAGE
        have = installed[name].version if name in installed else ""
        own = build(settings, version=config_version(settings.version, have))
        config = render(compose(own, read_fragments(), settings.options))
        self._move_legacy(_daemon_json.overlay(own, settings.options))
        self._remember(own, settings.options)
        outcome = self.state.present(
            _host_state.Wanted(
                owner=OWNER,
                files=[
                    _files.WantedFile(path=CERTS_DIR, kind="directory", mode=0o755),
                    _files.WantedFile(path=CONF_DIR, kind="directory", mode=0o755),
                    _files.WantedFile(path=CONFIG, content=config.encode(), mode=_engines.config_mode(config.encode())),
                ],
                packages=[_packages.WantedPackage(name=name, version=settings.version, hold=True)],
                units=[_units.WantedUnit(name="containerd.service", enabled=True)],
            )
        )
        self._apply(outcome, must_run=True)
        return self._outcome(outcome)

    def merge(self, fragments: t.Mapping[str, _daemon_json.Config]) -> Outcome:
        """Write config.toml anew after a role has changed its fragment; the running containerd is left alone.

        fragments: what is to be in the files, by role ({} for none), which in check mode they do not say yet. Where
        the role containerd has not run, nothing is written: it reads the fragments when it does.
        """
        ledger = self.state.ledger
        ledger.load()
        own, options = self._remembered()
        if own and CONFIG in ledger.get("paths"):
            wanted = {name: config for name, config in {**read_fragments(), **fragments}.items() if config}
            self._put(ledger, render(compose(own, wanted, options)))
        return self._outcome(self.state.outcome)

    def _put(self, ledger: _files.Ledger, text: str) -> None:
        content = text.encode()
        file = _files.WantedFile(path=CONFIG, content=content, mode=_engines.config_mode(content))
        if change := _files.ensure(file, ledger=ledger, check=self.check):
            self.state.outcome.changed_paths.append(change.path)
            self.state.outcome.diffs.append(change.diff)
        if not self.check:
            ledger.set("pending", [path for path in ledger.get("pending") if path != CONFIG])
            ledger.save()

    def _remember(self, own: t.Mapping[str, t.Any], options: t.Mapping[str, t.Any]) -> None:
        """Keep what this role alone says, so that another role's fragment can be merged with it."""
        if not self.check:
            _files.make_private_dirs(self.state.ledger.state_dir, os.path.dirname(self._memory))
            content = json.dumps({"own": own, "options": options}).encode()
            _files.write_atomic(path=self._memory, content=content, mode=0o600, uid=os.geteuid(), gid=os.getegid())

    def _remembered(self) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
        try:
            with open(self._memory, encoding="utf-8") as handle:
                data = json.load(handle)
        except (FileNotFoundError, ValueError):
            return {}, {}
        return data["own"], data["options"]

    @property
    def _memory(self) -> str:
        return os.path.join(self.state.ledger.state_dir, OWNER, "own.json")

    def absent(self) -> Outcome:
        """Undo everything; the package stays where Docker needs it, the data under /var/lib/containerd always."""
        self._leave_docker()
        outcome = self.state.absent(_host_state.Wanted(owner=OWNER))
        self._apply(outcome, must_run=False)
        if not self.check:
            shutil.rmtree(os.path.join(self.state.ledger.state_dir, OWNER), ignore_errors=True)
        return self._outcome(outcome)

    def _leave_docker(self) -> None:
        """Keep the package where Docker needs it, and its hold where the role docker_engine holds it too."""
        ledger = self.state.ledger
        ledger.load()
        if self.check or not _packages.read_installed(DOCKER_PACKAGES):
            return
        other = _files.Ledger(owner="docker_engine", state_dir=ledger.state_dir)
        other.load()
        ours = [*ledger.get("held"), *ledger.get("packages")]
        ledger.set("held", [name for name in ours if name not in other.get("held")])
        ledger.set("packages", [])
        ledger.save()

    def _apply(self, outcome: _host_state.Outcome, *, must_run: bool) -> None:
        applied = _engines.apply(self.runner, "containerd", check=self.check, must_run=must_run)
        verb = "started" if applied.started else "restarted" if applied.restarted else ""
        reason = applied.reason
        if self.check and not verb and CONFIG in outcome.changed_paths:
            status = _units.show(["containerd.service"], runner=self.runner)["containerd.service"]
            verb, reason = ("restarted", f"{CONFIG} changed") if status.state == "active" else ("", "")
        if verb:
            outcome.act(f"{verb} containerd: {reason}")

    def _outcome(self, done: _host_state.Outcome) -> Outcome:
        done.diffs = [{part: hide(text) for part, text in diff.items()} for diff in done.diffs]
        values = {field.name: getattr(done, field.name) for field in dataclasses.fields(done)}
        return Outcome(**values, warnings=self.warnings)

    def _move_legacy(self, wanted: t.Mapping[str, t.Any]) -> None:
        """Move registries of a configuration that was there before to certs.d, once."""
        self.state.ledger.load()
        if CONFIG in self.state.ledger.get("paths"):
            return
        try:
            with open(CONFIG, encoding="utf-8") as handle:
                text = handle.read()
        except FileNotFoundError:
            return
        legacy = read_legacy(text, wanted)
        for name, content in legacy.hosts.items():
            self._move_host(name, content)
        if legacy.dropped:
            self.warnings.append(
                f"{CONFIG} had settings that this role does not keep: {', '.join(sorted(legacy.dropped))}; "
                "give those that you need as containerd_options"
            )

    def _move_host(self, name: str, content: str) -> None:
        path = os.path.join(CERTS_DIR, name, "hosts.toml")
        if os.path.exists(path):
            self.warnings.append(f"the mirrors of {name} in {CONFIG} give way to {path}")
            return
        self.warnings.append(f"the mirrors of {name} in {CONFIG} are now in {path}")
        if not self.check:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            mode = 0o600 if "authorization" in content else 0o644
            _files.write_atomic(path=path, content=content.encode(), mode=mode, uid=os.geteuid(), gid=os.getegid())
