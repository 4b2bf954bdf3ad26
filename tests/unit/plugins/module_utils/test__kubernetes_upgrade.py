# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade finds out before it changes anything, and what it has kubeadm do."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _kubernetes,
    _kubernetes_upgrade,
    _registry_lookup,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit

OLD, NEW = "1.33.4-1.1", "1.34.3-1.1"
SCRUBBED = " ".join(_kubernetes.SCRUBBED)
IMAGES = ("kube-apiserver:v1.34.3", "etcd:3.6.5-0")


class Machine:
    """A machine of a cluster, whose files are below a directory of the test's own."""

    def __init__(self, host: FakeHost) -> None:
        self.host, self.root = host, host.root / "machine"
        self.places = _kubernetes.Places(f"{self.root}/")
        host.available = {name: [NEW, "1.34.2-1.1"] for name in _kubernetes_upgrade.PACKAGES}
        host.packages = {name: FakePackage(OLD, "hold") for name in _kubernetes_upgrade.PACKAGES}
        host.units = {"kubelet.service": FakeUnit(active="active")}
        self.cluster, self.proxy = "v1.33.4", "v1.33.4"
        self.slept = 0
        self.downloads = True

    def control_plane(self, version: str = "v1.33.4") -> Machine:
        """Run a control plane of a version, all of it."""
        manifests = Path(self.places.manifests)
        manifests.mkdir(parents=True, exist_ok=True)
        Path(self.places.admin).write_text("x")
        for name in _kubernetes_upgrade.COMPONENTS:
            (manifests / f"{name}.yaml").write_text(f"spec:\n    image: registry.k8s.io/{name}:{version}\n")
        self.cluster = self.proxy = version
        return self

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        line = " ".join(argv)
        if " download kubeadm=" in line and self.downloads:
            Path(argv[1].removeprefix("--chdir=")).joinpath("kubeadm_1_amd64.deb").touch()
        if "get configmap" in line:
            text = f"imageRepository: registry.k8s.io\nkubernetesVersion: {self.cluster}\n"
            return Result(0, json.dumps({"data": {"ClusterConfiguration": text}}), "")
        if "get daemonset" in line:
            containers = [{"image": f"registry.k8s.io/kube-proxy:{self.proxy}"}]
            return Result(0, json.dumps({"spec": {"template": {"spec": {"containers": containers}}}}), "")
        done = self.host(argv, timeout=timeout, stdin=stdin)
        if "config images list" in line:
            return Result(0, "".join(f"registry.k8s.io/{image}\n" for image in IMAGES), "")
        return done

    def at(self, *, check: bool = False) -> _kubernetes_upgrade.UpgradeHost:
        return _kubernetes_upgrade.UpgradeHost(check=check, runner=self, places=self.places, pause=self._pause)

    def _pause(self, seconds: float) -> None:
        del seconds
        self.slept += 1

    def kubeadm(self) -> list[str]:
        """What kubeadm was told, without what is always there."""
        found = [call.partition("kubeadm ")[2] for call in self.host.did(f"{SCRUBBED} *kubeadm *")]
        return [call.replace(f" --kubeconfig={self.places.admin}", "") for call in found]


@pytest.fixture
def machine(host: FakeHost) -> Machine:
    return Machine(host)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the registry has not."""
    names: list[str] = []
    monkeypatch.setattr(_registry_lookup, "missing", lambda _registry, images: [i for i in images if i in names])
    return names


def node(name: str = "node7", kubelet: str = "v1.33.4", **more: Any) -> dict[str, Any]:
    return {"name": name, "kubelet": kubelet, "ready": True, "why": "", "upgrading": False, **more}


def settings(**values: Any) -> _kubernetes_upgrade.Settings:
    usual = {"name": "node7", "version": "1.34.*", "url": "https://k8s/deb", "key": "K", "api": "v1.33.4"}
    return _kubernetes_upgrade.Settings(**{**usual, "nodes": (node(),), "together": True, **values})


# --- Whether it may be done -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "target", "says"),
    [
        (
            {"version": "1.35.*"},
            "1.35.0-1.1",
            r"is 1\.35\.\*, but the API server runs v1\.33\.4: .* one minor version at a time, it needs 1\.34\.\*",
        ),
        ({}, "2.0.0-1.1", "one minor version at a time"),
        ({"api": "v1.34.4"}, NEW, r"the API server runs v1\.34\.4: there is no way back"),
        ({"version": "1.35.*"}, "1.35.*", "one minor version at a time"),
        ({"api": "v1.34.4"}, "1.33.*", "there is no way back"),
        ({"together": False}, "1.34.*", "it needs to be upgraded first"),
        ({"together": False}, NEW, "it needs to be upgraded first, by the same command without a limit"),
        (
            {"nodes": (node(kubelet="v1.34.4"),), "api": "v1.34.3"},
            NEW,
            r"the kubelet of node7 is v1\.34\.4: there is no",
        ),
        ({"nodes": (node(), node("n2", "v1.34.0"))}, NEW, r"kubelet of n2 is v1\.34\.0, newer than the API server"),
        ({"nodes": (node(), node("n2", "v1.30.9"))}, NEW, r"kubelet of n2 is v1\.30\.9, more than 3 minor versions"),
        ({"nodes": (node(ready=False, why="no network"),)}, NEW, "node node7 is not ready: no network"),
        ({"nodes": (node("n2"),)}, NEW, r"has no node node7: it needs playbooks/onboard\.yml"),
    ],
    ids=[
        "skip",
        "major",
        "down",
        "unseen skip",
        "unseen down",
        "unseen alone",
        "alone",
        "node down",
        "newer kubelet",
        "old kubelet",
        "not ready",
        "stranger",
    ],
)
def test_what_is_refused(values: dict[str, Any], target: str, says: str) -> None:
    with pytest.raises(HostError, match=f"{says}.*nothing was changed"):
        _kubernetes_upgrade.judge(settings(**values), target)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"api": "v1.34.3"},
        {"together": False, "api": "v1.34.3", "nodes": (node(kubelet="v1.31.0"),)},
        {"nodes": (node(ready=False, why="its kubelet restarts", upgrading=True),)},
    ],
    ids=["next minor", "same", "node alone", "interrupted"],
)
def test_what_is_not(values: dict[str, Any]) -> None:
    _kubernetes_upgrade.judge(settings(**values), NEW)


def test_versions() -> None:
    assert (_kubernetes_upgrade.number("v1.34.3"), _kubernetes_upgrade.release(NEW)) == ((1, 34, 3), "v1.34.3")
    with pytest.raises(HostError, match="'' is no version"):
        _kubernetes_upgrade.number("")


def test_the_newest_version_that_all_packages_have() -> None:
    offered = {"kubeadm": [NEW, "1.34.2-1.1"], "kubectl": ["1.34.2-1.1"], "kubelet": [NEW, "1.34.2-1.1"]}
    assert _kubernetes_upgrade.choose("1.34.*", offered, "https://k8s") == "1.34.2-1.1"
    with pytest.raises(HostError, match=r"is 1\.35\.\*, but https://k8s offers 1\.34\.2-1\.1: it needs a version"):
        _kubernetes_upgrade.choose("1.35.*", offered, "https://k8s")
    with pytest.raises(HostError, match="offers nothing of Kubernetes"):
        _kubernetes_upgrade.choose("1.35.*", {**offered, "kubectl": []}, "https://k8s")


# --- The plan ---------------------------------------------------------------------------------------------------


def test_the_plan_of_a_node(machine: Machine) -> None:
    told = machine.at().plan(settings()).told
    assert told == {"target": NEW, "version": "v1.34.3", "before": "v1.33.4", "control_plane": False, "due": True}
    update = machine.host.did("apt-get * update")[0]
    scratch = machine.root / _kubernetes_upgrade.SCRATCH
    assert f"-oDir::Etc::SourceParts={scratch}/parts" in update, "apt's own sources are left alone"
    assert not scratch.exists()
    assert machine.kubeadm() == []


def test_a_node_that_is_there(machine: Machine) -> None:
    machine.host.packages = {name: FakePackage(NEW, "hold") for name in _kubernetes_upgrade.PACKAGES}
    there = {"api": "v1.34.3", "nodes": (node(kubelet="v1.34.3"),)}
    assert not machine.at().plan(settings(**there)).told["due"]
    unfinished = {**there, "nodes": (node(kubelet="v1.34.3", upgrading=True),)}
    assert machine.at().plan(settings(**unfinished)).told["due"], "it is still cordoned"
    old = {**there, "nodes": (node(kubelet="v1.34.2"),)}
    assert machine.at().plan(settings(**old)).told["due"], "the kubelet that runs is another one"
    machine.host.packages["kubectl"].selection = "install"
    assert machine.at().plan(settings(**there)).told["due"], "a package is not held"


def test_the_plan_of_a_control_plane(machine: Machine, lacking: list[str]) -> None:
    machine.control_plane()
    assert machine.at().plan(settings(ignored=("CreateJob",))).told["due"]
    assert machine.kubeadm() == [
        "config images list --kubernetes-version=v1.34.3 --image-repository=registry.k8s.io",
        "upgrade plan v1.34.3 --ignore-preflight-errors=CreateJob",
    ]
    lacking.append("registry.k8s.io/etcd:3.6.5-0")
    registry = _registry_lookup.Registry(address="r:6001")
    with pytest.raises(HostError, match=r"r:6001 lacks registry\.k8s\.io/etcd:3\.6\.5-0, which v1\.34\.3 needs"):
        machine.at().plan(settings(registry=registry))


@pytest.mark.usefixtures("lacking")
def test_check_mode_makes_no_pod(machine: Machine) -> None:
    machine.control_plane().at(check=True).plan(settings())
    assert [call for call in machine.kubeadm() if "upgrade" in call] == []


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize("behind", ["kube-scheduler", "configuration", "kube-proxy"])
def test_a_control_plane_is_there_when_all_of_it_is(machine: Machine, behind: str) -> None:
    machine.control_plane("v1.34.3")
    machine.host.packages = {name: FakePackage(NEW, "hold") for name in _kubernetes_upgrade.PACKAGES}
    there = settings(api="v1.34.3", nodes=(node(kubelet="v1.34.3"),))
    assert not machine.at().plan(there).told["due"]
    if behind == "kube-scheduler":
        Path(machine.places.manifests, "kube-scheduler.yaml").write_text("image: r/kube-scheduler:v1.33.4\n")
    elif behind == "configuration":
        machine.cluster = "v1.33.4"
    else:
        machine.proxy = "v1.33.4"
    assert machine.at().plan(there).told["due"], "an upgrade that was cut off"


def test_kubeadm_that_is_not_to_be_had(machine: Machine) -> None:
    machine.control_plane().downloads = False
    with pytest.raises(HostError, match=rf"package kubeadm {NEW} cannot be had"):
        machine.at().plan(settings())
    machine.downloads = True
    machine.host.answers["dpkg-deb"] = Result(2, "", "no space")
    with pytest.raises(HostError, match="cannot be unpacked: no space"):
        machine.at().plan(settings())


@pytest.mark.usefixtures("lacking")
def test_what_kubeadm_thinks_of_it(machine: Machine) -> None:
    machine.control_plane()
    program = machine.root / _kubernetes_upgrade.SCRATCH / "unpacked/usr/bin/kubeadm"
    machine.host.answers[f"{SCRUBBED} {program} upgrade plan"] = Result(1, "", "[ERROR CoreDNS]: too old\n")
    with pytest.raises(
        HostError, match=r"kubeadm upgrade plan failed: \[ERROR CoreDNS\]: too old; nothing was changed"
    ):
        machine.at().plan(settings())


# --- The steps --------------------------------------------------------------------------------------------------


def test_the_control_plane_is_upgraded_once(machine: Machine) -> None:
    assert not machine.at().apply(NEW).changed, "the machine runs none"
    machine.control_plane()
    assert machine.at(check=True).apply(NEW).changed
    assert machine.kubeadm() == []
    outcome = machine.at().apply(NEW, ignored=["SystemVerification", "Mem"])
    assert outcome.actions == ["kubeadm upgrade apply v1.34.3"]
    assert machine.kubeadm() == ["upgrade apply v1.34.3 --yes --ignore-preflight-errors=SystemVerification,Mem"]
    assert "get --raw=/readyz" in machine.host.calls[-1], "it answers again"
    machine.control_plane("v1.34.3")
    assert not machine.at().apply(NEW).changed


def test_kubeadm_on_a_node(machine: Machine) -> None:
    assert machine.at(check=True).node().changed
    assert machine.kubeadm() == []
    assert machine.at().node().actions == ["kubeadm upgrade node"]
    assert machine.kubeadm() == ["upgrade node"]
    assert not machine.control_plane().at().node().changed, "`apply` did it there"


def test_the_kubelet_restarts(machine: Machine) -> None:
    machine.at(check=True).restart()
    assert machine.host.did("systemctl *") == []
    assert machine.at().restart().actions == ["restart kubelet.service"]
    assert machine.host.did("systemctl *") == ["systemctl daemon-reload", "systemctl restart kubelet.service"]


def test_a_second_run_waits_for_the_first(machine: Machine) -> None:
    directory = machine.root / "run/slipway/kubeadm"
    directory.mkdir(parents=True)
    handle = os.open(directory, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    threading.Timer(1, lambda: fcntl.flock(handle, fcntl.LOCK_UN)).start()
    started = time.monotonic()
    assert machine.at().restart().changed
    assert time.monotonic() - started > 0.5
    os.close(handle)
