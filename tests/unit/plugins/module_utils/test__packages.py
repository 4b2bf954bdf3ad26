# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages reach their wanted version and hold in one transaction, and a failure says why without a password."""

from __future__ import annotations

import fnmatch
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _packages
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import FakeHost, FakePackage

STATUS = """\
Package: docker.io
Status: hold ok installed
Priority: optional
Description: Linux container runtime
 Package: not-a-package
 Version: 9
Version: 20.10.24+dfsg1-1+deb12u1

Package: docker.io-extra
Status: install ok installed
Version: 1

Package: removed
Status: deinstall ok config-files
Version: 2

Package: broken
Status: install ok half-configured
Version: 3

Package: last
Status: install ok installed
Version: 4
"""


def package(name: str = "a", **more: Any) -> _packages.WantedPackage:
    return _packages.WantedPackage(name=name, **more)


def plan(wanted: _packages.WantedPackage, now: _packages.Installed | None) -> dict[str, list[str]]:
    todo = _packages.plan([wanted], {wanted.name: now} if now else {})
    found = {"install": [item.name for item in todo.install], "remove": todo.remove}
    found |= {"hold": todo.hold, "unhold": todo.unhold}
    assert todo.empty is not any(found.values())
    return {key: names for key, names in found.items() if names}


# --- reading ---


def test_reads_what_is_installed_and_held(tmp_path: Path) -> None:
    path = tmp_path / "status"
    path.write_text(STATUS)
    names = ["docker.io", "removed", "broken", "last", "missing", "dockerXio", "not-a-package"]
    assert _packages.read_installed(names, status_path=str(path)) == {
        "docker.io": _packages.Installed("20.10.24+dfsg1-1+deb12u1", True),
        "last": _packages.Installed("4", False),
    }


# --- planning ---


@pytest.mark.parametrize(
    ("wanted", "now", "expected"),
    [
        ({}, None, {"install": ["a"]}),
        ({}, ("1", False), {}),
        ({"hold": True}, None, {"install": ["a"], "hold": ["a"]}),
        ({"hold": True}, ("1", False), {"hold": ["a"]}),
        ({"hold": True}, ("1", True), {}),
        ({}, ("1", True), {"unhold": ["a"]}),
        ({"version": "2.*"}, ("2.1", False), {}),
        ({"version": "2.*"}, ("1.9", False), {"install": ["a"]}),
        ({"version": "2.*"}, ("1.9", True), {"install": ["a"], "unhold": ["a"]}),
        ({"version": "2.*", "hold": True}, ("1.9", True), {"install": ["a"], "unhold": ["a"], "hold": ["a"]}),
        ({"present": False}, ("1", True), {"remove": ["a"]}),
        ({"present": False}, None, {}),
    ],
)
def test_a_package_needs(wanted: dict[str, Any], now: tuple[str, bool] | None, expected: dict[str, list[str]]) -> None:
    assert plan(package(**wanted), _packages.Installed(*now) if now else None) == expected


VERSIONS = st.text("0123456789.:~+-", min_size=1, max_size=6)


@given(
    version=st.sampled_from(["", "*", "1*", "2.*"]),
    hold=st.booleans(),
    now=st.none() | st.tuples(VERSIONS, st.booleans()),
    available=st.lists(VERSIONS, min_size=1),
)
def test_after_a_plan_nothing_is_left_to_do(
    version: str, hold: bool, now: tuple[str, bool] | None, available: list[str]
) -> None:
    wanted = package(version=version, hold=hold)
    installed = {"a": _packages.Installed(*now)} if now else {}
    todo = _packages.plan([wanted], installed)
    held = installed["a"].held if now else False
    if todo.install:
        assert not held or todo.unhold, "apt refuses to change a held package"
        try:
            now = _packages.choose(wanted, available).removeprefix("a="), False
        except HostError:
            assert not any(fnmatch.fnmatchcase(offer, version or "*") for offer in available)
            return
    held = bool(todo.hold) or (held and not todo.unhold)
    assert now is not None
    assert _packages.plan([wanted], {"a": _packages.Installed(now[0], held)}).empty


# --- choosing ---


def test_the_newest_match_is_chosen() -> None:
    assert _packages.choose(package(version="2.*"), ["3.0", "2.2", "2.1"]) == "a=2.2"
    assert _packages.choose(package(), ["3.0", "2.2"]) == "a=3.0"


@pytest.mark.parametrize(
    ("version", "available", "words"),
    [
        ("2.*", ["3.0", "1.0"], "package a 2.* is not in this host's apt sources, which offer 3.0, 1.0"),
        ("", [], "package a is not in this host's apt sources, which offer nothing"),
    ],
)
def test_what_there_is_not_is_named_with_what_there_is(version: str, available: list[str], words: str) -> None:
    with pytest.raises(HostError) as caught:
        _packages.choose(package(version=version), available)
    assert str(caught.value) == words


def test_candidates_are_binary_packages_that_were_asked_for(host: FakeHost) -> None:
    host.answers["apt-cache madison"] = Result(
        0,
        " a | 2.0 | http://mirror/debian trixie/main amd64 Packages\n"
        " a | 1.0 | http://mirror/debian trixie/main Sources\n"
        " other | 1.0 | http://mirror/debian trixie/main amd64 Packages\n"
        "N: a note\n",
        "",
    )
    assert _packages.candidates(["a", "b"], runner=host) == {"a": ["2.0"], "b": []}


# --- the index ---


@pytest.mark.parametrize(
    ("age", "source_age", "indexes", "fresh"),
    [
        (10, 20, True, True),
        (10, 5, True, False),
        (10, 20, False, False),
        (_packages.INDEX_MAX_AGE + 1, 9999, True, False),
        (None, 20, True, False),
    ],
)
def test_the_index_is_fetched_when_old_or_older_than_a_source(
    tmp_path: Path, age: int | None, source_age: int, indexes: bool, fresh: bool
) -> None:
    now = time.time()
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "lock").touch()
    if indexes:
        (lists / "mirror_dists_trixie_main_binary-amd64_Packages").touch()
    if age is not None:
        (lists / "partial").mkdir()
        os.utime(lists / "partial", (now - age, now - age))
    source = tmp_path / "sources.list"
    source.touch()
    os.utime(source, (now - source_age, now - source_age))
    sources = [str(source), str(tmp_path / "missing")]
    assert _packages.index_is_fresh(lists=str(lists), sources=sources, now=now) is fresh
    assert _packages.index_is_fresh(lists=str(lists), sources=sources) is fresh


# --- carrying out ---


def test_everything_in_one_transaction_and_in_order(host: FakeHost) -> None:
    host.packages = {"old": FakePackage(), "kept": FakePackage("1.0", "hold")}
    host.available = {"a": ["1.1"], "kept": ["2.0"]}
    wanted = [package("a", hold=True), package("kept", version="2.*", hold=True), package("old", present=False)]
    todo = _packages.plan(wanted, _packages.read_installed(["a", "kept", "old"]))
    _packages.apply(todo, runner=host)
    assert [call.split(" ")[0] for call in host.calls] == "apt-mark apt-cache apt-get apt-get apt-mark".split()
    install = host.did("apt-get * install *")[0]
    assert install.endswith("--allow-downgrades install a=1.1 kept=2.0")
    assert "--force-confold" in install and "--no-install-recommends" in install
    after = _packages.read_installed(["a", "kept", "old"])
    assert after == {"a": _packages.Installed("1.1", True), "kept": _packages.Installed("2.0", True)}
    assert _packages.plan(wanted, after).empty


def test_an_old_index_is_fetched_first(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages, "index_is_fresh", lambda: False)
    host.available = {"a": ["1"]}
    _packages.apply(_packages.plan([package()], {}), runner=host)
    assert [call.split()[-1] for call in host.acts()] == ["update", "a=1"]


def test_a_fresh_index_is_fetched_when_a_version_is_not_in_it(host: FakeHost) -> None:
    host.available = {"a": ["1"]}
    with pytest.raises(HostError, match=r"package a 2\* is not in"):
        _packages.apply(_packages.plan([package(version="2*")], {}), runner=host)
    assert [call.split()[-1] for call in host.acts()] == ["update"]


# --- failing ---


class Answers:
    """A runner that gives apt's answers in turn, and counts what it slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outputs: str) -> None:
        self.outputs = list(outputs)
        self.calls: list[str] = []
        self.slept = 0.0
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds

    def __call__(self, argv: Any, *, timeout: float = 60, stdin: str | None = None) -> Result:
        """Take the next answer; an empty one is success."""
        self.calls.append(" ".join(argv))
        output = self.outputs.pop(0) if argv[0] == "apt-get" else ""
        return Result(100 if output else 0, "", output)


def test_the_network_gets_three_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Answers(monkeypatch, "E: Could not connect", "E: Hash Sum mismatch", "")
    _packages.update_index(runner=runner)
    assert len(runner.calls) == 3 and runner.slept == 6


def test_a_network_that_stays_down_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Answers(monkeypatch, *["E: Could not connect to proxy.corp.lab:8080"] * 3)
    with pytest.raises(HostError, match=r"^apt-get update failed: E: Could not connect to proxy\.corp\.lab:8080$"):
        _packages.update_index(runner=runner)


@pytest.mark.parametrize("output", ["E: 407 Proxy Authentication Required, Could not connect", "E: Unable to locate"])
def test_what_waiting_does_not_help_fails_at_once(monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    runner = Answers(monkeypatch, output)
    with pytest.raises(HostError):
        _packages.update_index(runner=runner)
    assert len(runner.calls) == 1 and runner.slept == 0


def test_a_killed_dpkg_is_finished_first(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."
    runner = Answers(monkeypatch, said, "")
    _packages.update_index(runner=runner)
    assert runner.calls[1] == "dpkg --force-confold --force-confdef --configure -a"
    assert len(runner.calls) == 3


def test_a_mark_that_fails_is_one_sentence(host: FakeHost) -> None:
    host.answers["apt-mark"] = Result(100, "", "E: Could not open lock file\n")
    with pytest.raises(HostError, match=r"^apt-mark hold a failed: E: Could not open lock file$"):
        _packages.apply(_packages.PackagePlan([], [], ["a"], []), runner=host)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Reading...\nE: one\nE: two\nE: one\n", "E: one; E: two"),
        ("Err:1 http://m trixie\n  407  Proxy\n", "Err:1 http://m trixie; 407  Proxy"),
        ("just this\n", "just this"),
        ("", "no output"),
        ("E: " + "x" * 700, "E: " + "x" * 597),
        ("E: http://corp%5Csvc:p%40ss@proxy:8080/ is down", "E: http://***@proxy:8080/ is down"),
        ("E: http://corp\\svc:p@ss%20#:/w0rd!@proxy:8080 is down", "E: http://***@proxy:8080 is down"),
    ],
)
def test_the_reason_is_short_and_holds_no_credentials(output: str, expected: str) -> None:
    assert _packages.reason(output) == expected
