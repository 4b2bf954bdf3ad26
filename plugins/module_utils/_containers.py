# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack of containers as wanted state, kept by the docker command line: plan from what docker says, then act.

Drift is seen in three ways: a label with a digest of the specification (the role wants something else), a view of
`docker inspect` recorded when the container was made (somebody changed it), and fingerprints of the files it has read.
Nothing here knows Ansible's module object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import hashlib
import json
import os
import re
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._files import STATE_DIR, make_private_dirs, write_atomic
from ansible_collections.slipway.platform.plugins.module_utils._run import Result, Runner, run
from ansible_collections.slipway.platform.plugins.module_utils._units import fingerprint, newest_change

LABEL_STACK = "slipway.stack"
LABEL_SPEC = "slipway.spec"
LOCK_DIR = "/run/slipway"
PULL_TIMEOUT = 1800.0
# Behind a proxy images are built by this command of the role container_network, where it is there.
BUILD_COMMAND = "/usr/local/bin/slipway-build"
COMMAND_TIMEOUT = 180.0
# What of `docker inspect` a site may not change behind our back. Everything else differs between engine versions.
HOST_KEYS = (
    "Binds CapAdd CapDrop CgroupnsMode DeviceRequests Devices Dns ExtraHosts GroupAdd IpcMode LogConfig Memory "
    "NanoCpus NetworkMode OomScoreAdj PidMode PidsLimit PortBindings Privileged ReadonlyRootfs RestartPolicy "
    "SecurityOpt Tmpfs UTSMode Ulimits UsernsMode"
).split()
CONFIG_KEYS = "Cmd Entrypoint Env Healthcheck Image Labels StopSignal StopTimeout User WorkingDir".split()
# `docker update` sets these on a running container; anything else takes a new one.
UPDATABLE = {"HostConfig.RestartPolicy", "HostConfig.Memory", "HostConfig.PidsLimit"}
TRANSIENT = re.compile(r"TLS handshake timeout|unexpected EOF|connection reset by peer|: 50[0234] ")
CREDENTIALS = re.compile(r"//[^/@\s]+@")

View = dict[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A bridge network; internal ones have no way out of the host."""

    name: str
    internal: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Container:
    """A container as wanted.

    ports and volumes are in docker's own notation; memory is bytes with docker's suffixes ("512m"), "" for no limit.
    build is a directory on the host from which the image is built when it is missing, instead of being pulled; base is
    the image on which it stands.
    restart_on and reload_on are globs of files on the host that it reads: when one changed after it was started, it
    is restarted, or gets reload_signal after check_command, run inside it, has succeeded.
    """

    name: str
    image: str
    build: str = ""
    base: str = ""
    entrypoint: str = ""
    command: tuple[str, ...] = ()
    user: str = ""
    networks: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    read_only: bool = True
    cap_drop: tuple[str, ...] = ("ALL",)
    security_options: tuple[str, ...] = ("no-new-privileges",)
    restart: str = "always"
    memory: str = ""
    pids_limit: int = 0
    log_options: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    stop_timeout: int = 10
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()
    reload_signal: str = "HUP"
    check_command: tuple[str, ...] = ()

    def spec(self) -> dict[str, t.Any]:
        """Return what docker is told, as plain data: the base of the label and of the diff."""
        told = dataclasses.asdict(self)
        for key in ("build", "base", "restart_on", "reload_on", "reload_signal", "check_command"):
            del told[key]
        return {key: value for key, value in told.items() if value not in ("", (), 0)}

    def digest(self) -> str:
        """Return the value of the label that tells whether a container was made from this specification."""
        return hashlib.sha256(json.dumps(self.spec(), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """Containers and networks that belong together; ready is a command that exits 0 once they serve."""

    name: str
    containers: tuple[Container, ...] = ()
    networks: tuple[Network, ...] = ()
    ready: tuple[str, ...] = ()
    ready_timeout: float = 60


@dataclasses.dataclass
class Step:
    """One thing to do to one container, and why: its verb is docker's, or recreate or reload."""

    verb: str
    name: str
    why: str = ""
    before: str = ""
    after: str = ""


@dataclasses.dataclass
class Outcome:
    """What was (or, in check mode, would be) done, in order."""

    actions: list[str] = dataclasses.field(default_factory=list)
    diffs: list[dict[str, str]] = dataclasses.field(default_factory=list)
    pulled: list[str] = dataclasses.field(default_factory=list)

    def note(self, text: str, *, header: str, before: str = "", after: str = "") -> None:
        """Record an action with its diff."""
        self.actions.append(text)
        self.diffs.append({"before_header": header, "after_header": header, "before": before, "after": after})


def container_argv(stack: str, wanted: Container) -> list[str]:
    """Return the `docker create` command of a container, on its first network."""
    argv = ["docker", "create", "--name", wanted.name, "--label", f"{LABEL_STACK}={stack}"]
    argv += ["--label", f"{LABEL_SPEC}={wanted.digest()}", "--restart", wanted.restart, "--log-driver", "json-file"]
    argv += ["--stop-timeout", str(wanted.stop_timeout), "--pull", "never"]
    singles = {"--user": wanted.user, "--memory": wanted.memory, "--memory-swap": wanted.memory}
    singles |= {"--stop-signal": wanted.stop_signal, "--entrypoint": wanted.entrypoint}
    singles |= {"--pids-limit": str(wanted.pids_limit or ""), "--network": next(iter(wanted.networks), "none")}
    for option, value in singles.items():
        argv += [option, value] if value else []
    lists: list[tuple[str, t.Iterable[str]]] = [
        ("--publish", wanted.ports),
        ("--volume", wanted.volumes),
        ("--tmpfs", wanted.tmpfs),
        ("--cap-drop", wanted.cap_drop),
        ("--security-opt", wanted.security_options),
        ("--env", [f"{key}={value}" for key, value in wanted.environment]),
        ("--log-opt", [f"{key}={value}" for key, value in wanted.log_options]),
    ]
    for option, values in lists:
        for value in values:
            argv += [option, value]
    argv += ["--read-only"] if wanted.read_only else []
    return [*argv, wanted.image, *wanted.command]


def update_argv(wanted: Container) -> list[str]:
    """Return the `docker update` command that repairs what can be changed in place."""
    argv = ["docker", "update", "--restart", wanted.restart]
    argv += ["--memory", wanted.memory, "--memory-swap", wanted.memory] if wanted.memory else []
    argv += ["--pids-limit", str(wanted.pids_limit)] if wanted.pids_limit else []
    return [*argv, wanted.name]


def _full(values: t.Mapping[str, t.Any], prefix: str, keys: t.Iterable[str]) -> View:
    """Return the keys that say something; engines differ in whether nothing is null, empty or missing."""
    return {f"{prefix}{key}": values[key] for key in keys if values.get(key)}


def view(inspected: t.Mapping[str, t.Any]) -> View:
    """Return of a container's `docker inspect` what nobody else may change."""
    seen = _full(inspected["HostConfig"], "HostConfig.", HOST_KEYS) | _full(inspected["Config"], "Config.", CONFIG_KEYS)
    seen["Image"] = inspected["Image"]
    seen["Networks"] = sorted(inspected["NetworkSettings"]["Networks"])
    return seen


def differences(before: View, now: View) -> list[str]:
    """Return the keys in which two views differ."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def parse_time(stamp: str) -> float:
    """Return dockerd's timestamp (RFC 3339 with nanoseconds) as epoch seconds; 0 for one that is none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:\d\d)$", stamp)
    if match is None or stamp.startswith("0001-"):
        return 0.0
    text = match[1] + (match[2] or "") + ("+00:00" if match[3] == "Z" else match[3])
    return datetime.datetime.fromisoformat(text).timestamp()


def inputs_changed(*, known: t.Mapping[str, t.Any], key: str, globs: t.Sequence[str], started_at: str) -> bool:
    """Tell whether a running container has read other files than those on disk.

    With a record of this very start the contents decide; without one (a reboot, a restart by hand) a file does that
    is newer than the start.
    """
    if not globs:
        return False
    if known.get("started_at") == started_at and key in known:
        return bool(known[key] != fingerprint(globs))
    return newest_change(globs) > parse_time(started_at)


class Docker:
    """The docker command line, as JSON and errors of one sentence."""

    def __init__(self, runner: Runner = run) -> None:
        self.runner = runner

    def call(self, *arguments: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run docker with arguments; return its output, raise HostError with its reason."""
        result = self.runner(["docker", *arguments], timeout=timeout)
        if result.rc != 0:
            raise HostError(f"docker {arguments[0]} failed: {reason(result)}")
        return result.stdout

    def inspect(self, kind: str, names: t.Sequence[str]) -> dict[str, dict[str, t.Any]]:
        """Return what docker knows of containers, networks or images by name; missing ones are left out."""
        if not names:
            return {}
        result = self.runner(["docker", kind, "inspect", *names], timeout=COMMAND_TIMEOUT)
        if result.rc != 0 and "no such" not in result.stderr.lower() and "not found" not in result.stderr.lower():
            raise HostError(f"docker {kind} inspect failed: {reason(result)}")
        found = json.loads(result.stdout or "[]")
        if kind == "image":
            return {name: item for name in names for item in found if name in _image_names(item)}
        return {item["Name"].lstrip("/"): item for item in found}

    def labelled(self, stack: str) -> list[str]:
        """Return the names of all containers of a stack, running or not."""
        output = self.call("ps", "--all", "--filter", f"label={LABEL_STACK}={stack}", "--format", "{{.Names}}")
        return sorted(output.split())

    def pull(self, image: str) -> None:
        """Pull an image, a second time when the network hiccupped; raises HostError with docker's reason."""
        result = self.runner(["docker", "pull", "--quiet", image], timeout=PULL_TIMEOUT)
        if result.rc != 0 and TRANSIENT.search(result.stderr):
            result = self.runner(["docker", "pull", "--quiet", image], timeout=PULL_TIMEOUT)
        if result.rc != 0:
            raise HostError(f"image {image} cannot be pulled: {reason(result)}")

    def build(self, image: str, directory: str) -> None:
        """Build an image from a directory; raises HostError with what its last step said."""
        command = [BUILD_COMMAND] if os.path.exists(BUILD_COMMAND) else ["docker", "build"]
        result = self.runner([*command, "--quiet", "--tag", image, directory], timeout=PULL_TIMEOUT)
        if result.rc != 0:
            words = " | ".join(line.strip() for line in result.output.splitlines()[-5:] if line.strip())
            raise HostError(CREDENTIALS.sub("//***@", f"image {image} cannot be built from {directory}: {words}"))


def _image_names(image: t.Mapping[str, t.Any]) -> set[str]:
    """Return every way to name an image: as docker lists it and with docker.io's parts written out."""
    names: set[str] = set()
    for name in [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]:
        names |= {name, f"docker.io/{name}", f"docker.io/library/{name}"}
    return names


def reason(result: Result) -> str:
    """Return the last line that a command said, without credentials in URLs."""
    lines = [line for line in result.output.splitlines() if line.strip() and not line.startswith("See 'docker")]
    return CREDENTIALS.sub("//***@", lines[-1].strip()) if lines else f"exit status {result.rc}"


@contextlib.contextmanager
def locked(name: str, lock_dir: str = LOCK_DIR) -> t.Iterator[None]:
    """Hold the stack's lock, so that its health unit repairs nothing meanwhile; wait for a round that is under way."""
    os.makedirs(lock_dir, mode=0o755, exist_ok=True)
    with open(os.path.join(lock_dir, f"stack-{name}.lock"), "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class StackState:
    """Brings one stack to its wanted state.

    Args:
        stack: what is wanted.
        check: predict only.
        state_dir: holds the record of what docker said of each container, readable by root only.
    """

    def __init__(self, *, stack: Stack, check: bool, runner: Runner = run, state_dir: str = STATE_DIR) -> None:
        self.stack = stack
        self.check = check
        self.runner = runner
        self.docker = Docker(runner)
        self.path = os.path.join(state_dir, "stack", f"{stack.name}.json")
        self.outcome = Outcome()
        self.record: dict[str, t.Any] = {}

    # The record

    def load(self) -> None:
        """Read the record; one that is missing or broken only means that every container is made anew."""
        try:
            with open(self.path, encoding="utf-8") as handle:
                self.record = json.load(handle)
        except (FileNotFoundError, ValueError):
            self.record = {}

    def save(self) -> None:
        """Write the record."""
        make_private_dirs(os.path.dirname(os.path.dirname(self.path)), os.path.dirname(self.path))
        uid, gid = os.geteuid(), os.getegid()
        write_atomic(path=self.path, content=json.dumps(self.record, indent=1).encode(), mode=0o600, uid=uid, gid=gid)

    def known(self, name: str) -> dict[str, t.Any]:
        """Return what is on record of a container."""
        return t.cast("dict[str, t.Any]", self.record.get("containers", {}).get(name, {}))

    # Planning

    def plan(
        self, wanted: Container, inspected: dict[str, t.Any] | None, stale_networks: t.Collection[str]
    ) -> list[Step]:
        """Return what one container needs, in order; nothing when all is well."""
        after = _shown(wanted.spec())
        if inspected is None:
            return [Step("create", wanted.name, after=after)]
        labels = inspected["Config"].get("Labels") or {}
        if labels.get(LABEL_STACK) != self.stack.name:
            raise HostError(
                f"container {wanted.name} is there already and is not of the stack {self.stack.name}:"
                " remove or rename it, nothing was changed"
            )
        known = self.known(wanted.name)
        why = ""
        if labels.get(LABEL_SPEC) != wanted.digest():
            why = "something else is wanted"
        elif known.get("id") != inspected["Id"]:
            why = "it is not on record"
        elif set(stale_networks) & set(wanted.networks):
            why = "its network is made anew"
        if why:
            before = _shown(known.get("spec", {}))
            return [Step("recreate", wanted.name, why, f"{why}\n" if before == after else before, after)]
        return self._plan_drift(wanted, inspected, known)

    def _plan_drift(self, wanted: Container, inspected: dict[str, t.Any], known: dict[str, t.Any]) -> list[Step]:
        now = view(inspected)
        changed = differences(known["view"], now)
        runs = self._plan_run(wanted, inspected["State"], known)
        if not changed:
            return runs
        before = _shown({key: now.get(key) for key in changed})
        after = _shown({key: known["view"].get(key) for key in changed})
        in_place = UPDATABLE.issuperset(changed)
        verb = "update" if in_place else "recreate"
        step = Step(verb, wanted.name, f"somebody changed {', '.join(changed)}", before, after)
        return [step, *runs] if in_place else [step]

    def _plan_run(self, wanted: Container, state: dict[str, t.Any], known: dict[str, t.Any]) -> list[Step]:
        status, started = state["Status"], state["StartedAt"]
        if status not in ("running", "restarting", "paused"):
            return [Step("start", wanted.name, f"it was {status}", f"{status}\n", "running\n")]
        steps = [Step("unpause", wanted.name, "it was paused", "paused\n", "running\n")] if status == "paused" else []
        if inputs_changed(known=known, key="restart_inputs", globs=wanted.restart_on, started_at=started):
            steps.append(Step("restart", wanted.name, "a file that it reads at its start changed", after="restarted\n"))
        elif inputs_changed(known=known, key="reload_inputs", globs=wanted.reload_on, started_at=started):
            steps.append(Step("reload", wanted.name, "a file that it reads changed", after="reloaded\n"))
        return steps

    # Acting

    def present(self) -> Outcome:
        """Make what is missing, repair what drifted, remove what is no longer listed.

        Raises:
            HostError: docker is missing or refuses, a name is taken, an image cannot be pulled, or it does not serve.
        """
        self.load()
        try:
            existing, networks = self._look()
        except HostError:
            if not self.check:
                raise
            existing, networks = {}, {}  # a bare host: docker would be there by now in a real run
        stale = {net.name for net in self.stack.networks if not self._network_matches(net, networks.get(net.name))}
        renewed = stale & networks.keys()
        steps = [step for item in self.stack.containers for step in self.plan(item, existing.get(item.name), renewed)]
        wanted_names = {item.name for item in self.stack.containers}
        strays = [Step("remove", name, "it is no longer listed") for name in existing if name not in wanted_names]
        todo = strays + steps
        self._pull()
        for step in todo:
            if step.verb in ("recreate", "remove"):
                self._note_and(step if step.verb == "remove" else None, functools.partial(self._remove, step.name))
        self._make_networks(stale, networks)
        for step in todo:
            if step.verb != "remove":
                self._note_and(step, functools.partial(self._do, step))
        if any(step.verb in ("recreate", "remove") for step in todo):
            self._remove_networks({net.name for net in self.stack.networks})
        if not self.check:
            self._settle(existing, changed=bool(todo))
        return self.outcome

    def _look(self) -> tuple[dict[str, dict[str, t.Any]], dict[str, dict[str, t.Any]]]:
        names = {item.name for item in self.stack.containers} | set(self.docker.labelled(self.stack.name))
        existing = self.docker.inspect("container", sorted(names))
        return existing, self.docker.inspect("network", [net.name for net in self.stack.networks])

    def _note_and(self, step: Step | None, act: t.Callable[[], object]) -> None:
        if not self.check:
            act()
        if step is not None:
            why = f": {step.why}" if step.why else ""
            self.outcome.note(f"{step.verb} {step.name}{why}", header=step.name, before=step.before, after=step.after)

    def _pull(self) -> None:
        """Have every image before anything is stopped; that of a container which runs, for when it is made anew."""
        sources = {item.image: item for item in self.stack.containers}
        images = sorted(sources)
        if not images:
            return
        try:
            present = self.docker.inspect("image", images)
        except HostError:
            if not self.check:
                raise
            present = {}
        for image in images:
            if image not in present:
                verb, done = ("build", "built") if sources[image].build else ("pull", "pulled")
                if not self.check:
                    self._fetch(sources[image])
                    self.record["pulled"] = sorted({*self.record.get("pulled", []), image})
                    self.save()
                self.outcome.pulled.append(image)
                self.outcome.note(f"{verb} {image}", header=image, after=f"{done}\n")

    def _fetch(self, wanted: Container) -> None:
        if not wanted.build:
            self.docker.pull(wanted.image)
            return
        # By the engine, which has the proxy: BuildKit would have docker's client ask for a token, which has none.
        if wanted.base and wanted.base not in self.docker.inspect("image", [wanted.base]):
            self.docker.pull(wanted.base)
            self.record["pulled"] = sorted({*self.record.get("pulled", []), wanted.base})
            self.save()
        self.docker.build(wanted.image, wanted.build)

    def _network_matches(self, wanted: Network, found: dict[str, t.Any] | None) -> bool:
        """Tell whether a network is as wanted; raises HostError when the name belongs to somebody else."""
        if found is None:
            return False
        if (found.get("Labels") or {}).get(LABEL_STACK) != self.stack.name:
            raise HostError(
                f"network {wanted.name} is there already and is not of the stack {self.stack.name}:"
                " remove or rename it, nothing was changed"
            )
        return bool(found.get("Internal")) == wanted.internal

    def _make_networks(self, stale: t.Collection[str], existing: t.Collection[str]) -> None:
        for network in self.stack.networks:
            if network.name not in stale:
                continue
            if not self.check:
                if network.name in existing:
                    self.docker.call("network", "rm", network.name)
                internal = ["--internal"] if network.internal else []
                label = f"{LABEL_STACK}={self.stack.name}"
                self.docker.call("network", "create", "--label", label, *internal, network.name)
            self.outcome.note(
                f"create network {network.name}", header=network.name, after=_shown(dataclasses.asdict(network))
            )

    def _container(self, name: str) -> Container:
        return next(item for item in self.stack.containers if item.name == name)

    def _remove(self, name: str) -> None:
        self.runner(["docker", "stop", name], timeout=COMMAND_TIMEOUT)  # one that cannot be stopped is removed by force
        self.docker.call("rm", "--force", "--volumes", name)
        self.record.get("containers", {}).pop(name, None)
        self.save()

    def _do(self, step: Step) -> None:
        wanted = self._container(step.name)
        if step.verb in ("create", "recreate"):
            self._create(wanted)
        elif step.verb == "update":
            self._update(wanted)
        elif step.verb == "reload":
            self._reload(wanted)
        else:
            self.docker.call(step.verb, step.name)

    def _create(self, wanted: Container) -> None:
        argv = container_argv(self.stack.name, wanted)
        result = self.runner(argv, timeout=COMMAND_TIMEOUT)
        if result.rc != 0:
            raise HostError(f"container {wanted.name} cannot be made: {reason(result)}")
        for network in wanted.networks[1:]:
            self.docker.call("network", "connect", network, wanted.name)
        self.docker.call("start", wanted.name)
        self._remember(wanted)

    def _update(self, wanted: Container) -> None:
        """Repair in place; a container that docker cannot repair is made anew."""
        result = self.runner(update_argv(wanted), timeout=COMMAND_TIMEOUT)
        now = self.docker.inspect("container", [wanted.name])[wanted.name]
        if result.rc != 0 or differences(self.known(wanted.name)["view"], view(now)):
            self._remove(wanted.name)
            self._create(wanted)

    def _reload(self, wanted: Container) -> None:
        if wanted.check_command:
            result = self.runner(["docker", "exec", wanted.name, *wanted.check_command], timeout=COMMAND_TIMEOUT)
            if result.rc != 0:
                raise HostError(f"{wanted.name} refuses its new files and goes on with the old ones: {reason(result)}")
        self.docker.call("kill", "--signal", wanted.reload_signal, wanted.name)

    # Afterwards

    def _remember(self, wanted: Container) -> None:
        """Record what docker says of a container that was just made."""
        now = self.docker.inspect("container", [wanted.name])[wanted.name]
        containers = self.record.setdefault("containers", {})
        containers[wanted.name] = {"id": now["Id"], "spec": wanted.spec(), "view": view(now)}
        self.save()

    def _settle(self, existing: dict[str, dict[str, t.Any]], *, changed: bool) -> None:
        """Wait until the stack serves, then record which files its containers have read."""
        self._wait()
        now = self.docker.inspect("container", [item.name for item in self.stack.containers]) if changed else existing
        before = json.dumps(self.record, sort_keys=True)
        for item in self.stack.containers:
            self.known(item.name).update(
                started_at=now[item.name]["State"]["StartedAt"],
                restart_inputs=fingerprint(item.restart_on),
                reload_inputs=fingerprint(item.reload_on),
            )
        if json.dumps(self.record, sort_keys=True) != before:
            self.save()

    def _wait(self) -> None:
        if not self.stack.ready:
            return
        deadline = time.monotonic() + self.stack.ready_timeout
        while True:
            result = self.runner(self.stack.ready, timeout=COMMAND_TIMEOUT)
            if result.rc == 0:
                return
            if time.monotonic() > deadline:
                raise HostError(f"the stack {self.stack.name} does not serve: {reason(result)}{self._logs()}")
            time.sleep(0.5)

    def _logs(self) -> str:
        """Return the last words of each container, for the error message."""
        words = ""
        for item in self.stack.containers:
            result = self.runner(["docker", "logs", "--tail", "3", item.name], timeout=COMMAND_TIMEOUT)
            lines = " | ".join(line.strip() for line in result.output.splitlines()[-3:])
            words += f"; {item.name} last said: {lines or 'nothing'}"
        return CREDENTIALS.sub("//***@", words)

    def absent(self) -> Outcome:
        """Remove the stack's containers and networks, and the images that it pulled and nobody else uses."""
        self.load()
        try:
            names = self.docker.labelled(self.stack.name)
        except HostError:
            if not self.check and self.record:
                raise
            return self.outcome
        for name in names:
            self._note_and(Step("remove", name, before="present\n"), functools.partial(self._remove, name))
        self._remove_networks(set())
        self._remove_images()
        if not self.check:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        return self.outcome

    def _remove_networks(self, kept: t.Collection[str]) -> None:
        """Remove those of the stack that nobody wants any more; only a container made anew can have left one."""
        label = f"label={LABEL_STACK}={self.stack.name}"
        for name in self.docker.call("network", "ls", "--filter", label, "--format", "{{.Name}}").split():
            if name not in kept:
                step = Step("remove", f"network {name}", before="present\n")
                self._note_and(step, functools.partial(self.docker.call, "network", "rm", name))

    def _remove_images(self) -> None:
        """Without force: docker keeps an image that another container uses."""
        for image in self.record.get("pulled", []):
            if self.check or self.runner(["docker", "image", "rm", image], timeout=COMMAND_TIMEOUT).rc == 0:
                self.outcome.note(f"remove image {image}", header=image, before="present\n")


def _shown(values: t.Mapping[str, t.Any]) -> str:
    """Return plain data as text for a diff."""
    return "".join(f"{key}: {json.dumps(value, sort_keys=True)}\n" for key, value in sorted(values.items()))
