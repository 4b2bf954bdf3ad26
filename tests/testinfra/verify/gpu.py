# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's GPUs as its driver sees them, and the CDI specs that containers get them by."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.testinfra.verify.machine import need

REPOSITORY = Path(__file__).resolve().parents[3]
NVML = REPOSITORY / "plugins/module_utils/_nvml.py"
KIND = "nvidia.com/gpu"
# Of the specs that NVIDIA's device plugin writes when it starts, and only then.
PLUGIN_KIND = "k8s.device-plugin.nvidia.com/gpu"
REFRESH = "systemctl start nvidia-cdi-refresh.service"
RESTART = "kubectl --all-namespaces delete pod -l app.kubernetes.io/name=nvidia-device-plugin"
# A library of the driver carries its version; those of other projects that come with it have numbers of their own.
OF_THE_DRIVER = re.compile(r".*/lib(?:cuda|nvidia-[a-z-]+)\.so\.(\d{3,}(?:\.\d+)+)")
# Runs on the machine with its own Python. Prints JSON. Argument: the text of _nvml.py. CDI's directories are those of
# the CDI specification; PCI's numbers are NVIDIA's vendor and the class of display controllers.
LOOK = r"""
import glob, json, os, re, shutil, subprocess, sys
def read(path):
    with open(path, errors="replace") as file:
        return file.read()
nvml = {"__name__": "nvml"}
exec(sys.argv[1], nvml)
try:
    found = nvml["read"]()
except nvml["NvmlError"] as error:
    found = {"driver": "", "gpus": [], "error": str(error)}
cards = glob.glob("/sys/bus/pci/devices/*")
found["pci"] = sorted(os.path.basename(card) for card in cards if read(card + "/vendor").strip() == "0x10de"
                      and read(card + "/class").startswith("0x03"))
found["toolkit"] = shutil.which("nvidia-ctk") is not None
listed = ["nvidia-ctk", "cdi", "list"] if found["toolkit"] else ["true"]
found["devices"] = subprocess.run(listed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split()
specs = [path for folder in ("/etc/cdi", "/var/run/cdi") for kind in ("yaml", "json")
         for path in sorted(glob.glob(folder + "/*." + kind))]
found["specs"] = {path: read(path) for path in specs}
mentioned = {path for text in found["specs"].values() for path in re.findall(r'hostPath"?: *"?(/[^\s",]+)', text)}
found["missing"] = sorted(path for path in mentioned if not os.path.exists(path))
fragments = "/etc/slipway/*/*.d/50-nvidia_container_toolkit.json"
found["engines"] = sorted(path.split("/")[3] for path in glob.glob(fragments))
print(json.dumps(found))
"""
_looks: dict[str, Look] = {}


@dataclass(frozen=True)
class Look:
    """What one look at a machine found.

    Attributes:
        driver: version of the driver that answers; empty when none does.
        gpus: what NVML says of each: index, uuid, name, minor.
        pci: addresses of NVIDIA's display controllers.
        toolkit: whether NVIDIA's container toolkit is installed.
        devices: names of CDI devices of NVIDIA's.
        specs: every CDI spec by its path.
        missing: files that a spec wants of the host and that are not there.
        engines: those that the role has given the runtime `nvidia`.
        error: why no driver answers.
    """

    driver: str
    gpus: list[dict[str, Any]]
    pci: list[str]
    toolkit: bool
    devices: list[str]
    specs: dict[str, str]
    missing: list[str]
    engines: list[str]
    error: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the CDI devices that are GPUs, without the kind before them."""
        return [name.partition("=")[2] for name in self.devices if name.startswith(f"{KIND}=")]


def look(name: str, host: Any) -> Look:
    """Return what a machine has, asked once."""
    if name not in _looks:
        done = host.run("python3 -c %s %s", LOOK, NVML.read_text(encoding="utf-8"))
        need(done.rc == 0, f"the machine's GPUs cannot be read: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        _looks[name] = Look(**json.loads(done.stdout))
    return _looks[name]


def sentence(found: Look) -> str:
    """Say what a machine has; nothing of one that has neither GPU nor toolkit."""
    if found.gpus:
        kinds = "; ".join(dict.fromkeys(gpu["name"] for gpu in found.gpus))
        # A GPU's index is enough; its UUID is a second name for the same device.
        short = [f"={name}" for name in found.names if not name.startswith("GPU-")] or [f"={x}" for x in found.names]
        devices = f"CDI {KIND}{', '.join(short)}" if short else "no CDI device"
        count = f"{len(found.gpus)} GPU{'s' if len(found.gpus) > 1 else ''}"
        return f"{count} ({kinds}), driver {found.driver}, {devices}"
    if found.pci:
        return f"a GPU at {', '.join(found.pci)} that no driver answers for"
    return "no GPU" if found.toolkit or found.driver else ""


def without_device(found: Look) -> list[str]:
    """Return a sentence for each GPU that no CDI device stands for."""
    return [
        f"GPU {gpu['index']} ({gpu['uuid']}) has no CDI device: {REFRESH}"
        for gpu in found.gpus
        if not any(_stands_for(name, gpu) for name in found.names if name != "all")
    ]


def stale(found: Look) -> str:
    """Return a sentence about the CDI devices that stand for no GPU of the machine, the shortest name first."""
    gone = [name for name in found.names if not _is_there(name, found.gpus)]
    if not gone:
        return ""
    first, *rest = [f"{KIND}={name}" for name in sorted(gone, key=len)]
    if not found.gpus:
        others = ", nor is any other CDI device" if rest else ""
    else:
        others = f", nor {'is' if len(rest) == 1 else 'are'} {', '.join(rest)}" if rest else ""
    foreign = [path for path in _specs(found) if path.startswith("/etc/cdi/") and _names(found, path) & set(gone)]
    if foreign:
        what = f"remove {foreign[0]}, which nvidia-cdi-refresh.service does not write"
    elif found.error:
        what = f"the driver does not answer ({found.error}); if it is gone for good, run site.yml"
    else:
        what = REFRESH
    return f"{first} is no GPU of this machine{others}: {what}"


def _stands_for(name: str, gpu: Mapping[str, Any]) -> bool:
    """Tell whether a device is a GPU or a part of it (MIG): nvidia-ctk names them by index, type and index, or UUID."""
    numbered = re.fullmatch(r"(?:gpu|mig)?(\d+)(?::\d+)?", name)
    return name == gpu["uuid"] or bool(numbered and int(numbered[1]) == gpu["index"])


def _is_there(name: str, gpus: list[dict[str, Any]]) -> bool:
    """Tell whether a device may stand for a GPU; of names that are the operator's own, or MIG's, nothing is known."""
    if not gpus:
        return False
    ours = re.fullmatch(r"(?:gpu|mig)?\d+(?::\d+)?|GPU-.*", name)
    return not ours or any(_stands_for(name, gpu) for gpu in gpus)


def libraries(found: Look) -> str:
    """Return a sentence about the first file that CDI specs give to containers and that is not the driver's now."""
    for path, spec in _specs(found, KIND, PLUGIN_KIND).items():
        cure = REFRESH if spec["kind"] == KIND else RESTART
        for file in _mounts(spec):
            if file in found.missing:
                return f"{path} gives containers {file}, which is not there: {cure}"
            version = OF_THE_DRIVER.fullmatch(file)
            if version and version[1] != found.driver:
                return f"{path} gives containers {file}, but driver {found.driver} runs: {cure}"
    return ""


def _specs(found: Look, *kinds: str) -> dict[str, Any]:
    parsed = {path: yaml.safe_load(text) for path, text in found.specs.items()}
    wanted = kinds or (KIND,)
    return {path: spec for path, spec in parsed.items() if isinstance(spec, dict) and spec.get("kind") in wanted}


def _names(found: Look, path: str) -> set[str]:
    return {str(device["name"]) for device in _specs(found)[path].get("devices") or []}


def _mounts(spec: Mapping[str, Any]) -> list[str]:
    edits = [spec.get("containerEdits") or {}]
    edits += [device.get("containerEdits") or {} for device in spec.get("devices") or []]
    return [mount["hostPath"] for edit in edits for mount in edit.get("mounts") or []]


def handler(dump: Mapping[str, Any]) -> str:
    """Return what is wrong with the handler nvidia in containerd's configuration (version 2 or 3); or nothing."""
    plugins = dump.get("plugins", {})
    cri = plugins.get("io.containerd.cri.v1.runtime") or plugins.get("io.containerd.grpc.v1.cri") or {}
    runtimes = cri.get("containerd", {}).get("runtimes", {})
    for name in ("runc", "nvidia"):
        if name not in runtimes:
            return f"containerd has no runtime handler {name}"
    runc, nvidia = runtimes["runc"], runtimes["nvidia"]
    program = (nvidia.get("options") or {}).get("BinaryName", "")
    if Path(program).name != "nvidia-container-runtime":
        return f"containerd's handler nvidia runs {program or 'runc'}, not nvidia-container-runtime"
    for name, (wanted, got) in _differences(runc, nvidia).items():
        return f"containerd's handler nvidia has {name} = {got!r}, runc has {wanted!r}"
    return ""


def _differences(runc: Mapping[str, Any], nvidia: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    wanted = {"runtime_type": runc.get("runtime_type"), **(runc.get("options") or {})}
    got = {"runtime_type": nvidia.get("runtime_type"), **(nvidia.get("options") or {})}
    names = sorted((wanted.keys() | got.keys()) - {"BinaryName"})
    return {name: (wanted.get(name), got.get(name)) for name in names if wanted.get(name) != got.get(name)}


@dataclass(frozen=True)
class Inside:
    """What a container has: N of each /dev/nvidiaN, and the driver libraries mounted into it."""

    minors: list[int]
    libraries: list[str]

    @classmethod
    def read(cls, text: str) -> Inside:
        """Read what SHOW printed."""
        devices, _, mounts = text.partition("\n")
        minors = [int(path[11:]) for path in devices.split() if re.fullmatch(r"/dev/nvidia\d+", path)]
        targets = [line.split()[1] for line in mounts.splitlines() if len(line.split()) > 1]
        return cls(sorted(minors), [path for path in targets if OF_THE_DRIVER.fullmatch(path)])

    def __str__(self) -> str:
        """Say it for a failure."""
        devices = ", ".join(f"/dev/nvidia{minor}" for minor in self.minors) or "no device"
        return f"{devices} and {len(self.libraries) or 'no'} driver libraries"


# What a container is asked: a shell and cat are enough. A device node is no mount, a library is.
SHOW = "echo /dev/nvidia[0-9]*; cat /proc/mounts"
