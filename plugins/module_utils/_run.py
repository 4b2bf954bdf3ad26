# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command on the host with a fixed locale and a bounded time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError


@dataclasses.dataclass(frozen=True)
class Result:
    """Exit status and text of a finished command."""

    rc: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Both streams, for an error message."""
        return (self.stdout + self.stderr).strip()


class Runner(t.Protocol):
    """What calls a command; unit tests hand in their own."""

    def __call__(self, argv: t.Sequence[str], *, timeout: float = ..., stdin: str | None = ...) -> Result: ...


def run(argv: t.Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
    """Run argv (no shell) with LC_ALL=C.UTF-8; raises HostError when it is missing or takes over timeout seconds."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            list(argv), capture_output=True, text=True, errors="replace", timeout=timeout, input=stdin, env=environment,
            check=False,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise HostError(f"{argv[0]} is not installed on this host") from exc
    except subprocess.TimeoutExpired as exc:
        raise HostError(f"{' '.join(argv)} did not end within {timeout:g} seconds") from exc
    return Result(done.returncode, done.stdout, done.stderr)
