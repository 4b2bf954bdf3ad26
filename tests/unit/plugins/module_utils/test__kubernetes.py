# SPDX-License-Identifier: GPL-3.0-or-later
"""kubeadm and kubectl as they are called, what is told of their failures, and who a kubeconfig trusts."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _kubernetes,
    _kubernetes_cluster,
    _kubernetes_control_plane,
    _kubernetes_upgrade,
    _nvidia_device_plugin,
    _spark,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

TOKEN = "abcdef.0123456789abcdef"
DER = b"a certificate"
PEM = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(DER).decode()}\n-----END CERTIFICATE-----\n"


def kubeconfig(server: str = "https://control:6443", pem: str = PEM) -> str:
    data = base64.b64encode(pem.encode()).decode()
    return f"clusters:\n- cluster:\n    certificate-authority-data: {data}\n    server: {server}\n"


class Shell:
    """Answers every command with one result and keeps what it was asked."""

    def __init__(self, *results: Result) -> None:
        self.results = list(results)
        self.calls: list[list[str]] = []
        self.stdin: list[str | None] = []

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout
        self.calls.append(list(argv))
        self.stdin.append(stdin)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.fixture
def places(tmp_path: Path) -> _kubernetes.Places:
    (tmp_path / "etc/kubernetes").mkdir(parents=True)
    return _kubernetes.Places(f"{tmp_path}/")


def test_kubeadm_has_no_environment_of_ours() -> None:
    shell = Shell(Result(0, "done", ""))
    assert _kubernetes.kubeadm(shell, "join", "--config=x").stdout == "done"
    assert shell.calls == [[*_kubernetes.SCRUBBED, "kubeadm", "join", "--config=x"]]
    assert shell.calls[0][:2] == ["env", "-i"]


@pytest.mark.parametrize(
    "text",
    [
        '[WARNING HTTPProxy]: Connection to "https://control" uses proxy "http://proxy:8080". If that is not intended',
        '[WARNING HTTPProxyCIDR]: connection to "10.96.0.0/12" uses proxy "http://proxy:8080". This may lead to',
    ],
)
def test_a_proxy_that_kubeadm_sees_is_an_error(text: str) -> None:
    with pytest.raises(HostError, match="saw a proxy"):
        _kubernetes.kubeadm(Shell(Result(0, "", f"\t{text}\n")), "join")


def test_a_check_for_proxies_that_kubeadm_cannot_make_is_no_proxy() -> None:
    text = '[WARNING HTTPProxyCIDR]: parse "https://[10.96.0.1]:1234/": invalid IP-literal'
    assert _kubernetes.kubeadm(Shell(Result(0, "done", f"\t{text}\n")), "init").stdout == "done"


def test_what_is_told_of_a_failure() -> None:
    output = f"[preflight] Running\n[ERROR Port-10250]: in use\n[ERROR Port-10250]: in use\nuse {TOKEN}\nhttp://u:p@x\n"
    with pytest.raises(HostError) as error:
        _kubernetes.kubeadm(Shell(Result(1, output, "")), "join")
    assert str(error.value) == "kubeadm join failed: [ERROR Port-10250]: in use"
    assert _kubernetes.told(f"one\ntwo {TOKEN}\nhttp://u:p@x") == "one; two ***; http://***@x"
    assert _kubernetes.told("") == "it says nothing"


def test_kubectl(places: _kubernetes.Places) -> None:
    api = _kubernetes.Api(Shell(Result(0, "", "")), places)
    with pytest.raises(HostError, match="a machine on which a control plane runs"):
        api.ask("get", "nodes")
    Path(places.admin).touch()
    assert api.get("node", "a") is None
    shell = Shell(Result(0, '{"kind": "Node"}', ""))
    api = _kubernetes.Api(shell, places)
    assert api.get("node", "a") == {"kind": "Node"}
    assert shell.calls[0][len(_kubernetes.SCRUBBED) :] == [
        "kubectl",
        f"--kubeconfig={places.admin}",
        "--request-timeout=20s",
        "get",
        "node",
        "a",
        "--output=json",
        "--ignore-not-found",
    ]
    assert api.ask("apply", stdin="x") == '{"kind": "Node"}'
    assert shell.stdin[-1] == "x"


def test_kubectl_fails_in_its_own_words(places: _kubernetes.Places) -> None:
    Path(places.admin).touch()
    api = _kubernetes.Api(Shell(Result(1, "", "error: no such thing\n")), places)
    with pytest.raises(HostError, match="kubectl get node a failed: error: no such thing"):
        api.get("node", "a")
    with pytest.raises(HostError, match="kubectl drain a failed: error: no such thing"):
        api.ask("drain", "a")


AWAY = Result(
    1, "", "The connection to the server control:6443 was refused - did you specify the right host or port?\n"
)


@pytest.mark.parametrize(
    "said",
    [
        'Error from server (Forbidden): pods "x" is forbidden: User "kubernetes-admin" cannot delete resource "pods" '
        'in API group "" in the namespace "default"',
        "Unable to connect to the server: net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
        "Unable to connect to the server: context deadline exceeded",
    ],
)
def test_what_an_api_server_says_in_its_first_seconds(places: _kubernetes.Places, said: str) -> None:
    Path(places.admin).touch()
    shell = Shell(Result(1, "", said), Result(0, "{}", ""))
    assert _kubernetes.Api(shell, places, 60, lambda _: None).get("node", "a") == {}


def test_what_is_refused_for_good_is_not_asked_again(places: _kubernetes.Places) -> None:
    Path(places.admin).touch()
    said = 'Error from server (Forbidden): pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    with pytest.raises(HostError, match="violates PodSecurity"):
        _kubernetes.Api(Shell(Result(1, "", said)), places, 60, lambda _: None).get("node", "a")


def test_an_api_server_that_is_away_is_asked_again_where_there_is_patience(places: _kubernetes.Places) -> None:
    Path(places.admin).touch()
    pauses: list[float] = []
    shell = Shell(
        AWAY, Result(1, "", "Error from server: etcdserver: leader changed"), Result(0, '{"kind": "Node"}', "")
    )
    assert _kubernetes.Api(shell, places, 60, pauses.append).get("node", "a") == {"kind": "Node"}
    assert (len(shell.calls), pauses) == (3, [1, 1])

    hasty = Shell(AWAY)
    with pytest.raises(HostError, match="was refused"):
        _kubernetes.Api(hasty, places, pause=pauses.append).get("node", "a")
    wrong = Shell(Result(1, "", "error: no such thing"))
    with pytest.raises(HostError, match="no such thing"):
        _kubernetes.Api(wrong, places, 60, pauses.append).get("node", "a")
    assert (len(hasty.calls), len(wrong.calls), len(pauses)) == (1, 1, 2)


@pytest.mark.parametrize(
    "worker",
    [
        _kubernetes_cluster.Cluster,
        _kubernetes_control_plane.ControlPlaneHost,
        _nvidia_device_plugin.DevicePlugin,
        _spark.SparkCluster,
    ],
)
def test_all_who_work_on_a_cluster_have_patience(
    places: _kubernetes.Places, worker: type[_kubernetes.Administrator]
) -> None:
    Path(places.admin).touch()
    shell = Shell(AWAY, Result(0, "{}", ""))
    assert worker(check=False, runner=shell, places=places, pause=lambda _: None).api.get("node", "a") == {}


def test_an_upgrade_has_none(places: _kubernetes.Places) -> None:
    Path(places.admin).touch()
    host = _kubernetes_upgrade.UpgradeHost(check=False, runner=Shell(AWAY), places=places, pause=lambda _: None)
    with pytest.raises(HostError, match="was refused"):
        host.api.get("node", "a")


def test_patience_ends(places: _kubernetes.Places) -> None:
    Path(places.admin).touch()
    shell = Shell(AWAY)
    with pytest.raises(HostError, match="was refused"):
        _kubernetes.Api(shell, places, 0.2, lambda _: time.sleep(0.05)).get("node", "a")
    assert len(shell.calls) > 1


def test_who_a_kubeconfig_trusts(places: _kubernetes.Places) -> None:
    assert _kubernetes.cluster_of(places.kubelet) == ("", "")
    Path(places.kubelet).write_text(kubeconfig())
    assert _kubernetes.cluster_of(places.kubelet) == ("https://control:6443", hashlib.sha256(DER).hexdigest())
    Path(places.kubelet).write_text("    server: https://x\n    certificate-authority-data: YQ\n")
    assert _kubernetes.cluster_of(places.kubelet) == ("https://x", "")
    assert _kubernetes.fingerprint("-----BEGIN CERTIFICATE-----\nYQ\n-----END CERTIFICATE-----") == ""
    assert _kubernetes.read(f"{places.kubelet}/below") == ""


def test_what_has_begun(places: _kubernetes.Places) -> None:
    assert _kubernetes.begun(places) == ""
    _kubernetes.begin(places, "join")
    assert _kubernetes.begun(places) == "join"
    assert Path(places.marker).stat().st_mode & 0o777 == 0o600
    for broken in ("{", "[]"):
        Path(places.marker).write_text(broken)
        assert _kubernetes.begun(places) == ""
