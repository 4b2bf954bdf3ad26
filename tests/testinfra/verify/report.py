# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect the checks' results into one verdict and show it as a table, checks by machines."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "-"}
MAX_NAMED = 3  # more checks with one reason are only counted


@dataclass(frozen=True)
class Result:
    """What one check found on one machine.

    Attributes:
        check: the check as a sentence.
        machine: the machine's name in the inventory.
        outcome: passed, failed or skipped.
        reason: why it failed or was skipped, one sentence; empty when it passed.
        seconds: how long it took.
    """

    check: str
    machine: str
    outcome: str
    reason: str
    seconds: float


def _reason(report: pytest.TestReport) -> str:
    """Return the last line of what a check said, without the traceback, which could show a secret."""
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = " ".join(str(crash.message if crash else report.longrepr).split())
    return text.removeprefix("Failed: ")


class Report:
    """A pytest plugin that keeps every result."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        """Start empty; the secrets are blotted out of every reason."""
        self.secrets = secrets
        self.results: list[Result] = []
        self.found: dict[str, str] = {}
        self.errors: list[str] = []
        self.started = time.time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result of a check; of its set-up and tear-down only what went wrong or was skipped."""
        properties: dict[str, Any] = dict(report.user_properties)
        machine = str(properties.get("machine", ""))
        if "found" in properties:
            self.found[machine] = str(properties["found"])
        if report.when != "call" and report.outcome == "passed":
            return
        name = str(properties.get("check", report.nodeid))
        reason = _reason(report)
        for secret in self.secrets:
            reason = reason.replace(secret, "********")
        self.results.append(Result(name, machine, report.outcome, reason, round(report.duration, 2)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep a check file that cannot be loaded: it must not pass as no check."""
        if report.failed:
            self.errors.append(f"{report.nodeid}: {str(report.longrepr).strip().splitlines()[-1]}")

    @property
    def ok(self) -> bool:
        """Tell whether something was checked and nothing failed."""
        passed = any(result.outcome == "passed" for result in self.results)
        return passed and not self.errors and all(result.outcome != "failed" for result in self.results)

    def verdict(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        counts = {mark: sum(result.outcome == mark for result in self.results) for mark in MARKS}
        return {
            "ok": self.ok,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
            "machines": sorted({result.machine for result in self.results}),
            "counts": counts,
            "errors": self.errors,
            "found": self.found,
            "results": [asdict(result) for result in self.results],
        }

    def write(self, path: Path) -> None:
        """Write the verdict as JSON, replacing an older one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.verdict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Return the verdict for people: a table, what machines have, every failure, every reason for a skip."""
        machines = sorted({result.machine for result in self.results})
        checks = list(dict.fromkeys(result.check for result in self.results))
        cells = {(result.check, result.machine): MARKS[result.outcome] for result in self.results}
        width = max([len(check) for check in checks], default=0)
        wide = {machine: max(len(machine), *(len(mark) for mark in MARKS.values())) for machine in machines}
        lines = ["  ".join(["check".ljust(width), *(machine.ljust(wide[machine]) for machine in machines)]).rstrip()]
        for check in checks:
            row = [cells.get((check, machine), "").ljust(wide[machine]) for machine in machines]
            lines.append("  ".join([check.ljust(width), *row]).rstrip())
        if self.found:
            lines += ["", "found:", *(f"  {machine}: {text}" for machine, text in sorted(self.found.items()))]
        for title, outcome in (("failed", "failed"), ("not checked", "skipped")):
            lines += self._reasons(title, outcome)
        lines += [f"error: {error}" for error in self.errors]
        return "\n".join(lines)

    def _reasons(self, title: str, outcome: str) -> list[str]:
        """Return the lines of one kind of outcome; machines and checks with the same reason share a line."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            if result.outcome == outcome:
                found.setdefault(result.reason, []).append(result)
        lines = []
        for reason, results in found.items():
            machines = ", ".join(dict.fromkeys(result.machine for result in results))
            checks = list(dict.fromkeys(result.check for result in results))
            what = "; ".join(checks) if len(checks) <= MAX_NAMED else f"{len(checks)} checks"
            lines.append(f"  {machines}: {what}: {reason}")
        return ["", f"{title}:", *lines] if lines else []
