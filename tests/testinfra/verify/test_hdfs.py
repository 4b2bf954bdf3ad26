# SPDX-License-Identifier: GPL-3.0-or-later
"""HDFS: whether its daemons run, and what the NameNode says of the file system."""

from __future__ import annotations

import json
from typing import Any

from tests.testinfra.verify.machine import Machine, missing, need, need_running

STATUS = "/usr/local/lib/slipway/hdfs-status"
UNITS = "/etc/systemd/system/slipway-hdfs-*.service"


def test_daemons(machine: Machine, host: Any) -> None:
    """the daemons of HDFS run"""
    units = host.run(f"ls {UNITS} 2>/dev/null").stdout.split()
    if not units:
        missing("no part of HDFS runs here")
    for unit in units:
        name = unit.rpartition("/")[2]
        # One that has handed its blocks over stays stopped until it is taken out of the inventory.
        if "datanode" in name and host.run(f"systemctl is-enabled {name}").stdout.strip() == "disabled":
            continue
        need_running(host, name)


def test_file_system(machine: Machine, host: Any) -> None:
    """HDFS can be written, and every block has its copies"""
    if not host.file(STATUS).exists:
        missing("no NameNode runs here")
    problems = json.loads(host.check_output(f"{STATUS} --check"))
    need(not problems, "; ".join(problems))
