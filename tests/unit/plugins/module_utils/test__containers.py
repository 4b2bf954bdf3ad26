# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack of containers, against a docker that exists in this file only: what is planned, done and repaired."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _containers
from ansible_collections.slipway.platform.plugins.module_utils._containers import (
    Container,
    Network,
    Outcome,
    Stack,
    StackState,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

OK = Result(0, "", "")
IMAGE = "docker.io/library/web:1"


class FakeDocker:
    """Answers the docker commands that the module uses, and remembers them."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.images: set[str] = set()
        self.calls: list[list[str]] = []
        self.fail: dict[str, list[str]] = {}  # docker verb to error texts, taken one by one
        self.ready: list[int] = []
        self._numbers = itertools.count(1)

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        self.calls.append(list(argv))
        if argv[0] != "docker":
            return Result(self.ready.pop(0) if self.ready else 0, "not yet\n", "")
        verb = argv[1] if argv[1] not in ("network", "image", "container") else f"{argv[1]} {argv[2]}"
        if self.fail.get(verb):
            return Result(1, "", f"{self.fail[verb].pop(0)}\nSee 'docker {verb} --help'.\n")
        rest = list(argv[len(verb.split()) + 1 :])
        handler = getattr(self, "do_" + verb.replace(" ", "_"), None)
        return handler(rest) if handler else OK

    def did(self, verb: str) -> list[list[str]]:
        """Return the arguments of every call of a verb."""
        words = verb.split()
        return [call[1 + len(words) :] for call in self.calls if call[1 : 1 + len(words)] == words]

    def stamp(self) -> str:
        return f"2026-01-01T00:00:{next(self._numbers):02d}.123456789Z"

    def do_create(self, rest: list[str]) -> Result:
        options: dict[str, list[str]] = {}
        while rest[0].startswith("--"):
            name = rest.pop(0)
            options.setdefault(name, []).append("" if name == "--read-only" else rest.pop(0))
        name = options["--name"][0]
        labels = dict(label.split("=", 1) for label in options["--label"])
        self.containers[name] = {
            "Name": f"/{name}",
            "Id": f"id-{next(self._numbers)}",
            "Image": "sha256:1",
            "Config": {"Labels": labels, "Image": rest[0], "Cmd": rest[1:], "Env": None},
            "HostConfig": {
                "RestartPolicy": {"Name": options["--restart"][0]},
                "CapDrop": options.get("--cap-drop"),
                "Privileged": False,
            },
            "NetworkSettings": {"Networks": {options["--network"][0]: {}}},
            "State": {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"},
        }
        return OK

    def do_start(self, rest: list[str]) -> Result:
        self.containers[rest[0]]["State"] = {"Status": "running", "StartedAt": self.stamp()}
        return OK

    do_restart = do_start

    def do_unpause(self, rest: list[str]) -> Result:
        self.containers[rest[0]]["State"]["Status"] = "running"
        return OK

    def do_stop(self, rest: list[str]) -> Result:
        self.containers[rest[0]]["State"]["Status"] = "exited"
        return OK

    def do_rm(self, rest: list[str]) -> Result:
        del self.containers[rest[-1]]
        return OK

    def do_update(self, rest: list[str]) -> Result:
        self.containers[rest[-1]]["HostConfig"]["RestartPolicy"] = {"Name": rest[rest.index("--restart") + 1]}
        return OK

    def do_ps(self, rest: list[str]) -> Result:
        stack = rest[2].rpartition("=")[2]
        names = [n for n, c in self.containers.items() if c["Config"]["Labels"].get("slipway.stack") == stack]
        return Result(0, "\n".join(names), "")

    def do_pull(self, rest: list[str]) -> Result:
        self.images.add(rest[-1])
        return OK

    def _inspect(self, found: list[Any], wanted: list[str]) -> Result:
        missing = len(found) < len(wanted)
        return Result(int(missing), json.dumps(found), "Error: No such object: x" if missing else "")

    def do_container_inspect(self, rest: list[str]) -> Result:
        return self._inspect([self.containers[name] for name in rest if name in self.containers], rest)

    def do_network_inspect(self, rest: list[str]) -> Result:
        return self._inspect([self.networks[name] for name in rest if name in self.networks], rest)

    def do_image_inspect(self, rest: list[str]) -> Result:
        names = [name for name in rest if name in self.images]
        return self._inspect([{"RepoTags": [name.removeprefix("docker.io/library/")]} for name in names], rest)

    def do_network_create(self, rest: list[str]) -> Result:
        labels = dict([rest[rest.index("--label") + 1].split("=", 1)])
        self.networks[rest[-1]] = {"Name": rest[-1], "Internal": "--internal" in rest, "Labels": labels}
        return OK

    def do_network_rm(self, rest: list[str]) -> Result:
        del self.networks[rest[-1]]
        return OK

    def do_network_ls(self, rest: list[str]) -> Result:
        return Result(0, "\n".join(self.networks), "")

    def do_network_connect(self, rest: list[str]) -> Result:
        self.containers[rest[1]]["NetworkSettings"]["Networks"][rest[0]] = {}
        return OK


@pytest.fixture
def docker() -> FakeDocker:
    return FakeDocker()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


WEB = Container(name="web", image=IMAGE, networks=("front", "back"))
STACK = Stack(name="s", containers=(WEB,), networks=(Network(name="front"), Network(name="back", internal=True)))


def run(docker: FakeDocker, tmp_path: Path, stack: Stack = STACK, *, check: bool = False) -> Outcome:
    docker.calls.clear()
    return StackState(stack=stack, check=check, runner=docker, state_dir=str(tmp_path)).present()


def with_web(**changes: Any) -> Stack:
    return dataclasses.replace(STACK, containers=(dataclasses.replace(WEB, **changes),))


def test_first_run_pulls_makes_networks_and_starts(docker: FakeDocker, tmp_path: Path) -> None:
    outcome = run(docker, tmp_path)
    assert outcome.pulled == [IMAGE]
    assert outcome.actions == [f"pull {IMAGE}", "create network front", "create network back", "create web"]
    assert docker.containers["web"]["State"]["Status"] == "running"
    assert docker.did("network connect") == [["back", "web"]]
    assert docker.networks["back"]["Internal"] is True
    assert os.stat(tmp_path / "stack/s.json").st_mode & 0o777 == 0o600


def test_second_run_changes_nothing(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    before = (tmp_path / "stack/s.json").stat().st_mtime_ns
    outcome = run(docker, tmp_path)
    assert outcome.actions == []
    assert {call[1] for call in docker.calls} == {"ps", "container", "network", "image"}
    assert (tmp_path / "stack/s.json").stat().st_mtime_ns == before


def test_check_mode_predicts_and_does_nothing(docker: FakeDocker, tmp_path: Path) -> None:
    predicted = run(docker, tmp_path, check=True)
    assert docker.containers == {}
    assert not (tmp_path / "stack").exists()
    assert predicted.actions == run(docker, tmp_path).actions


def test_check_mode_where_docker_is_not_installed(tmp_path: Path) -> None:
    def missing(argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        raise HostError("docker is not installed on this host")

    state = StackState(stack=STACK, check=True, runner=missing, state_dir=str(tmp_path))
    assert "create web" in state.present().actions
    with pytest.raises(HostError, match="not installed"):
        StackState(stack=STACK, check=False, runner=missing, state_dir=str(tmp_path)).present()


@pytest.mark.parametrize(
    ("path", "value", "action"),
    [
        (("HostConfig", "RestartPolicy"), {"Name": "no"}, "update web: somebody changed HostConfig.RestartPolicy"),
        (("HostConfig", "Privileged"), True, "recreate web: somebody changed HostConfig.Privileged"),
        (("Image",), "sha256:2", "recreate web: somebody changed Image"),
        (("NetworkSettings", "Networks"), {"front": {}}, "recreate web: somebody changed Networks"),
        (("State", "Status"), "exited", "start web: it was exited"),
        (("State", "Status"), "paused", "unpause web: it was paused"),
        (("Id",), "other", "recreate web: it is not on record"),
    ],
)
def test_drift_is_repaired(path: tuple[str, ...], value: Any, action: str, docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    part = docker.containers["web"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert run(docker, tmp_path, check=True).actions == [action]
    outcome = run(docker, tmp_path)
    assert outcome.actions == [action]
    assert outcome.diffs[0]["before"] != outcome.diffs[0]["after"]
    assert docker.containers["web"]["State"]["Status"] == "running"
    assert run(docker, tmp_path).actions == []


def test_what_only_another_engine_version_says_is_no_drift(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    docker.containers["web"]["HostConfig"] |= {"Dns": [], "Memory": 0, "NewKey": "x"}
    docker.containers["web"]["Config"]["Env"] = []
    assert run(docker, tmp_path).actions == []


def test_an_update_that_does_not_help_makes_the_container_anew(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    docker.containers["web"]["HostConfig"]["RestartPolicy"] = {"Name": "no"}
    docker.fail["update"] = ["cannot update"]
    run(docker, tmp_path)
    assert len(docker.did("create")) == 1
    assert run(docker, tmp_path).actions == []


def test_another_specification_makes_it_anew_without_a_pull(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    changed = with_web(command=("serve",))
    assert run(docker, tmp_path, changed).actions == ["recreate web: something else is wanted"]
    assert docker.did("pull") == []
    verbs = [call[1] for call in docker.calls if call[1] in ("stop", "rm", "create", "start")]
    assert verbs == ["stop", "rm", "create", "start"]


def test_the_image_is_there_before_anything_stops(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    docker.fail["pull"] = ["Error response from daemon: Get https://x/v2/: proxyconnect tcp: dial http://u:pw@p:80: no"]
    with pytest.raises(HostError, match="image other:1 cannot be pulled") as caught:
        run(docker, tmp_path, with_web(image="other:1"))
    assert "pw" not in str(caught.value)
    assert docker.did("stop") == []
    assert len(docker.did("pull")) == 1


def test_an_image_that_was_removed_comes_back_while_its_container_runs(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    docker.images.clear()
    assert run(docker, tmp_path).actions == [f"pull {IMAGE}"]
    assert docker.did("stop") == []
    assert run(docker, tmp_path).actions == []


def test_an_image_of_our_own_is_built_before_anything_stops(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_containers, "BUILD_COMMAND", str(tmp_path / "none"))
    run(docker, tmp_path)
    own = with_web(image="own:1", build="/srv/own", base="base:1")
    docker.fail["build"] = ["Step 1\nE: Unable to fetch http://u:pw@p:80/x"]
    with pytest.raises(HostError, match=r"image own:1 cannot be built from /srv/own: .*Unable to fetch") as caught:
        run(docker, tmp_path, own)
    assert "pw" not in str(caught.value) and docker.did("stop") == []
    assert docker.did("pull") == [["--quiet", "base:1"]]
    assert run(docker, tmp_path, own).actions[0] == "build own:1"
    assert docker.did("build")[-1] == ["--quiet", "--tag", "own:1", "/srv/own"] and docker.did("pull") == []
    builder = tmp_path / "slipway-build"
    builder.touch()
    monkeypatch.setattr(_containers, "BUILD_COMMAND", str(builder))
    run(docker, tmp_path, with_web(image="own:2", build="/srv/own"))
    assert [str(builder), "--quiet", "--tag", "own:2", "/srv/own"] in docker.calls


def test_a_network_hiccup_is_tried_again(docker: FakeDocker, tmp_path: Path) -> None:
    docker.fail["pull"] = ["net/http: TLS handshake timeout"]
    run(docker, tmp_path)
    assert len(docker.did("pull")) == 2


def test_what_is_no_longer_listed_goes(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    other = dataclasses.replace(STACK, containers=(dataclasses.replace(WEB, name="site"),))
    assert "remove web: it is no longer listed" in run(docker, tmp_path, other).actions
    assert list(docker.containers) == ["site"]


@pytest.mark.parametrize("kind", ["container", "network"])
def test_what_is_not_ours_is_not_touched(kind: str, docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    if kind == "container":
        docker.containers["web"]["Config"]["Labels"] = {}
    else:
        docker.networks["back"]["Labels"] = None
    with pytest.raises(HostError, match="is there already and is not of the stack"):
        run(docker, tmp_path)
    assert docker.did("rm") == []


def test_a_network_that_differs_is_made_anew_with_its_containers(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    docker.networks["back"]["Internal"] = False
    actions = run(docker, tmp_path).actions
    assert "create network back" in actions
    assert "recreate web: its network is made anew" in actions
    assert docker.networks["back"]["Internal"] is True


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "a.conf"
    path.write_text("one", encoding="utf-8")
    os.utime(path, (0, 0))
    os.utime(directory, (0, 0))
    return path


@pytest.mark.parametrize(("option", "verb"), [("restart_on", "restart"), ("reload_on", "reload")])
def test_a_changed_file_is_read_again_once(
    option: str, verb: str, docker: FakeDocker, tmp_path: Path, inputs: Path
) -> None:
    stack = with_web(**{option: (str(inputs),)})
    run(docker, tmp_path, stack)
    inputs.write_text("two", encoding="utf-8")
    assert [action.split(" ")[0] for action in run(docker, tmp_path, stack).actions] == [verb]
    assert run(docker, tmp_path, stack).actions == []
    os.utime(inputs, (4e9, 4e9))
    assert run(docker, tmp_path, stack).actions == [], "touched, but the same"


def test_after_a_restart_by_hand_only_a_newer_file_counts(docker: FakeDocker, tmp_path: Path, inputs: Path) -> None:
    stack = with_web(reload_on=(str(inputs),))
    run(docker, tmp_path, stack)
    inputs.write_text("two", encoding="utf-8")
    os.utime(inputs, (0, 0))
    docker.do_restart(["web"])
    assert run(docker, tmp_path, stack).actions == [], "it was started after the change"
    docker.do_restart(["web"])
    os.utime(inputs, (4e9, 4e9))
    assert len(run(docker, tmp_path, stack).actions) == 1


def test_drift_does_not_hide_a_changed_file(docker: FakeDocker, tmp_path: Path, inputs: Path) -> None:
    stack = with_web(reload_on=(str(inputs),))
    run(docker, tmp_path, stack)
    inputs.write_text("two", encoding="utf-8")
    docker.containers["web"]["HostConfig"]["RestartPolicy"] = {"Name": "no"}
    assert [action.split(" ")[0] for action in run(docker, tmp_path, stack).actions] == ["update", "reload"]


def test_a_reload_needs_files_that_the_container_accepts(docker: FakeDocker, tmp_path: Path, inputs: Path) -> None:
    stack = with_web(reload_on=(str(inputs),), check_command=("nginx", "-t"))
    run(docker, tmp_path, stack)
    inputs.write_text("broken", encoding="utf-8")
    docker.fail["exec"] = ["unexpected end of file"]
    with pytest.raises(HostError, match="goes on with the old ones: unexpected end of file"):
        run(docker, tmp_path, stack)
    assert docker.did("kill") == []
    run(docker, tmp_path, stack)
    assert docker.did("exec") == [["web", "nginx", "-t"]]
    assert docker.did("kill") == [["--signal", "HUP", "web"]]


def test_it_waits_until_the_stack_serves(docker: FakeDocker, tmp_path: Path) -> None:
    docker.ready = [1, 1, 0]
    run(docker, tmp_path, dataclasses.replace(STACK, ready=("probe",)))
    assert len([call for call in docker.calls if call == ["probe"]]) == 3


def test_a_stack_that_does_not_serve_says_what_its_containers_said(docker: FakeDocker, tmp_path: Path) -> None:
    docker.ready = [1] * 9
    docker.fail["logs"] = ["panic: no such disk"]
    with pytest.raises(HostError, match=r"does not serve: not yet; web last said: .*no such disk"):
        run(docker, tmp_path, dataclasses.replace(STACK, ready=("probe",), ready_timeout=-1))


def test_a_container_that_cannot_be_made_says_why(docker: FakeDocker, tmp_path: Path) -> None:
    docker.fail["create"] = ["invalid reference format"]
    with pytest.raises(HostError, match="container web cannot be made: invalid reference format"):
        run(docker, tmp_path)


def test_a_start_that_failed_is_finished_by_the_next_run(docker: FakeDocker, tmp_path: Path) -> None:
    docker.fail["start"] = ["port is already allocated"]
    with pytest.raises(HostError, match="docker start failed: port is already allocated"):
        run(docker, tmp_path)
    assert run(docker, tmp_path).actions == ["recreate web: it is not on record"]


def test_a_network_that_is_no_longer_listed_goes_when_no_container_is_on_it(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    web = dataclasses.replace(WEB, networks=("front",))
    stack = dataclasses.replace(STACK, containers=(web,), networks=STACK.networks[:1])
    actions = run(docker, tmp_path, stack).actions
    assert actions[-1] == "remove network back"
    assert list(docker.networks) == ["front"]
    assert run(docker, tmp_path, stack).actions == []


@pytest.mark.parametrize("kind", ["container", "network", "image"])
def test_a_daemon_that_does_not_answer(kind: str, docker: FakeDocker, tmp_path: Path) -> None:
    docker.fail[f"{kind} inspect"] = ["Cannot connect to the Docker daemon"] * 2
    with pytest.raises(HostError, match=f"docker {kind} inspect failed: Cannot connect"):
        run(docker, tmp_path)
    assert run(docker, tmp_path, check=True).actions


def test_removal(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    predicted = StackState(stack=STACK, check=True, runner=docker, state_dir=str(tmp_path)).absent()
    assert set(docker.containers) == {"web"}
    done = StackState(stack=STACK, check=False, runner=docker, state_dir=str(tmp_path)).absent()
    assert predicted.actions == done.actions
    assert f"remove image {IMAGE}" in done.actions
    assert (docker.containers, docker.networks) == ({}, {})
    again = StackState(stack=STACK, check=False, runner=docker, state_dir=str(tmp_path)).absent()
    assert again.actions == []


def test_removal_where_docker_is_gone(docker: FakeDocker, tmp_path: Path) -> None:
    docker.fail["ps"] = ["Cannot connect to the Docker daemon"] * 2
    assert StackState(stack=STACK, check=False, runner=docker, state_dir=str(tmp_path)).absent().actions == []
    run_state = StackState(stack=STACK, check=False, runner=docker, state_dir=str(tmp_path))
    run_state.record = {"containers": {}}
    run_state.save()
    docker.fail["ps"] = ["Cannot connect to the Docker daemon"]
    with pytest.raises(HostError, match="Cannot connect"):
        StackState(stack=STACK, check=False, runner=docker, state_dir=str(tmp_path)).absent()


def test_a_broken_record_makes_everything_anew(docker: FakeDocker, tmp_path: Path) -> None:
    run(docker, tmp_path)
    (tmp_path / "stack/s.json").write_text("{", encoding="utf-8")
    assert run(docker, tmp_path).actions == ["recreate web: it is not on record"]


def test_every_option_reaches_docker() -> None:
    wanted = Container(
        name="n",
        image="i:1",
        entrypoint="e",
        command=("c", "d"),
        user="1:1",
        networks=("net",),
        ports=("1:2",),
        volumes=("/a:/b",),
        tmpfs=("/tmp:rw",),
        environment=(("K", "v"),),
        memory="1g",
        pids_limit=5,
        log_options=(("max-size", "1m"),),
        stop_signal="SIGQUIT",
    )
    line = " ".join(_containers.container_argv("s", wanted))
    for part in (
        "--user 1:1",
        "--memory 1g --memory-swap 1g",
        "--stop-signal SIGQUIT",
        "--entrypoint e",
        "--pids-limit 5",
        "--network net",
        "--publish 1:2",
        "--volume /a:/b",
        "--tmpfs /tmp:rw",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--env K=v",
        "--log-opt max-size=1m",
        "--read-only i:1 c d",
    ):
        assert part in line
    assert _containers.update_argv(wanted)[2:] == [
        *["--restart", "always", "--memory", "1g", "--memory-swap", "1g", "--pids-limit", "5", "n"]
    ]
    bare = Container(name="n", image="i:1", read_only=False)
    assert "--network none" in " ".join(_containers.container_argv("s", bare))
    assert "--read-only" not in _containers.container_argv("s", bare)


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:01.500000123Z", 1.5),
        ("1970-01-01T01:00:01+01:00", 1.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("yesterday", 0.0),
    ],
)
def test_timestamps(stamp: str, seconds: float) -> None:
    assert _containers.parse_time(stamp) == seconds


def test_the_lock_keeps_the_health_unit_out(tmp_path: Path) -> None:
    path = tmp_path / "stack-s.lock"
    with (
        _containers.locked("s", str(tmp_path)),
        open(path, encoding="utf-8") as handle,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_command_without_words_has_a_reason() -> None:
    assert _containers.reason(Result(7, "", "")) == "exit status 7"
