# SPDX-License-Identifier: GPL-3.0-or-later
"""Container engines: does the running one have the configuration on disk, and how does it get it without harm.

A restart follows from what is on the host: the record in /run/slipway says what the running instance was started
with. An engine that refuses its configuration gets the last good one back and keeps running; the caller gets the
engine's own reason. InvocationID is explained in systemd.exec(5), dockerd's reload in its reference manual.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import http.client
import json
import os
import re
import socket
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _daemon_json, _units
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._files import make_private_dirs, write_atomic
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner

STATE_DIR = "/var/lib/slipway"
RUN_DIR = "/run/slipway"
DOCKER_SOCKET = "/run/docker.sock"
RESTART_SECONDS = 180.0
ANSWER_SECONDS = 30.0
RELOAD_SECONDS = 5.0
POLL_SECONDS = 0.2
CERTS_DIR = "/etc/containerd/certs.d"
MANAGED = b"# Managed by slipway.platform.containerd."
# How dockerd and containerd say in their journal why they end, most telling first.
SAYS_WHY = (r"failed to start daemon:|unable to configure|containerd: ", "level=fatal", "level=error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine's unit, its configuration file, and the globs of everything its process reads at start.

    preflight, prove and ping (runner, path) return why a configuration cannot work, or an empty string: the first
    without the running engine, the second by asking it all that matters, the third by what costs next to nothing.
    also_reset are units that belong to it; socket is what they make, where that is not the engine's own doing.
    """

    name: str
    unit: str
    config: str
    inputs: tuple[str, ...]
    preflight: t.Callable[[Runner, str], str]
    prove: t.Callable[[Runner, str], str]
    ping: t.Callable[[Runner, str], str]
    reloads: bool = False
    also_reset: tuple[str, ...] = ()
    socket: str = ""


@dataclasses.dataclass(frozen=True)
class Applied:
    """What apply() did, or in check mode would do, and why in a few words."""

    started: bool = False
    restarted: bool = False
    reloaded: bool = False
    reason: str = ""

    @property
    def changed(self) -> bool:
        """Whether the engine was touched."""
        return self.started or self.restarted or self.reloaded


@dataclasses.dataclass(frozen=True)
class Decision:
    """What an engine needs: nothing, record, start, reload or restart."""

    verb: str
    reason: str = ""


# --- Docker -----------------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket; timeout in seconds."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket instead of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask_docker(request: str, *, path: str = DOCKER_SOCKET, timeout: float = 10) -> t.Any:
    """GET a path of the Engine API and return its JSON (or text); raises OSError when the socket does not answer."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request("GET", request)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
    except http.client.HTTPException as exc:
        raise OSError(f"no proper answer: {exc}") from exc
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"GET {request} answered {answer.status}")
    try:
        return json.loads(body)
    except ValueError:
        return body


def docker_socket(config_path: str) -> str:
    """Return the unix socket that dockerd listens on: the one in its configuration's hosts, else systemd's."""
    try:
        with open(config_path, encoding="utf-8") as handle:
            hosts = _daemon_json.parse(handle.read()).get("hosts") or []
    except (OSError, ValueError):
        hosts = []
    return next((host.removeprefix("unix://") for host in hosts if str(host).startswith("unix://")), DOCKER_SOCKET)


def ping_docker(runner: Runner, config_path: str) -> str:
    """Return why dockerd does not answer on its socket, or an empty string."""
    del runner
    path = docker_socket(config_path)
    try:
        return "" if ask_docker("/_ping", path=path) == "OK" else f"{path} does not answer OK"
    except OSError as exc:
        return f"{path} does not answer: {exc}"


def prove_docker(runner: Runner, config_path: str) -> str:
    """Return why dockerd is of no use although its process may run: no answer, or a log driver that is not there.

    dockerd starts with any name as log-driver (it may be a plugin); then no container starts.
    """
    if why := ping_docker(runner, config_path):
        return why
    path = docker_socket(config_path)
    try:
        info = ask_docker("/info", path=path)
        driver = info.get("LoggingDriver") or "none"
        known = {*(info.get("Plugins", {}).get("Log") or []), "none"}
        if driver in known:
            return ""
        plugins = ask_docker("/plugins", path=path) or []
    except (OSError, AttributeError) as exc:
        return f"{path} does not answer: {exc}"
    names = {str(plugin.get("Name", "")) for plugin in plugins} | {
        str(plugin.get("Name", "")).rsplit(":", 1)[0] for plugin in plugins
    }
    if driver in names or _legacy_plugin(driver):
        return ""
    return f"logger: no log driver named '{driver}' is registered, so no container could start"


def _legacy_plugin(name: str) -> bool:
    """Tell whether a plugin of the old kind (a socket or spec file) has this name; see docker's plugin_api."""
    places = ("/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")
    return any(glob.glob(f"{glob.escape(place)}/**/{glob.escape(name)}.*", recursive=True) for place in places)


def preflight_docker(runner: Runner, config_path: str) -> str:
    """Return why dockerd would refuse a daemon.json, as far as that shows without a start; empty when it may work."""
    try:
        with open(config_path, encoding="utf-8") as handle:
            _daemon_json.parse(handle.read())
    except FileNotFoundError:
        return ""
    except ValueError as exc:
        return f"it is not valid JSON: {exc}"
    result = runner(["dockerd", "--validate", "--config-file", config_path], timeout=30)
    if result.rc == 0 or "unknown flag: --validate" in result.output:  # before 23.0 (Debian 12) there is no such flag
        return ""
    lines = [line for line in result.output.splitlines() if line.strip()]
    return lines[-1].replace(config_path, "daemon.json") if lines else f"dockerd --validate exits {result.rc}"


# --- containerd -------------------------------------------------------------------------------------------------


def prove_containerd(runner: Runner, config_path: str) -> str:
    """Return why containerd is of no use: its socket does not answer, or its CRI plugin did not load.

    Where the role containerd wrote the configuration, a CRI plugin that is switched off is a fault as well.
    """
    result = runner(["ctr", "--connect-timeout", "5s", "plugins", "ls"], timeout=20)
    if result.rc != 0:
        return (result.output.splitlines() or ["its socket does not answer"])[-1]
    states = cri_states(result.stdout)
    broken = [kind for kind, status in states if status == "error"]
    if broken:
        detail = runner(
            ["ctr", "--connect-timeout", "5s", "plugins", "ls", "-d", f"type=={broken[0]}"], timeout=20
        ).stdout
        why = re.search(r"Message:\s+(.*)", detail)
        return _lost_settings(runner, config_path) or f"its CRI plugin did not load{': ' + why[1] if why else ''}"
    if MANAGED in (_read(config_path) or b"") and not any(status == "ok" for _, status in states):
        return "its CRI plugin is not loaded"
    return _lost_settings(runner, config_path)


def _lost_settings(runner: Runner, config_path: str) -> str:
    """Return which drop-in took the CRI plugin's settings away.

    In containerd 1.x a drop-in that names a plugin replaces all that the main file says of that plugin.
    """
    managed = _read(config_path) or b""
    drop_ins = sorted(glob.glob(os.path.join(os.path.dirname(config_path), "conf.d", "*.toml")))
    if not drop_ins or MANAGED not in managed or CERTS_DIR not in managed.decode():
        return ""
    dump = runner(["containerd", "--config", config_path, "config", "dump"], timeout=30).stdout
    if f'"{CERTS_DIR}"' in dump or f"'{CERTS_DIR}'" in dump:
        return ""
    return (
        f"a drop-in ({', '.join(drop_ins)}) replaces the settings of the CRI plugin, "
        "so its registries are gone: it has to repeat them"
    )


def cri_states(text: str) -> list[tuple[str, str]]:
    """Return type and status of the plugins that make up CRI, from the table that `ctr plugins ls` prints.

    containerd 1.x has one (type io.containerd.grpc.v1, name cri), 2.x also some of type io.containerd.cri.v1.
    """
    rows = [line.split() for line in text.splitlines()]
    return [(row[0], row[-1]) for row in rows if len(row) >= 4 and "cri" in (row[1], *row[0].split("."))]


def preflight_containerd(runner: Runner, config_path: str) -> str:
    """Return why containerd would refuse a configuration file; empty when it reads it (imports included)."""
    if not os.path.exists(config_path):
        return ""
    result = runner(["containerd", "--config", config_path, "config", "dump"], timeout=30)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    return "" if result.rc == 0 else (lines[-1] if lines else f"containerd config dump exits {result.rc}")


# What docker_proxy writes, and what every Go program reads: systemd's drop-ins, the environment files, the OS trust.
_SHARED_INPUTS = ("/etc/slipway/docker_proxy/*", "/etc/ssl/certs/ca-certificates.crt")

ENGINES: t.Mapping[str, Engine] = {
    "containerd": Engine(
        name="containerd",
        unit="containerd.service",
        config="/etc/containerd/config.toml",
        inputs=(
            "/etc/containerd/config.toml",
            "/etc/containerd/conf.d/*.toml",
            "/etc/systemd/system/containerd.service.d/*.conf",
            *_SHARED_INPUTS,
        ),
        preflight=preflight_containerd,
        prove=prove_containerd,
        ping=prove_containerd,
    ),
    "docker": Engine(
        name="docker",
        unit="docker.service",
        config="/etc/docker/daemon.json",
        inputs=(
            "/etc/docker/daemon.json",
            "/etc/default/docker",
            "/etc/systemd/system/docker.service.d/*.conf",
            *_SHARED_INPUTS,
        ),
        preflight=preflight_docker,
        prove=prove_docker,
        ping=ping_docker,
        reloads=True,
        also_reset=("docker.socket",),
        socket=DOCKER_SOCKET,
    ),
}


# --- What the running instance was started with -----------------------------------------------------------------


def read_inputs(engine: Engine) -> dict[str, str]:
    """Return a digest of each file that the engine reads at start; daemon.json by meaning, so layout costs nothing."""
    found = {}
    for path in sorted({match for pattern in engine.inputs for match in glob.glob(pattern)}):
        if os.path.isfile(path):
            with open(path, "rb") as handle:
                content = handle.read()
            if path == engine.config and engine.reloads:
                with contextlib.suppress(ValueError):
                    content = _daemon_json.render(_daemon_json.parse(content.decode())).encode()
            found[path] = hashlib.sha256(content).hexdigest()
    return found


def read_config(engine: Engine) -> dict[str, t.Any] | None:
    """Return the engine's configuration as loaded on reload; None when it has no reload or the file is broken."""
    if not engine.reloads:
        return None
    try:
        with open(engine.config, encoding="utf-8") as handle:
            return _daemon_json.parse(handle.read())
    except FileNotFoundError:
        return {}
    except ValueError:
        return None


def decide(
    *,
    engine: Engine,
    status: _units.UnitStatus,
    record: t.Mapping[str, t.Any],
    must_run: bool,
) -> Decision:
    """Compare the running instance with what is on disk; see the module's text for the rule."""
    if not status.exists:
        return Decision("")
    if status.state != "active":
        return Decision("start", f"it was {status.state}") if must_run else Decision("")
    if record.get("invocation") != status.invocation:
        if _units.newest_change(engine.inputs) > status.started_at:
            return Decision("restart", "its configuration is newer than the running process")
        return Decision("record")
    before: t.Mapping[str, str] = record.get("inputs", {})
    now = read_inputs(engine)
    changed = sorted(path for path in {*before, *now} if before.get(path) != now.get(path))
    if not changed:
        return Decision("")
    if changed == [engine.config]:
        old, new = record.get("config"), read_config(engine)
        if isinstance(old, dict) and new is not None:
            keys = ", ".join(_daemon_json.changed_keys(old, new))
            enough = _daemon_json.reload_is_enough(old, new)
            return Decision("reload" if enough else "restart", f"{keys} changed in {engine.config}")
    return Decision("restart", f"{', '.join(changed)} changed")


class Keeper:
    """Brings one engine to its configuration on this host; runner runs commands, the directories are for tests."""

    def __init__(
        self, *, engine: Engine, runner: Runner, check: bool, state_dir: str = STATE_DIR, run_dir: str = RUN_DIR
    ) -> None:
        self.engine = engine
        self.runner = runner
        self.check = check
        self.private = os.path.join(state_dir, engine.name)
        self.run_dir = run_dir
        self.good = os.path.join(self.private, f"{os.path.basename(engine.config)}.good")
        self.refused = os.path.join(self.private, f"{os.path.basename(engine.config)}.refused")
        self.record_path = os.path.join(run_dir, f"engine-{engine.name}.json")

    def apply(self, *, must_run: bool) -> Applied:
        """Start, reload or restart as needed; raises HostError with the engine's reason after putting things right."""
        status = self._status()
        decision = decide(engine=self.engine, status=status, record=self._read_record(), must_run=must_run)
        if must_run and status.state == "active" and decision.verb in ("", "record"):
            why = self.engine.ping(self.runner, self.engine.config)
            decision = Decision("restart", why) if why else decision
        if self.check or not decision.verb:
            if not self.check and status.state == "active":
                self._keep_good()
            return _applied(decision)
        if decision.verb != "record":
            self._act(decision, status)
        self._write_record()
        self._keep_good()
        return _applied(decision)

    def _status(self) -> _units.UnitStatus:
        return _units.show([self.engine.unit], runner=self.runner)[self.engine.unit]

    def _act(self, decision: Decision, status: _units.UnitStatus) -> None:
        why = self.engine.preflight(self.runner, self.engine.config)
        if why:
            self._restore(why, decision)
            if decision.verb == "start":
                self._restart()
            raise HostError(
                self._refusal(why, "it was started with" if decision.verb == "start" else "it runs on with")
            )
        if status.needs_reload:
            _units.systemctl(["daemon-reload"], runner=self.runner)
        if decision.verb == "reload":
            self._reload_or_roll_back(decision)
        else:
            self._restart_or_roll_back(decision)

    def _reload_or_roll_back(self, decision: Decision) -> None:
        why = self._reload()
        if why:
            self._restore(why, decision)
            self._reload()
            raise HostError(self._refusal(why, "it runs on with"))

    def _reload(self) -> str:
        """Send SIGHUP and wait for what the engine says in its journal (systemctl reload itself always succeeds)."""
        since = time.time()
        _units.systemctl(["reload", self.engine.unit], runner=self.runner)
        deadline = time.monotonic() + RELOAD_SECONDS
        while time.monotonic() < deadline:
            lines = _units.journal_lines(self.engine.unit, since=since, runner=self.runner)
            if any("Reloaded configuration" in line for line in lines):
                break
            if errors := [line for line in lines if "level=error" in line or "unable to configure" in line]:
                return message(errors[-1])
            time.sleep(POLL_SECONDS)
        # With log-level above info dockerd is silent on success: its answer has to do.
        return self.engine.prove(self.runner, self.engine.config)

    def _restart_or_roll_back(self, decision: Decision) -> None:
        why = self._restart()
        if not why:
            return
        self._restore(why, decision)
        again = self._restart()
        if again:
            raise HostError(
                f"{self.engine.name} does not start with {self.engine.config} ({why}), nor with the last good file "
                f"({again}): see journalctl -u {self.engine.unit}"
            )
        self._write_record()
        raise HostError(self._refusal(why, "it was restarted with"))

    def _restart(self) -> str:
        """Restart and wait for an answer; return why there was none, in the engine's own words."""
        since = time.time()
        # A unit that failed too often in a row refuses to start (StartLimitBurst) until its counter is reset.
        self.runner(["systemctl", "reset-failed", self.engine.unit, *self.engine.also_reset])
        # systemd makes a socket only when its unit starts: one that somebody removed does not come with the service.
        lost = self.engine.socket != "" and not os.path.exists(self.engine.socket)
        units = [*(self.engine.also_reset if lost else ()), self.engine.unit]
        try:
            failed = self.runner(["systemctl", "restart", *units], timeout=RESTART_SECONDS).rc != 0
        except HostError as exc:
            return str(exc)
        why = "" if failed else self._wait_for_answer()
        if not failed and not why:
            return ""
        lines = _units.journal_lines(self.engine.unit, since=since, runner=self.runner)
        # What the engine answers says more than its journal; a process that is gone has left only the journal.
        if why and self._answers(why):
            return why
        own = [line for line in lines if not line.startswith(f"{self.engine.unit}: ")]  # not what systemd's child says
        return journal_message(own) or why or last_line(own) or "it gives no reason"

    def _wait_for_answer(self) -> str:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            why = self.engine.prove(self.runner, self.engine.config)
            if not why or self._answers(why) or time.monotonic() > deadline:
                return why
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _answers(why: str) -> bool:
        """Tell whether a proof failed on what the engine said, not on silence: waiting longer is of no use."""
        return "no log driver" in why or "CRI plugin" in why

    def _restore(self, why: str, decision: Decision) -> None:
        """Put the last good configuration back (none: no file) and keep the refused one for the operator.

        Raises HostError when the configuration is the good one: then something else is wrong.
        """
        current, good = _read(self.engine.config), _read(self.good)
        if current == good:
            raise HostError(f"{self.engine.name} does not work: {why} ({decision.reason})")
        if current is not None:
            self._write_private(self.refused, current)
        if good is None:
            os.unlink(self.engine.config)
        else:
            _write(self.engine.config, good, config_mode(good))

    def _refusal(self, why: str, rest: str) -> str:
        kept = "the last good file" if _read(self.good) is not None else "its defaults, as there is no last good file"
        return (
            f"{self.engine.name} refuses {self.engine.config}: {why}; {rest} {kept}, "
            f"and what it refused is in {self.refused}"
        )

    def _keep_good(self) -> None:
        """Remember the configuration that the engine runs with."""
        current = _read(self.engine.config)
        if current is None or current == _read(self.good):
            return
        self._write_private(self.good, current)

    def _write_private(self, path: str, content: bytes) -> None:
        make_private_dirs(os.path.dirname(self.private), self.private)
        _write(path, content, 0o600)

    def _read_record(self) -> dict[str, t.Any]:
        try:
            with open(self.record_path, encoding="utf-8") as handle:
                record = json.load(handle)
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self) -> None:
        status = self._status()
        record = {
            "invocation": status.invocation,
            "inputs": read_inputs(self.engine),
            "config": read_config(self.engine),
        }
        os.makedirs(self.run_dir, mode=0o755, exist_ok=True)
        _write(self.record_path, json.dumps(record).encode(), 0o600)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def _write(path: str, content: bytes, mode: int) -> None:
    write_atomic(path=path, content=content, mode=mode, uid=os.geteuid(), gid=os.getegid())


def _applied(decision: Decision) -> Applied:
    return Applied(
        started=decision.verb == "start",
        restarted=decision.verb == "restart",
        reloaded=decision.verb == "reload",
        reason=decision.reason,
    )


def mask(text: str) -> str:
    """Hide user and password of every URL in a text."""
    return re.sub(r"://[^/@\s\"]*@", "://***@", text)


def config_mode(content: bytes) -> int:
    """Permissions for a configuration file: readable by all, unless a URL in it carries credentials."""
    text = content.decode("utf-8", "replace")
    return 0o644 if mask(text) == text else 0o600


def message(line: str) -> str:
    """Return the text of a logfmt line (level=… msg="…" error="…"), or the line itself; credentials masked."""
    found = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    error = re.search(r'error="((?:[^"\\]|\\.)*)"', line)
    parts = [part[1].replace('\\"', '"') for part in (found, error) if part]
    return mask(": ".join(parts) if parts else line.strip())


def journal_message(lines: t.Sequence[str]) -> str:
    """Return the line of an engine's journal that says why it ended; empty when none does."""
    for pattern in SAYS_WHY:
        if hits := [line for line in lines if re.search(pattern, line)]:
            return message(hits[-1])
    return ""


def last_line(lines: t.Sequence[str]) -> str:
    """Return the last line of a journal that is more than a note."""
    telling = [line for line in lines if line and "level=info" not in line]
    return message(telling[-1]) if telling else ""


def apply(runner: Runner, name: str, check: bool, must_run: bool = False) -> Applied:
    """Bring the engine of that name to its configuration; one that is not installed or stopped is left alone.

    must_run: start it when it does not run. Raises HostError (one sentence) after the last good configuration is back.
    """
    return Keeper(engine=ENGINES[name], runner=runner, check=check).apply(must_run=must_run)
