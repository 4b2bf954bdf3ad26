# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's GPUs as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _gpus


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which the machine's PCI bus, devices and libraries are."""
    monkeypatch.setattr(_gpus, "PCI_DEVICES", str(tmp_path / "pci"))
    monkeypatch.setattr(_gpus, "DEVICE_NODES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(_gpus, "LIBRARIES", str(tmp_path / "libnvidia-ml.so.1"))
    return tmp_path


def device(machine: Path, address: str, vendor: str, kind: str) -> None:
    (machine / "pci" / address).mkdir(parents=True)
    (machine / "pci" / address / "vendor").write_text(vendor + "\n")
    (machine / "pci" / address / "class").write_text(kind + "\n")


def test_a_gpu_is_a_display_controller_of_nvidia(machine: Path) -> None:
    assert _gpus.on_the_bus() == []
    device(machine, "0000:01:00.0", "0x10de", "0x030200")
    device(machine, "0000:02:00.0", "0x10de", "0x030000")
    device(machine, "0000:02:00.1", "0x10de", "0x040300")  # its sound
    device(machine, "0000:03:00.0", "0x8086", "0x030000")  # another vendor's
    (machine / "pci/0000:04:00.0").mkdir()
    assert _gpus.on_the_bus() == ["0000:01:00.0", "0000:02:00.0"]


def test_the_signature_changes_with_gpus_devices_and_driver(machine: Path) -> None:
    seen = [_gpus.signature()]
    device(machine, "0000:01:00.0", "0x10de", "0x030200")
    seen.append(_gpus.signature())
    (machine / "nvidia0").touch()
    seen.append(_gpus.signature())
    for version in ("580.1", "590.1"):
        link = machine / "libnvidia-ml.so.1"
        link.unlink(missing_ok=True)
        link.symlink_to(f"libnvidia-ml.so.{version}")
        seen.append(_gpus.signature())
    assert len({*seen}) == len(seen) == 5
