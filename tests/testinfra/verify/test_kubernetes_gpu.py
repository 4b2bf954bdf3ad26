# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs of pods: the node offers what the machine has, and a pod that asks for one sees one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.testinfra.verify import cluster, gpu
from tests.testinfra.verify.machine import Machine, missing, need, wrong


@pytest.fixture
def api(machine: Machine, host: Any) -> cluster.Api:
    """Return the cluster of a node that should offer its GPUs; skips where the site wants none of that."""
    wanted = machine.fact("kubernetes").get("gpus")
    if not wanted:
        missing("the inventory sets no site_kubernetes.gpus")
    if "kubernetes_nodes" not in machine.groups:
        missing("the machine is not in kubernetes_nodes")
    return cluster.Api(machine.api())


def test_node_offers_gpus(machine: Machine, host: Any, api: cluster.Api) -> None:
    """the node offers the machine's GPUs to pods, each of them healthy"""
    node = api.get("node", machine.node)
    need(node, f"the cluster has no node {machine.node}")
    wanted = len(gpu.look(machine.name, host).gpus)
    problem = cluster.gpus(node, wanted * api.shares())
    need(not problem, problem)


def test_pod_with_a_gpu(machine: Machine, host: Any, api: cluster.Api) -> None:
    """a pod that asks for a GPU sees exactly one, and the driver's libraries"""
    found = gpu.look(machine.name, host)
    if not found.gpus:
        missing("the machine has no GPU")
    image = machine.probe("private")
    node = api.get("node", machine.node)
    resource = cluster.resource(node)
    if not resource:
        wrong(f"the node {machine.node} offers no GPU")
    pod = cluster.gpu_pod(node, image, resource, gpu.SHOW)
    status, said = api.run(pod)
    if "Insufficient nvidia.com/" in json.dumps(status):
        missing("every GPU of the node is in use")
    need(status.get("phase") == "Succeeded", f"a pod of {image} with {resource}: 1 did not run: {cluster.why(status)}")
    got = gpu.Inside.read(said)
    need(len(got.minors) == 1, f"a pod with {resource}: 1 has {got}")
    need(got.libraries, f"a pod with {resource}: 1 has {got}")
