# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVML says is read as it is, and what it refuses is told by its own words."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _nvml


class FakeNvml:
    """A driver's library with some GPUs; its functions fill what they are given by reference, as C does."""

    def __init__(self, *gpus: str, refuses: str = "", lacks: str = "") -> None:
        self.gpus = gpus
        self.refuses = refuses
        self.lacks = lacks
        self.open = False

    def __getattr__(self, name: str) -> Any:
        if name == self.lacks:
            raise AttributeError(name)
        answer = getattr(self, f"answer_{name}")

        def function(*arguments: Any) -> int:
            if name == self.refuses:
                return 9
            answer(*arguments)
            return 0

        return function

    def nvmlErrorString(self, code: int) -> bytes:  # noqa: N802  # NVML's name
        return {9: b"Driver Not Loaded"}[code]

    def answer_nvmlInit_v2(self) -> None:  # noqa: N802
        self.open = True

    def answer_nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def answer_nvmlDeviceGetCount_v2(self, count: Any) -> None:  # noqa: N802
        count._obj.value = len(self.gpus)

    def answer_nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> None:  # noqa: N802
        handle._obj.value = 4096 + index.value

    def answer_nvmlSystemGetDriverVersion(self, buffer: Any, _length: Any) -> None:  # noqa: N802
        buffer.value = b"580.105.08"

    def answer_nvmlDeviceGetUUID(self, handle: Any, buffer: Any, _length: Any) -> None:  # noqa: N802
        buffer.value = f"GPU-{self.gpus[handle.value - 4096]}".encode()

    def answer_nvmlDeviceGetName(self, handle: Any, buffer: Any, length: Any) -> None:  # noqa: N802
        assert length.value == len(buffer)
        buffer.value = b"Slipway Simulated GPU"

    def answer_nvmlDeviceGetMinorNumber(self, handle: Any, minor: Any) -> None:  # noqa: N802
        minor._obj.value = 7 - (handle.value - 4096)


@pytest.fixture(autouse=True)
def _no_function_has_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python method has no restype to set, a C function has."""
    monkeypatch.setattr(_nvml, "_reason", lambda nvml, code: nvml.nvmlErrorString(code).decode())


def test_each_gpu_is_told() -> None:
    library = FakeNvml("a", "b")
    assert _nvml.read("libnvidia-ml.so.1", load=lambda name: library) == {
        "driver": "580.105.08",
        "gpus": [
            {"index": 0, "uuid": "GPU-a", "name": "Slipway Simulated GPU", "minor": 7},
            {"index": 1, "uuid": "GPU-b", "name": "Slipway Simulated GPU", "minor": 6},
        ],
    }
    assert not library.open


def test_a_driver_without_gpus() -> None:
    assert _nvml.read(load=lambda name: FakeNvml())["gpus"] == []


def test_no_driver() -> None:
    with pytest.raises(_nvml.NvmlError, match=r"no-such-nvml\.so cannot be loaded: "):
        _nvml.read("no-such-nvml.so")


@pytest.mark.parametrize("name", ["nvmlInit_v2", "nvmlDeviceGetUUID"])
def test_a_refusal_is_told_in_its_words(name: str) -> None:
    library = FakeNvml("a", refuses=name)
    with pytest.raises(_nvml.NvmlError, match=f"{name}: Driver Not Loaded"):
        _nvml.read(load=lambda _: library)
    assert not library.open


def test_an_old_library() -> None:
    with pytest.raises(_nvml.NvmlError, match="has no nvmlDeviceGetMinorNumber"):
        _nvml.read(load=lambda _: FakeNvml("a", lacks="nvmlDeviceGetMinorNumber"))


def test_a_reason_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Function:
        def __call__(self, code: int) -> None:
            return None

    class Library:
        nvmlErrorString = Function()  # noqa: N815

    assert _nvml._reason(Library(), 3) == "error 3"


def test_as_a_script_it_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "no-such-nvml.so"])
    runpy.run_path(_nvml.__file__, run_name="__main__")
    assert json.loads(capsys.readouterr().out)["error"].startswith("no-such-nvml.so cannot be loaded")


def test_it_runs_without_the_collection() -> None:
    """Verify sends the file as it stands to a machine that has nothing of ours."""
    with open(_nvml.__file__, encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-I", "-", "no-such.so"], stdin=file, capture_output=True, check=True)
    assert "error" in json.loads(done.stdout)


def test_as_a_script_it_prints_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(_nvml, "read", lambda: {"driver": "1", "gpus": []})
    _nvml.main()
    assert json.loads(capsys.readouterr().out) == {"driver": "1", "gpus": []}
