"""Simulated NVIDIA GPUs: puts a driver that answers for hardware nobody has on a machine, and takes it away again."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab import images, machines, paths
from tests.lab.errors import LabError
from tests.lab.plan import Machine
from tests.lab.recipes import GPU_ROOT, RECIPES

HERE = Path(__file__).resolve().parent
DRIVER = "580.105.08"
COUNT = 2
# As many as nvml.c and lab-gpu know.
MOST = 32

SCRIPT = "/usr/local/sbin/lab-gpu"
STORE = "usr/local/lib/lab-gpu"
CONFIGURATION = "/etc/lab-gpu.conf"


def directory() -> Path:
    """Where the compiled driver is, once it has been built."""
    return paths.artefacts() / f"gpu-{RECIPES['gpu'].key()}"


def driver_files() -> Path:
    """The same directory, filled if it is not in the cache."""
    target = directory()
    with paths.locked("gpu"):
        if not target.exists():
            images.extract("gpu", GPU_ROOT, target)
    return target


def install(name: str, *, count: int = COUNT, driver: str = DRIVER, uuids: Sequence[str] | None = None) -> None:
    """Give a machine GPUs, or change how many it has and of what driver.

    Args:
        name: A machine that runs.
        count: How many; 0 leaves a driver without a GPU.
        driver: Version, such as "590.44.01": the end of the libraries' names.
        uuids: One for each GPU; without it they are the same on every machine.

    Raises:
        LabError: The values make no sense, or the machine could not do it.
    """
    words = arguments(count, driver, uuids)
    machines.existing(name).put_archive("/", _archive())
    _run(name, [SCRIPT, "install", *words])


def arguments(count: int, driver: str, uuids: Sequence[str] | None) -> list[str]:
    """What the script on the machine is told.

    Raises:
        LabError: The values make no sense.
    """
    if not 0 <= count <= MOST:
        raise LabError(f"{count} GPUs can't be simulated: it needs 0 to {MOST}.")
    if not re.fullmatch(r"\d+(\.\d+){1,2}", driver):
        raise LabError(f"Driver '{driver}' is no version: it needs one like {DRIVER}.")
    if uuids is None:
        return [str(count), driver]
    if len(uuids) != count or not all(re.fullmatch(r"GPU-[0-9a-f-]{36}", uuid) for uuid in uuids):
        raise LabError(f"{len(uuids)} UUIDs for {count} GPUs: it needs one like GPU-<36 digits and dashes> for each.")
    return [str(count), driver, ",".join(uuids)]


def remove(name: str) -> None:
    """Take GPUs and driver away; does nothing where there are none."""
    if configured(name) is not None:
        _run(name, [SCRIPT, "remove"])


def configured(name: str) -> int | None:
    """How many GPUs a machine has; None where it has no driver."""
    result = machines.existing(name).exec_run(["sed", "-n", "s/^LAB_GPU_COUNT=//p", CONFIGURATION])
    text = result.output.decode().strip()
    return int(text) if result.exit_code == 0 and text else None


def ensure(machine: Machine) -> None:
    """Give a machine the GPUs of the plan; one that has that many keeps its driver, whatever the version is."""
    if machine.gpus and configured(machine.name) != machine.gpus:
        install(machine.name, count=machine.gpus)


def _archive() -> bytes:
    built = driver_files()
    files = {f"{STORE}/{file.name}": (file, 0o755) for file in sorted(built.iterdir())}
    files[SCRIPT.lstrip("/")] = (HERE / "lab-gpu", 0o755)
    files["etc/systemd/system/lab-gpu.service"] = (HERE / "lab-gpu.service", 0o644)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(STORE)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(entry)
        for name, (file, mode) in files.items():
            content = file.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _run(name: str, words: list[str]) -> None:
    result: Any = machines.existing(name).exec_run(words)
    if result.exit_code:
        raise LabError(f"Machine {name}: {' '.join(words)} failed: {result.output.decode(errors='replace').strip()}")
