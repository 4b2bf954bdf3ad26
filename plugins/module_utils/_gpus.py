# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's GPUs as the kernel shows them, without a driver's help and at next to no cost.

Numbers: vendor from pci.ids, class 03 (display controllers) from the PCI Code and ID Assignment Specification.
"""

from __future__ import annotations

import glob
import os

PCI_DEVICES = "/sys/bus/pci/devices"
DEVICE_NODES = "/dev/nvidia[0-9]*"
LIBRARIES = "/usr/lib/*-linux-gnu/libnvidia-ml.so.1"
VENDOR, DISPLAY = "0x10de", "0x03"


def on_the_bus() -> list[str]:
    """Return the PCI addresses of NVIDIA's display controllers, whether or not a driver knows them."""
    found = []
    for path in sorted(glob.glob(os.path.join(PCI_DEVICES, "*"))):
        if _word(path, "vendor") == VENDOR and _word(path, "class").startswith(DISPLAY):
            found.append(os.path.basename(path))
    return found


def _word(path: str, name: str) -> str:
    try:
        with open(os.path.join(path, name), encoding="ascii") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def signature() -> str:
    """Return what changes when a GPU or its driver comes, goes or is replaced: addresses, devices, library."""
    libraries = [os.path.realpath(path) for path in sorted(glob.glob(LIBRARIES))]
    return " ".join([*on_the_bus(), *sorted(glob.glob(DEVICE_NODES)), *libraries])
