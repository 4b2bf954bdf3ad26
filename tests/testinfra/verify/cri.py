# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that pulls as the kubelet does: ours (tests/lab/cri), copied to the machine for the check and removed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.testinfra.verify.machine import Machine, missing

SOCKET = "/run/containerd/containerd.sock"
TARGET = "/run/slipway-verify-cri"


def our_program() -> Path:
    """Return our client, built on this controller at most once; skips the check where it cannot be built."""
    built = subprocess.run([sys.executable, "-m", "tests.lab.cri"], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        missing(f"no client that speaks CRI: {(built.stderr.strip().splitlines() or ['?'])[-1]}")
    return Path(built.stdout.strip())


@contextlib.contextmanager
def client_program(machine: Machine, host: Any) -> Iterator[str]:
    """Give the command line of a CRI client on the machine: its verbs are pull, images and remove."""
    if not host.file(SOCKET).exists:
        missing("containerd is not there")
    machine.put(our_program(), TARGET)
    try:
        yield f"{TARGET} -socket {SOCKET}"
    finally:
        host.run(f"rm -f {TARGET}")
