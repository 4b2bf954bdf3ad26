# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify says of a machine's GPUs: each thing that can be wrong has its sentence, and what is right has none."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.testinfra.verify import gpu, test_gpu
from tests.testinfra.verify.machine import Machine

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
UUIDS = ("GPU-aaaa", "GPU-bbbb")
GPUS = [
    {"index": index, "uuid": uuid, "name": "Slipway Simulated GPU", "minor": index} for index, uuid in enumerate(UUIDS)
]
NAMES = ("0", "1", "GPU-aaaa", "GPU-bbbb", "all")
MACHINE = Machine("node1", site={"verify": {"private": "hello:1"}})


def spec(*names: str, driver: str = "580.105.08", kind: str = gpu.KIND) -> str:
    """Return a CDI spec as nvidia-ctk writes one, as far as the checks read it."""
    files = (f"libcuda.so.{driver}", f"libnvidia-ml.so.{driver}", "libnvidia-egl-gbm.so.1.1.2")
    mounts = [{"hostPath": f"{LIBRARIES}/{name}", "containerPath": f"{LIBRARIES}/{name}"} for name in files]
    return yaml.safe_dump({
        "cdiVersion": "0.5.0",
        "kind": kind,
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{name}"}]}} for name in names
        ],
        "containerEdits": {"mounts": mounts, "deviceNodes": [{"path": "/dev/nvidiactl"}]},
    })  # fmt: skip


def look(**changes: Any) -> gpu.Look:
    """Return a machine with two GPUs on which all is well, but for the changes."""
    names = changes.pop("names", NAMES)
    values = {
        "driver": "580.105.08",
        "gpus": GPUS,
        "pci": ["0000:41:00.0", "0000:42:00.0"],
        "toolkit": True,
        "devices": [*(f"{gpu.KIND}={name}" for name in names), "nvidia.com/gds=all"],
        "specs": {"/var/run/cdi/nvidia.yaml": spec(*names)},
        "missing": [],
        "engines": ["containerd", "docker"],
        **changes,
    }
    return gpu.Look(**values)


def test_the_look_runs_on_a_machine_without_anything() -> None:
    program = gpu.NVML.read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", "-c", gpu.LOOK, program], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= {field.name for field in dataclasses.fields(gpu.Look)}


def test_what_a_spec_mentions_is_looked_for(tmp_path: Any) -> None:
    (tmp_path / "nvidia.yaml").write_text(spec("0").replace(LIBRARIES, str(tmp_path)))
    (tmp_path / "more.json").write_text(
        json.dumps({"mounts": [{"hostPath": f"{tmp_path}/more.json"}, {"hostPath": "/no/x"}]})
    )
    program = gpu.LOOK.replace("/etc/cdi", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, gpu.NVML.read_text(encoding="utf-8")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = gpu.Look(**json.loads(done.stdout))
    assert [path.rpartition("/")[2] for path in found.specs][:2] == ["nvidia.yaml", "more.json"]
    assert found.missing == sorted([
        "/no/x",
        f"{tmp_path}/libcuda.so.580.105.08",
        f"{tmp_path}/libnvidia-egl-gbm.so.1.1.2",
        f"{tmp_path}/libnvidia-ml.so.580.105.08",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (look(), "2 GPUs (Slipway Simulated GPU), driver 580.105.08, CDI nvidia.com/gpu=0, =1, =all"),
        (
            look(gpus=[GPUS[0], {**GPUS[1], "name": "Other"}], names=UUIDS),
            "2 GPUs (Slipway Simulated GPU; Other), driver 580.105.08, CDI nvidia.com/gpu=GPU-aaaa, =GPU-bbbb",
        ),
        (look(gpus=GPUS[:1], names=()), "1 GPU (Slipway Simulated GPU), driver 580.105.08, no CDI device"),
        (look(gpus=[], driver=""), "a GPU at 0000:41:00.0, 0000:42:00.0 that no driver answers for"),
        (look(gpus=[], driver="", pci=[]), "no GPU"),
        (look(gpus=[], driver="", pci=[], toolkit=False), ""),
    ],
)
def test_what_was_found(found: gpu.Look, said: str) -> None:
    assert gpu.sentence(found) == said


@pytest.mark.parametrize("names", [NAMES, ("0", "1"), UUIDS, ("gpu0", "gpu1"), ("0:0", "0:1", "MIG-x", "1")])
def test_all_is_well(names: tuple[str, ...]) -> None:
    found = look(names=names)
    assert gpu.without_device(found) == []
    assert gpu.stale(found) == ""
    assert gpu.libraries(found) == ""


def test_a_gpu_without_a_device() -> None:
    assert gpu.without_device(look(names=("0", "all"))) == [
        "GPU 1 (GPU-bbbb) has no CDI device: systemctl start nvidia-cdi-refresh.service"
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"gpus": GPUS[:1], "names": ("0", "1", "all")},
            "nvidia.com/gpu=1 is no GPU of this machine: systemctl start nvidia-cdi-refresh.service",
        ),
        (
            {"gpus": GPUS[:1]},
            "nvidia.com/gpu=1 is no GPU of this machine, nor is nvidia.com/gpu=GPU-bbbb: "
            "systemctl start nvidia-cdi-refresh.service",
        ),
        (
            {"gpus": [], "driver": "", "error": "nvmlInit_v2: Driver Not Loaded", "names": ("0", "all")},
            "nvidia.com/gpu=0 is no GPU of this machine, nor is any other CDI device: the driver does not answer "
            "(nvmlInit_v2: Driver Not Loaded); if it is gone for good, run site.yml",
        ),
        (
            {"gpus": GPUS[:1], "names": ("0", "1"), "specs": {"/etc/cdi/nvidia.yaml": spec("0", "1")}},
            "nvidia.com/gpu=1 is no GPU of this machine: remove /etc/cdi/nvidia.yaml, "
            "which nvidia-cdi-refresh.service does not write",
        ),
    ],
)
def test_a_stale_device_is_named(changes: dict[str, Any], said: str) -> None:
    assert gpu.stale(look(**changes)) == said


def test_libraries_of_another_driver() -> None:
    assert gpu.libraries(look(driver="590.44.01")) == (
        f"/var/run/cdi/nvidia.yaml gives containers {LIBRARIES}/libcuda.so.580.105.08, but driver 590.44.01 runs: "
        "systemctl start nvidia-cdi-refresh.service"
    )


def test_a_library_that_is_gone() -> None:
    path = f"{LIBRARIES}/libnvidia-egl-gbm.so.1.1.2"
    assert gpu.libraries(look(missing=[path])) == (
        f"/var/run/cdi/nvidia.yaml gives containers {path}, which is not there: "
        "systemctl start nvidia-cdi-refresh.service"
    )


def test_specs_of_the_device_plugin_that_are_of_another_driver() -> None:
    path = "/var/run/cdi/k8s.device-plugin.nvidia.com-gpu.json"
    found = look(specs={path: spec("GPU-aaaa", driver="470.1", kind=gpu.PLUGIN_KIND)})
    assert gpu.libraries(found) == (
        f"{path} gives containers {LIBRARIES}/libcuda.so.470.1, but driver 580.105.08 runs: "
        "kubectl --all-namespaces delete pod -l app.kubernetes.io/name=nvidia-device-plugin"
    )


def test_specs_of_others_are_no_business_of_ours() -> None:
    found = look(
        specs={"/etc/cdi/x.yaml": spec("9", driver="470.1", kind="example.com/x"), "/etc/cdi/broken.yaml": "text"}
    )
    assert gpu.libraries(found) == ""


def dump(version: int, **changes: Any) -> dict[str, Any]:
    """Return what `containerd config dump` says, parsed: nvidia's table with the changes."""
    options = {"SystemdCgroup": True, "BinaryName": ""}
    runtimes = {
        "runc": {"runtime_type": "io.containerd.runc.v2", "options": options},
        "nvidia": {
            "runtime_type": "io.containerd.runc.v2",
            "options": {**options, "BinaryName": "/usr/bin/nvidia-container-runtime"},
            **changes,
        },
    }
    name = "io.containerd.cri.v1.runtime" if version == 3 else "io.containerd.grpc.v1.cri"
    return {"version": version, "plugins": {name: {"containerd": {"runtimes": runtimes}}}}


@pytest.mark.parametrize("version", [2, 3])
def test_the_handler(version: int) -> None:
    assert gpu.handler(dump(version)) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"SystemdCgroup": True}}, "containerd's handler nvidia runs runc, not nvidia-container-runtime"),
        (
            {"options": {"BinaryName": "/usr/bin/nvidia-container-runtime"}},
            "containerd's handler nvidia has SystemdCgroup = None, runc has True",
        ),
        (
            {"runtime_type": "io.containerd.runc.v1"},
            "containerd's handler nvidia has runtime_type = 'io.containerd.runc.v1', runc has 'io.containerd.runc.v2'",
        ),
    ],
)
def test_a_handler_that_is_not_runc_s(changes: dict[str, Any], said: str) -> None:
    assert gpu.handler(dump(2, **changes)) == said


@pytest.mark.parametrize("name", ["runc", "nvidia"])
def test_no_handler(name: str) -> None:
    config = dump(3)
    del config["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"][name]
    assert gpu.handler(config) == f"containerd has no runtime handler {name}"
    assert gpu.handler({}) == "containerd has no runtime handler runc"


class Host:
    """A machine that answers `docker run` with a text and notes the commands."""

    def __init__(self, devices: str = "/dev/nvidia[0-9]*", libraries: tuple[str, ...] = ()) -> None:
        mounts = ["overlay / overlay rw 0 0", *(f"/dev/sda1 {LIBRARIES}/{name} ext4 ro 0 0" for name in libraries)]
        self.answer = "\n".join([devices, *mounts]) + "\n"
        self.commands: list[str] = []

    def exists(self, _name: str) -> bool:
        return True

    def run(self, command: str, *arguments: str) -> Any:
        self.commands.append(command % arguments if arguments else command)
        return SimpleNamespace(rc=0, stdout=self.answer if "run" in command else "", stderr="")


DOCKER = {"ServerVersion": "26.1.5+dfsg1", "Runtimes": {"runc": {}, "nvidia": {}}, "DefaultRuntime": "runc"}
DRIVER = ("libcuda.so.580.105.08", "libnvidia-ml.so.580.105.08")


def test_a_container_with_its_gpu() -> None:
    host = Host("/dev/nvidia1", DRIVER)
    test_gpu.test_container_with_a_gpu(MACHINE, look(), GPUS, host, DOCKER)
    assert "docker run --rm --device nvidia.com/gpu=1 --entrypoint sh hello:1 -c " in "".join(host.commands)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (Host("/dev/nvidia0 /dev/nvidia1", DRIVER), "has /dev/nvidia0, /dev/nvidia1 and 2 driver libraries"),
        (Host(), "has no device and no driver libraries"),
        (Host("/dev/nvidia1", ("libcuda.so.590.44.01",)), r"has no libcuda\.so\.580\.105\.08"),
    ],
)
def test_a_container_with_something_else(host: Host, said: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=f"asks for nvidia.com/gpu=1 {said}"):
        test_gpu.test_container_with_a_gpu(MACHINE, look(), GPUS, host, DOCKER)


def test_a_container_that_asks_for_nothing() -> None:
    test_gpu.test_container_without_a_gpu(MACHINE, look(), GPUS, Host(), DOCKER)
    with pytest.raises(pytest.fail.Exception, match="asks for no GPU has /dev/nvidia0 and no driver libraries"):
        test_gpu.test_container_without_a_gpu(MACHINE, look(), GPUS, Host("/dev/nvidia0"), DOCKER)


@pytest.mark.parametrize(
    ("found", "docker", "reason"),
    [
        (
            look(),
            {"ServerVersion": "20.10.24+dfsg1"},
            r"docker 20\.10\.24\+dfsg1 knows no CDI devices, 25 and later do",
        ),
        (look(names=("0",)), DOCKER, "nvidia.com/gpu=1 is no CDI device"),
        (look(engines=["containerd"]), DOCKER, "nvidia_container_toolkit_engines has no docker for this machine"),
    ],
)
def test_what_cannot_be_tried_is_skipped(found: gpu.Look, docker: dict[str, Any], reason: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=reason):
        test_gpu.test_container_with_a_gpu(MACHINE, found, GPUS, Host(), docker)
