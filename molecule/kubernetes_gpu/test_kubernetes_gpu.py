# SPDX-License-Identifier: GPL-3.0-or-later
"""A pod that asks for a GPU gets exactly one, by CDI, from a plugin that the private registry has; others get none.

The kubelet, containerd, its CDI and NVIDIA's container toolkit are real; GPUs and NVIDIA's device plugin are played.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.cluster import Cluster, pod, wait_for
from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play

HERE = Path(__file__).resolve().parent
NODE = "kube-gpu"
SPACE = "nvidia-device-plugin"
GPU = "nvidia.com/gpu"
IMAGE = "nvcr.io/nvidia/k8s-device-plugin:v0.19.0"
# What a container sees: devices, the variable, and the driver's libraries.
LOOK = "ls /dev | grep '^nvidia[0-9]'; echo ids=$NVIDIA_VISIBLE_DEVICES; ls /usr/lib/*-linux-gnu | grep libcuda.so.5"
# Opening a simulated device fails for want of hardware where the container may, and for want of a right where not.
OPEN = "head -c1 {0} 2>&1 | sed 's/.*: //'"
MAY, MAY_NOT = "No such device or address", "Operation not permitted"


def play(name: str, *arguments: str, **variables: Any) -> Play:
    """Run one of the site's playbooks, or the scenario's own."""
    path = HERE / name if (HERE / name).exists() else REPOSITORY / "playbooks" / name
    return run_play(path, variables, arguments=["--diff", *arguments])


@pytest.fixture(scope="module")
def node(hosts: dict[str, Any]) -> Any:
    return hosts[NODE]


@pytest.fixture(scope="module")
def cluster(node: Any) -> Cluster:
    return Cluster(node)


def gpu_pod(name: str, count: int = 1, image: str = "hello:1", **spec: Any) -> dict[str, Any]:
    """A pod that the scheduler places, and that stays."""
    made = pod(name, image, "sleep infinity", NODE, **spec)
    del made["spec"]["nodeName"]
    container = made["spec"]["containers"][0]
    container["imagePullPolicy"] = "IfNotPresent"
    if count:
        container["resources"] = {"limits": {GPU: str(count)}}
    return made


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Any]:
    """Makes pods, waits until they run unless told otherwise, and removes them in the end."""
    made: list[str] = []

    def running(wanted: dict[str, Any]) -> bool:
        name = wanted["metadata"]["name"]
        status = cluster.pod(name)["status"]
        if status.get("reason") == "UnexpectedAdmissionError":
            # The scheduler saw GPUs that the kubelet, or its plugin, was just about to have again. It is for whoever
            # makes pods to make another one then.
            cluster.remove(f"pod {name}")
            cluster.create(wanted)
        return bool(status["phase"] == "Running")

    def make(name: str, *arguments: Any, wait: bool = True, **named: Any) -> str:
        wanted = gpu_pod(name, *arguments, **named)
        cluster.create(wanted)
        made.append(name)
        if wait:
            wait_for(lambda: running(wanted), lambda: cluster.says(name))
        return name

    yield make
    cluster.remove(*(f"pod {name}" for name in made))


def inside(cluster: Cluster, name: str, command: str = LOOK) -> str:
    return cluster.ask(f"exec {name} -- bash -c %s", command + "; true").strip()


def devices(cluster: Cluster, name: str) -> set[str]:
    """GPUs that a pod sees."""
    return {word for word in inside(cluster, name).split() if word.startswith("nvidia")}


def offered(cluster: Cluster, part: str = "allocatable") -> int:
    return int(cluster.get(f"node {NODE}")["status"][part].get(GPU, 0))


def until_offered(cluster: Cluster, count: int, part: str = "allocatable") -> None:
    wait_for(lambda: offered(cluster, part) == count, lambda: cluster.ask(f"describe node {NODE}")[-3000:])


def plugins(cluster: Cluster) -> list[dict[str, Any]]:
    return list(cluster.get(f"pods -n {SPACE} -l app.kubernetes.io/name=nvidia-device-plugin")["items"])


# --- What converge has made -------------------------------------------------------------------------------------


def test_the_node_offers_its_gpus(cluster: Cluster) -> None:
    labels = cluster.get(f"node {NODE}")["metadata"]["labels"]
    assert labels["nvidia.com/gpu.present"] == "true"
    assert (offered(cluster), offered(cluster, "capacity")) == (2, 2)


def test_the_plugin_is_pinned_and_came_from_the_private_registry(cluster: Cluster, lab: Lab) -> None:
    (plugin,) = plugins(cluster)
    assert plugin["spec"]["containers"][0]["image"] == IMAGE
    assert plugin["spec"]["runtimeClassName"] == "nvidia"
    assert [request for request in lab.squid_log() if "nvcr.io" in request.url] == [], "nobody asked upstream"
    said = cluster.ask(f"logs -n {SPACE} {plugin['metadata']['name']}")
    assert "STAND-IN for NVIDIA's device plugin" in said, "it says what it is"


def test_a_pod_gets_exactly_one_gpu_and_no_two_get_the_same(cluster: Cluster, pods: Any) -> None:
    first, second = pods("first"), pods("second")
    seen = {name: inside(cluster, name) for name in (first, second)}
    numbers = {}
    for name, text in seen.items():
        (device,) = devices(cluster, name)
        numbers[name] = device.removeprefix("nvidia")
        assert "ids=void" in text, "CDI's mark: the runtime nvidia has nothing to add"
        assert "libcuda.so.580" in text, "the driver's library comes with it"
        assert inside(cluster, name, OPEN.format(f"/dev/{device}")) == MAY
    assert sorted(numbers.values()) == ["0", "1"]
    other = numbers[second]
    assert inside(cluster, first, f"mknod /dev/other c 195 {other}; {OPEN.format('/dev/other')}") == MAY_NOT

    pods("third", wait=False)
    message = wait_for(
        lambda: [
            one["message"]
            for one in cluster.pod("third")["status"].get("conditions", [])
            if one.get("reason") == "Unschedulable"
        ],
        lambda: cluster.says("third"),
    )
    assert f"Insufficient {GPU}" in message[0]
    cluster.remove(f"pod {first}")
    cluster.phase("third", "Running")
    assert devices(cluster, "third") == {f"nvidia{numbers[first]}"}


@pytest.mark.parametrize("image", ["hello:1", IMAGE], ids=["plain", "wants-all"])
def test_a_pod_that_asks_for_none_has_none(cluster: Cluster, pods: Any, image: str) -> None:
    """Images for CUDA say NVIDIA_VISIBLE_DEVICES=all, as the plugin's own does."""
    pods("none", 0, image)
    assert ("ids=all" in inside(cluster, "none")) is (image == IMAGE)
    assert devices(cluster, "none") == set()
    made = f"mknod /dev/nvidia0 c 195 0; {OPEN.format('/dev/nvidia0')}"
    assert inside(cluster, "none", made) == MAY_NOT, "nor may it make itself one"


def test_the_runtime_class_gives_what_was_asked_for(cluster: Cluster, pods: Any) -> None:
    pods("plain", 0, runtimeClassName="nvidia")
    assert devices(cluster, "plain") == set()
    pods("one", 1, IMAGE, runtimeClassName="nvidia")
    assert len(devices(cluster, "one")) == 1, "although its image wants all"


# --- What happens to nodes --------------------------------------------------------------------------------------


def test_gpus_come_back_when_kubelet_and_plugin_do(cluster: Cluster, node: Any, pods: Any) -> None:
    pods("keeper")
    (mine,) = devices(cluster, "keeper")
    (before,) = plugins(cluster)

    def registered() -> int:
        # Nobody can say while the kubelet is away.
        return str(cluster.run(f"logs -n {SPACE} {before['metadata']['name']}").stdout).count(
            "registered nvidia.com/gpu"
        )

    count = registered()
    node.check_output("systemctl restart kubelet")
    wait_for(lambda: registered() > count, lambda: f"registered {registered()} times, {count} before")
    until_offered(cluster, 2)
    pods("after-kubelet")
    assert devices(cluster, "after-kubelet") | {mine} == {"nvidia0", "nvidia1"}
    cluster.remove("pod after-kubelet")

    cluster.remove(f"pod -n {SPACE} {before['metadata']['name']}")
    wait_for(lambda: [one for one in plugins(cluster) if one["metadata"]["uid"] != before["metadata"]["uid"]], str)
    pods("after-plugin")
    until_offered(cluster, 2)
    assert devices(cluster, "after-plugin") | {mine} == {"nvidia0", "nvidia1"}
    assert inside(cluster, "keeper", OPEN.format(f"/dev/{mine}")) == MAY, "who had one has kept it"


def test_a_gpu_that_fails_is_offered_to_nobody(cluster: Cluster, node: Any) -> None:
    node.check_output("rm /dev/nvidia1")
    try:
        until_offered(cluster, 1)
        assert offered(cluster, "capacity") == 2
    finally:
        node.check_output("mknod -m 666 /dev/nvidia1 c 195 1")
    (plugin,) = plugins(cluster)
    cluster.remove(f"pod -n {SPACE} {plugin['metadata']['name']}")
    until_offered(cluster, 2)


def test_a_machine_without_a_gpu_gets_no_plugin(cluster: Cluster) -> None:
    play("kubernetes.yml", kubernetes_node_gpu="absent").succeeded()
    assert "nvidia.com/gpu.present" not in cluster.get(f"node {NODE}")["metadata"]["labels"]
    wait_for(lambda: plugins(cluster) == [], lambda: str(plugins(cluster)))
    until_offered(cluster, 0)
    done = play("kubernetes.yml").succeeded()
    assert "nvidia.com/gpu.present" in done.output
    assert offered(cluster) == 2, "the run ends when the node offers them"


# --- The role ---------------------------------------------------------------------------------------------------


def test_drift_is_mended_and_nothing_else_is_changed(cluster: Cluster) -> None:
    assert play("plugin.yml").succeeded().changed == 0
    cluster.ask("delete runtimeclass nvidia")
    cluster.ask(f"set env -n {SPACE} daemonset/{SPACE} DEVICE_LIST_STRATEGY=envvar")
    predicted = play("plugin.yml", "--check").succeeded()
    done = play("plugin.yml").succeeded()
    for output in (predicted.output, done.output):
        assert "created runtimeclass.node.k8s.io/nvidia" in output
        assert "configured daemonset.apps/nvidia-device-plugin" in output
    assert (predicted.changed, done.changed) == (1, 1)
    assert play("plugin.yml").succeeded().changed == 0
    until_offered(cluster, 2)


def test_gpus_are_shared_where_a_site_says_so(cluster: Cluster) -> None:
    sliced = {"sharing": {"timeSlicing": {"resources": [{"name": GPU, "replicas": 4}]}}}
    play("plugin.yml", nvidia_device_plugin_config=sliced).succeeded()
    until_offered(cluster, 8)
    play("plugin.yml").succeeded()
    until_offered(cluster, 2)
    assert cluster.get(f"configmaps -n {SPACE} -l app.kubernetes.io/managed-by=slipway")["items"] == []


def test_an_image_that_is_not_there_is_named_before_anything_changes(cluster: Cluster) -> None:
    (before,) = plugins(cluster)
    image = "nvcr.io/nvidia/k8s-device-plugin:v0.0.1"
    refused = play("plugin.yml", nvidia_device_plugin_image=image)
    assert refused.rc != 0
    said = " ".join(refused.output.split())
    assert f"{image} is not in kube-gpu.corp.lab:6001 (as nvidia/k8s-device-plugin:v0.0.1): it needs {image}" in said
    assert "registry_mirror_images, and playbooks/mirror.yml" in said
    assert plugins(cluster)[0]["metadata"]["uid"] == before["metadata"]["uid"]


def gpu_checks(name: str) -> dict[str, tuple[str, str]]:
    """Outcome and reason of each of verify's checks of GPUs in pods."""
    verdict = REPOSITORY / ".slipway" / f"verify-{name}.json"
    play("verify.yml", verify_verdict=str(verdict))
    results = json.loads(verdict.read_text(encoding="utf-8"))["results"]
    return {
        item["check"]: (item["outcome"], item["reason"])
        for item in results
        if "to pods" in item["check"] or "a pod that asks for a GPU" in item["check"]
    }


def test_switched_off_everything_goes_and_verify_says_so(cluster: Cluster) -> None:
    checks = gpu_checks("kubernetes-gpu-on")
    assert [outcome for outcome, _ in checks.values()] == ["passed", "passed"], checks
    play("plugin.yml", nvidia_device_plugin_enabled=False).succeeded()
    ours = "-l app.kubernetes.io/name=nvidia-device-plugin"
    assert cluster.get(f"daemonsets,configmaps,namespaces,runtimeclasses,pods --all-namespaces {ours}")["items"] == []
    until_offered(cluster, 0)
    assert play("plugin.yml", nvidia_device_plugin_enabled=False).succeeded().changed == 0
    failed = gpu_checks("kubernetes-gpu-off")
    assert f"the node {NODE} offers 0 GPUs to pods, the machine has 2 for them" in str(failed)
    play("plugin.yml").succeeded()
    assert offered(cluster) == 2
