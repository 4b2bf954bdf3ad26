# SPDX-License-Identifier: GPL-3.0-or-later
"""A container has the GPU that it asked for and no other, whatever happens to the machine around it."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cri, gpu
from tests.testinfra.lab import put_program
from tests.testinfra.play import REPOSITORY, Play, run_play

HERE = Path(__file__).resolve().parent
GPU, NONE = "nvidia-gpu", "nvidia-none"
DRIVER, NEXT_DRIVER = "580.105.08", "590.44.01"
IMAGE = "world:1"
CRI = "/usr/local/bin/test-cri"
SPEC = "/var/run/cdi/nvidia.yaml"
# What a container sees: the devices, and which driver its libraries are of.
LOOK = "ls /dev | grep nvidia; ls /usr/lib/*-linux-gnu | grep -e libcuda.so. -e libnvidia-ml.so.; true"
# Opening the simulated device fails for want of hardware where the container may, and for want of a right where not.
OPEN = "head -c1 /dev/nvidia{0} 2>&1 | sed 's/.*: //'"
MAY, MAY_NOT = "No such device or address", "Operation not permitted"

Found = tuple[set[str], set[str]]


def converge(*arguments: str, **variables: Any) -> Play:
    """Run the scenario's play again with other values."""
    return run_play(HERE / "converge.yml", variables, arguments=["--diff", "--skip-tags", "machine", *arguments])


def pids(host: Any) -> list[str]:
    shown = host.check_output("systemctl show --property=MainPID --value docker containerd")
    return [line for line in shown.splitlines() if line]


def seen(output: str) -> Found:
    """Devices and library versions in what LOOK prints."""
    words = output.split()
    return {word for word in words if word.startswith("nvidia")}, {
        word.split(".so.")[1] for word in words if ".so." in word and word.split(".so.")[1] != "1"
    }


def docker(host: Any, options: str, command: str = LOOK) -> str:
    return str(host.check_output(f"docker run --rm {options} {IMAGE} sh -c %s", command))


def in_pod(host: Any, options: str, command: str = LOOK) -> str:
    return str(host.check_output(f"{CRI} run {options} docker.io/library/{IMAGE} sh -c %s", command))


def info(host: Any) -> dict[str, Any]:
    """What the running daemon says, not what stands in a file."""
    found: dict[str, Any] = json.loads(host.check_output("docker info --format '{{json .}}'"))
    return found


def knows_cdi(host: Any) -> bool:
    """Docker has CDI since 25; Debian 12 has 20.10, where the runtime `nvidia` does it."""
    return int(info(host)["ServerVersion"].split(".")[0]) >= 25


def handlers(host: Any) -> dict[str, Any]:
    """Runtime handlers that containerd makes of its files."""
    dump = tomllib.loads(host.check_output("containerd config dump"))
    runtimes: dict[str, Any] = dump["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]
    return runtimes


def wait_for(what: Any, text: str, seconds: float = 30) -> None:
    """Ask again until the answer holds a text."""
    deadline = time.monotonic() + seconds
    while text not in (answer := what()):
        assert time.monotonic() < deadline, f"{text} is not in {answer}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def with_gpu(hosts: dict[str, Any]) -> Any:
    """The machine with two GPUs, an image and a client that speaks CRI as the kubelet does."""
    return _ready(GPU, hosts[GPU])


@pytest.fixture(scope="module")
def without(hosts: dict[str, Any]) -> Any:
    """The machine without a GPU."""
    return _ready(NONE, hosts[NONE])


def _ready(name: str, host: Any) -> Any:
    put_program(name, cri.build(), CRI)
    host.check_output(f"docker pull -q {IMAGE}")
    host.check_output(f"{CRI} pull docker.io/library/{IMAGE}")
    return host


@pytest.fixture
def driver(with_gpu: Any) -> Iterator[None]:
    """Puts the machine's two GPUs and their driver back."""
    yield
    gpu.install(GPU, count=2, driver=DRIVER)
    with_gpu.check_output("systemctl start nvidia-cdi-refresh.service")


WAYS = {
    "cdi": "--device nvidia.com/gpu=1",
    "runtime": "--runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=1",
    "gpus": "--gpus device=1 --runtime=nvidia",
}


@pytest.mark.parametrize("options", WAYS.values(), ids=list(WAYS))
def test_a_container_has_the_gpu_that_it_asks_for(with_gpu: Any, options: str) -> None:
    if "--device" in options and not knows_cdi(with_gpu):
        pytest.skip("this docker is older than 25 and knows no CDI")
    assert seen(docker(with_gpu, options)) == ({"nvidia1", "nvidiactl"}, {DRIVER})
    assert docker(with_gpu, options, OPEN.format(1)) == MAY


@pytest.mark.parametrize("options", ["", "--runtime=nvidia"], ids=["runc", "nvidia"])
def test_a_container_that_asks_for_none_has_none(with_gpu: Any, options: str) -> None:
    assert seen(docker(with_gpu, options)) == (set(), set())
    made = f"mknod /dev/nvidia0 c 195 0; {OPEN.format(0)}"
    assert docker(with_gpu, options, made) == MAY_NOT, "nor may it make itself one"


def test_a_pod_has_the_gpu_that_it_asks_for(with_gpu: Any) -> None:
    pod = "-handler nvidia -env NVIDIA_VISIBLE_DEVICES=1"
    assert seen(in_pod(with_gpu, pod)) == ({"nvidia1", "nvidiactl"}, {DRIVER})
    assert in_pod(with_gpu, pod, OPEN.format(1)) == MAY
    assert seen(in_pod(with_gpu, "-handler nvidia")) == (set(), set())
    assert seen(in_pod(with_gpu, "")) == (set(), set())


def test_a_pod_has_the_cdi_device_that_a_plugin_gives_it(with_gpu: Any) -> None:
    """Device plugins of Kubernetes name a device by the CRI's own field, with any handler."""
    if with_gpu.check_output("containerd --version").split()[2].startswith("1.6"):
        pytest.skip("containerd 1.6 has no CDI: there the handler nvidia does it")
    assert seen(in_pod(with_gpu, "-cdi nvidia.com/gpu=0")) == ({"nvidia0", "nvidiactl"}, {DRIVER})


def test_a_machine_without_a_gpu_runs_containers_and_refuses_gpus(without: Any) -> None:
    assert without.package("nvidia-container-toolkit").is_installed
    assert info(without)["DefaultRuntime"] == "runc"
    assert docker(without, "", "echo fine") == "fine"
    assert docker(without, "--runtime=nvidia", "echo fine") == "fine"
    assert in_pod(without, "-handler nvidia", "echo fine") == "fine"
    refused = without.run(f"docker run --rm --runtime=nvidia -e NVIDIA_VISIBLE_DEVICES=0 {IMAGE} true")
    assert refused.rc != 0
    assert "failed to initialize NVML" in refused.stderr


def test_runc_keeps_its_options_and_nvidia_has_them_too(with_gpu: Any) -> None:
    runtimes = handlers(with_gpu)
    assert runtimes["runc"]["options"]["SystemdCgroup"] is False
    assert runtimes["nvidia"]["options"] == {
        **runtimes["runc"]["options"],
        "BinaryName": "/usr/bin/nvidia-container-runtime",
    }


def test_a_second_run_changes_nothing_and_tells_what_was_found(with_gpu: Any, without: Any) -> None:
    before = pids(with_gpu), pids(without)
    play = converge().succeeded()
    assert play.changed == 0
    assert f"driver: {DRIVER}" in play.output
    assert "- nvidia.com/gpu=1\n" in play.output
    assert "gpus: []" in play.output, "of the other machine"
    assert converge("--check").succeeded().changed == 0
    assert (pids(with_gpu), pids(without)) == before


def test_one_source_is_left_of_many(with_gpu: Any, lab: Any) -> None:
    update = with_gpu.run("apt-get update")
    assert update.rc == 0, update.stderr
    assert "W:" not in update.stderr
    where = with_gpu.check_output("grep -rl nvidia.github.io /etc/apt")
    assert where == "/etc/apt/sources.list.d/slipway-nvidia.sources"
    asked = [request for request in lab.squid_log(GPU) if "nvidia.github.io" in request.url]
    assert asked, "the source was reached, and through the proxy"


def test_one_variable_changes_the_version(with_gpu: Any) -> None:
    assert "1.20.1" in with_gpu.check_output("nvidia-ctk --version")
    held = with_gpu.check_output("apt-mark showhold").split()
    assert {"nvidia-container-toolkit", "nvidia-container-toolkit-base"} <= {*held}
    converge("-l", GPU, nvidia_container_toolkit_version="1.19.*").succeeded()
    assert "1.19.1" in with_gpu.check_output("nvidia-ctk --version")
    assert seen(docker(with_gpu, WAYS["runtime"])) == ({"nvidia1", "nvidiactl"}, {DRIVER})
    converge("-l", GPU).succeeded()
    assert "1.20.1" in with_gpu.check_output("nvidia-ctk --version")


def test_the_default_runtime_is_nvidia_where_asked_for_and_there_is_a_gpu(with_gpu: Any, without: Any) -> None:
    converge(nvidia_container_toolkit_default_runtime=True).succeeded()
    assert [info(host)["DefaultRuntime"] for host in (with_gpu, without)] == ["nvidia", "runc"]
    assert seen(docker(with_gpu, "-e NVIDIA_VISIBLE_DEVICES=0")) == ({"nvidia0", "nvidiactl"}, {DRIVER})
    assert seen(in_pod(with_gpu, "-env NVIDIA_VISIBLE_DEVICES=0")) == ({"nvidia0", "nvidiactl"}, {DRIVER})
    converge().succeeded()
    assert info(with_gpu)["DefaultRuntime"] == "runc"


@pytest.mark.usefixtures("driver")
def test_a_new_driver_needs_no_play(with_gpu: Any) -> None:
    gpu.install(GPU, count=2, driver=NEXT_DRIVER)
    wait_for(lambda: with_gpu.check_output(f"cat {SPEC}"), NEXT_DRIVER)
    assert f".{DRIVER}" not in with_gpu.check_output(f"cat {SPEC}")
    assert seen(docker(with_gpu, WAYS["runtime"])) == ({"nvidia1", "nvidiactl"}, {NEXT_DRIVER})
    if knows_cdi(with_gpu):
        assert seen(docker(with_gpu, WAYS["cdi"])) == ({"nvidia1", "nvidiactl"}, {NEXT_DRIVER})


def test_a_first_driver_needs_no_play_either(with_gpu: Any) -> None:
    gpu.remove(GPU)
    with_gpu.check_output(f"rm -f {SPEC}")
    gpu.install(GPU, count=2, driver=DRIVER)
    wait_for(lambda: with_gpu.run(f"cat {SPEC}").stdout, DRIVER)


def gpu_checks() -> dict[str, tuple[str, str]]:
    """Outcome and reason of each of verify's checks of the machine with GPUs that has to do with them."""
    verdict = HERE.parents[1] / ".slipway" / "verify-nvidia.json"
    run_play(REPOSITORY / "playbooks/verify.yml", {"verify_verdict": str(verdict)}, arguments=["-l", GPU])
    results = json.loads(verdict.read_text(encoding="utf-8"))["results"]
    return {
        item["check"]: (item["outcome"], item["reason"])
        for item in results
        if "nvidia" in item["check"].lower() or "gpu" in item["check"].lower()
    }


@pytest.mark.usefixtures("driver")
def test_verify_names_a_device_that_is_not_there_until_the_refresh(with_gpu: Any) -> None:
    assert {outcome for outcome, _ in gpu_checks().values()} <= {"passed", "skipped"}
    gpu.install(GPU, count=1, driver=DRIVER)
    failed = [reason for outcome, reason in gpu_checks().values() if outcome == "failed"]
    assert [reason for reason in failed if "nvidia.com/gpu=1" in reason], failed
    with_gpu.check_output("systemctl start nvidia-cdi-refresh.service")
    assert {outcome for outcome, _ in gpu_checks().values()} <= {"passed", "skipped"}


def test_a_run_repairs_a_spec_that_is_not_true(with_gpu: Any) -> None:
    with_gpu.check_output(f"sed -i s/{DRIVER}/1.2.3/ {SPEC}")
    play = converge("-l", GPU).succeeded()
    assert "is not what the driver gives now" in play.output
    assert "1.2.3" not in with_gpu.check_output(f"cat {SPEC}")


def test_no_gpu_is_lost_by_configuration(with_gpu: Any) -> None:
    """A container on a GPU keeps it, and is not restarted, by all that happens to a machine in its life."""
    options = WAYS["cdi"] if knows_cdi(with_gpu) else WAYS["runtime"]
    with_gpu.run("docker rm -f keeper")
    with_gpu.check_output(f"docker run -d --name keeper {options} {IMAGE} sleep infinity")
    started = "docker inspect -f '{{.State.Running}} {{.State.StartedAt}}' keeper"
    before = with_gpu.check_output(started)

    def still_there() -> None:
        assert with_gpu.check_output("docker exec keeper sh -c %s", OPEN.format(1)) == MAY
        assert with_gpu.check_output(started) == before

    still_there()
    engines = pids(with_gpu)
    converge("-l", GPU, no_proxy=["localhost", "127.0.0.0/8", ".corp.lab", "172.29.64.0/24", ".other.lab"]).succeeded()
    assert not {*engines} & {*pids(with_gpu)}, "the changed proxy has restarted both engines"
    still_there()
    for command in ("systemctl daemon-reload", "systemctl restart docker", "systemctl restart containerd"):
        with_gpu.check_output(command)
        still_there()
    with_gpu.check_output("docker update --memory 64m --memory-swap 64m keeper")
    still_there()
    assert converge("-l", GPU).succeeded().changed > 0
    still_there()
    with_gpu.check_output("docker rm -f keeper")


def test_after_a_reboot_everything_is_there_again(with_gpu: Any, lab: Any) -> None:
    """/var/run/cdi is gone at a boot: the specs are written anew.

    dockerd before 28.2 starts no container with a CDI device by itself (moby#49989): the runtime does.
    """
    with_gpu.check_output(f"docker run -d --restart=always --name keeper {WAYS['runtime']} {IMAGE} sleep infinity")
    lab.reboot(GPU)
    wait_for(lambda: with_gpu.run("docker exec keeper sh -c %s", OPEN.format(1)).stdout, MAY)
    assert with_gpu.check_output("systemctl is-active nvidia-cdi-refresh.path") == "active"
    for options in WAYS.values() if knows_cdi(with_gpu) else [WAYS["runtime"]]:
        assert seen(docker(with_gpu, options)) == ({"nvidia1", "nvidiactl"}, {DRIVER})
    with_gpu.check_output("docker rm -f keeper")


def test_a_gpu_that_is_required_and_not_there_stops_the_run(without: Any) -> None:
    before = without.check_output("find /etc/docker /etc/containerd /etc/apt -type f | xargs md5sum")
    play = converge("-l", NONE, nvidia_container_toolkit_require_gpu=True, nvidia_container_toolkit_version="1.19.*")
    assert play.rc != 0
    said = " ".join(play.output.split())
    assert "nvidia_container_toolkit_require_gpu is true, but this machine has no GPU to use: no PCI device" in said
    assert without.check_output("find /etc/docker /etc/containerd /etc/apt -type f | xargs md5sum") == before
    assert "1.20.1" in without.check_output("nvidia-ctk --version")


def test_every_mistake_is_told_in_a_sentence(with_gpu: Any) -> None:
    before = pids(with_gpu)
    wrong: dict[str, Any] = {
        "nvidia_container_toolkit_version": "1.17.*",
        "nvidia_container_toolkit_repository_fingerprint": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
        "nvidia_container_toolkit_gpu": "absent",
        "nvidia_container_toolkit_default_runtime": True,
    }
    play = converge(**wrong)
    said = " ".join(play.output.split())
    assert play.rc != 0
    assert [name for name in wrong if f"{name} is " not in said and f"{name}" not in said] == []
    assert "C95B321B61E88C1809C4F759DDCAE044F796ECB0" in said
    assert pids(with_gpu) == before


def test_removal_leaves_the_engines_as_they_were(with_gpu: Any, without: Any) -> None:
    run_play(HERE / "remove.yml").succeeded()
    for host in (with_gpu, without):
        assert "nvidia" not in info(host)["Runtimes"]
        assert [*handlers(host)] == ["runc"]
        assert docker(host, "", "echo fine") == "fine"
        assert in_pod(host, "", "echo fine") == "fine"
        assert host.run("command -v nvidia-ctk nvidia-container-runtime").rc != 0
        assert not host.file(SPEC).exists
        assert host.file("/etc/apt/sources.list.d/nvidia-docker.list").exists, "what was there before is back"
        assert host.run("find /etc/systemd /etc/slipway -path '*nvidia*'").stdout == ""
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
