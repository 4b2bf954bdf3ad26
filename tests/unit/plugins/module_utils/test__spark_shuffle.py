# SPDX-License-Identifier: GPL-3.0-or-later
"""The shuffle service's objects, and whether executors would find it on their node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _spark_shuffle as shuffle

SETTINGS = shuffle.Settings(
    image="r/executor:1",
    janitor="print()",
    directory="/data/shuffle",
    port=7400,
    user=1234,
    pull_secret="pull",
    node_selector={"a": "b"},
    tolerations=({"key": "gpu", "operator": "Exists"},),
)


def test_the_pod_is_restricted_but_for_the_host_s_network_and_one_directory() -> None:
    program, made = shuffle.service(SETTINGS, "jobs")
    assert program["data"] == {"janitor.py": "print()"}
    spec = made["spec"]["template"]["spec"]
    assert [one["hostPath"]["path"] for one in spec["volumes"] if "hostPath" in one] == ["/data/shuffle"]
    assert (spec["hostNetwork"], spec["automountServiceAccountToken"]) == (True, False)
    assert spec["securityContext"]["runAsUser"] == 1234
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert "-Dspark.shuffle.service.port=7400" in spec["containers"][0]["env"][1]["value"]
    assert "-Dspark.local.dir=/data/shuffle " in spec["containers"][0]["env"][1]["value"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert (spec["nodeSelector"], spec["tolerations"][0]["key"]) == ({"a": "b"}, "gpu")
    # Both see the directory at the path that executors tell the service.
    assert {
        mount["mountPath"] for one in spec["containers"] for mount in one["volumeMounts"] if mount["name"] == "data"
    } == {"/data/shuffle"}


def test_a_new_program_is_a_new_pod() -> None:
    def digest(settings: shuffle.Settings) -> str:
        return str(shuffle.service(settings, "jobs")[1]["spec"]["template"]["metadata"]["annotations"])

    other = shuffle.Settings(image="r/executor:1", janitor="print(1)")
    assert digest(other) != digest(shuffle.Settings(image="r/executor:1", janitor="print()"))
    assert other.place != SETTINGS.place == "1234:7400:/data/shuffle"


def test_rights() -> None:
    made = shuffle.accounts("jobs", "submitter")
    roles = {(one["metadata"]["namespace"], one["metadata"]["name"]): one["rules"] for one in made if "rules" in one}
    assert roles["jobs", "spark-janitor"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    assert {verb for rule in roles["jobs-shuffle", "submitter"] for verb in rule["verbs"]} == {"get", "list"}
    assert not [one for one in made if one["kind"].startswith("Cluster")]


def test_the_policy_is_for_one_namespace_and_names_the_directory() -> None:
    made, bound = shuffle.policy("jobs", ("l", "spark"), "/data/shuffle")
    where = {"matchLabels": {"kubernetes.io/metadata.name": "jobs", "l": "spark"}}
    assert made["spec"]["matchConstraints"]["namespaceSelector"] == where
    assert bound["spec"]["matchResources"]["namespaceSelector"] == where
    assert bound["spec"]["validationActions"] == ["Deny"] and made["spec"]["failurePolicy"] == "Fail"
    assert 'one.hostPath.path == "/data/shuffle"' in json.dumps(made).replace('\\"', '"')


def daemonset(*, wanted: int = 1, seen: int = 2) -> dict[str, Any]:
    made = shuffle.service(SETTINGS, "jobs")[1]
    made["metadata"]["generation"] = 2
    made["status"] = {"desiredNumberScheduled": wanted, "observedGeneration": seen}
    return made


def pod(*, ready: bool = True, state: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    annotations = daemonset()["spec"]["template"]["metadata"]["annotations"]
    return {
        "metadata": {"annotations": annotations, **metadata},
        "spec": {"nodeName": "n1"},
        "status": {"containerStatuses": [{"ready": True}, {"ready": ready, "state": state or {}}]},
    }


def test_there_for_executors() -> None:
    assert shuffle.late(daemonset(), [pod(), pod(deletionTimestamp="now", annotations={})]) == ""
    # Of a node that does not answer, this is the last word: it gets no executors.
    silent = pod()
    silent["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    assert shuffle.late(daemonset(), [silent]) == ""


WAITS = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}


@pytest.mark.parametrize(
    ("found", "pods", "why"),
    [
        (None, [], "there is no shuffle service in the cluster"),
        (daemonset(seen=1), [pod()], "has not made the pods"),
        (daemonset(wanted=2), [pod()], "1 of 2 nodes have a pod"),
        (daemonset(wanted=0), [], "0 of 0 nodes"),
        (daemonset(), [pod(annotations={})], "on n1 is an older one"),
        (daemonset(), [pod(ready=False)], "on n1 is not ready: it has not begun to answer"),
        (daemonset(), [pod(ready=False, state=WAITS)], "not ready: ImagePullBackOff: no such image"),
        (daemonset(), [pod(ready=False, state={"terminated": {"exitCode": 1}})], "not ready: it does not say why"),
        (daemonset(), [{"metadata": pod()["metadata"], "spec": {"nodeName": "n1"}}], "on n1 is not ready: it has not"),
    ],
)
def test_not_there_for_executors(found: Any, pods: list[dict[str, Any]], why: str) -> None:
    assert why in shuffle.late(found, pods)
