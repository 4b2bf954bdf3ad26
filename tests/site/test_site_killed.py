"""A controller that dies half-way: the next run finishes the work. Part of make test-long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import pytest

from tests.lab.paths import REPOSITORY
from tests.site.conftest import LOGS, lab, on, playbook

MACHINE = "node2"
# Where to die: a part of a task's name, and seconds after it appeared. Packages, files and engines are each cut once.
CUTS = {"packages": ("Bring packages, daemon.json", 8.0), "files": ("Give the engines their proxy", 0.2)}


def kill_at(words: str, seconds: float) -> None:
    """Run site.yml on one machine and kill the controller, with all its children, soon after a task began."""
    path = LOGS / "killed.log"
    LOGS.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "NO_COLOR": "1"}
    with path.open("w", encoding="utf-8") as stream:
        run = subprocess.Popen(
            ["ansible-playbook", "site.yml", "-l", MACHINE],
            cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 300
    while words not in path.read_text(encoding="utf-8"):
        assert run.poll() is None and time.monotonic() < deadline, path.read_text(encoding="utf-8")
        time.sleep(0.1)
    time.sleep(seconds)
    assert run.poll() is None, "the run was over before it could be killed"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


@pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")
@pytest.mark.parametrize("cut", CUTS)
def test_a_killed_run_is_finished_by_the_next(cut: str) -> None:
    lab("destroy", MACHINE)
    lab("up", MACHINE)
    kill_at(*CUTS[cut])
    again = playbook("site.yml", "-l", MACHINE, log="after-kill")
    assert again.rc == 0, again.errors
    assert "hello" in on(MACHINE, "docker run --rm hello:1")
    settled = playbook("site.yml", "-l", MACHINE, log="after-kill-2")
    assert settled.rc == 0 and settled.changed == {MACHINE: 0}, settled.errors
