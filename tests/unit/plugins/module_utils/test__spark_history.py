# SPDX-License-Identifier: GPL-3.0-or-later
"""The history server's objects, and when it answers."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _spark_history as history

LOGS = "hdfs://nn:8020/spark-logs"


def settings(**values: Any) -> history.Settings:
    return history.Settings(**{"image": "r/driver:1", "directory": LOGS, **values})


def parts(**values: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    config, service, deployment = history.objects(settings(**values), "jobs")
    return config, service, deployment


def test_restricted_and_from_the_drivers_image() -> None:
    hadoop = {"core-site.xml": "<x/>"}
    config, service, deployment = parts(
        hadoop=hadoop, memory="2g", days=7, pull_secret="pull", node_selector={"a": "b"}
    )
    assert config["data"] == hadoop
    assert service["spec"]["type"] == "ClusterIP" and "nodePort" not in service["spec"]["ports"][0]
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert not spec["automountServiceAccountToken"]
    assert (spec["imagePullSecrets"], spec["nodeSelector"]) == ([{"name": "pull"}], {"a": "b"})
    (container,) = spec["containers"]
    assert container["image"] == "r/driver:1"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"] == "2560Mi"
    options = container["env"][1]["value"].split()
    assert {f"-Dspark.history.fs.logDirectory={LOGS}", "-Dspark.history.fs.cleaner.maxAge=7d"} <= {*options}


def test_a_port_of_the_nodes() -> None:
    _, service, deployment = parts(node_port=30080, tolerations=({"key": "gpu"},))
    assert (service["spec"]["type"], service["spec"]["ports"][0]["nodePort"]) == ("NodePort", 30080)
    assert deployment["spec"]["template"]["spec"]["tolerations"] == [{"key": "gpu"}]


def test_another_configuration_is_another_pod() -> None:
    def digest(**values: Any) -> Any:
        return parts(**values)[2]["spec"]["template"]["metadata"]["annotations"]

    assert digest() == digest() != digest(hadoop={"core-site.xml": "<y/>"})


@pytest.mark.parametrize(
    ("status", "answers"),
    [
        ({"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 1}, True),
        ({"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 1}, False),
        ({"observedGeneration": 2, "readyReplicas": 1}, False),
        ({"observedGeneration": 2, "updatedReplicas": 1}, False),
        ({}, False),
    ],
)
def test_when_it_answers(status: dict[str, int], answers: bool) -> None:
    assert history.ready({"metadata": {"generation": 2}, "status": status}) is answers
    assert not history.ready(None)
