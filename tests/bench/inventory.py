# SPDX-License-Identifier: GPL-3.0-or-later
"""pyinfra's inventory: the machines that tests/bench wrote down."""

import json
import os
from pathlib import Path

hosts = [tuple(machine) for machine in json.loads(Path(os.environ["BENCH_MACHINES"]).read_text(encoding="utf-8"))]
