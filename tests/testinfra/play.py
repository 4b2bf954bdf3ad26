# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a playbook from a test, with values that a shell or a template would mangle, and look at what came out."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Play:
    """A finished run: exit status, both streams together, and how many seconds it took."""

    rc: int
    output: str
    seconds: float

    @property
    def changed(self) -> int:
        """Sum of what the hosts' recap lines say was changed."""
        return sum(int(number) for number in re.findall(r": ok=\d+\s+changed=(\d+)", self.output))

    def succeeded(self) -> Play:
        """Return itself, or fail the test with the end of the output."""
        assert self.rc == 0, self.output[-6000:]
        return self


def run_play(
    playbook: Path,
    variables: Mapping[str, Any] | None = None,
    *,
    arguments: Sequence[str] = ("-vvv", "--diff"),
    inventory: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Play:
    """Run a playbook against an inventory, molecule's by default.

    Args:
        playbook: Path of the playbook.
        variables: Extra variables; no text in them is templated.
        arguments: More arguments of ansible-playbook; by default those that show most.
        inventory: Another inventory.
        environment: Variables beside the test's own.
    """
    sources = inventory or str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as handle:
        # Keys stay plain: only values may be !unsafe.
        items = [f"{json.dumps(name)}: {_inline(value)}\n" for name, value in (variables or {}).items()]
        handle.write("".join(items) or "{}\n")
        handle.flush()
        start = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", sources, "-e", f"@{handle.name}", *arguments, str(playbook)],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            }
            | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=900,
        )
    return Play(done.returncode, done.stdout, time.monotonic() - start)


def _inline(value: Any) -> str:
    """Return a value as one line of YAML (flow style) in which every text is !unsafe and no key is."""
    if isinstance(value, str):
        return f"!unsafe {json.dumps(value, ensure_ascii=False)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value)
