# SPDX-License-Identifier: GPL-3.0-or-later
"""The module through its main(): what a task gives, what it gets back, and no secret in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _docker_daemon
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import host_state

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit

SECRET = "p@ss%20#:/w0rd!"
ME = {"owner": str(os.geteuid()), "group": str(os.getegid())}


class Module:
    """Calls the module and returns what it prints; no output holds the secret."""

    def __init__(self, host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
        self.host = host
        self.capsys = capsys

    def __call__(self, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """Run it for the owner `web`."""
        with (
            patch_module_args({"owner": "web", "_ansible_check_mode": check, **arguments}),
            pytest.raises(SystemExit) as ended,
        ):
            host_state.main()
        output = self.capsys.readouterr().out
        assert SECRET not in output
        result = json.loads(output)
        assert bool(result.get("failed")) is bool(ended.value.code)
        result.pop("invocation")
        assert isinstance(result, dict)
        return result

    def predicted(self, **arguments: Any) -> dict[str, Any]:
        """Check, run, run again: the check told the truth, and the second run has nothing to do."""
        self.host.calls.clear()
        told = self(check=True, **arguments)
        assert self.host.acts() == []
        done = self(**arguments)
        assert told == done
        again = self(**arguments)
        assert again["changed"] is False and again["diff"] == []
        return done


@pytest.fixture
def module(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> Module:
    return Module(host, capsys)


def file(path: Path, **more: Any) -> dict[str, Any]:
    return {"path": str(path), **ME, **more}


def test_nothing_wanted_nothing_changed(module: Module) -> None:
    for state in ("present", "absent"):
        assert module.predicted(state=state) == {
            "changed": False,
            "diff": [],
            "changed_paths": [],
            "removed_paths": [],
            "packages": [],
            "actions": [],
            "restarted": [],
        }


def test_everything_present_then_absent(host: FakeHost, module: Module, tmp_path: Path) -> None:
    host.units = {"a.service": FakeUnit(), "b.timer": FakeUnit("active", "enabled")}
    host.packages = {"old": FakePackage()}
    host.available = {"socat": ["1.8"]}
    done = module.predicted(
        packages=[{"name": "socat", "version": "1.*", "hold": True}, {"name": "old", "state": "absent"}],
        files=[
            file(tmp_path / "etc/a.conf", content="hello\n"),
            file(tmp_path / "etc/a.env", secret_content=SECRET),
            file(tmp_path / "etc/d", state="directory"),
            file(tmp_path / "etc/l", state="link", target="a.conf"),
            file(Path(host.unit_dir) / "a.service", content="[Service]\n", mode="0640"),
        ],
        refresh=[{"argv": ["refresh", "it"], "paths": [f"{tmp_path}/etc/"]}],
        units=[
            {"name": "a.service", "enabled": True, "state": "started", "inputs": [f"{tmp_path}/etc/*"]},
            {"name": "b.timer", "enabled": False, "state": "stopped"},
        ],
    )
    assert done["changed"] is True
    assert done["packages"] == ["install socat 1.*", "remove old", "hold socat"]
    assert done["actions"] == [
        "refresh it",
        "enable a.service",
        "start a.service",
        "disable b.timer",
        "stop b.timer",
    ]
    assert len(done["changed_paths"]) == 5 and done["restarted"] == []
    modes = {name: (tmp_path / name).lstat().st_mode & 0o7777 for name in ("etc/a.conf", "etc/a.env", "etc/d")}
    assert modes == {"etc/a.conf": 0o644, "etc/a.env": 0o600, "etc/d": 0o755}
    assert (Path(host.unit_dir) / "a.service").stat().st_mode & 0o7777 == 0o640
    assert os.readlink(tmp_path / "etc/l") == "a.conf"
    assert (tmp_path / "etc/a.env").read_text() == SECRET

    gone = module.predicted(state="absent")
    assert gone["packages"] == ["remove socat"] and gone["actions"] == ["disable a.service", "stop a.service"]
    assert not (tmp_path / "etc").exists() and not os.path.exists(host.state_dir)


def test_a_diff_shows_before_and_after(module: Module, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old\n")
    path.chmod(0o644)
    (diff,) = module.predicted(files=[file(path, content="new\n")])["diff"]
    assert diff["before_header"] == diff["after_header"] == str(path)
    assert diff["before"].endswith("\nold\n") and diff["after"].endswith("\nnew\n")
    assert diff["before"].splitlines()[0] == diff["after"].splitlines()[0]


@pytest.mark.parametrize("mode", ["0600", "0644"])
def test_a_secret_is_written_and_never_told(module: Module, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.env"
    path.write_text(f"before {SECRET}\n")
    path.chmod(0o600)
    for text in (f"PASSWORD={SECRET}\n", f"PASSWORD={SECRET}2\n"):
        done = module.predicted(files=[file(path, secret_content=text, mode=mode)])
        assert "not shown" in done["diff"][0]["before"] and "not shown" in done["diff"][0]["after"]
        assert path.read_text() == text
    assert "not shown" in module.predicted()["diff"][0]["before"]
    assert path.read_text() == f"before {SECRET}\n"


def test_a_changed_input_restarts_or_reloads(host: FakeHost, module: Module, tmp_path: Path) -> None:
    names = {"a.service": "restart", "b.service": "reload", "c.service": "none"}
    host.units = {name: FakeUnit("active", "enabled", started=1.0) for name in names}
    units = [{"name": name, "inputs": [f"{tmp_path}/a.conf"], "on_change": verb} for name, verb in names.items()]
    for content in ("one", "two"):
        done = module.predicted(files=[file(tmp_path / "a.conf", content=content)], units=units)
        assert done["actions"] == ["restart a.service", "reload b.service"]
        assert done["restarted"] == ["a.service"]


def test_an_interrupted_run_is_finished_by_the_next(host: FakeHost, module: Module, tmp_path: Path) -> None:
    host.units["a.service"] = FakeUnit("active", "enabled", started=1.0)
    wanted: dict[str, Any] = {
        "files": [file(tmp_path / "a.conf", content="x")],
        "refresh": [{"argv": ["refresh"], "paths": ["/"]}],
        "units": [{"name": "a.service", "inputs": [f"{tmp_path}/a.conf"]}],
    }
    host.dies_at = "refresh"
    with patch_module_args({"owner": "web", **wanted}), pytest.raises(KeyboardInterrupt):
        host_state.main()
    host.dies_at = ""
    done = module.predicted(**wanted)
    assert done["changed_paths"] == [] and done["actions"] == ["refresh", "restart a.service"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"content": "x", "mode": 420}, "'420': it needs four octal digits in quotes, such as '0644'"),
        ({"content": "x", "mode": "644"}, "'644': it needs four octal digits"),
        ({"content": "x", "mode": "u=rw"}, "'u=rw': it needs four octal digits"),
        ({"content": "x", "owner": "nobody-here"}, "user 'nobody-here' does not exist on this host"),
        ({"content": "x", "group": "nobody-here"}, "group 'nobody-here' does not exist on this host"),
        ({"content": "x", "path": "etc/a"}, "path 'etc/a' is of no use"),
        ({"content": "x", "path": "/dev/null/a"}, "/dev/null/a can't be changed: File exists"),
        ({"content": "x", "secret_content": SECRET}, "mutually exclusive"),
        ({}, "state is file but any of the following are missing: content, secret_content"),
        ({"state": "link"}, "state is link but all of the following are missing: target"),
        ({"state": "socket"}, "value of state must be one of: file, directory, link, absent"),
        ({"state": "directory", "path": "/dev/null"}, "/dev/null is not a directory: move it away"),
    ],
)
def test_a_file_that_can_not_be_is_one_sentence(
    module: Module, tmp_path: Path, entry: dict[str, Any], words: str
) -> None:
    result = module(files=[{**file(tmp_path / "a"), **entry}])
    assert result["failed"] is True and words in result["msg"]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "entry", [{"path": "/etc/a"}, {"path": "../a"}, {"path": "a//b"}, {"path": ""}, {"path": "a", "keys": []}]
)
def test_a_key_is_below_a_home(module: Module, entry: dict[str, Any]) -> None:
    result = module(json_keys=[{"user": "root", "keys": ["a"], "secret_value": {"password": SECRET}, **entry}])
    assert "it needs a path below the home and a key" in result["msg"]


def test_a_key_of_nobody_is_one_sentence(module: Module) -> None:
    result = module(json_keys=[{"user": "nobody-here", "path": "a", "keys": ["a"], "value": {}}])
    assert result["msg"] == "user 'nobody-here' does not exist on this host"


def test_errors_of_commands_are_one_sentence(host: FakeHost, module: Module) -> None:
    host.available = {"socat": ["1.8"]}
    result = module(packages=[{"name": "socat", "version": "2.*"}])
    assert result["msg"] == "package socat 2.* is not in this host's apt sources, which offer 1.8"
    result = module(units=[{"name": "a.service", "state": "started"}])
    assert result["msg"].startswith("systemctl start a.service failed: Failed to start a.service")


def test_a_broken_ledger_is_one_sentence(host: FakeHost, module: Module) -> None:
    ledger = Path(host.state_dir, "ledger/web.json")
    ledger.parent.mkdir(parents=True)
    ledger.write_text("{")
    for state in ("present", "absent"):
        assert module(state=state)["msg"].startswith(f"{ledger} is not JSON")


@pytest.mark.parametrize("arguments", [{"state": "gone"}, {"engines": ["podman"]}, {"unknown": 1}])
def test_what_the_specification_does_not_know_fails(module: Module, arguments: dict[str, Any]) -> None:
    assert module(**arguments)["failed"] is True


# --- Docker's configuration ---


class FakeDocker:
    """Stands for the writer of daemon.json."""

    def __init__(self, *, check: bool) -> None:
        self.check = check
        self.outcome = _docker_daemon.Outcome()

    def fragment(self, name: str, config: dict[str, Any]) -> _docker_daemon.Outcome:
        """Say what it was handed."""
        if config.get("debug") == "maybe":
            raise HostError("daemon.json has debug twice")
        self.outcome.changed_paths.append(f"/etc/{name}.json")
        self.outcome.warnings.append(f"{config} (check: {self.check})")
        return self.outcome


def test_a_fragment_goes_to_its_writer(module: Module, monkeypatch: pytest.MonkeyPatch, warned: list[str]) -> None:
    monkeypatch.setattr(_docker_daemon, "DockerHost", FakeDocker)
    for check in (True, False):
        done = module(check=check, docker_fragment={"debug": True})
        assert done["changed"] is True and done["changed_paths"] == ["/etc/web.json"]
    assert warned == ["{'debug': True} (check: True)", "{'debug': True} (check: False)"]
    assert module()["changed"] is False
    assert module(docker_fragment={"debug": "maybe"})["msg"] == "daemon.json has debug twice"


# --- the documentation ---


def described(options: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of documented options that the argument specification has as well."""
    found = {}
    for name, option in options.items():
        parts = {key: option[key] for key in ("type", "elements", "choices", "default", "required") if key in option}
        if "suboptions" in option:
            parts["options"] = described(option["suboptions"])
        found[name] = parts
    return found


def specified(options: dict[str, Any]) -> dict[str, Any]:
    """Return the same parts of an argument specification."""
    found = {}
    for name, option in options.items():
        parts = {key: option[key] for key in ("type", "elements", "choices", "default", "required") if key in option}
        if "options" in option:
            parts["options"] = specified(option["options"])
        found[name] = parts
    return found


def test_the_documentation_is_the_specification() -> None:
    documented = yaml.safe_load(host_state.DOCUMENTATION)["options"]
    assert described(documented) == specified(host_state.ARGUMENT_SPEC)


def test_everything_returned_is_documented(module: Module) -> None:
    assert set(yaml.safe_load(host_state.RETURN)) == set(module()) - {"changed", "diff"}


def test_the_examples_are_valid(module: Module) -> None:
    for task in yaml.safe_load(host_state.EXAMPLES):
        result = module(check=True, **task["slipway.platform.host_state"])
        assert not result.get("failed"), result
