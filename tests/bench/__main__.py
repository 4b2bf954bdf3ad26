# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs that has nothing to change: site.yml on four machines, against a ping and against pyinfra.

`python -m tests.bench [--rounds N]` needs the lab (`make lab`). It adds a fourth machine, converges it, and runs the
three one after the other, round by round, so that whatever else the controller does hits all three alike. The medians
and their ratios go to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.lab import machines, paths

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
WORK = ROOT / ".cache/bench"
VENV = ROOT / ".venv-bench"
PAGE = ROOT / "docs/benchmarks.md"
START, END = "<!-- written by make bench -->", "<!-- /make bench -->"
FOURTH = "node3"
MACHINES = ["registry", "node1", "node2", FOURTH]
TARGET = 4.0  # times the ping: more fails the bench


class BenchError(Exception):
    """The bench cannot be run, or measured something else than it should."""


@dataclass
class Series:
    """One thing that is measured.

    Attributes:
        name: how the table calls it.
        command: what is run.
        unchanged: pattern that its output must not match: it found something to change.
        seconds: wall time of each round.
    """

    name: str
    command: list[str]
    unchanged: str
    seconds: list[float] = field(default_factory=list)

    def run(self, environment: dict[str, str]) -> float:
        """Run it once; return the wall time in seconds.

        Raises:
            BenchError: it failed, or changed something.
        """
        before = time.perf_counter()
        done = subprocess.run(self.command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - before
        output = done.stdout + done.stderr
        if done.returncode != 0:
            raise BenchError(f"{self.name} failed:\n{output[-2000:]}")
        if re.search(self.unchanged, output):
            raise BenchError(f"{self.name} changed something, so it is no measure:\n{output[-2000:]}")
        return seconds

    @property
    def median(self) -> float:
        """Return the median of all rounds in seconds."""
        return statistics.median(self.seconds)


def make_tools() -> None:
    """Make pyinfra's own virtual environment from its pinned requirements, once for each state of them."""
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    stamp = VENV / ".requirements"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def shell(name: str, command: str) -> str:
    """Return what a command prints on a machine of the lab."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "ssh", name, command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"{name}: {command}: {done.stderr.strip()}")
    return done.stdout


def converge(site: Series) -> None:
    """Bring the fourth machine to its state, and tell Ansible where it is."""
    WORK.mkdir(parents=True, exist_ok=True)
    fourth = {"nodes": {"hosts": {FOURTH: {"ansible_host": machines.address(FOURTH)}}}}
    (WORK / "node3.yml").write_text(yaml.safe_dump(fourth), encoding="utf-8")
    done = subprocess.run(site.command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"site.yml failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")


def write_machines() -> Path:
    """Write pyinfra's inventory: each machine with its login and the daemon.json it has now."""
    login = {
        "ssh_user": "ops",
        "ssh_key": str(paths.state() / "id_ed25519"),
        "ssh_known_hosts_file": str(paths.state() / "known_hosts"),
    }
    known = []
    for name in MACHINES:
        config = shell(name, "sudo cat /etc/docker/daemon.json")
        known.append([name, {**login, "ssh_hostname": machines.address(name), "daemon_json": config}])
    path = WORK / "machines.json"
    path.write_text(json.dumps(known), encoding="utf-8")
    return path


def series() -> list[Series]:
    """Return what is measured, the yardstick first."""
    bin_dir = Path(sys.executable).parent
    inventories = ["-i", "inventory/lab", "-i", str(WORK / "node3.yml")]
    return [
        Series("`ansible -m ping`", [str(bin_dir / "ansible"), *inventories, "machines", "-m", "ping"], r"CHANGED"),
        Series(
            "`site.yml`, nothing to change",
            [str(bin_dir / "ansible-playbook"), *inventories, "site.yml"],
            r"changed=[1-9]",
        ),
        Series(
            "pyinfra, Docker's four operations, nothing to change",
            [str(VENV / "bin/pyinfra"), "-y", str(HERE / "inventory.py"), str(HERE / "deploy.py")],
            r"Grand total +\d+ +[1-9]",
        ),
    ]


def table(measured: list[Series]) -> str:
    """Return the results as a table; everything is relative to the first."""
    yardstick = measured[0].median
    lines = ["| four machines | median | range | times the ping |", "|---|---|---|---|"]
    for one in measured:
        low, high = min(one.seconds), max(one.seconds)
        lines.append(f"| {one.name} | {one.median:.1f} s | {low:.1f}–{high:.1f} s | {one.median / yardstick:.1f} |")
    rounds = f"{len(measured[0].seconds)} rounds, one after the other"
    lines += ["", f"{rounds}, on {os.cpu_count()} cores that the controller and the machines share."]
    return "\n".join(lines)


def write_page(text: str) -> None:
    """Put the table into the page, between its markers."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(START)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{START}\n{text}\n{END}{tail}", encoding="utf-8")


def measure(rounds: int) -> list[Series]:
    """Converge the four machines, then measure.

    Args:
        rounds: how often each is run; the first round is thrown away.
    """
    measured = series()
    converge(measured[1])
    environment = {**os.environ, "BENCH_MACHINES": str(write_machines())}
    for number in range(rounds + 1):
        for one in measured:
            seconds = one.run(environment)
            print(f"    round {number}: {one.name}: {seconds:.1f} s", flush=True)
            if number:
                one.seconds.append(seconds)
    return measured


def main() -> int:
    """Run the bench; exit status 1 when site.yml misses its target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the fourth machine is thrown away then too
    make_tools()
    subprocess.run([sys.executable, "-m", "tests.lab", "create", FOURTH], cwd=ROOT, check=True)
    try:
        measured = measure(rounds)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        subprocess.run([sys.executable, "-m", "tests.lab", "destroy", FOURTH], cwd=ROOT, check=True)
    write_page(table(measured))
    print(table(measured))
    ratio = measured[1].median / measured[0].median
    if ratio > TARGET:
        print(f"bench: site.yml takes {ratio:.1f} times the ping; the target is {TARGET:.0f}", file=sys.stderr)
    return 1 if ratio > TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
