# SPDX-License-Identifier: GPL-3.0-or-later
"""The place that applications get in a cluster: what is in it, what goes, and whose it is."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _kubernetes,
    _spark,
    _spark_history,
    _spark_shuffle,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

REGISTRY = {"host": "registry:6001", "user": "puller", "password": "s:cret"}
LOGIN = {"token": base64.b64encode(b"t0ken").decode(), "ca.crt": base64.b64encode(b"PEM").decode()}


class Cluster:
    """A cluster that keeps what is applied, and fills the secret of the login after a while."""

    def __init__(self, root: Path) -> None:
        self.places = _kubernetes.Places(f"{root}/")
        Path(self.places.manifests).mkdir(parents=True)
        Path(self.places.admin).write_text("")
        self.found: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.login: list[dict[str, str]] = [LOGIN]
        self.drivers: list[dict[str, Any]] = []
        self.late = 0
        self.answers = True

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout
        words = [word for word in argv[len(_kubernetes.SCRUBBED) + 1 :] if not word.startswith(("--request", "--kube"))]
        self.calls.append(" ".join(words))
        if words[0] == "apply":
            return self._apply(json.loads(stdin or "{}")["items"], dry="--dry-run=server" in words)
        if words[0] == "delete":
            self.found = {name: item for name, item in self.found.items() if words[1:3] != name.split("/")}
            return Result(0, "", "")
        if words[1] == _spark.KINDS:
            kinds = {kind.removesuffix("s") for kind in _spark.KINDS.split(",")}
            items = [item for name, item in self.found.items() if name.split("/")[0] in kinds]
            items = [item for item in items if f"--namespace={item['metadata']['namespace']}" in words]
            return Result(0, json.dumps({"items": items}), "")
        if words[1] == "pods":
            return Result(0, json.dumps({"items": self.pods(words)}), "")
        item = self.found.get(f"{words[1]}/{words[2]}")
        if words[0] == "logs":
            return Result(0, "Error: no directory", "")
        if item and words[1] == "deployment":
            ready = {"updatedReplicas": 1, "readyReplicas": int(self.answers)}
            item = {**item, "status": ready}
        if item and words[2] == _spark.LOGIN:
            item = {**item, "data": self.login.pop(0) if len(self.login) > 1 else self.login[0]}
        return Result(0, json.dumps(item) if item else "", "")

    def pods(self, words: Sequence[str]) -> list[dict[str, Any]]:
        """Return drivers, or the pod of the shuffle service, which takes a while."""
        if "--namespace=jobs" in words:
            return self.drivers
        self.late -= 1
        made = self.found["daemonset/spark-shuffle"]
        made["status"] = {"desiredNumberScheduled": 1}
        annotations = made["spec"]["template"]["metadata"]["annotations"]
        statuses = [{"ready": self.late < 0}]
        return [{"metadata": {"annotations": annotations}, "status": {"containerStatuses": statuses}}]

    def _apply(self, items: list[dict[str, Any]], *, dry: bool) -> Result:
        said = []
        for item in items:
            name = f"{item['kind'].lower()}/{item['metadata']['name']}"
            # Of one name in both namespaces.
            if name in ("role/spark-submit", "rolebinding/spark-submit", "secret/spark-pull"):
                name += item["metadata"]["namespace"].removeprefix("jobs")
            there = {key: value for key, value in self.found.get(name, {}).items() if key != "status"}
            verb = "created" if not there else "unchanged" if there == item else "configured"
            said.append(f"{name} {verb}")
            if not dry:
                self.found[name] = item
        return Result(0, "\n".join(said), "")

    def at(self, *, check: bool = False) -> _spark.SparkCluster:
        return _spark.SparkCluster(check=check, runner=self, places=self.places, pause=lambda _: None)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def settings(**values: Any) -> _spark.Settings:
    return _spark.Settings(**{"namespace": "jobs", **values})


def test_from_nothing_and_again(cluster: Cluster) -> None:
    cluster.login = [{}, LOGIN]
    outcome = cluster.at().present(settings())
    assert outcome.actions[0] == "created namespace/jobs"
    assert outcome.told == {"token": "t0ken", "authority": "PEM"}
    labels = cluster.found["namespace/jobs"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not cluster.at().present(settings()).changed


def test_rights_end_at_the_namespace(cluster: Cluster) -> None:
    cluster.at().present(settings())
    assert {item["kind"] for item in cluster.found.values()} & {"ClusterRole", "ClusterRoleBinding"} == set()
    rules = [rule for name in ("spark-driver", "spark-submit") for rule in cluster.found[f"role/{name}"]["rules"]]
    granted = {(one, verb) for rule in rules for one in rule["resources"] for verb in rule["verbs"]}
    assert not [pair for pair in granted if "*" in pair or pair[0] in ("secrets", "pods/exec", "serviceaccounts")]


def test_what_is_not_wanted_any_more_goes(cluster: Cluster) -> None:
    limits = ({"type": "Container", "max": {"memory": "8Gi"}},)
    cluster.at().present(settings(registry=REGISTRY, quota={"pods": "10"}, limits=limits))
    assert cluster.found["resourcequota/spark"]["spec"] == {"hard": {"pods": "10"}}
    assert cluster.found["limitrange/spark"]["spec"]["limits"] == [*limits]
    text = base64.b64decode(cluster.found["secret/spark-pull"]["data"][".dockerconfigjson"])
    assert base64.b64decode(json.loads(text)["auths"]["registry:6001"]["auth"]) == b"puller:s:cret"
    predicted = cluster.at(check=True).present(settings()).actions
    assert "secret/spark-pull" in cluster.found
    assert cluster.at().present(settings()).actions == predicted
    assert sorted(predicted) == ["delete limitrange/spark", "delete resourcequota/spark", "delete secret/spark-pull"]
    assert "secret/spark-submit-login" in cluster.found


def test_check_mode_from_nothing(cluster: Cluster) -> None:
    outcome = cluster.at(check=True).present(settings())
    assert "created role/spark-driver" in outcome.actions and outcome.told == {}
    assert cluster.found == {}


def test_check_mode_while_the_cluster_is_still_at_it(cluster: Cluster) -> None:
    cluster.at().present(settings())
    cluster.login = [{}]
    assert cluster.at(check=True).present(settings()).told == {}


def test_somebody_elses_namespace_is_refused(cluster: Cluster) -> None:
    cluster.found["namespace/jobs"] = {"kind": "Namespace", "metadata": {"name": "jobs"}}
    for act in (lambda: cluster.at().present(settings()), lambda: cluster.at().absent("jobs")):
        with pytest.raises(HostError, match="the namespace jobs is there and is not ours: spark_namespace needs"):
            act()


def test_a_cluster_that_makes_no_token(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spark, "LOGIN_SECONDS", 0.0)
    cluster.login = [{}]
    with pytest.raises(HostError, match="no token for the account spark-submit within 0 seconds"):
        cluster.at().present(settings())


def test_removal(cluster: Cluster) -> None:
    assert not cluster.at().absent("jobs").changed
    cluster.at().present(settings())
    assert cluster.at(check=True).absent("jobs").actions == ["delete namespace jobs"]
    assert "namespace/jobs" in cluster.found
    assert cluster.at().absent("jobs").changed
    assert "namespace/jobs" not in cluster.found


SHUFFLE = _spark_shuffle.Settings(image="e:1", janitor="print()")
POLICY = "validatingadmissionpolicy/slipway-jobs-pods"


def enforced(cluster: Cluster) -> str:
    return str(cluster.found["namespace/jobs"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"])


def test_a_shuffle_service_comes_and_goes(cluster: Cluster) -> None:
    cluster.late = 2
    assert "created namespace/jobs-shuffle" in cluster.at(check=True).present(settings(shuffle=SHUFFLE)).actions
    assert cluster.found == {}
    cluster.at().present(settings(shuffle=SHUFFLE, registry=REGISTRY))
    assert {"daemonset/spark-shuffle", "configmap/spark-janitor", POLICY, "rolebinding/spark-janitor"} <= {
        *cluster.found
    }
    assert enforced(cluster) == "privileged"
    # The namespace is opened after there is a policy in it.
    applied = [call for call in cluster.calls if call.startswith("apply")]
    assert applied and list(cluster.found).index(POLICY) < list(cluster.found).index("namespace/jobs")
    again = cluster.at().present(settings(shuffle=SHUFFLE, registry=REGISTRY))
    assert not again.changed and not again.leaving
    predicted = cluster.at(check=True).present(settings())
    assert "daemonset/spark-shuffle" in cluster.found
    left = cluster.at().present(settings())
    assert left.leaving and left.actions == predicted.actions
    assert enforced(cluster) == "restricted"
    assert not {"daemonset/spark-shuffle", POLICY, "role/spark-janitor"} & {*cluster.found}
    # As long as its namespace is there, nodes may hold data of it.
    assert cluster.at().present(settings()).leaving
    assert cluster.at().swept("jobs").actions == ["delete namespace jobs-shuffle"]
    assert not cluster.at().present(settings()).leaving
    assert not cluster.at().swept("jobs").changed


def test_the_service_stays_as_it_is_under_applications(cluster: Cluster) -> None:
    cluster.at().present(settings(shuffle=SHUFFLE))
    driver = {"metadata": {"name": "a-driver"}, "status": {"phase": "Running"}}
    cluster.drivers = [{**driver, "status": {"phase": "Succeeded"}}, driver]
    moved = _spark_shuffle.Settings(image="e:1", janitor="print()", port=7400)
    for wanted in (settings(), settings(shuffle=moved)):
        before = json.dumps(cluster.found)
        with pytest.raises(HostError, match="the application of a-driver uses the shuffle service: it needs to end"):
            cluster.at().present(wanted)
        assert json.dumps(cluster.found) == before
    newer = _spark_shuffle.Settings(image="e:2", janitor="print()")
    assert cluster.at().present(settings(shuffle=newer)).changed
    cluster.drivers = cluster.drivers[:1]
    assert cluster.at().present(settings()).leaving


def test_a_service_that_does_not_come(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spark, "SERVICE_SECONDS", 0.0)
    cluster.late = 9
    with pytest.raises(HostError, match=r"is not ready: it has not begun to answer \(after 0 seconds\)"):
        cluster.at().present(settings(shuffle=SHUFFLE))


def test_removal_with_a_service(cluster: Cluster) -> None:
    cluster.at().present(settings(shuffle=SHUFFLE))
    gone = cluster.at().absent("jobs")
    assert gone.leaving and "namespace/jobs-shuffle" in cluster.found
    assert not {"namespace/jobs", POLICY, "daemonset/spark-shuffle"} & {*cluster.found}
    cluster.at().swept("jobs")
    assert not cluster.at().absent("jobs").leaving


def test_a_history_server_comes_and_goes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    history = _spark_history.Settings(image="d:1", directory="hdfs://nn/logs")
    cluster.at().present(settings(history=history))
    assert {"deployment/spark-history", "service/spark-history", "configmap/spark-history"} <= {*cluster.found}
    assert not cluster.at().present(settings(history=history)).changed
    cluster.answers = False
    monkeypatch.setattr(_spark, "SERVICE_SECONDS", 0.0)
    with pytest.raises(HostError, match="does not answer after 0 seconds: Error: no directory"):
        cluster.at().present(settings(history=history))
    cluster.at().present(settings())
    assert not [name for name in cluster.found if "history" in name]
