# SPDX-License-Identifier: GPL-3.0-or-later
"""One owner's packages, files and units: predicted, reached, kept, and undone, also when a run was killed between."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _engines,
    _files,
    _host_state,
    _json_keys,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit

ME = {"owner": str(os.geteuid()), "group": str(os.getegid())}
TRUST = _host_state.Refresh(("update-ca-certificates",), ("/",))


def file(path: object, content: str = "x\n", **more: Any) -> _files.WantedFile:
    return _files.WantedFile(path=str(path), content=content.encode(), **{**ME, **more})


def unit(name: str = "a.service", **more: Any) -> _units.WantedUnit:
    return _units.WantedUnit(name=name, **{"enabled": True, "started": True, **more})


def package(name: str, **more: Any) -> _packages.WantedPackage:
    return _packages.WantedPackage(name=name, **more)


def present(*, check: bool = False, **wanted: Any) -> _host_state.Outcome:
    state = _host_state.HostState(owner="web", check=check)
    return state.present(_host_state.Wanted(owner="web", **wanted))


def absent(*, check: bool = False, **wanted: Any) -> _host_state.Outcome:
    state = _host_state.HostState(owner="web", check=check)
    return state.absent(_host_state.Wanted(owner="web", **wanted))


def both(act: Any, host: FakeHost, **wanted: Any) -> _host_state.Outcome:
    """Predict, do, and do again: the prediction is what happened, and then there is nothing left to do."""
    host.calls.clear()
    predicted = act(check=True, **wanted)
    assert host.acts() == []
    done = act(**wanted)
    assert isinstance(done, _host_state.Outcome)
    assert dataclasses.asdict(predicted) == dataclasses.asdict(done)
    asked = len(host.acts())
    again = act(**wanted)
    assert not again.changed and again.diffs == []
    assert host.acts()[asked:] == []
    return done


def defined(host: FakeHost, name: str = "a.service", **more: Any) -> _files.WantedFile:
    """Return the file of a unit; systemd knows the unit as well."""
    host.units.setdefault(name, FakeUnit(**more))
    return file(host.unit_dir + name, "[Service]\nExecStart=/bin/a\n")


# --- everything at once ---


def test_all_of_it_there_and_back(host: FakeHost) -> None:
    host.available = {"socat": ["1.8"]}
    (host.root / "there").write_text("before\n")
    wanted: dict[str, Any] = {
        "packages": [package("socat", version="1.*", hold=True)],
        "files": [
            defined(host),
            file(host.root / "etc/a.conf"),
            file(host.root / "etc/d", kind="directory", mode=0o755),
            file(host.root / "there", kind="absent"),
        ],
        "refresh": [_host_state.Refresh(("refresh", "it"), (f"{host.root}/etc/",))],
        "units": [unit(inputs=(f"{host.root}/etc/*",))],
    }
    done = both(present, host, **wanted)
    assert done.packages == ["install socat 1.*", "hold socat"]
    assert [diff["after"] for diff in done.diffs if diff["after_header"] == "packages"] == [
        "install socat 1.*\nhold socat\n"
    ]
    assert done.actions == ["refresh it", "enable a.service", "start a.service"]
    assert done.changed_paths == [f"{host.unit_dir}a.service", f"{host.root}/etc/a.conf", f"{host.root}/etc/d"]
    assert done.removed_paths == [f"{host.root}/there"]
    assert (host.packages["socat"].version, host.packages["socat"].selection) == ("1.8", "hold")
    order = [call.split()[0] for call in host.acts() if "show" not in call]
    assert order == ["apt-get", "apt-mark", "refresh", "systemctl", "systemctl"]

    undone = both(absent, host)
    assert undone.packages == ["remove socat"]
    assert undone.actions == ["disable a.service", "stop a.service"]
    assert sorted(os.listdir(host.root)) == ["run", "status", "there"]
    assert (host.root / "there").read_text() == "before\n"


def test_nothing_wanted_nothing_done(host: FakeHost) -> None:
    assert not both(present, host).changed
    assert not both(absent, host).changed
    assert host.calls == [] and os.listdir(host.root) == []


# --- files ---


def test_a_file_no_longer_listed_goes(host: FakeHost) -> None:
    a, b = host.root / "d/a", host.root / "d/b"
    b.parent.mkdir()
    b.write_text("before\n")
    present(files=[file(a), file(b)])
    done = both(present, host, files=[file(a)])
    assert done.removed_paths == [str(b)] and b.read_text() == "before\n" and a.exists()
    done = both(present, host)
    assert done.removed_paths == [str(a)] and b.exists()


def test_a_directory_no_longer_listed_goes_and_is_told(host: FakeHost) -> None:
    wanted = file(host.root / "d/e", kind="directory", mode=0o755)
    present(files=[wanted])
    done = both(present, host)
    assert done.removed_paths == [f"{host.root}/d/e", f"{host.root}/d"]


def test_a_directory_that_is_listed_stays_though_empty(host: FakeHost) -> None:
    directory = file(host.root / "d", kind="directory", mode=0o755)
    present(files=[directory, file(host.root / "d/a")])
    assert both(present, host, files=[directory]).removed_paths == [f"{host.root}/d/a"]


@pytest.mark.parametrize("path", ["a.conf", "./a", "/etc/../a", "/etc//a", "/etc/d/", "/", ""])
def test_only_plain_absolute_paths_are_taken(host: FakeHost, path: str) -> None:
    with pytest.raises(HostError, match=r"it needs to be absolute, without \.\., // or a slash at the end"):
        present(files=[file(path)])


def test_a_path_has_one_wanted_state(host: FakeHost) -> None:
    with pytest.raises(HostError, match=r"/a is listed twice: it needs one wanted state"):
        present(files=[file(host.root / "a", "1"), file(host.root / "a", "2")])
    assert os.listdir(host.root) == []


# --- packages ---


def test_a_package_no_longer_listed_is_what_it_was(host: FakeHost) -> None:
    host.packages = {"there": FakePackage("1")}
    host.available = {"new": ["2"]}
    wanted = [package("there", hold=True), package("new", hold=True)]
    done = both(present, host, packages=wanted)
    assert done.packages == ["install new", "hold there", "hold new"]
    done = both(present, host)
    assert done.packages == ["remove new", "unhold there"]
    assert host.packages == {"there": FakePackage("1", "install")}


@pytest.mark.parametrize("act", [present, absent])
def test_a_package_that_someone_else_removed_is_not_installed_to_undo_a_hold(host: FakeHost, act: Any) -> None:
    host.packages = {"there": FakePackage("1")}
    present(packages=[package("there", hold=True)])
    host.packages.clear()
    done = both(act, host)
    assert not done.changed and host.packages == {}
    assert not os.path.exists(host.state_dir)


def test_a_hold_that_someone_set_again_stays(host: FakeHost) -> None:
    host.packages = {"there": FakePackage("1")}
    present(packages=[package("there", hold=True)])
    present(packages=[package("there")])
    host.packages["there"].selection = "hold"
    assert not both(absent, host).changed


def test_a_package_that_was_there_stays(host: FakeHost) -> None:
    host.packages = {"there": FakePackage("1")}
    host.available = {"there": ["2"]}
    present(packages=[package("there", version="2")])
    assert host.packages["there"].version == "2"
    assert not both(absent, host).changed


def test_a_package_can_be_wanted_gone(host: FakeHost) -> None:
    host.available = {"a": ["1"]}
    present(packages=[package("a", hold=True)])
    assert both(present, host, packages=[package("a", present=False)]).packages == ["remove a"]
    assert not os.path.exists(host.state_dir)


def test_a_wrong_version_is_unheld_replaced_and_held(host: FakeHost) -> None:
    host.packages = {"a": FakePackage("1", "hold")}
    host.available = {"a": ["3", "2"]}
    done = both(present, host, packages=[package("a", version="2", hold=True)])
    assert done.packages == ["install a 2", "hold a"]
    assert host.packages["a"] == FakePackage("2", "hold")


def test_a_package_that_we_bring_never_starts_what_shall_be_idle(host: FakeHost) -> None:
    host.available, host.brings = {"a": ["1"]}, {"a": "a.service"}
    wanted: dict[str, Any] = {"packages": [package("a")], "idle_units": {"a": ["a.service", "a.socket"]}}
    present(**wanted)
    assert host.units["a.service"].generation == 0 and host.masked == set()
    assert (host.units["a.service"].active, host.units["a.service"].file_state) == ("inactive", "disabled")
    assert not both(present, host, **wanted).changed


def test_what_shall_be_idle_is_unmasked_when_apt_fails(host: FakeHost) -> None:
    host.available = {"a": ["1"]}
    host.answers["apt-get"] = Result(100, "", "E: broken")
    with pytest.raises(HostError, match="E: broken"):
        present(packages=[package("a")], idle_units={"a": ["a.service"]})
    assert host.did("systemctl unmask *") and host.masked == set()


def test_the_units_of_a_package_that_was_there_are_left_alone(host: FakeHost) -> None:
    host.packages = {"a": FakePackage("1")}
    host.units = {"a.service": FakeUnit("active", "enabled")}
    assert not both(present, host, packages=[package("a")], idle_units={"a": ["a.service"]}).changed


# --- keys of JSON files ---


def test_a_key_in_a_home_comes_and_goes(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.geteuid())
    monkeypatch.setattr(_json_keys, "account_of", lambda _user: pwd.struct_passwd((*me[:5], str(host.root), me[6])))
    monkeypatch.setattr(_json_keys, "as_user", lambda _account, work: work())
    key = _json_keys.WantedKey(user="alice", path=".docker/config.json", keys=("a", "b"), value=1)
    done = both(present, host, json_keys=[key])
    assert json.loads((host.root / ".docker/config.json").read_text()) == {"a": {"b": 1}}
    assert done.changed_paths == ["~alice/.docker/config.json a.b"]
    assert both(present, host).changed
    assert not (host.root / ".docker").exists()


# --- units ---


def test_a_dropped_unit_is_stopped_while_its_file_is_there(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = defined(host)
    present(files=[wanted], units=[unit()])
    there: list[bool] = []
    host.calls.clear()
    act = FakeHost._act

    def noted(verb: str, unit: FakeUnit) -> None:
        there.append(Path(wanted.path).exists())
        act(verb, unit)

    monkeypatch.setattr(host, "_act", noted)
    done = present()
    assert done.actions == ["disable a.service", "stop a.service"]
    assert there == [True, True, True] and not Path(wanted.path).exists()
    assert host.acts()[-1] == "systemctl reset-failed a.service"


def test_a_dropped_unit_is_predicted(host: FakeHost) -> None:
    wanted = defined(host)
    present(files=[wanted], units=[unit()])
    assert both(present, host).actions == ["disable a.service", "stop a.service"]


def test_a_unit_that_is_defined_but_not_listed_is_left_to_its_timer(host: FakeHost) -> None:
    files = [defined(host, "job.service", file_state="static"), defined(host, "job.timer")]
    wanted: dict[str, Any] = {"files": files, "units": [unit("job.timer")]}
    both(present, host, **wanted)
    host.units["job.service"].active = "active"
    assert not present(**wanted).changed
    done = both(absent, host)
    assert done.actions == ["stop job.service", "disable job.timer", "stop job.timer"]


def test_what_is_no_unit_of_its_own_is_not_stopped(host: FakeHost) -> None:
    host.units["docker.service"] = FakeUnit("active", "enabled")
    drop_in = file(host.unit_dir + "docker.service.d/50-slipway.conf", "[Service]\n")
    template = file(host.unit_dir + "job@.service", "[Service]\n")
    gone = file(host.unit_dir + "gone.service", "[Service]\n")
    present(files=[drop_in, template, gone])
    assert host.did("systemctl stop *") == []
    host.calls.clear()
    absent()
    assert host.acts() == ["systemctl daemon-reload"]
    assert host.units["docker.service"].active == "active"


def test_systemd_is_reloaded_for_a_drop_in_that_it_does_not_see(host: FakeHost) -> None:
    """Systemd 252 (Debian 12) says NeedDaemonReload=no after the first drop-in in a new directory."""
    host.units["docker.service"] = FakeUnit("active", "enabled")
    drop_in = file(host.unit_dir + "docker.service.d/50-slipway.conf", "[Service]\n")
    absent_unit = file(host.unit_dir + "missing.service.d/50-slipway.conf", "[Service]\n")
    assert both(present, host, files=[absent_unit]).actions == []
    assert both(present, host, files=[absent_unit, drop_in]).actions == ["daemon-reload"]
    assert not present(files=[absent_unit, drop_in]).changed


def test_systemd_is_reloaded_when_it_says_so(host: FakeHost) -> None:
    host.units["docker.service"] = FakeUnit("active", "enabled", needs_reload=True)
    drop_in = file(host.unit_dir + "docker.service.d/50-slipway.conf", "[Service]\n")
    done = both(present, host, files=[drop_in])
    assert done.actions == ["daemon-reload"]
    assert host.did("systemctl daemon-reload") == ["systemctl daemon-reload"]


def test_an_input_restarts_a_unit_once(host: FakeHost) -> None:
    config = host.root / "a.conf"
    wanted: dict[str, Any] = {"units": [unit(inputs=(str(config),))], "files": [file(config), defined(host)]}
    present(**wanted)
    wanted["files"][0] = file(config, "changed\n")
    done = both(present, host, **wanted)
    assert done.actions == ["restart a.service"] == [f"restart {name}" for name in done.restarted]


def test_a_removed_input_restarts_a_unit_after_a_reboot_too(host: FakeHost) -> None:
    config = host.root / "a.conf"
    wanted: dict[str, Any] = {"units": [unit(inputs=(str(config),))]}
    unit_file = defined(host)
    present(files=[unit_file, file(config)], **wanted)
    host.units["a.service"].generation += 1  # started again at boot; /run is empty
    os.unlink(os.path.join(host.run_dir, "a.service.json"))
    assert both(present, host, files=[unit_file], **wanted).restarted == ["a.service"]


def test_a_check_on_a_bare_host_knows_no_unit(host: FakeHost) -> None:
    done = present(check=True, files=[file(host.unit_dir + "a.service")], units=[unit()])
    assert done.actions == ["enable a.service", "start a.service"]


def test_a_unit_that_is_not_there_is_one_sentence(host: FakeHost) -> None:
    with pytest.raises(HostError, match=r"systemctl enable a\.service failed: .*not found"):
        present(units=[unit()])


# --- commands ---


def test_a_command_runs_for_its_paths_only(host: FakeHost) -> None:
    wanted: dict[str, Any] = {
        "files": [file(host.root / "a")],
        "refresh": [_host_state.Refresh(("never",), ("/elsewhere/",)), TRUST],
    }
    assert both(present, host, **wanted).actions == ["update-ca-certificates"]
    assert both(absent, host, refresh=[TRUST]).actions == ["update-ca-certificates"]


def test_a_failed_command_is_due_until_it_works(host: FakeHost) -> None:
    wanted: dict[str, Any] = {"files": [file(host.root / "a")], "refresh": [TRUST]}
    host.answers["update-ca-certificates"] = Result(1, "", "no space")
    for _ in range(2):
        with pytest.raises(HostError, match=r"^update-ca-certificates failed: no space$"):
            present(**wanted)
    host.answers.clear()
    assert both(present, host, **wanted).actions == ["update-ca-certificates"]


# --- engines ---


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, _engines.Applied]:
    """Return what applying each engine does; one that is not in it needs nothing."""
    found: dict[str, _engines.Applied] = {}

    def apply(_runner: Any, name: str, check: bool) -> _engines.Applied:
        assert check in (True, False)
        return found.get(name, _engines.Applied())

    monkeypatch.setattr(_engines, "apply", apply)
    return found


def test_engines_come_last_and_are_told(host: FakeHost, engines: dict[str, _engines.Applied]) -> None:
    names = ["docker", "containerd"]
    assert not both(present, host, engines=names).changed
    engines["docker"] = _engines.Applied(restarted=True, reason="x changed")
    engines["containerd"] = _engines.Applied(reloaded=True, reason="y changed")
    for done in (present(engines=names), absent(engines=names)):
        assert done.actions == ["restart docker: x changed", "reload containerd: y changed"]
        assert done.restarted == ["docker"]
        assert done.diffs[0]["after"] == "restart docker: x changed\n"


# --- killed runs ---


@pytest.mark.parametrize(
    "dies_at",
    [
        "apt-get",
        "apt-mark",
        "update-ca-certificates",
        "systemctl daemon-reload",
        "systemctl enable",
        "systemctl restart",
    ],
)
@pytest.mark.parametrize("then", ["finish", "undo"])
def test_a_killed_run_is_finished_or_undone_by_the_next(host: FakeHost, dies_at: str, then: str) -> None:
    host.available = {"socat": ["1.8"]}
    host.units["a.service"] = FakeUnit("active", started=1.0, needs_reload=True)
    config = host.root / "a.conf"
    config.write_text("before\n")
    wanted: dict[str, Any] = {
        "packages": [package("socat", hold=True)],
        "files": [file(config), file(host.unit_dir + "a.service")],
        "refresh": [TRUST],
        "units": [unit(inputs=(str(config),))],
    }
    host.dies_at = dies_at
    with pytest.raises(KeyboardInterrupt):
        present(**wanted)
    host.dies_at = ""
    assert present(check=True, **wanted).changed
    if then == "finish":
        present(**wanted)
        assert host.packages["socat"].selection == "hold"
        assert host.did("update-ca-certificates")
        assert not host.units["a.service"].needs_reload
        assert host.units["a.service"].file_state == "enabled" and host.units["a.service"].generation == 1
        assert not present(**wanted).changed
    absent(refresh=[TRUST])
    assert "socat" not in host.packages
    assert config.read_text() == "before\n"
    assert not os.path.exists(host.state_dir) and not os.path.exists(host.unit_dir)
    assert not absent(refresh=[TRUST]).changed


def test_what_a_removed_file_calls_for_is_due_until_it_works(host: FakeHost) -> None:
    present(files=[file(host.root / "a")], refresh=[TRUST])
    host.dies_at = "update-ca-certificates"
    for act in (present, absent):
        with pytest.raises(KeyboardInterrupt):
            act(refresh=[TRUST])
    host.dies_at = ""
    assert both(absent, host, refresh=[TRUST]).actions == ["update-ca-certificates"]


def test_owners_do_not_meet(host: FakeHost) -> None:
    present(files=[file(host.root / "a")])
    other = _host_state.HostState(owner="other", check=False)
    other.present(_host_state.Wanted(owner="other", files=[file(host.root / "b")]))
    absent()
    assert not (host.root / "a").exists() and (host.root / "b").exists()


@pytest.mark.parametrize(("made", "runs"), [("one\n", False), ("", True), (None, True)])
def test_a_command_runs_again_when_its_result_lacks_a_file(host: FakeHost, made: str | None, runs: bool) -> None:
    source, result = host.root / "sources" / "one.crt", host.root / "bundle"
    host.answers["make-bundle"] = Result(0, "", "")
    wanted = _host_state.Wanted(
        owner="trust",
        files=[_files.WantedFile(path=str(source), content=b"one\n", owner="0", group="0")],
        refresh=[_host_state.Refresh(("make-bundle",), (str(source.parent),), str(result))],
    )
    _host_state.HostState(owner="trust", check=False).present(wanted)
    if made is not None:
        result.write_text(made, encoding="utf-8")
    host.calls.clear()
    outcome = _host_state.HostState(owner="trust", check=False).present(wanted)
    assert ("make-bundle" in host.calls) is runs
    assert outcome.changed is runs


def test_one_run_at_a_time(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction waits for nobody."""
    seen: list[bool] = []

    @contextlib.contextmanager
    def alone(directory: str) -> Iterator[None]:
        assert directory == host.state_dir
        seen.append((tmp_path / "there").exists())
        yield
        seen.append((tmp_path / "there").exists())

    monkeypatch.setattr(_files, "alone", alone)
    present(files=[file(tmp_path / "there")], check=True)
    assert seen == []
    present(files=[file(tmp_path / "there")])
    absent()
    assert seen == [False, True, True, False]
    assert not os.path.exists(host.state_dir)
