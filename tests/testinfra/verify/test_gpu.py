# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs: the runtimes know NVIDIA's, CDI specs are true, and a container has what it asked for and no more."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.testinfra.verify import gpu
from tests.testinfra.verify.machine import Machine, borrowed_image, daemon_json, missing, need, need_running, wrong

MIN_DOCKER = 25  # the first that knows CDI devices (features.cdi)


@pytest.fixture
def found(machine: Machine, host: Any, request: pytest.FixtureRequest) -> gpu.Look:
    """Return what the machine has, and have it said below the table; skips where the toolkit is not installed."""
    seen = gpu.look(machine.name, host)
    if gpu.sentence(seen):
        request.node.user_properties.append(("found", gpu.sentence(seen)))
    if not seen.toolkit:
        missing("the NVIDIA container toolkit is not installed")
    return seen


@pytest.fixture
def gpus(found: gpu.Look) -> list[dict[str, Any]]:
    """Return the machine's GPUs; skips where there is none."""
    if not found.gpus:
        missing(f"{gpu.sentence(found)}: {found.error}" if found.pci else "the machine has no GPU")
    return found.gpus


def need_engine(found: gpu.Look, name: str) -> None:
    """Skip the check where the inventory gives an engine no runtime nvidia."""
    if name not in found.engines:
        missing(f"nvidia_container_toolkit_engines has no {name} for this machine")


def test_docker_runtime(machine: Machine, found: gpu.Look, host: Any, docker: dict[str, Any]) -> None:
    """docker has the runtime nvidia and the default runtime of its file"""
    need_engine(found, "docker")
    need("nvidia" in docker["Runtimes"], "the running daemon has no runtime nvidia")
    wanted = daemon_json(host).get("default-runtime", "runc")
    running = docker["DefaultRuntime"]
    need(running == wanted, f"daemon.json says {wanted} is the default runtime, the running daemon has {running}")


def test_containerd_runtime(machine: Machine, found: gpu.Look, host: Any) -> None:
    """containerd has the handler nvidia beside runc, with runc's options"""
    need_engine(found, "containerd")
    done = host.run("containerd config dump")
    need(done.rc == 0, f"containerd config dump: {done.stderr.strip()}")
    problem = gpu.handler(tomllib.loads(done.stdout))
    need(not problem, problem)


def test_refresh(machine: Machine, found: gpu.Look, host: Any) -> None:
    """CDI specs follow the driver (nvidia-cdi-refresh.path is enabled and active)"""
    need_running(host, "nvidia-cdi-refresh.path")


def test_every_gpu_has_a_device(machine: Machine, found: gpu.Look, gpus: list[dict[str, Any]]) -> None:
    """every GPU has a CDI device"""
    lacking = gpu.without_device(found)
    need(not lacking, "; ".join(lacking))


def test_every_device_is_a_gpu(machine: Machine, found: gpu.Look) -> None:
    """every CDI device is a GPU of this machine"""
    if not found.names:
        missing("there is no CDI device of a GPU")
    problem = gpu.stale(found)
    need(not problem, problem)


def test_libraries(machine: Machine, found: gpu.Look, gpus: list[dict[str, Any]]) -> None:
    """CDI specs name the running driver's libraries"""
    problem = gpu.libraries(found)
    need(not problem, problem)


def inside(machine: Machine, host: Any, docker: dict[str, Any], device: str = "") -> gpu.Inside:
    """Return what a container of the probe image has that asks for a device, or for none."""
    version = str(docker["ServerVersion"])
    if int(version.partition(".")[0]) < MIN_DOCKER:
        missing(f"docker {version} knows no CDI devices, {MIN_DOCKER} and later do")
    image = machine.probe("private")
    request = f"--device {gpu.KIND}={device} " if device else ""
    with borrowed_image(host, image):
        done = host.run(f"docker run --rm {request}--entrypoint sh %s -c %s", image, gpu.SHOW)
    if done.rc != 0:
        wrong(f"docker run {request}{image}: {(done.stderr or done.stdout).strip()}")
    return gpu.Inside.read(done.stdout)


def test_container_with_a_gpu(
    machine: Machine, found: gpu.Look, gpus: list[dict[str, Any]], host: Any, docker: dict[str, Any]
) -> None:
    """a container that asks for a GPU has that one and the driver's libraries"""
    need_engine(found, "docker")
    last = gpus[-1]
    device = str(last["index"])
    if device not in found.names:
        missing(f"{gpu.KIND}={device} is no CDI device")
    got = inside(machine, host, docker, device)
    need(got.minors == [last["minor"]], f"a container that asks for {gpu.KIND}={device} has {got}")
    cuda = [path for path in got.libraries if path.endswith(f"/libcuda.so.{found.driver}")]
    need(cuda, f"a container that asks for {gpu.KIND}={device} has no libcuda.so.{found.driver}")


def test_container_without_a_gpu(
    machine: Machine, found: gpu.Look, gpus: list[dict[str, Any]], host: Any, docker: dict[str, Any]
) -> None:
    """a container that asks for no GPU has none"""
    got = inside(machine, host, docker)
    need(not got.minors and not got.libraries, f"a container that asks for no GPU has {got}")
