# SPDX-License-Identifier: GPL-3.0-or-later
"""A node as the cluster sees it: what is asked of kubectl and kubeadm, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes, _kubernetes_cluster
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.plugins.module_utils.test__kubernetes import TOKEN, kubeconfig

GPU = {"key": "gpu", "value": "", "effect": "NoSchedule"}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
NOT_READY = {"conditions": [{"type": "Ready", "status": "False", "message": "no network"}]}


class Cluster:
    """Answers by the start of a command line (after kubectl's own options); a list is one answer after the other."""

    def __init__(self, root: Path) -> None:
        self.places = _kubernetes.Places(f"{root}/")
        (root / "etc/kubernetes").mkdir(parents=True)
        Path(self.places.admin).write_text(kubeconfig())
        self.answers: dict[str, Any] = {}
        self.calls: list[str] = []
        self.stdin: list[str] = []
        self.slept = 0

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout
        words = [word for word in argv[len(_kubernetes.SCRUBBED) :] if not word.startswith(("--kubeconfig", "--req"))]
        line = " ".join(words).removeprefix("kubectl ")
        self.calls.append(line)
        self.stdin += [stdin] if stdin else []
        for start, answer in self.answers.items():
            if line.startswith(start):
                chosen = answer.pop(0) if isinstance(answer, list) and len(answer) > 1 else answer
                chosen = chosen[0] if isinstance(chosen, list) else chosen
                return chosen if isinstance(chosen, Result) else Result(0, json.dumps(chosen) if chosen else "", "")
        return Result(0, "", "")

    def did(self, start: str) -> list[str]:
        return [call for call in self.calls if call.startswith(start)]

    def at(self, *, check: bool = False) -> _kubernetes_cluster.Cluster:
        return _kubernetes_cluster.Cluster(check=check, runner=self, places=self.places, pause=self._pause)

    def _pause(self, seconds: float) -> None:
        del seconds
        self.slept += 1


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def node(status: dict[str, Any] = READY, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "node7", **metadata}, "spec": {}, "status": status}


def wanted(**values: Any) -> _kubernetes_cluster.Node:
    return _kubernetes_cluster.Node(**{"name": "node7", **values})


def test_info(cluster: Cluster) -> None:
    cluster.answers["get --raw=/version"] = {"gitVersion": "v1.34.3"}
    told = cluster.at().info().told
    assert (told["server"], told["version"], len(told["authority"])) == ("https://control:6443", "v1.34.3", 64)
    Path(cluster.places.admin).unlink()
    with pytest.raises(HostError, match="a machine on which a control plane runs"):
        cluster.at().info()


def test_a_token(cluster: Cluster) -> None:
    command = f"kubeadm join control:6443 --token {TOKEN} --discovery-token-ca-cert-hash sha256:abc "
    cluster.answers["kubeadm token create"] = Result(0, command, "")
    told = cluster.at().make_token("node7").told
    assert told == {"endpoint": "control:6443", "token": TOKEN, "hashes": ["sha256:abc"]}
    assert "--ttl=15m" in cluster.calls[0]
    cluster.at().forget_token(TOKEN)
    assert cluster.calls[-1] == f"kubeadm token delete {TOKEN[:6]}", "its secret half is no argument"
    cluster.answers["kubeadm token create"] = Result(0, "", "")
    with pytest.raises(HostError, match="printed no command"):
        cluster.at().make_token("node7")


def test_labels_and_taints_come_and_go() -> None:
    labels = {"rack": "r1"}
    patch = _kubernetes_cluster.desired(wanted(labels=labels, taints=(GPU,)), node(labels={"theirs": "x"}))
    assert patch["metadata"]["labels"] == labels
    assert patch["spec"] == {"taints": [GPU]}
    notes = patch["metadata"]["annotations"]
    other = {"key": "theirs", "effect": "NoExecute"}
    found = node(labels={"theirs": "x", **labels}, annotations=notes)
    found["spec"] = {"taints": [other, {"key": "gpu", "effect": "NoSchedule"}]}
    assert _kubernetes_cluster.desired(wanted(labels=labels, taints=(GPU,)), found) == {}
    gone = _kubernetes_cluster.desired(wanted(), found)
    assert gone["metadata"]["labels"] == {"rack": None}
    assert gone["metadata"]["annotations"] == {_kubernetes_cluster.LABELS: None, _kubernetes_cluster.TAINTS: None}
    assert gone["spec"] == {"taints": [other]}
    assert _kubernetes_cluster.desired(wanted(), node(annotations={})) == {}


def test_the_last_taint_goes() -> None:
    notes = {_kubernetes_cluster.TAINTS: json.dumps([{"effect": "NoSchedule", "key": "gpu"}])}
    found = {**node(annotations=notes), "spec": {"taints": [GPU]}}
    assert _kubernetes_cluster.desired(wanted(), found)["spec"] == {"taints": None}


def test_a_node_is_settled_when_it_is_ready(cluster: Cluster) -> None:
    cluster.answers["get node"] = [None, node(NOT_READY), node()]
    outcome = cluster.at().settle(wanted(labels={"rack": "r1"}, seconds=30))
    assert (cluster.slept, outcome.changed, outcome.told) == (2, True, {"ready": True})
    assert cluster.did("patch node node7 --type=merge --patch=")
    assert not cluster.at().settle(wanted()).changed


def test_check_mode_changes_no_node(cluster: Cluster) -> None:
    assert not cluster.at(check=True).settle(wanted(seconds=30)).changed
    cluster.answers["get node"] = node(NOT_READY)
    assert cluster.at(check=True).settle(wanted(labels={"rack": "r1"}, seconds=30)).changed
    assert cluster.did("patch") == []


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "the cluster does not know it"),
        (node(NOT_READY), "no network"),
        (node({}), "it says nothing"),
    ],
)
def test_a_node_that_is_not_ready_says_why(cluster: Cluster, found: Any, why: str) -> None:
    cluster.answers["get node"] = found
    with pytest.raises(HostError, match=f"node node7 is not ready after 0.001 seconds: {why}"):
        cluster.at().settle(wanted(seconds=0.001))


def test_cordon(cluster: Cluster) -> None:
    cluster.answers["get node"] = node()
    assert cluster.at(check=True).cordon("node7", on=True).changed
    assert cluster.did("cordon") == []
    assert cluster.at().cordon("node7", on=True).actions == ["cordon node node7"]
    assert not cluster.at().cordon("node7", on=False).changed
    cluster.answers["get node"] = {**node(), "spec": {"unschedulable": True}}
    assert cluster.at().cordon("node7", on=False).actions == ["uncordon node node7"]
    assert cluster.did("uncordon") == ["uncordon node7"]


def test_drain(cluster: Cluster) -> None:
    assert not cluster.at().drain("node7", seconds=60, lose=False).changed
    cluster.answers["get node"] = node()
    assert cluster.at(check=True).drain("node7", seconds=60, lose=False).changed
    assert cluster.did("drain") == []
    cluster.at().drain("node7", seconds=60, lose=False)
    cluster.at().drain("node7", seconds=60, lose=True)
    plain = "drain node7 --ignore-daemonsets --timeout=60s"
    assert cluster.did("drain") == [plain, f"{plain} --force --delete-emptydir-data"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            'error when evicting pods/"a": Cannot evict: it would violate the pod\'s disruption budget.\nerror: x',
            "violate",
        ),
        ("error: cannot delete Pods that declare no controller: default/bare", "default/bare"),
    ],
)
def test_what_holds_a_drain_up(cluster: Cluster, said: str, why: str) -> None:
    cluster.answers |= {"get node": node(), "drain": Result(1, "", said)}
    with pytest.raises(HostError, match=f"node node7 could not be drained within 5 seconds: .*{why}"):
        cluster.at().drain("node7", seconds=5, lose=False)


def test_delete(cluster: Cluster) -> None:
    assert not cluster.at().delete("node7").changed
    cluster.answers["get node"] = node()
    assert cluster.at(check=True).delete("node7").changed
    assert cluster.did("delete") == []
    cluster.at().delete("node7")
    assert cluster.did("delete") == ["delete node node7 --timeout=60s"]


def test_a_pod_proves_a_node(cluster: Cluster) -> None:
    cluster.answers["get pod"] = [None, {"status": {"phase": "Pending"}}, {"status": {"phase": "Succeeded"}}]
    cluster.at().smoke("node7", "hello:1", seconds=30)
    pod = json.loads(cluster.stdin[0])
    assert (pod["spec"]["nodeName"], pod["spec"]["containers"][0]["image"]) == ("node7", "hello:1")
    assert cluster.calls[-1].startswith("delete pod slipway-smoke-node7")
    assert cluster.at(check=True).smoke("node7", "hello:1", seconds=30).actions == []


WAITING: Callable[[dict[str, str]], dict[str, Any]] = lambda what: {  # noqa: E731
    "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": what}}, {"state": {"running": {}}}]}
}


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (WAITING({"reason": "ImagePullBackOff", "message": "not found"}), "not found"),
        (WAITING({"reason": "ImagePullBackOff"}), "ImagePullBackOff"),
        ({"status": {"phase": "Failed", "message": "evicted"}}, "evicted"),
        ({"status": {"phase": "Failed"}}, "Failed"),
        (None, "no status"),
    ],
)
def test_a_pod_that_does_not_run_says_why(cluster: Cluster, status: Any, why: str) -> None:
    cluster.answers["get pod"] = status
    with pytest.raises(HostError, match=f"hello:1 did not run on node7 within 0 seconds: {why}"):
        cluster.at().smoke("node7", "hello:1", seconds=0)
    assert cluster.calls[-1].startswith("delete pod"), "it is not left behind"


# --- Upgrades ---------------------------------------------------------------------------------------------------


def marked(cordoned: bool | None = None, *, closed: bool = False) -> dict[str, Any]:
    """A node whose upgrade has begun, or has not."""
    note = json.dumps({"cordoned": cordoned, "to": "v1.34.3"})
    found = node(annotations={_kubernetes_cluster.UPGRADE: note} if cordoned is not None else {})
    found["spec"] = {"unschedulable": True} if closed else {}
    found["status"] = {**READY, "nodeInfo": {"kubeletVersion": "v1.33.4"}}
    return found


def patches(cluster: Cluster) -> list[dict[str, Any]]:
    return [json.loads(call.partition("--patch=")[2]) for call in cluster.did("patch node node7")]


def test_all_nodes_are_told_when_the_api_server_answers(cluster: Cluster) -> None:
    cluster.answers["get --raw=/readyz"] = [Result(1, "", "refused\n"), Result(0, "ok", "")]
    cluster.answers["get --raw=/version"] = {"gitVersion": "v1.33.4"}
    cluster.answers["get nodes"] = {"items": [marked(True), node(NOT_READY)]}
    told = cluster.at().nodes(seconds=30).told
    assert told["version"] == "v1.33.4"
    assert told["nodes"] == [
        {"name": "node7", "kubelet": "v1.33.4", "ready": True, "why": "", "upgrading": True},
        {"name": "node7", "kubelet": "", "ready": False, "why": "no network", "upgrading": False},
    ]
    cluster.answers["get --raw=/readyz"] = Result(1, "", "refused\n")
    with pytest.raises(HostError, match="the API server does not answer: refused"):
        cluster.at().nodes(seconds=0)


@pytest.mark.parametrize(
    ("found", "cordon", "noted"),
    [
        (marked(), False, {"cordoned": False, "to": "v1.34.3"}),
        (marked(), True, {"cordoned": True, "to": "v1.34.3"}),
        (marked(closed=True), True, {"cordoned": False, "to": "v1.34.3"}),
        (marked(False), True, {"cordoned": True, "to": "v1.34.3"}),
        (marked(True), True, {"cordoned": True, "to": "v1.34.3"}),
        (marked(True, closed=True), True, None),
        (marked(False, closed=True), True, None),
        (marked(True, closed=True), False, None),
    ],
    ids=["note", "cordon", "somebody else's", "noted", "opened meanwhile", "again", "again else's", "noted again"],
)
def test_who_cordoned_a_node_is_remembered(
    cluster: Cluster, found: dict[str, Any], cordon: bool, noted: dict[str, Any] | None
) -> None:
    cluster.answers["get node"] = found
    assert cluster.at(check=True).upgrade_begin("node7", version="v1.34.3", cordon=cordon).changed == (
        noted is not None
    )
    assert patches(cluster) == []
    cluster.at().upgrade_begin("node7", version="v1.34.3", cordon=cordon)
    if noted is None:
        assert patches(cluster) == []
        return
    (patch,) = patches(cluster)
    assert json.loads(patch["metadata"]["annotations"][_kubernetes_cluster.UPGRADE]) == noted
    assert patch.get("spec") == ({"unschedulable": True} if cordon else None)


def test_only_what_we_cordoned_is_uncordoned(cluster: Cluster) -> None:
    cluster.answers["get node"] = marked(closed=True)
    assert not cluster.at().upgrade_end("node7").changed, "no upgrade of ours"
    cluster.answers["get node"] = marked(False, closed=True)
    assert cluster.at(check=True).upgrade_end("node7").changed
    cluster.at().upgrade_end("node7")
    cluster.answers["get node"] = marked(True, closed=True)
    cluster.at().upgrade_end("node7")
    gone = {"metadata": {"annotations": {_kubernetes_cluster.UPGRADE: None}}}
    assert patches(cluster) == [gone, {**gone, "spec": {"unschedulable": None}}]


def test_a_note_that_is_none() -> None:
    for text in ("{", "[]"):
        assert _kubernetes_cluster.mark_of(node(annotations={_kubernetes_cluster.UPGRADE: text})) == {}


def test_an_upgrade_of_a_stranger(cluster: Cluster) -> None:
    with pytest.raises(HostError, match="the cluster has no node node7"):
        cluster.at().upgrade_begin("node7", version="v1.34.3", cordon=True)


def test_a_node_is_waited_for_until_it_has_its_version(cluster: Cluster) -> None:
    new = marked()
    new["status"]["nodeInfo"]["kubeletVersion"] = "v1.34.3"
    cluster.answers["get node"] = [Result(1, "", "refused\n"), marked(), new]
    cluster.at().await_version("node7", version="v1.34.3", seconds=30)
    assert cluster.slept == 2
    cluster.at(check=True).await_version("node7", version="v9", seconds=30)
    with pytest.raises(HostError, match=r"node7 is not ready at v1\.35\.0 after 0 seconds: its kubelet is v1\.34\.3"):
        cluster.at().await_version("node7", version="v1.35.0", seconds=0)
    cluster.answers["get node"] = Result(1, "", "refused\n")
    with pytest.raises(HostError, match=r"after 0 seconds: refused"):
        cluster.at().await_version("node7", version="v1.35.0", seconds=0)
