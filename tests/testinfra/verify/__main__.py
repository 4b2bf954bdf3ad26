# SPDX-License-Identifier: GPL-3.0-or-later
"""Check machines from outside: `python -m tests.testinfra.verify VERDICT.json < site.json`.

The site comes on standard input, never as argument or environment, because it holds passwords:
{"machines": [{"name": …, "groups": […], "connection": {…}, "site": {…}, "node": …, "control": {…}}]}.
Exit status: 0 all well, 1 a check failed, 2 the checks could not run. playbooks/verify.yml calls this with what the
inventory says.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

from tests.testinfra.verify.machine import Machine
from tests.testinfra.verify.report import Report

HERE = Path(__file__).parent
# No assertion rewriting, no traceback and no captured output: each could show a password.
QUIET = [
    "--import-mode=importlib",
    "--assert=plain",
    "--tb=no",
    "--show-capture=no",
    "-p",
    "no:cacheprovider",
    "-q",
    "--confcutdir",
    str(HERE),
]


class Site:
    """A pytest plugin that hands the machines to the checks."""

    def __init__(self, machines: list[Machine]) -> None:
        """Keep the machines."""
        self.machines = machines

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every check on every machine."""
        if "machine" in metafunc.fixturenames:
            metafunc.parametrize("machine", self.machines, ids=[m.name for m in self.machines], scope="session")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Order the checks as they are written, the machine itself first."""
        items.sort(key=lambda item: (item.path.name != "test_machine.py", item.path.name, item.location[1]))


def main(verdict: Path) -> int:
    """Run the checks, write the verdict, print the table; return the exit status."""
    site = json.load(sys.stdin)
    machines = [Machine(**machine) for machine in site["machines"]]
    report = Report(secrets={secret for machine in machines for secret in machine.secrets()})
    noise = io.StringIO()
    with contextlib.redirect_stdout(noise):
        status = pytest.main(
            [*QUIET, "--rootdir", str(HERE.parents[2]), "-o", "addopts=", str(HERE)], plugins=[Site(machines), report]
        )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        report.errors.append(f"pytest ended with {pytest.ExitCode(status).name}: {noise.getvalue().strip()}")
    report.write(verdict)
    print(report.table())
    if report.errors:
        return 2
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
