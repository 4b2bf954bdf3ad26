# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of this machine as its driver's own library (NVML) names them; run as a script, prints them as JSON.

Imported by modules, and sent to machines as it stands by tests/testinfra/verify: it imports nothing of the collection.
"""

from __future__ import annotations

import ctypes
import json
import sys
import typing as t

LIBRARY = "libnvidia-ml.so.1"  # the name that programs load; its file carries the driver's version
TEXT = 96  # bytes; NVML's longest text here is a name (NVML_DEVICE_NAME_V2_BUFFER_SIZE)


class NvmlError(Exception):
    """NVML is not there or refuses; the message says which and why."""


class Gpu(t.TypedDict):
    """One GPU: its place in NVML's order, its UUID (`GPU-…`), its name, and N of its /dev/nvidiaN."""

    index: int
    uuid: str
    name: str
    minor: int


class Found(t.TypedDict):
    """The running driver's version and its GPUs."""

    driver: str
    gpus: list[Gpu]


def read(library: str = LIBRARY, *, load: t.Callable[[str], t.Any] = ctypes.CDLL) -> Found:
    """Ask NVML; raises NvmlError. load is another for tests.

    A new process is asked best: a library stays loaded, also after the driver was replaced.
    """
    try:
        nvml = load(library)
    except OSError as exc:
        raise NvmlError(f"{library} cannot be loaded: {exc}") from exc
    _call(nvml, "nvmlInit_v2")
    try:
        count = _number(nvml, "nvmlDeviceGetCount_v2")
        return {
            "driver": _text(nvml, "nvmlSystemGetDriverVersion"),
            "gpus": [_gpu(nvml, index) for index in range(count)],
        }
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: t.Any, index: int) -> Gpu:
    handle = ctypes.c_void_p()
    _call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    return {
        "index": index,
        "uuid": _text(nvml, "nvmlDeviceGetUUID", handle),
        "name": _text(nvml, "nvmlDeviceGetName", handle),
        "minor": _number(nvml, "nvmlDeviceGetMinorNumber", handle),
    }


def _call(nvml: t.Any, name: str, *arguments: t.Any) -> None:
    """Call a function; each returns 0 or an error number."""
    try:
        function = getattr(nvml, name)
    except AttributeError as exc:
        raise NvmlError(f"the driver's library has no {name}: is it an old driver?") from exc
    code = function(*arguments)
    if code != 0:
        raise NvmlError(f"{name}: {_reason(nvml, code)}")


def _reason(nvml: t.Any, code: int) -> str:
    function = nvml.nvmlErrorString
    function.restype = ctypes.c_char_p
    return (function(code) or b"").decode(errors="replace") or f"error {code}"


def _number(nvml: t.Any, name: str, *handle: t.Any) -> int:
    value = ctypes.c_uint()
    _call(nvml, name, *handle, ctypes.byref(value))
    return value.value


def _text(nvml: t.Any, name: str, *handle: t.Any) -> str:
    buffer = ctypes.create_string_buffer(TEXT)
    _call(nvml, name, *handle, buffer, ctypes.c_uint(TEXT))
    return buffer.value.decode(errors="replace")


def main() -> None:
    """Print what NVML says, or {"error": why}."""
    try:
        print(json.dumps(read(*sys.argv[1:2])))
    except NvmlError as exc:
        print(json.dumps({"error": str(exc)}))


if __name__ == "__main__":
    main()
