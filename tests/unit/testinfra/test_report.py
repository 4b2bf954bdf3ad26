# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict: what counts as well, what a person reads, and that no password gets into it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.testinfra.verify.machine import Machine, proxy_url
from tests.testinfra.verify.report import Report


def result(outcome: str, *, machine: str = "node1", check: str = "docker answers", reason: str = "") -> Any:
    """Return a report as pytest makes one."""
    longrepr: Any = ""
    if outcome == "skipped":
        longrepr = ("test_engines.py", 1, f"Skipped: {reason}")
    if outcome == "failed":
        longrepr = SimpleNamespace(reprcrash=SimpleNamespace(message=f"Failed: {reason}"))
    return SimpleNamespace(
        when="call",
        outcome=outcome,
        user_properties=[("check", check), ("machine", machine)],
        nodeid="x",
        duration=0.5,
        longrepr=longrepr,
    )


def test_all_well() -> None:
    report = Report()
    report.pytest_runtest_logreport(result("passed"))
    assert report.ok
    assert report.verdict()["counts"] == {"passed": 1, "failed": 0, "skipped": 0}


def test_nothing_checked_is_not_well() -> None:
    report = Report()
    report.pytest_runtest_logreport(result("skipped", reason="no docker"))
    assert not report.ok


def test_a_failure_is_not_well_and_is_named() -> None:
    report = Report()
    report.pytest_runtest_logreport(result("passed", machine="node2"))
    report.pytest_runtest_logreport(result("failed", reason="docker is down"))
    assert not report.ok
    assert report.table().splitlines() == [
        "check           node1   node2",
        "docker answers  FAILED  ok",
        "",
        "failed:",
        "  node1: docker answers: docker is down",
    ]


def test_a_file_that_cannot_be_loaded_is_not_well() -> None:
    report = Report()
    report.pytest_runtest_logreport(result("passed"))
    broken: Any = SimpleNamespace(failed=True, nodeid="test_x.py", longrepr="Traceback\nSyntaxError: oops")
    report.pytest_collectreport(broken)
    assert not report.ok
    assert "error: test_x.py: SyntaxError: oops" in report.table()


def test_skips_with_one_reason_share_a_line() -> None:
    report = Report()
    for machine in ("node1", "node2"):
        for number in range(4):
            report.pytest_runtest_logreport(
                result("skipped", machine=machine, check=f"check {number}", reason="no site_dns")
            )
    assert "  node1, node2: 4 checks: no site_dns" in report.table()


def test_what_a_machine_has_stands_below_the_table(tmp_path: Path) -> None:
    report = Report()
    for machine, outcome in (("node2", "skipped"), ("node1", "passed")):
        told = result(outcome, machine=machine, reason="no GPU")
        told.user_properties.append(("found", f"what {machine} has"))
        report.pytest_runtest_logreport(told)
    assert report.table().splitlines()[2:6] == ["", "found:", "  node1: what node1 has", "  node2: what node2 has"]
    report.write(tmp_path / "verdict.json")
    assert json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))["found"] == {
        "node1": "what node1 has",
        "node2": "what node2 has",
    }


def test_set_up_counts_only_when_it_did_not_pass() -> None:
    report = Report()
    passed = result("passed")
    passed.when = "setup"
    report.pytest_runtest_logreport(passed)
    assert report.results == []


def test_no_password_reaches_the_verdict(tmp_path: Path) -> None:
    machine = Machine("node1", site={"proxy": {"http": {"url": "http://p:1", "user": "u", "password": "s:cret"}}})
    report = Report(secrets=machine.secrets())
    report.pytest_runtest_logreport(result("failed", reason="HTTP_PROXY=http://u:s%3Acret@p:1 and s:cret"))
    report.write(tmp_path / "new" / "verdict.json")
    text = (tmp_path / "new" / "verdict.json").read_text(encoding="utf-8") + report.table()
    assert "cret" not in text
    assert json.loads((tmp_path / "new" / "verdict.json").read_text(encoding="utf-8"))["ok"] is False


@pytest.mark.parametrize(
    ("proxy", "url"),
    [
        ({"url": "http://p:8080"}, "http://p:8080"),
        ({"url": "http://p:8080", "user": "u"}, "http://u@p:8080"),
        ({"url": "http://p:8080", "user": "corp\\svc", "password": "p@ss%20#:/w0rd!"},
         "http://corp%5Csvc:p%40ss%2520%23%3A%2Fw0rd%21@p:8080"),
    ],
)  # fmt: skip
def test_proxy_url(proxy: dict[str, str], url: str) -> None:
    assert proxy_url(proxy) == url


def test_what_a_site_lacks_is_skipped_with_the_reason() -> None:
    machine = Machine("node1")
    for call in (machine.registry, lambda: machine.proxy("http"), lambda: machine.probe("private")):
        with pytest.raises(pytest.skip.Exception, match="site_"):
            call()
