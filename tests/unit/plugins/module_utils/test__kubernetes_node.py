# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine on its way into a cluster and out of it: what it is judged by, what is written and told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _apt_sources,
    _files,
    _kubernetes,
    _kubernetes_node,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit
from tests.unit.plugins.module_utils.test__kubernetes import TOKEN, kubeconfig

JOIN = _kubernetes_node.Join(
    token=TOKEN, endpoint="control:6443", hashes=("sha256:abc",), ignored=("SystemVerification",)
)
KUBEADM = " ".join([*_kubernetes.SCRUBBED, "kubeadm"])


class Machine:
    """A machine whose files are below a directory of the test's own."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.root = host, host.root / "machine"
        self.places = _kubernetes.Places(f"{self.root}/")
        for name in ("sources.list.d", "keyrings"):
            (host.root / "apt" / name).mkdir(parents=True)
        places = _apt_sources.Places(apt=str(host.root / "apt"), dpkg_info=str(host.root / "info"))
        monkeypatch.setattr(_apt_sources, "PLACES", places)
        host.available = {name: ["1.34.3-1.1", "1.33.1-1.1"] for name in _kubernetes_node.PACKAGES}
        host.units = {"kubelet.service": FakeUnit(file_state="disabled")}
        self.seen: dict[str, Any] = {}
        self.config_mode = 0
        for path, text in {
            "proc/swaps": "Filename Type Size\n",
            "proc/filesystems": "nodev\tproc\nnodev\toverlay\n",
            "proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
            "proc/sys/net/ipv4/ip_forward": "1\n",
            "proc/net/tcp": "sl local rem st\n0: 0100007F:280B 0:0 0A\n1: 0100007F:280A 0:0 06\n",
            "var/lib/x": "",
        }.items():
            self.write(path, text)

    def write(self, path: str, text: str = "") -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        if "join" in argv:
            path = Path(argv[-1].removeprefix("--config="))
            self.seen, self.config_mode = json.loads(path.read_text()), path.stat().st_mode & 0o777
        return self.host(argv, timeout=timeout, stdin=stdin)

    def at(self, *, check: bool = False) -> _kubernetes_node.NodeHost:
        return _kubernetes_node.NodeHost(check=check, runner=self, state_dir=self.host.state_dir, places=self.places)

    def joined(self, name: str = "node7") -> None:
        """Be a node already."""
        self.write("etc/kubernetes/kubelet.conf", kubeconfig())
        self.write("var/lib/kubelet/pki/kubelet-client-current.pem")
        self.host.answers["openssl x509"] = Result(0, f"subject=O = system:nodes, CN = system:node:{name}\n", "")


@pytest.fixture
def machine(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(host, monkeypatch)


def settings(**values: Any) -> _kubernetes_node.Settings:
    return _kubernetes_node.Settings(
        **{"name": "node7", "version": "1.34.*", "url": "https://k8s/deb", "key": "K", **values}
    )


def test_a_machine_is_made_ready_and_again(machine: Machine) -> None:
    wanted = settings(
        kubelet={"cgroupDriver": "systemd"},
        dns_servers=("10.0.0.53",),
        dns_search=("corp.lab",),
        dns_options=("ndots:2",),
    )
    outcome = machine.at().present(wanted)
    assert {f"hold {name}" for name in _kubernetes_node.PACKAGES} <= {*outcome.packages}
    source = (machine.host.root / "apt/sources.list.d/slipway-kubernetes.sources").read_text()
    assert "URIs: https://k8s/deb\nSuites: /\nSigned-By:" in source
    assert json.loads(machine.read(f"{_kubernetes_node.CONFIG_DIR}/50-slipway.conf")) == {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "resolvConf": "/etc/slipway/kubernetes_node/resolv.conf",
    }
    resolv = machine.read(_kubernetes_node.RESOLV_CONF)
    assert resolv.endswith("search corp.lab\nnameserver 10.0.0.53\noptions ndots:2\n")
    assert "net.ipv4.ip_forward = 1\n" in machine.read("etc/sysctl.d/90-slipway-kubernetes.conf")
    assert "--config-dir=/etc/slipway/kubernetes_node/kubelet.conf.d\n" in machine.read("etc/default/kubelet")
    assert (outcome.joined, machine.host.did("systemctl start*")) == (False, []), "the kubelet has no cluster yet"
    assert not machine.at().present(wanted).changed
    bare = machine.at().present(settings())
    assert str(machine.root / _kubernetes_node.RESOLV_CONF) in bare.removed_paths


def test_a_gpu_on_the_bus_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kubernetes_node._gpus, "on_the_bus", lambda: ["0000:41:00.0"])
    assert machine.at().present(settings()).gpu is True
    monkeypatch.setattr(_kubernetes_node._gpus, "on_the_bus", list)
    assert machine.at().present(settings()).gpu is False


def test_check_mode_on_a_bare_machine(machine: Machine) -> None:
    outcome = machine.at(check=True).present(settings(), JOIN)
    assert (outcome.changed, outcome.joined) == (True, True)
    assert machine.host.acts() == []
    assert not (machine.root / "etc/default/kubelet").exists()


def test_the_kernel(machine: Machine) -> None:
    machine.write("proc/filesystems", "nodev\tproc\n")
    (machine.root / "proc/sys/net/bridge/bridge-nf-call-iptables").unlink()
    machine.write("proc/sys/net/ipv4/ip_forward", "0\n")
    outcome = machine.at().present(settings())
    assert outcome.actions[-3:] == [
        "load the kernel module overlay",
        "load the kernel module br_netfilter",
        "set net.ipv4.ip_forward = 1",
    ]
    assert machine.host.did("modprobe*") == ["modprobe overlay", "modprobe br_netfilter"]
    assert machine.host.did("sysctl*") == ["sysctl -w net.ipv4.ip_forward=1"]
    machine.host.answers["modprobe overlay"] = Result(1, "", "no such module")
    with pytest.raises(HostError, match="modprobe overlay failed, which pods need: no such module"):
        machine.at().present(settings())


def test_a_node_keeps_its_version(machine: Machine) -> None:
    """Whatever the inventory says: only an upgrade changes it."""
    machine.host.packages = {name: FakePackage("1.33.1-1.1", "hold") for name in _kubernetes_node.PACKAGES}
    machine.at().present(settings(version="1.33.*"))
    machine.joined()
    outcome = machine.at().present(settings())
    assert outcome.packages == []
    assert outcome.kept == dict.fromkeys(_kubernetes_node.PACKAGES, "1.33.1-1.1")
    assert machine.at().present(settings(version="1.33.*")).kept == {}
    del machine.host.packages["kubectl"]
    assert machine.at().present(settings()).packages == ["install kubectl 1.33.1-1.1", "hold kubectl"]


def test_an_upgrade_changes_the_packages_it_names(machine: Machine) -> None:
    machine.host.packages = {name: FakePackage("1.33.1-1.1", "hold") for name in _kubernetes_node.PACKAGES}
    machine.joined()
    target = settings(version="1.34.3-1.1", upgrade=("kubeadm",))
    outcome = machine.at().present(target)
    assert outcome.packages == ["install kubeadm 1.34.3-1.1", "hold kubeadm"]
    assert outcome.kept == {}, "no news in an upgrade"
    assert not machine.at().present(target).packages
    rest = machine.at().present(settings(version="1.34.3-1.1", upgrade=_kubernetes_node.PACKAGES))
    assert {f"install {name} 1.34.3-1.1" for name in ("kubectl", "kubelet")} < {*rest.packages}
    assert {found.selection for found in machine.host.packages.values()} == {"hold"}


# --- What is refused --------------------------------------------------------------------------------------------


def test_a_node_of_another_cluster_is_refused(machine: Machine) -> None:
    machine.joined()
    with pytest.raises(HostError, match=r"belongs to another cluster \(https://control:6443\).*nothing was changed"):
        machine.at().present(settings(authority="0" * 64))
    assert machine.host.acts() == [
        f"openssl x509 -noout -subject -in {machine.root}/var/lib/kubelet/pki/kubelet-client-current.pem"
    ]


def test_a_clone_is_refused(machine: Machine) -> None:
    machine.joined("node1")
    authority = _kubernetes.cluster_of(machine.places.kubelet)[1]
    with pytest.raises(
        HostError, match="says to be the node node1, but kubernetes_node_name is node7: a clone of node1"
    ):
        machine.at().present(settings(authority=authority))


@pytest.mark.parametrize(
    "path",
    [
        "etc/kubernetes/manifests/etcd.yaml",
        "etc/kubernetes/admin.conf",
        "var/lib/kubelet/config.yaml",
        "var/lib/rancher/k3s/x",
        "etc/cni/net.d/10-calico.conflist",
    ],
)
def test_leftovers_are_refused(machine: Machine, path: str) -> None:
    machine.write(path)
    with pytest.raises(HostError, match=r"this machine has leftovers of another cluster .*nothing was changed"):
        machine.at().present(settings(), JOIN)
    assert machine.host.acts() == []


@pytest.mark.parametrize(
    ("version", "cluster", "fits"),
    [
        ("1.34.*", "v1.34.3", True),
        ("1.34.9-*", "v1.34.3", True),
        ("1.31.*", "v1.34.3", True),
        ("1.30.*", "v1.34.3", False),
        ("1.35.*", "v1.34.3", False),
        ("1.35.*", "", True),
    ],
)
def test_a_version_that_does_not_fit_is_refused(machine: Machine, version: str, cluster: str, fits: bool) -> None:
    machine.host.available = {name: ["1.35.0", "1.34.9-1.1", "1.31.2", "1.30.1"] for name in _kubernetes_node.PACKAGES}
    wanted = settings(version=version, cluster=cluster)
    if fits:
        machine.at().present(wanted)
        return
    with pytest.raises(
        HostError, match=r"_version is '1\.3\d\.\*', and the cluster runs v1\.34\.3: .* 1\.31 to 1\.34, never"
    ):
        machine.at().present(wanted)
    assert machine.host.acts() == []


def test_swap_is_refused(machine: Machine) -> None:
    machine.write("proc/swaps", "Filename Type Size\n/dev/sda2 partition 1\n")
    with pytest.raises(HostError, match="swaps to /dev/sda2"):
        machine.at().present(settings())
    machine.at().present(settings(kubelet={"failSwapOn": False}))


def test_a_taken_port_is_refused(machine: Machine) -> None:
    machine.write("proc/net/tcp6", "sl local rem st\n0: 00:280A 0:0 0A\n")
    with pytest.raises(HostError, match="port 10250"):
        machine.at().present(settings())


def test_a_full_disk_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kubernetes_node, "MIN_FREE", 2**60)
    with pytest.raises(HostError, match=r"/var/lib has \d+ MiB free: it needs 1099511627776"):
        machine.at().present(settings())


# --- Joining ----------------------------------------------------------------------------------------------------


def test_joining(machine: Machine) -> None:
    outcome = machine.at().present(settings(), JOIN)
    assert (outcome.joined, outcome.actions[-1]) == (True, "join the cluster at control:6443")
    assert machine.seen["discovery"]["bootstrapToken"] == {
        "token": TOKEN,
        "apiServerEndpoint": "control:6443",
        "caCertHashes": ["sha256:abc"],
    }
    assert machine.seen["nodeRegistration"]["ignorePreflightErrors"] == ["SystemVerification"]
    assert machine.config_mode == 0o600
    assert not (machine.root / "run/slipway/kubeadm-join.json").exists(), "the token is gone with the file"
    assert _kubernetes.begun(machine.places) == "done"
    assert not any(TOKEN in call for call in machine.host.calls)


def test_a_subnet_of_an_earlier_life_is_forgotten(machine: Machine) -> None:
    """Else the first pods, which come before flannel, give the bridge an address that no later one has."""
    path = machine.write(_kubernetes_node.SUBNET, "FLANNEL_SUBNET=10.244.3.1/24\n")
    machine.at(check=True).present(settings(), JOIN)
    assert path.exists()
    machine.at().present(settings(), JOIN)
    assert not path.exists()
    machine.write(_kubernetes_node.SUBNET)
    kept = machine.write("var/lib/cni/networks/cbr0/10.244.3.2")
    machine.at().absent()
    assert not path.exists()
    assert not kept.exists()


def test_a_join_that_was_cut_off_is_finished(machine: Machine) -> None:
    machine.host.answers[f"{KUBEADM} join"] = Result(1, "", "[ERROR]: timed out")
    with pytest.raises(HostError, match=r"kubeadm join failed: \[ERROR\]: timed out"):
        machine.at().present(settings(), JOIN)
    assert not (machine.root / "run/slipway/kubeadm-join.json").exists()
    machine.joined()
    del machine.host.answers[f"{KUBEADM} join"]
    assert machine.at().present(settings(), JOIN).joined
    assert {*_kubernetes_node.HALF_JOINED} < {*machine.seen["nodeRegistration"]["ignorePreflightErrors"]}


def test_a_kubeadm_that_still_works_here_ends_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was started by a run that is dead; what it makes of the machine is looked at afterwards."""
    places: list[str] = []

    @contextlib.contextmanager
    def alone(directory: str) -> Iterator[None]:
        places.append(directory)
        if directory.endswith("kubeadm"):
            machine.joined()
            _kubernetes.begin(machine.places, "done")
        yield

    monkeypatch.setattr(_files, "alone", alone)
    assert machine.at().present(settings(), JOIN).joined
    assert machine.seen == {}, "no second join"
    assert machine.places.at("run/slipway/kubeadm") in places
    places.clear()
    machine.at(check=True).present(settings(), JOIN)
    assert places == []


def test_a_node_is_not_joined_again(machine: Machine) -> None:
    machine.host.available = {name: ["1.34.3-1.1"] for name in _kubernetes_node.PACKAGES}
    machine.joined()
    machine.host.units["kubelet.service"] = FakeUnit(active="active", file_state="enabled", started=1.0)
    outcome = machine.at().present(settings(), JOIN)
    assert outcome.joined
    assert machine.host.did(f"{KUBEADM}*") == []
    assert "restart kubelet.service" in outcome.actions, "it has not read its new configuration"
    assert not machine.at().present(settings(), JOIN).changed


# --- Leaving ----------------------------------------------------------------------------------------------------


def test_leaving(machine: Machine) -> None:
    machine.at().present(settings(), JOIN)
    for path in ("usr/bin/kubeadm", "sys/class/net/cni0/x", "etc/cni/net.d/10-flannel.conflist"):
        machine.write(path)
    rules = "*filter\n:DOCKER - [0:0]\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j DOCKER\n-A FORWARD -j FLANNEL-FWD\nCOMMIT\n"
    machine.host.answers["iptables-save"] = Result(0, rules, "")
    assert machine.at(check=True).absent().actions[0] == "leave the cluster"
    assert machine.host.did(f"{KUBEADM} reset*") == []
    outcome = machine.at().absent()
    assert outcome.changed
    assert len(machine.host.did(f"{KUBEADM} reset --force --cri-socket=*")) == 1
    assert machine.host.did("ip link*") == ["ip link delete cni0"]
    assert len(machine.host.did("iptables-restore")) == 1
    assert machine.host.did("ip6tables-restore") == [], "nothing of ours was there"
    assert not (machine.root / "etc/cni/net.d/10-flannel.conflist").exists()
    assert not Path(machine.places.marker).exists()
    assert machine.host.packages == {}
    assert not machine.at().absent().changed


def test_rules_that_cannot_be_put_back(machine: Machine) -> None:
    _kubernetes.begin(machine.places, "done")
    machine.host.answers |= {
        "iptables-save": Result(0, "*nat\n-A KUBE-X\nCOMMIT\n", ""),
        "iptables-restore": Result(2, "", "locked"),
    }
    with pytest.raises(HostError, match="iptables-restore failed: locked"):
        machine.at().absent()


def test_a_node_that_others_joined_is_not_reset(machine: Machine) -> None:
    machine.joined()
    assert not machine.at().absent().changed
    assert machine.host.did(f"{KUBEADM}*") == []
