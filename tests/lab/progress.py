"""One line per step: what it does, then how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Print a line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step that takes more than a moment and tell its duration in seconds."""
    say(f"lab: {what} …")
    start = time.monotonic()
    yield
    say(f"lab: {what}: done in {time.monotonic() - start:.1f} s")
