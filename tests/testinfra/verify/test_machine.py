# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine itself: reachable, its clock and its disk."""

from __future__ import annotations

import time
from typing import Any

from tests.testinfra.verify.conftest import reach
from tests.testinfra.verify.machine import Machine, missing, need, need_running

MAX_CLOCK_DIFFERENCE = 60  # seconds; beyond it a fresh certificate is "not yet valid"
DATA = "/var/lib/docker /var/lib/containerd /srv/registry"
MIN_FREE = 5  # percent; below it pulls and pushes fail soon


def test_answers(machine: Machine) -> None:
    """answers by ssh and gives root"""
    need(not reach(machine), f"no root shell: {reach(machine)}")


def test_clock(machine: Machine, host: Any) -> None:
    """clock agrees with this controller"""
    before = time.time()
    theirs = float(host.run("date +%s.%N").stdout)
    after = time.time()
    difference = max(before - theirs, theirs - after, 0)
    need(difference <= MAX_CLOCK_DIFFERENCE, f"the clock is {difference:.0f} s off: certificates will be refused")


def test_disk(machine: Machine, host: Any) -> None:
    """disk has room for images"""
    done = host.run(f"for d in {DATA}; do [ -d $d ] && df -P $d | tail -n 1; done; true")
    for line in sorted(set(done.stdout.splitlines())):
        used = int(line.split()[4].rstrip("%"))
        need(100 - used >= MIN_FREE, f"{line.split()[5]} is {used} % full")


def test_no_unit_failed(machine: Machine, host: Any) -> None:
    """none of our units failed"""
    done = host.run(
        "systemctl list-units --state=failed --plain --no-legend docker.service containerd.service 'slipway-*'"
    )
    failed = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    need(not failed, f"failed: {', '.join(failed)}; see journalctl -u {' -u '.join(failed)}")


def test_timers(machine: Machine, host: Any) -> None:
    """our timers are enabled and running"""
    listed = host.run("systemctl list-unit-files --plain --no-legend 'slipway-*.timer'").stdout.splitlines()
    timers = [line.split()[0] for line in listed if line.strip()]
    if not timers:
        missing("no timer of ours on this machine")
    for timer in timers:
        need_running(host, timer)
