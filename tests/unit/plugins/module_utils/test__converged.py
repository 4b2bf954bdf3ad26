# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a play look at a machine again, and what does not."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _converged, _engines, _files

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit

KEY, DIGEST = "nodes", "d1"


class FakeDockerd:
    """Answers on dockerd's socket: a container that runs, and its image."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.images = {"web:1": {"Id": "sha256:1"}}
        self.asked: list[str] = []

    def __call__(self, path: str) -> Any:
        self.asked.append(path)
        kind, name = path.removesuffix("/json").lstrip("/").split("/", 1)
        found = {"containers": self.containers, "images": self.images}[kind]
        if name not in found:
            raise OSError(f"GET {path} answered 404")
        return found[name]

    def run(self, name: str, *binds: str) -> None:
        self.containers[name] = {
            "Id": f"id of {name}",
            "Image": "sha256:1",
            "Config": {"Image": "web:1"},
            "HostConfig": {"RestartPolicy": {"Name": "always"}, "Binds": list(binds)},
            "NetworkSettings": {"Networks": {"front": {}}},
            "State": {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"},
        }


@pytest.fixture
def dockerd(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeDockerd:
    """Return a dockerd with a container that container_stack keeps, and one of somebody else's."""
    monkeypatch.setattr(_converged, "MOUNTED", str(host.root))
    made, config = FakeDockerd(), host.root / "etc"
    config.mkdir()
    (config / "web.conf").write_text("a", encoding="utf-8")
    binds = (f"{config}:/etc/web:ro", f"{host.root}/data:/data", "/run/web:/run/web:ro")
    made.run("web", *binds)
    made.run("somebody-elses")
    (Path(host.state_dir) / "stack").mkdir(parents=True)
    record = {"containers": {"web": {"spec": {"image": "web:1"}, "view": {"HostConfig.Binds": list(binds)}}}}
    (Path(host.state_dir) / "stack/s.json").write_text(json.dumps(record), encoding="utf-8")
    return made


@pytest.fixture
def machine(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Return a machine on which a role has written a file and brought a package, and an engine runs."""
    config = host.root / "daemon.json"
    config.write_text("{}", encoding="utf-8")
    engine = _engines.Engine(
        name="docker", unit="docker.service", config=str(config), inputs=(str(host.root / "*.json"),),
        preflight=lambda _runner, _path: "", prove=lambda _runner, _path: "", ping=lambda _runner, _path: "",
    )  # fmt: skip
    monkeypatch.setattr(_engines, "ENGINES", {"docker": engine})
    host.units["docker.service"] = FakeUnit(active="active", file_state="enabled")
    host.packages["docker.io"] = FakePackage(version="26.1", selection="hold")
    (host.root / "written.conf").write_text("a", encoding="utf-8")
    ledger = _files.Ledger(owner="role", state_dir=host.state_dir)
    ledger.set("paths", [str(host.root / "written.conf")])
    ledger.set("packages", ["docker.io"])
    ledger.save()
    _converged.record(KEY, DIGEST, state_dir=host.state_dir, runner=host)
    return host


def check(host: FakeHost, digest: str = DIGEST) -> list[str]:
    return _converged.check(KEY, digest, state_dir=host.state_dir, runner=host)


def test_a_machine_as_it_was_left_is_unchanged(machine: FakeHost) -> None:
    assert check(machine) == []


def test_the_record_is_for_root_only(machine: FakeHost) -> None:
    assert os.stat(os.path.join(machine.state_dir, _converged.RECORD)).st_mode & 0o777 == 0o600


def test_whose_things_are_on_the_machine(machine: FakeHost) -> None:
    assert _converged.owners(state_dir=machine.state_dir) == ["role"]


def _edit(host: FakeHost) -> str:
    path = host.root / "written.conf"
    path.write_text("b", encoding="utf-8")
    return str(path)


def _chmod(host: FakeHost) -> str:
    path = host.root / "written.conf"
    path.chmod(0o666)
    return str(path)


def _remove(host: FakeHost) -> str:
    path = host.root / "written.conf"
    path.unlink()
    return str(path)


def _link(host: FakeHost) -> str:
    path = host.root / "written.conf"
    path.unlink()
    path.symlink_to("/etc/passwd")
    return str(path)


def _downgrade(host: FakeHost) -> str:
    host.packages["docker.io"].version = "20.10"
    return "package docker.io"


def _unhold(host: FakeHost) -> str:
    host.packages["docker.io"].selection = "install"
    return "package docker.io"


def _purge(host: FakeHost) -> str:
    del host.packages["docker.io"]
    return "package docker.io"


def _stop(host: FakeHost) -> str:
    host.units["docker.service"].active = "inactive"
    return "unit docker.service"


def _disable(host: FakeHost) -> str:
    host.units["docker.service"].file_state = "disabled"
    return "unit docker.service"


def _stale(host: FakeHost) -> str:
    host.units["docker.service"].needs_reload = True
    return "unit docker.service"


def _gpu(host: FakeHost) -> str:
    Path(host.state_dir, "ledger/nvidia_container_toolkit.json").write_text("{}", encoding="utf-8")
    return "gpus"


def _new_input(host: FakeHost) -> str:
    path = host.root / "new.json"
    path.write_text("{}", encoding="utf-8")
    return str(path)


DRIFTS = [_edit, _chmod, _remove, _link, _downgrade, _unhold, _purge, _stop, _disable, _stale, _gpu, _new_input]


@pytest.mark.parametrize("drift", DRIFTS, ids=lambda function: function.__name__.strip("_"))
def test_drift_is_seen_and_named(machine: FakeHost, drift: Callable[[FakeHost], str]) -> None:
    assert drift(machine) in check(machine)


@pytest.fixture
def stack(dockerd: FakeDockerd, machine: FakeHost) -> tuple[FakeHost, FakeDockerd]:
    """Return the machine and dockerd after a good run."""
    _converged.record(KEY, DIGEST, state_dir=machine.state_dir, runner=machine, ask=dockerd)
    return machine, dockerd


def look(stack: tuple[FakeHost, FakeDockerd]) -> list[str]:
    host, dockerd = stack
    return _converged.check(KEY, DIGEST, state_dir=host.state_dir, runner=host, ask=dockerd)


def test_containers_as_they_were_left_are_unchanged(stack: tuple[FakeHost, FakeDockerd]) -> None:
    assert look(stack) == []
    stack[1].containers["web"]["State"]["StartedAt"] = "2026-02-02T00:00:00Z"
    stack[1].containers["somebody-elses"]["State"]["Status"] = "exited"
    assert look(stack) == [], "a reboot, and somebody else's"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("State", "Status"), "exited"),
        (("State", "Status"), "paused"),
        (("State", "Status"), "restarting"),
        (("Id",), "made by hand"),
        (("Image",), "sha256:2"),
        (("Config", "Image"), "web:2"),
        (("HostConfig", "RestartPolicy"), {"Name": "no"}),
        (("NetworkSettings", "Networks"), {}),
    ],
)
def test_a_container_that_differs_is_seen(
    path: tuple[str, ...], value: Any, stack: tuple[FakeHost, FakeDockerd]
) -> None:
    part = stack[1].containers["web"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert look(stack) == ["container web"]


def test_a_container_that_is_gone_is_seen(stack: tuple[FakeHost, FakeDockerd]) -> None:
    del stack[1].containers["web"]
    assert look(stack) == ["container web"]


def test_an_image_that_is_gone_is_seen(stack: tuple[FakeHost, FakeDockerd]) -> None:
    stack[1].images.clear()
    assert look(stack) == ["image web:1"]


@pytest.mark.parametrize("name", ["web.conf", "another.conf"])
def test_a_file_that_a_container_reads_is_seen_whoever_wrote_it(name: str, stack: tuple[FakeHost, FakeDockerd]) -> None:
    path = stack[0].root / "etc" / name
    path.write_text("b", encoding="utf-8")
    assert look(stack) == [str(path)]


def test_a_dockerd_that_does_not_answer_is_a_difference(stack: tuple[FakeHost, FakeDockerd]) -> None:
    stack[1].containers.clear()
    stack[1].images.clear()
    assert look(stack) == ["container web", "image web:1"]


def test_a_machine_without_our_containers_asks_no_dockerd(machine: FakeHost) -> None:
    dockerd = FakeDockerd()
    _converged.take(state_dir=machine.state_dir, runner=machine, ask=dockerd)
    assert dockerd.asked == []


def test_another_input_is_another_state(machine: FakeHost) -> None:
    assert check(machine, "d2") == ["the input or the collection has changed"]


def test_an_unknown_machine_is_looked_at(host: FakeHost) -> None:
    assert check(host) == ["no run has ended well here yet"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"nodes": 1}'])
def test_a_broken_record_costs_a_full_run_and_no_more(machine: FakeHost, text: str) -> None:
    Path(machine.state_dir, _converged.RECORD).write_text(text, encoding="utf-8")
    assert check(machine) == ["no run has ended well here yet"]


def test_a_second_key_keeps_the_first(machine: FakeHost) -> None:
    _converged.record("registry", "d9", state_dir=machine.state_dir, runner=machine)
    assert check(machine) == []


def test_a_users_json_file_is_looked_at(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.getuid())
    fields = list(me)
    fields[5] = str(tmp_path)
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.struct_passwd(fields))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    ledger = _files.Ledger(owner="role", state_dir=host.state_dir)
    ledger.set("json_keys", [json.dumps({"user": me.pw_name, "path": "config.json"})])
    ledger.save()
    assert str(tmp_path / "config.json") in _converged.take(state_dir=host.state_dir, runner=host)


def test_a_timers_oneshot_and_a_template_are_no_states(host: FakeHost) -> None:
    prefix = "/etc/systemd/system/"
    names = "a.timer a.service b.service c@.service d.service.d/x.conf e.path.d/x.conf e.service.d/x.conf f.d/x.conf"
    assert _converged._own_units([prefix + name for name in names.split()]) == {
        "a.timer",
        "b.service",
        "d.service",
        "e.path",
    }


def test_directories_and_what_is_gone_have_a_description(tmp_path: Path) -> None:
    assert _converged.describe(str(tmp_path)) != ""
    assert _converged.describe(str(tmp_path / "nothing")) == ""
