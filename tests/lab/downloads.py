"""Python packages as files, fetched once and kept in the cache: by version and hash, through the host's own pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab import paths
from tests.lab.errors import LabError
from tests.lab.progress import step

# Of the images' Debian (12), whatever the host's is.
WHEELS = ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_17_x86_64")


def directory(requirements: Path) -> Path:
    """Directory of the files; named by what it holds."""
    return paths.artefacts() / f"python-{requirements.stem}-{paths.digest(requirements.read_text(encoding='utf-8'))}"


def wheels(requirements: Path) -> list[Path]:
    """Wheels that a file with versions and hashes names, downloaded where the cache has none.

    Raises:
        LabError: pip could not have them.
    """
    target = directory(requirements)
    with paths.locked(target.name):
        if not target.exists():
            with step(f"Python packages: {requirements.stem}"):
                _download(requirements, target, *WHEELS)
    return sorted(target.iterdir())


def source(requirements: Path, target: Path) -> Path:
    """Download the one source package that a file names into a directory of the caller's.

    Raises:
        LabError: pip could not have it.
    """
    # Only pip's own build tools are taken as wheels: it asks the package for its name.
    name = requirements.read_text(encoding="utf-8").split("==")[0].split()[-1]
    _download(requirements, target, f"--no-binary={name}")
    return next(target.iterdir())


def _download(requirements: Path, target: Path, *options: str) -> None:
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *options]
    command += ["--dest", str(temporary), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        shutil.rmtree(temporary, ignore_errors=True)
        raise LabError(f"{requirements.name} could not be downloaded: {result.stderr[-2000:]}")
    temporary.rename(target)
