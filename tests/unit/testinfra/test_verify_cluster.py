# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify asks a cluster about GPUs, and what it says of the answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.testinfra.verify import cluster
from tests.testinfra.verify.machine import Machine


def node(allocatable: dict[str, str], capacity: dict[str, str] | None = None, runtime: str = "2.1.5") -> dict[str, Any]:
    """Return a node as the API server describes it."""
    info = {"containerRuntimeVersion": f"containerd://{runtime}"}
    status = {"allocatable": {"cpu": "2", **allocatable}, "capacity": capacity or allocatable, "nodeInfo": info}
    return {"metadata": {"name": "node1"}, "status": status}


class Host:
    """Answers kubectl by the first of its words that is known."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"delete": "", "apply": "", **answers}
        self.asked: list[str] = []

    def run(self, command: str) -> SimpleNamespace:
        words = command.removeprefix(cluster.KUBECTL).split()[1:]
        self.asked.append(" ".join(words))
        answer = self.answers.get(words[1] if words[0] == "get" else words[0])
        if answer is None:
            return SimpleNamespace(rc=1, stdout="", stderr="a warning\nit is not there\n")
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return SimpleNamespace(rc=0, stdout=answer if isinstance(answer, str) else json.dumps(answer), stderr="")


def test_gpus_that_are_offered() -> None:
    whole = {"nvidia.com/gpu": "2"}
    assert cluster.gpus(node(whole), 2) == ""
    assert cluster.gpus(node({"nvidia.com/gpu.shared": "8"}), 8) == ""
    assert cluster.gpus(node({}), 0) == ""
    assert cluster.gpus(node({}), 2) == "the node node1 offers 0 GPUs to pods, the machine has 2 for them"
    assert cluster.gpus(node({"nvidia.com/gpu": "1"}, whole), 2).endswith("has 2 for them, 1 of them unhealthy")
    assert cluster.resource(node(whole)) == "nvidia.com/gpu"
    assert cluster.resource(node({"nvidia.com/gpu": "0"})) == ""


def test_the_pod_asks_by_the_runtime_class_only_where_there_is_no_cdi() -> None:
    old, new = node({}, runtime="1.6.20~ds1"), node({}, runtime="1.7.24")
    assert cluster.gpu_pod(old, "i:1", "nvidia.com/gpu", "x")["spec"]["runtimeClassName"] == "nvidia"
    made = cluster.gpu_pod(new, "i:1", "nvidia.com/gpu", "x")
    assert "runtimeClassName" not in made["spec"]
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}


def test_shares_are_those_of_the_configuration() -> None:
    sliced = {"sharing": {"timeSlicing": {"resources": [{"name": "nvidia.com/gpu", "replicas": 4}]}}}
    item = {"data": {"config.yaml": json.dumps(sliced)}}
    assert cluster.Api(Host(configmaps={"items": [item]})).shares() == 4
    assert cluster.Api(Host(configmaps={"items": [{"data": {}}]})).shares() == 1
    assert cluster.Api(Host(configmaps="")).shares() == 1


def test_a_pod_runs_to_its_end_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.time, "sleep", lambda _: None)
    pod = cluster.gpu_pod(node({}), "i:1", "nvidia.com/gpu", "x")
    host = Host(pod=["", {"status": {"phase": "Running"}}, {"status": {"phase": "Succeeded"}}], logs="said")
    assert cluster.Api(host).run(pod) == ({"phase": "Succeeded"}, "said")
    assert host.asked[-1].startswith("delete pod slipway-verify-gpu-node1")
    full = {"phase": "Pending", "conditions": [{"reason": "Unschedulable"}]}
    assert cluster.Api(Host(pod={"status": full})).run(pod) == (full, "")
    assert cluster.Api(Host(pod={"status": {"phase": "Pending"}})).run(pod, seconds=0) == ({"phase": "Pending"}, "")


def test_a_cluster_that_does_not_answer_fails_the_check() -> None:
    with pytest.raises(pytest.fail.Exception, match="kubectl get node node1: it is not there"):
        cluster.Api(Host()).get("node", "node1")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]}, "no"),
        ({"containerStatuses": [{"state": {"terminated": {"reason": "Error"}}}]}, "Error"),
        ({"conditions": [{"status": "False", "message": "0/1 nodes"}]}, "0/1 nodes"),
        ({"phase": "Pending"}, "Pending"),
        ({}, "?"),
    ],
)
def test_why_a_pod_did_not_run(status: dict[str, Any], said: str) -> None:
    assert cluster.why(status) == said


def test_the_cluster_is_asked_where_the_inventory_says() -> None:
    machine = Machine("node1", control={"name": "control", "kind": "docker", "address": "box"})
    assert machine.api().backend.name == "box"
    with pytest.raises(pytest.skip.Exception, match=r"no site_kubernetes\.control_plane"):
        Machine("node1").api()
