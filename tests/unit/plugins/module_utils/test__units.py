# SPDX-License-Identifier: GPL-3.0-or-later
"""Units reach their wanted state; a restart follows from what is on the host, and never happens twice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _units
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import FakeHost, FakeUnit

NAMES = st.text("abcdef.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
TREES = st.dictionaries(NAMES, st.binary(max_size=4), max_size=4)


def unit(**more: Any) -> _units.WantedUnit:
    return _units.WantedUnit(name="a.service", **more)


def status(**more: Any) -> _units.UnitStatus:
    known = {"exists": True, "active": True, "enabled": True, "needs_reload": False, "invocation": "i1"}
    return _units.UnitStatus(**{**known, "started_at": time.time(), **more})


def apply(host: FakeHost, *wanted: _units.WantedUnit, check: bool = False, touched: tuple[str, ...] = ()) -> list[str]:
    done = _units.apply(wanted, check=check, touched=touched, runner=host)
    return [f"{action.verb} {action.unit}" for action in done]


def running(**more: Any) -> FakeUnit:
    return FakeUnit(**{"active": "active", "file_state": "enabled", "started": time.time() - 60, **more})


# --- what systemd says ---


def test_nothing_is_asked_for_no_unit(host: FakeHost) -> None:
    assert _units.show([], runner=host) == {}
    assert host.calls == []


def test_several_units_in_one_call(host: FakeHost) -> None:
    started = time.time() - 5
    host.units = {"a.service": running(started=started, needs_reload=True), "b.timer": FakeUnit(file_state="static")}
    found = _units.show(["a.service", "b.timer", "c.service"], runner=host)
    assert len(host.calls) == 1
    a = found["a.service"]
    assert (a.exists, a.active, a.enabled, a.needs_reload, a.type, a.state) == (
        (True, True, True, True, "simple", "active")
    )
    assert a.invocation == "a.service-0" and abs(a.started_at - started) < 0.1
    assert (found["b.timer"].enabled, found["b.timer"].active, found["b.timer"].started_at) == (None, False, 0.0)
    assert not found["c.service"].exists and found["c.service"].enabled is False


def test_a_host_without_systemd_is_one_sentence(host: FakeHost) -> None:
    host.answers["systemctl show"] = Result(1, "", "System has not been booted with systemd")
    with pytest.raises(HostError, match=r"systemd does not answer for a\.service: is it running on this host\?"):
        _units.show(["a.service"], runner=host)


@pytest.mark.parametrize(
    ("state", "enabled"),
    [
        ("enabled", True),
        ("enabled-runtime", True),
        ("disabled", False),
        ("masked", False),
        ("linked", False),
        ("", False),
        ("static", None),
        ("alias", None),
        ("indirect", None),
        ("generated", None),
        ("transient", None),
    ],
)
def test_what_starts_at_boot(host: FakeHost, state: str, enabled: bool | None) -> None:
    host.units["a.service"] = FakeUnit(file_state=state)
    assert _units.show(["a.service"], runner=host)["a.service"].enabled is enabled


# --- fingerprints ---


def write_tree(directory: Path, tree: dict[str, bytes]) -> None:
    directory.mkdir()
    for name, content in tree.items():
        (directory / name).write_bytes(content)


@given(before=TREES, after=TREES)
def test_a_fingerprint_changes_exactly_when_names_or_contents_do(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    directory = tmp_path_factory.mktemp("tree") / "d"
    prints = []
    for tree in (before, after):
        write_tree(directory, tree)
        prints.append(_units.fingerprint([f"{directory}/*", f"{directory}/.*", f"{directory}/*"]))
        for name in tree:
            (directory / name).unlink()
        directory.rmdir()
    assert (prints[0] == prints[1]) == (before == after)


def test_a_fingerprint_ignores_time_mode_and_directories(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    before = _units.fingerprint([f"{tmp_path}/*"])
    os.utime(path, (1, 1))
    path.chmod(0o600)
    (tmp_path / "d").mkdir()
    assert _units.fingerprint([f"{tmp_path}/*"]) == before


def test_the_newest_change_sees_files_and_what_was_removed_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "d/a"
    path.parent.mkdir()
    path.touch()
    os.utime(path, (100, 100))
    os.utime(path.parent, (200, 200))
    assert _units.newest_change([str(path)]) == 100
    assert _units.newest_change([f"{tmp_path}/d/*"]) == 200
    assert _units.newest_change([f"{tmp_path}/nowhere/*", f"{tmp_path}/*"]) == tmp_path.stat().st_mtime
    assert _units.newest_change([]) == 0


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("/etc/foo/a.conf", "/etc/foo/*.conf", True),
        ("/etc/foo/a.conf", "/etc/foo/a.conf", True),
        ("/etc/foo/b/a.conf", "/etc/foo/*.conf", False),
        ("/etc/foo/a", "/etc/foo/*.conf", False),
    ],
)
def test_a_touched_path_is_matched_as_a_glob_would(path: str, pattern: str, expected: bool) -> None:
    assert _units.touches(["/x", path], [pattern]) is expected


# --- is the running instance outdated ---


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "etc/a.conf"
    path.parent.mkdir()
    path.write_text("old")
    return path


def outdated(config: Path, tmp_path: Path, now: _units.UnitStatus, *touched: str) -> bool:
    return _units.is_outdated(
        "a.service", status=now, inputs=[str(config)], touched=touched, run_dir=str(tmp_path / "run")
    )


@pytest.mark.parametrize("before", [True, False])
def test_without_a_record_the_time_of_the_files_decides(config: Path, tmp_path: Path, before: bool) -> None:
    at = config.stat().st_mtime + (1 if before else -1)
    assert outdated(config, tmp_path, status(started_at=at)) is not before


def test_with_a_record_the_contents_decide(config: Path, tmp_path: Path) -> None:
    old = status(started_at=1.0)
    _units.record_inputs("a.service", status=old, inputs=[str(config)], run_dir=str(tmp_path / "run"))
    assert not outdated(config, tmp_path, old, str(config))
    assert _units.has_record("a.service", status=old, run_dir=str(tmp_path / "run"))
    assert not _units.has_record("a.service", status=status(invocation="i2"), run_dir=str(tmp_path / "run"))
    config.write_text("new")
    assert outdated(config, tmp_path, old)
    assert outdated(config, tmp_path, status(invocation="i2", started_at=1.0))
    assert not outdated(config, tmp_path, status(invocation="i2"))


def test_a_broken_record_is_none(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/a.service.json").write_text("{")
    assert outdated(config, tmp_path, status(started_at=1.0))
    assert not _units.has_record("a.service", status=status(), run_dir=str(tmp_path / "run"))


def test_a_removed_file_has_no_time_but_counts(config: Path, tmp_path: Path) -> None:
    now = status()
    assert not outdated(config, tmp_path, now, str(config))
    config.unlink()
    assert outdated(config, tmp_path, now, str(config))
    assert not outdated(config, tmp_path, now, "/another")


def test_what_does_not_run_or_reads_nothing_is_never_outdated(config: Path, tmp_path: Path) -> None:
    assert not outdated(config, tmp_path, status(active=False, started_at=0.0))
    assert not _units.is_outdated("a.service", status=status(started_at=0.0), inputs=[])


# --- plan ---


@pytest.mark.parametrize(
    ("wanted", "now", "verbs"),
    [
        ({}, {}, []),
        ({"enabled": True, "started": True}, {}, []),
        ({"enabled": True, "started": True}, {"enabled": False, "active": False}, ["enable", "start"]),
        ({"enabled": False, "started": False}, {}, ["disable", "stop"]),
        ({"enabled": False, "started": False}, {"enabled": False, "active": False}, []),
        ({"enabled": True}, {"enabled": None}, []),
        ({"enabled": False}, {"enabled": None}, []),
        ({"started": True}, {"active": False, "enabled": False}, ["start"]),
        ({"inputs": ("/bin/sh",)}, {"started_at": 1.0}, ["restart"]),
        ({"inputs": ("/bin/sh",), "on_change": "reload"}, {"started_at": 1.0}, ["reload"]),
        ({"inputs": ("/bin/sh",), "on_change": "none"}, {"started_at": 1.0}, []),
        ({"inputs": ("/bin/sh",), "started": False}, {"started_at": 1.0}, ["stop"]),
        ({"inputs": ("/bin/sh",)}, {"active": False}, []),
    ],
)
def test_a_unit_needs(tmp_path: Path, wanted: dict[str, Any], now: dict[str, Any], verbs: list[str]) -> None:
    actions = _units.plan(unit(**wanted), status(**now), run_dir=str(tmp_path))
    assert [action.verb for action in actions] == verbs


def test_only_a_check_goes_by_what_would_be_written(tmp_path: Path) -> None:
    wanted = unit(inputs=(f"{tmp_path}/*.conf",))
    (tmp_path / "a.conf").touch()
    now = status(started_at=time.time() + 60)
    touched = [f"{tmp_path}/a.conf"]
    assert _units.plan(wanted, now, touched=touched, run_dir=str(tmp_path)) == []
    assert len(_units.plan(wanted, now, touched=touched, check=True, run_dir=str(tmp_path))) == 1
    assert _units.plan(wanted, status(active=False), touched=touched, check=True, run_dir=str(tmp_path)) == []


# --- apply ---


def test_a_new_unit_is_enabled_started_and_recorded(host: FakeHost, config: Path) -> None:
    host.units["a.service"] = FakeUnit()
    wanted = unit(enabled=True, started=True, inputs=(str(config),))
    assert apply(host, wanted, check=True) == ["enable a.service", "start a.service"]
    assert host.acts() == [] and not os.path.exists(host.run_dir)
    assert apply(host, wanted) == ["enable a.service", "start a.service"]
    record = json.loads(Path(host.run_dir, "a.service.json").read_text())
    assert record["invocation"] == "a.service-1"
    assert apply(host, wanted) == []


def test_a_change_restarts_once(host: FakeHost, config: Path) -> None:
    host.units["a.service"] = running()
    os.utime(config, (1, 1))
    wanted = unit(inputs=(str(config),))
    assert apply(host, wanted) == []
    config.write_text("new")
    assert apply(host, wanted) == ["restart a.service"]
    assert apply(host, wanted) == []


def test_an_instance_of_unknown_inputs_is_recorded_without_a_restart(host: FakeHost, config: Path) -> None:
    host.units["a.service"] = running()
    os.utime(config, (1, 1))
    wanted = unit(inputs=(str(config),))
    assert apply(host, wanted, check=True) == apply(host, wanted) == []
    os.utime(config)  # from here on the content decides, not the time
    assert apply(host, wanted) == []


def test_a_reload_keeps_the_invocation_and_happens_once(host: FakeHost, config: Path) -> None:
    host.units["a.service"] = running()
    wanted = unit(inputs=(str(config),), on_change="reload")
    assert apply(host, wanted) == ["reload a.service"]
    assert apply(host, wanted) == []
    assert host.units["a.service"].generation == 0


def test_a_stopped_unit_leaves_no_record(host: FakeHost, config: Path) -> None:
    host.units["a.service"] = running()
    assert apply(host, unit(started=False, inputs=(str(config),))) == ["stop a.service"]
    assert not os.path.exists(host.run_dir)


# --- errors ---


def test_a_record_that_can_not_be_written_is_one_sentence(config: Path) -> None:
    with pytest.raises(HostError, match=r"^/dev/null/run/a\.service\.json can't be changed: "):
        _units.record_inputs("a.service", status=status(), inputs=[str(config)], run_dir="/dev/null/run")


def test_a_failure_comes_with_the_units_own_words(host: FakeHost) -> None:
    host.answers["systemctl start"] = Result(1, "", "Job for a.service failed.\nSee journalctl.\n")
    host.journal = [
        {"_PID": "1", "MESSAGE": "Starting a.service"},
        {"_PID": "7", "MESSAGE": " bind: address in use "},
        {"_PID": "7", "MESSAGE": [98, 105, 110]},
    ]
    with pytest.raises(HostError, match=r"^systemctl start a\.service failed: bind: address in use$"):
        _units.systemctl(["start", "a.service"], runner=host)


@pytest.mark.parametrize(
    ("output", "words"),
    [("Unit not found.\nmore\n", "Unit not found."), ("", "it ended with 4 and said nothing")],
)
def test_a_failure_without_a_journal(host: FakeHost, output: str, words: str) -> None:
    host.answers["systemctl start"] = Result(4, "", output)
    host.answers["journalctl"] = Result(0, "no json\n", "")
    with pytest.raises(HostError, match=f"^systemctl start a.service failed: {words}$"):
        _units.systemctl(["start", "a.service"], runner=host)


def test_the_journal_can_be_read_from_a_moment_on(host: FakeHost) -> None:
    _units.journal_lines("a.service", since=12.5, runner=host)
    assert host.calls == ["journalctl -u a.service -n 40 -o json --no-pager --since=@12.500000"]
