# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds tests/lab/files/cri, the small program that pulls images as the kubelet does, by the CRI."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.lab import golang, paths
from tests.lab.errors import LabError

SOURCE = Path(__file__).parent / "files" / "cri"


def source_digest(source: Path = SOURCE) -> str:
    """What the binary is made of, as 16 hex digits: the names and bytes of every file in the folder."""
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def build(source: Path = SOURCE) -> Path:
    """Returns the path of a static Linux binary of tests/lab/files/cri, built once for each state of its source.

    Raises LabError with the compiler's own words.
    """
    target = paths.cache_root() / "cri" / source_digest(source) / "cri"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two builders at once write two files; the last rename wins, and both are the same program.
    partial = target.with_name(f"cri.{os.getpid()}")
    done = subprocess.run(
        [golang.go_command(), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), "."],
        cwd=source,
        env={**os.environ, "CGO_ENABLED": "0", "GOOS": "linux", "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"go build of {source} failed: {done.stderr.strip()}")
    partial.rename(target)
    return target


if __name__ == "__main__":
    print(build())
