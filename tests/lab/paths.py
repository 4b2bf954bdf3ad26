"""Where the lab keeps what it builds and what it remembers: never in the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = Path(__file__).resolve().parent / "files"


def cache_root() -> Path:
    """Directory of everything that is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "slipway"


def artefacts() -> Path:
    """Built things, named by a hash of what they are made of; safe to delete."""
    return _made(cache_root() / "artefacts")


def state() -> Path:
    """Keys, certificates and the gateway's files: what the running lab depends on."""
    return _made(cache_root() / "lab")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold an exclusive lock between processes: molecule's workers run the lab's code at the same time.

    Args:
        name: What is protected, such as "addresses". One file per name.
    """
    path = _made(state() / "locks") / name
    with path.open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> bool:
    """Replace a file's content in one step.

    Returns:
        Whether the content was different before.
    """
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    _made(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode)
    temporary.chmod(mode)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return True


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits that stand for the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
