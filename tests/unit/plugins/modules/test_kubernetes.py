# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules kubernetes_node, kubernetes_control_plane and kubernetes_cluster through their main()."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import (
    _kubernetes_cluster,
    _kubernetes_control_plane,
    _kubernetes_node,
    _kubernetes_upgrade,
    _registry_lookup,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import (
    kubernetes_cluster,
    kubernetes_control_plane,
    kubernetes_node,
    kubernetes_upgrade,
)

from tests.unit.plugins.module_utils.test__kubernetes import TOKEN

GPU = {"key": "gpu", "value": "", "effect": "NoSchedule"}


class Stand:
    """Stands for a host or a cluster: keeps what it was asked, and answers with one outcome."""

    asked: tuple[Any, ...] = ()
    outcome: Any = None
    error = ""

    def __init__(self, *, check: bool) -> None:
        self.check = check

    def __getattr__(self, name: str) -> Any:
        def answer(*words: Any, **named: Any) -> Any:
            Stand.asked = (self.check, name, *words, named) if named else (self.check, name, *words)
            if Stand.error:
                raise HostError(Stand.error)
            return Stand.outcome

        return answer


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand.asked, Stand.error = (), ""
    monkeypatch.setattr(_kubernetes_node, "NodeHost", Stand)
    monkeypatch.setattr(_kubernetes_control_plane, "ControlPlaneHost", Stand)
    monkeypatch.setattr(_kubernetes_cluster, "Cluster", Stand)
    monkeypatch.setattr(_kubernetes_upgrade, "UpgradeHost", Stand)


def run(module: ModuleType, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_node(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _kubernetes_node.Outcome(joined=True)
    values = {"name": "node7", "version": "1.34.*", "url": "https://x", "key": "k", "dns_servers": ["10.0.0.53"]}
    result = run(kubernetes_node, capsys, **values)
    assert (result["changed"], result["joined"]) == (False, True)
    wanted = _kubernetes_node.Settings(**{**values, "dns_servers": ("10.0.0.53",)})
    assert Stand.asked == (False, "present", wanted, None)


def test_node_joins_and_its_token_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _kubernetes_node.Outcome(joined=True)
    Stand.outcome.act("join the cluster")
    join = {"token": TOKEN, "endpoint": "control:6443", "hashes": ["sha256:a"], "taints": [GPU]}
    result = run(kubernetes_node, capsys, name="node7", join=join)
    assert Stand.asked[3] == _kubernetes_node.Join(
        token=TOKEN, endpoint="control:6443", hashes=("sha256:a",), taints=(GPU,)
    )
    assert (result["changed"], TOKEN in json.dumps(result)) == (True, False)
    assert TOKEN not in repr(Stand.asked[3])


def test_node_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _kubernetes_node.Outcome()
    run(kubernetes_node, capsys, state="absent", _ansible_check_mode=True)
    assert Stand.asked == (True, "absent")


def test_control_plane(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _kubernetes_control_plane.Outcome()
    Stand.outcome.act("kubeadm init")
    values = {"name": "control", "endpoint": "c:6443", "pod_subnet": "10.244.0.0/16", "service_subnet": "10.96.0.0/12"}
    result = run(kubernetes_control_plane, capsys, **values, taints=[GPU], ignore_preflight_errors=["Mem"])
    assert (result["changed"], result["actions"]) == (True, ["kubeadm init"])
    settings = Stand.asked[2]
    assert (settings.taints, settings.ignored, settings.dns_domain) == ((GPU,), ("Mem",), "cluster.local")


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({"action": "info"}, ("info",)),
        ({"action": "make_token", "name": "n"}, ("make_token", "n")),
        ({"action": "forget_token", "token": TOKEN}, ("forget_token", TOKEN)),
        ({"action": "cordon", "name": "n"}, ("cordon", "n", {"on": True})),
        ({"action": "uncordon", "name": "n"}, ("cordon", "n", {"on": False})),
        ({"action": "drain", "name": "n", "seconds": 5, "lose": True}, ("drain", "n", {"seconds": 5.0, "lose": True})),
        ({"action": "delete", "name": "n"}, ("delete", "n")),
        ({"action": "nodes", "seconds": 5}, ("nodes", {"seconds": 5.0})),
        (
            {"action": "upgrade_begin", "name": "n", "version": "v1", "cordon": True},
            ("upgrade_begin", "n", {"version": "v1", "cordon": True}),
        ),
        ({"action": "upgrade_end", "name": "n"}, ("upgrade_end", "n")),
        (
            {"action": "await_version", "name": "n", "version": "v1", "seconds": 5},
            ("await_version", "n", {"version": "v1", "seconds": 5.0}),
        ),
        ({"action": "smoke", "name": "n", "image": "i", "seconds": 5}, ("smoke", "n", "i", {"seconds": 5.0})),
        (
            {"action": "settle", "name": "n", "labels": {"rack": 1}, "taints": [GPU], "seconds": 5},
            ("settle", _kubernetes_cluster.Node(name="n", labels={"rack": "1"}, taints=(GPU,), seconds=5.0)),
        ),
    ],
    ids=lambda value: value.get("action") if isinstance(value, dict) else "",
)
def test_cluster(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], asked: tuple[Any, ...]) -> None:
    Stand.outcome = _kubernetes_cluster.Outcome(told={"version": "v1.34.3"})
    result = run(kubernetes_cluster, capsys, **arguments)
    assert Stand.asked == (False, *asked)
    assert (result["changed"], result["told"]) == (False, {"version": "v1.34.3"})


def test_a_node_that_keeps_its_version_says_so(capsys: pytest.CaptureFixture[str], warned: list[str]) -> None:
    Stand.outcome = _kubernetes_node.Outcome(joined=True, kept={"kubelet": "1.33.4-1.1", "kubeadm": "1.33.4-1.1"})
    assert not run(kubernetes_node, capsys, name="node7", version="1.34.*")["changed"]
    assert warned == [
        "node7 keeps kubeadm 1.33.4-1.1, kubelet 1.33.4-1.1, although kubernetes_node_version is 1.34.*: "
        "only playbooks/upgrade.yml changes the version of a node."
    ]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({"action": "apply", "version": "1.34.3-1.1"}, ("apply", "1.34.3-1.1", {"ignored": ["Mem"]})),
        ({"action": "node"}, ("node", {"ignored": ["Mem"]})),
        ({"action": "restart"}, ("restart",)),
    ],
    ids=lambda value: value.get("action") if isinstance(value, dict) else "",
)
def test_upgrade(capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], asked: tuple[Any, ...]) -> None:
    Stand.outcome = _kubernetes_upgrade.Outcome()
    Stand.outcome.act("kubeadm upgrade node")
    result = run(kubernetes_upgrade, capsys, **arguments, ignore_preflight_errors=["Mem"])
    assert Stand.asked == (False, *asked)
    assert (result["changed"], result["actions"]) == (True, ["kubeadm upgrade node"])


def test_upgrade_plans(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _kubernetes_upgrade.Outcome(told={"due": True})
    values = {"name": "n", "version": "1.34.*", "url": "https://x", "key": "k", "api": "v1.33.4", "together": True}
    nodes = [{"name": "n", "kubelet": "v1.33.4"}]
    registry = {"address": "r:6001", "mirrors": ["docker.io"], "user": "u", "password": "s3cret-pull"}
    result = run(kubernetes_upgrade, capsys, action="plan", **values, nodes=nodes, registry=registry)
    wanted = _registry_lookup.Registry(**{**registry, "mirrors": ("docker.io",)})
    assert Stand.asked[2] == _kubernetes_upgrade.Settings(**values, nodes=tuple(nodes), registry=wanted)
    assert (result["told"], "s3cret-pull" in json.dumps(result)) == ({"due": True}, False)
    run(kubernetes_upgrade, capsys, action="plan", **values)
    assert Stand.asked[2].registry == _registry_lookup.Registry()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (kubernetes_upgrade, {"action": "restart"}),
        (kubernetes_node, {"state": "absent"}),
        (kubernetes_cluster, {"action": "info"}),
        (kubernetes_control_plane, {"name": "c", "endpoint": "c:1", "pod_subnet": "x", "service_subnet": "y"}),
    ],
    ids=["upgrade", "node", "cluster", "control_plane"],
)
def test_errors_are_one_sentence(
    capsys: pytest.CaptureFixture[str], module: ModuleType, arguments: dict[str, Any]
) -> None:
    Stand.error = "it does not work"
    result = run(module, capsys, **arguments)
    assert (result["failed"], result["msg"]) == (True, "it does not work")
