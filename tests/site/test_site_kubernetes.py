"""The lab with a cluster, as `make lab PROFILE=kubernetes` makes it: a bare machine becomes a node and leaves again.

Part of make test-long. It begins with bare machines, and they are thrown away at its end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra

from tests.lab import kubernetes
from tests.lab.paths import REPOSITORY
from tests.site.conftest import LOGS, Run, lab, playbook
from tests.testinfra.cluster import Cluster, pod, untouched

pytestmark = pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")

NEW = "node3"
OTHERS = ("control", "node1", "node2")
MACHINES = ("registry", *OTHERS, NEW)
PLUGIN = "--namespace=nvidia-device-plugin"


@pytest.fixture(scope="module", autouse=True)
def _lab() -> Iterator[None]:
    """`make lab PROFILE=kubernetes` on bare machines."""
    lab("destroy", *MACHINES)
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "make-lab-kubernetes.log").open("w", encoding="utf-8") as log:
        command = ["make", "lab", "PROFILE=kubernetes"]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, (LOGS / "make-lab-kubernetes.log").read_text(encoding="utf-8")[-4000:]
    yield
    lab("destroy", *MACHINES)
    kubernetes.hosts_file().unlink(missing_ok=True)


@pytest.fixture(scope="module")
def hosts() -> dict[str, Any]:
    return {name: testinfra.get_host(f"docker://slipway-{name}") for name in MACHINES}


@pytest.fixture(scope="module")
def cluster(hosts: dict[str, Any]) -> Cluster:
    return Cluster(hosts["control"])


def onboard(log: str) -> Run:
    """Make node3 a node, as a user would."""
    done = playbook("playbooks/onboard.yml", "-l", NEW, log=log)
    assert done.rc == 0, done.errors
    print(f"{log}: {done.seconds:.0f} seconds")
    return done


def everything(hosts: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    """Return what onboarding of one machine may not change on the others."""
    return {name: untouched(hosts[name], cluster) for name in OTHERS}


def offers(cluster: Cluster, node: str) -> str:
    """Return how many GPUs a node offers."""
    return str(cluster.get(f"node {node}")["status"]["allocatable"].get("nvidia.com/gpu", "none"))


def gpus_of_a_pod(cluster: Cluster, node: str) -> list[str]:
    """Run a pod that asks for one GPU; return what it sees."""
    wanted = pod("gpu", "hello:1", "nvidia-smi -L", node)
    wanted["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    cluster.create(wanted)
    try:
        cluster.phase("gpu", "Succeeded")
        return cluster.ask("logs gpu").splitlines()
    finally:
        cluster.remove("pod gpu")


def test_a_bare_machine_becomes_a_node_and_no_other_machine_notices(hosts: dict[str, Any], cluster: Cluster) -> None:
    """The onboarding ends with a pod of the private registry on that very node."""
    assert cluster.run(f"get node {NEW}").rc != 0
    assert not hosts[NEW].exists("containerd"), "it is bare"
    before = everything(hosts, cluster)
    assert all(before[name][kind] for name in OTHERS for kind in ("daemons", "files", "the kubelet's containers"))
    joined = onboard("onboard")
    assert cluster.ready(NEW)
    assert set(joined.changed) == {NEW}
    assert everything(hosts, cluster) == before
    again = onboard("onboard-again")
    assert again.changed == {NEW: 0}
    assert everything(hosts, cluster) == before


def test_gpus_are_where_there_are_some(cluster: Cluster) -> None:
    plugins = cluster.get(f"pods {PLUGIN}")["items"]
    assert [one["spec"]["nodeName"] for one in plugins] == ["node1"]
    assert {name: offers(cluster, name) for name in (*OTHERS, NEW)} == {
        "control": "none", "node1": "2", "node2": "none", "node3": "none",
    }  # fmt: skip
    assert len(gpus_of_a_pod(cluster, "node1")) == 1


def test_off_and_on_again_with_gpus(hosts: dict[str, Any], cluster: Cluster) -> None:
    """The machine has left, got GPUs, and comes back: they are there as soon as onboard.yml ends."""
    before = everything(hosts, cluster)
    gone = playbook("playbooks/offboard.yml", "-l", NEW, log="offboard")
    assert gone.rc == 0, gone.errors
    assert cluster.run(f"get node {NEW}").rc != 0
    lab("gpu", NEW)
    onboard("onboard-gpus")
    assert cluster.ready(NEW) and offers(cluster, NEW) == "2"
    assert everything(hosts, cluster) == before
    assert len(gpus_of_a_pod(cluster, NEW)) == 1
    assert onboard("onboard-gpus-again").changed == {NEW: 0}
