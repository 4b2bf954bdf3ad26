# SPDX-License-Identifier: GPL-3.0-or-later
"""A control plane: made once, finished when it was cut off, without a proxy, with its network and its DNS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes, _kubernetes_control_plane
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.plugins.module_utils.test__kubernetes import TOKEN, kubeconfig


class Machine:
    """A machine on which kubeadm init writes what it does, and kubectl answers."""

    def __init__(self, root: Path) -> None:
        self.places = _kubernetes.Places(f"{root}/")
        self.init, self.ready = Result(0, f"kubeadm join --token {TOKEN}", ""), [Result(0, "ok", "")]
        self.applied = "namespace/kube-flannel created\nconfigmap/coredns configured\nclusterrole/flannel unchanged\n"
        self.calls: list[str] = []
        self.documents: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []
        self.slept = 0

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout
        words = [word for word in argv[len(_kubernetes.SCRUBBED) :] if not word.startswith("--request")]
        line = " ".join(words)
        self.calls.append(line)
        if "init" in words:
            text = Path(words[-1].removeprefix("--config=")).read_text()
            self.documents = [json.loads(part) for part in text.split("\n---\n")]
            if self.init.rc == 0:
                Path(self.places.manifests).mkdir(parents=True, exist_ok=True)
                Path(self.places.admin).write_text(kubeconfig())
            return self.init
        if "list" in words:
            return Result(0, f'{{"token": "{TOKEN}"}}\n', "")
        if "--raw=/readyz" in words:
            return self.ready.pop(0) if len(self.ready) > 1 else self.ready[0]
        if "apply" in words:
            self.items = json.loads(stdin or "{}")["items"]
            return Result(0, self.applied, "")
        return Result(0, "", "")

    def at(self, *, check: bool = False) -> _kubernetes_control_plane.ControlPlaneHost:
        return _kubernetes_control_plane.ControlPlaneHost(
            check=check, runner=self, places=self.places, pause=self._pause
        )

    def _pause(self, seconds: float) -> None:
        del seconds
        self.slept += 1


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def settings(**values: Any) -> _kubernetes_control_plane.Settings:
    base = {
        "name": "control",
        "endpoint": "control:6443",
        "pod_subnet": "10.244.0.0/16",
        "service_subnet": "10.96.0.0/12",
        "dns_domain": "cluster.local",
        "image_repository": "registry.k8s.io",
        "flannel_image": "flannel:1",
        "flannel_plugin_image": "plugin:1",
    }
    return _kubernetes_control_plane.Settings(**{**base, **values})


def test_from_nothing_and_again(machine: Machine) -> None:
    machine.ready = [Result(1, "", "refused"), Result(0, "ok", "")]
    outcome = machine.at().present(settings(version="v1.34.3", kubelet={"cgroupDriver": "systemd"}))
    assert outcome.actions == ["kubeadm init", "created namespace/kube-flannel", "configured configmap/coredns"]
    kinds = {document["kind"]: document for document in machine.documents}
    assert kinds["ClusterConfiguration"]["controlPlaneEndpoint"] == "control:6443"
    assert kinds["ClusterConfiguration"]["kubernetesVersion"] == "v1.34.3"
    assert kinds["KubeletConfiguration"]["cgroupDriver"] == "systemd"
    assert kinds["InitConfiguration"]["nodeRegistration"]["ignorePreflightErrors"] == []
    assert not Path(machine.places.at("run/slipway/kubeadm-init.json")).exists()
    deleted = [call for call in machine.calls if "token delete" in call]
    assert deleted == [f"kubeadm token delete abcdef --kubeconfig={machine.places.admin}"]
    machine.applied = "namespace/kube-flannel unchanged\n"
    assert not machine.at().present(settings()).changed
    assert machine.slept == 1


def test_an_init_that_was_cut_off_is_finished(machine: Machine) -> None:
    machine.init = Result(1, "", "[ERROR]: killed")
    with pytest.raises(HostError, match="kubeadm init failed"):
        machine.at().present(settings())
    assert not Path(machine.places.at("run/slipway/kubeadm-init.json")).exists()
    machine.init = Result(0, "", "")
    machine.at().present(settings(ignored=("SystemVerification",)))
    ignored = machine.documents[0]["nodeRegistration"]["ignorePreflightErrors"]
    assert {"SystemVerification", "Port-6443", "DirAvailable--var-lib-etcd"} < {*ignored}


def test_check_mode(machine: Machine) -> None:
    assert machine.at(check=True).present(settings()).actions == ["kubeadm init"]
    assert machine.calls == []
    machine.at().present(settings())
    machine.at(check=True).present(settings())
    assert machine.calls[-1].endswith("apply --filename=- --dry-run=server")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "no_proxy"])
def test_a_proxy_in_a_manifest_is_refused(machine: Machine, name: str) -> None:
    machine.at().present(settings())
    Path(machine.places.manifests, "kube-apiserver.yaml").write_text(f"- name: {name}\n  value: x\n")
    with pytest.raises(HostError, match=r"kube-apiserver.yaml hold proxy variables"):
        machine.at().present(settings())


def test_an_api_server_that_does_not_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kubernetes_control_plane, "ANSWER_SECONDS", 0)
    machine.ready = [Result(1, "", "error: refused")]
    with pytest.raises(HostError, match="the API server does not answer: error: refused"):
        machine.at().present(settings())


def test_what_is_applied(machine: Machine) -> None:
    machine.at().present(settings(dns_servers=("10.0.0.53", "10.0.1.53"), flannel_backend="host-gw"))
    found = {(item["kind"], item["metadata"]["name"]): item for item in machine.items}
    network = json.loads(found["ConfigMap", "kube-flannel-cfg"]["data"]["net-conf.json"])
    assert network == {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}
    assert "forward . 10.0.0.53 10.0.1.53 {" in found["ConfigMap", "coredns"]["data"]["Corefile"]
    pod = found["DaemonSet", "kube-flannel-ds"]["spec"]["template"]["spec"]
    assert [one["image"] for one in pod["initContainers"]] == ["plugin:1", "flannel:1"]
    assert pod["containers"][0]["securityContext"]["privileged"] is False
    machine.at().present(settings(flannel_image=""))
    assert [item["kind"] for item in machine.items] == ["ConfigMap"]
    assert "forward . /etc/resolv.conf {" in machine.items[0]["data"]["Corefile"]
