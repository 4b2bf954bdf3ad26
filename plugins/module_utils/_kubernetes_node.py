# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine as a node of a cluster: kernel, packages, kubelet, joining, leaving; never a reset that nobody asked for.

Sources: Kubernetes' "Installing kubeadm", "kubeadm join", "Set kubelet parameters via a configuration file" (drop-in
directory), kubeadm's API v1beta4.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import glob
import json
import os
import re
import shutil
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _apt_sources,
    _files,
    _gpus,
    _host_state,
    _kubernetes,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

OWNER = "kubernetes_node"
HEADER = f"# Managed by slipway.platform.{OWNER}. Edits are undone by the next run.\n"
PACKAGES = ("kubeadm", "kubectl", "kubelet")
# Where the same packages were published before 2023; nothing is there any more. A repository has one minor version.
HISTORIC = ("apt.kubernetes.io", "packages.cloud.google.com/apt", "pkgs.k8s.io/core:/stable:")
CONFIG_DIR = "etc/slipway/kubernetes_node/kubelet.conf.d"
RESOLV_CONF = "etc/slipway/kubernetes_node/resolv.conf"
EXTRA_ARGS = "etc/default/kubelet"
MODULES = ("overlay", "br_netfilter")
SYSCTLS = {
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
    "net.ipv4.ip_forward": "1",
}
# What only a machine has that is, or was, part of a cluster.
LEFTOVERS = (
    "etc/kubernetes/*.conf",
    "etc/kubernetes/manifests/*.yaml",
    "etc/kubernetes/pki/*.crt",
    "etc/rancher/*",
    "var/lib/rancher/*",
    "var/lib/etcd/member",
    "var/lib/kubelet/config.yaml",
    "var/lib/kubelet/pki/*.pem",
    "etc/cni/net.d/*flannel*",
    "etc/cni/net.d/*calico*",
    "etc/cni/net.d/*cilium*",
)
# What the cluster's own pods have left: flannel's network, and the CDI specs of NVIDIA's device plugin.
LEFT_BEHIND = ("etc/cni/net.d/*flannel*", "var/run/cdi/k8s.device-plugin.nvidia.com-*.json")
# What a join that was cut off has left, and kubeadm would stumble over.
HALF_JOINED = (
    "FileAvailable--etc-kubernetes-kubelet.conf",
    "FileAvailable--etc-kubernetes-bootstrap-kubelet.conf",
    "FileAvailable--etc-kubernetes-pki-ca.crt",
    "Port-10250",
)
# As /proc/net/tcp writes them: port 10250, and the state of a listening socket.
KUBELET_PORT, LISTENS = ":280A", "0A"
MIN_FREE = 2 * 2**30
SUBNET = "run/flannel/subnet.env"
JOIN_SECONDS = 420.0
# How many minor versions a kubelet may be behind its API server (Kubernetes' version skew policy).
MAX_SKEW = 3
CHAINS = re.compile(r"\bKUBE-|\bFLANNEL-|\bCNI-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say, and of the cluster its CA's fingerprint and its version; empty where unknown.

    upgrade are the packages that may change their version on a machine that has joined.
    """

    name: str
    version: str
    url: str
    key: str
    authority: str = ""
    cluster: str = ""
    upgrade: tuple[str, ...] = ()
    kubelet: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Join:
    """How to join: a token that lives for minutes, the API server, and the hashes of the authority's key."""

    token: str = dataclasses.field(repr=False)
    endpoint: str
    hashes: tuple[str, ...]
    taints: tuple[t.Mapping[str, t.Any], ...] = ()
    ignored: tuple[str, ...] = ()


@dataclasses.dataclass
class Found:
    """What the machine is: whether it has joined, what a run of ours has begun, and traces of a cluster."""

    joined: bool
    begun: str
    server: str
    authority: str
    name: str
    leftovers: list[str]


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done: joined now, packages that stay although others are wanted, an NVIDIA GPU on the machine's bus."""

    joined: bool = False
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    gpu: bool = False


def resolv_conf(settings: Settings) -> str:
    """Return what pods that ask for the node's DNS get, CoreDNS among them; empty to leave it to the machine's own."""
    if not settings.dns_servers:
        return ""
    lines = [f"nameserver {server}" for server in settings.dns_servers]
    if settings.dns_search:
        lines.insert(0, f"search {' '.join(settings.dns_search)}")
    if settings.dns_options:
        lines.append(f"options {' '.join(settings.dns_options)}")
    return HEADER + "\n".join(lines) + "\n"


def kubelet_config(settings: Settings) -> dict[str, t.Any]:
    """Return this machine's part of the kubelet's configuration; it wins over what the cluster says to all."""
    own: dict[str, t.Any] = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
    if settings.dns_servers:
        own["resolvConf"] = f"/{RESOLV_CONF}"
    return {**own, **settings.kubelet}


def join_config(settings: Settings, join: Join, *, resumed: bool) -> dict[str, t.Any]:
    """Return kubeadm's JoinConfiguration."""
    ignored = [*join.ignored, *(HALF_JOINED if resumed else ())]
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {
            "bootstrapToken": {
                "token": join.token,
                "apiServerEndpoint": join.endpoint,
                "caCertHashes": list(join.hashes),
            }
        },
        "nodeRegistration": {
            "name": settings.name,
            "criSocket": _kubernetes.CRI_SOCKET,
            "taints": [dict(taint) for taint in join.taints],
            "ignorePreflightErrors": ignored,
        },
        "timeouts": {"discovery": "1m0s", "tlsBootstrap": "3m0s", "kubeletHealthCheck": "3m0s"},
    }


def _judge_version(settings: Settings) -> None:
    """Raise HostError where the wanted version and the cluster's do not go together."""
    wanted, cluster = (re.match(r"v?1\.(\d+)", text) for text in (settings.version, settings.cluster))
    if not (wanted and cluster) or 0 <= int(cluster[1]) - int(wanted[1]) <= MAX_SKEW:
        return
    newest = int(cluster[1])
    raise HostError(
        f"kubernetes_node_version is '{settings.version}', and the cluster runs {settings.cluster}: it needs to be 1."
        f"{newest - MAX_SKEW} to 1.{newest}, never newer than the control plane, which playbooks/upgrade.yml upgrades; "
        "nothing was changed"
    )


class NodeHost:
    """One machine; places and state_dir are for tests."""

    def __init__(
        self,
        *,
        check: bool,
        runner: Runner = run,
        state_dir: str = _files.STATE_DIR,
        places: _kubernetes.Places | None = None,
    ) -> None:
        self.check = check
        self.runner = runner
        self.places = places or _kubernetes.Places()
        self.state = _host_state.HostState(owner=OWNER, check=check, runner=runner, state_dir=state_dir)
        self.outcome = Outcome()

    # --- Looking ------------------------------------------------------------------------------------------------

    def look(self) -> Found:
        """Say what the machine is."""
        begun = _kubernetes.begun(self.places)
        server, authority = _kubernetes.cluster_of(self.places.kubelet)
        leftovers = sorted(
            path for pattern in LEFTOVERS for path in glob.glob(self.places.at(pattern)) if os.path.exists(path)
        )
        return Found(
            joined=bool(server) and begun in ("", "done"),
            begun=begun,
            server=server,
            authority=authority,
            name=self._name() if server else "",
            leftovers=leftovers,
        )

    def _name(self) -> str:
        """Return the node's name in the kubelet's certificate."""
        path = self.places.at("var/lib/kubelet/pki/kubelet-client-current.pem")
        if not os.path.exists(path):
            return ""
        shown = self.runner(["openssl", "x509", "-noout", "-subject", "-in", path])
        match = re.search(r"system:node:([^\s,/]+)", shown.stdout)
        return match[1] if match else ""

    def judge(self, settings: Settings, found: Found) -> None:
        """Raise HostError, before anything changes, where the machine cannot become this node of this cluster."""
        if found.server and settings.authority and found.authority != settings.authority:
            raise HostError(
                f"this machine belongs to another cluster ({found.server}): it needs to leave that one first, by its "
                "own offboarding or `kubeadm reset` there; nothing was changed"
            )
        if found.name and found.name != settings.name:
            raise HostError(
                f"this machine says to be the node {found.name}, but kubernetes_node_name is {settings.name}: a clone "
                f"of {found.name} needs `kubeadm reset` before it can be a node of its own; nothing was changed"
            )
        if found.leftovers and not found.joined and not found.begun:
            raise HostError(
                f"this machine has leftovers of another cluster ({', '.join(found.leftovers[:5])}): it needs to be "
                "without them, by `kubeadm reset` or that cluster's own way out; nothing was changed"
            )
        if not found.joined:
            _judge_version(settings)
        if not found.joined and not found.begun:
            self._judge_room()
        swaps = _kubernetes.read(self.places.at("proc/swaps")).splitlines()[1:]
        if swaps and settings.kubelet.get("failSwapOn", True) and not found.joined:
            raise HostError(
                f"this machine swaps to {swaps[0].split()[0]}, and the kubelet refuses to start then: it needs swap "
                "off (swapoff, /etc/fstab), or kubernetes_node_kubelet_options.failSwapOn false"
            )

    def _judge_room(self) -> None:
        """Raise HostError where the kubelet would find its port taken, or no room for images."""
        for path in ("proc/net/tcp", "proc/net/tcp6"):
            for line in _kubernetes.read(self.places.at(path)).splitlines()[1:]:
                fields = line.split()
                if len(fields) > 3 and fields[1].endswith(KUBELET_PORT) and fields[3] == LISTENS:
                    raise HostError(
                        "something listens on port 10250 already, the kubelet's: it needs to be free, see "
                        "`ss -ltnp sport = 10250`; nothing was changed"
                    )
        free = shutil.disk_usage(self.places.at("var/lib")).free
        if free < MIN_FREE:
            raise HostError(
                f"/var/lib has {free // 2**20} MiB free: it needs {MIN_FREE // 2**20} for packages and images, "
                "and the kubelet evicts pods below 10 %; nothing was changed"
            )

    # --- Being a node -------------------------------------------------------------------------------------------

    def present(self, settings: Settings, join: Join | None = None) -> Outcome:
        """Make the machine ready to join, and let it join where told how."""
        with _kubernetes.alone(self.places, check=self.check):
            return self._present(settings, join)

    def _present(self, settings: Settings, join: Join | None) -> Outcome:
        found = self.look()
        self.judge(settings, found)
        self._take(self.state.present(self._wanted(settings, joined=found.joined)))
        self._kernel()
        self.outcome.joined = found.joined
        self.outcome.gpu = bool(_gpus.on_the_bus())
        if join and not found.joined:
            self._join(settings, join, resumed=found.begun == "join")
        return self.outcome

    def _wanted(self, settings: Settings, *, joined: bool) -> _host_state.Wanted:
        self.state.ledger.load()
        source = _apt_sources.Repository(
            name="kubernetes", role=OWNER, url=settings.url, suite="/", key=settings.key, also=HISTORIC
        )
        files = _apt_sources.files(source, known=self.state.ledger.get("paths"), places=_apt_sources.PLACES)
        sysctls = "".join(f"{name} = {value}\n" for name, value in SYSCTLS.items())
        texts = {
            "etc/modules-load.d/slipway-kubernetes.conf": HEADER + "".join(f"{name}\n" for name in MODULES),
            "etc/sysctl.d/90-slipway-kubernetes.conf": HEADER + sysctls,
            EXTRA_ARGS: HEADER + f"KUBELET_EXTRA_ARGS=--config-dir=/{CONFIG_DIR}\n",
            RESOLV_CONF: resolv_conf(settings),
            f"{CONFIG_DIR}/50-slipway.conf": json.dumps(kubelet_config(settings), indent=2, sort_keys=True) + "\n",
        }
        files += [
            _files.WantedFile(path=self.places.at(path), content=text.encode()) for path, text in texts.items() if text
        ]
        inputs = tuple(self.places.at(path) for path in (EXTRA_ARGS, RESOLV_CONF, f"{CONFIG_DIR}/*.conf"))
        kubelet = _units.WantedUnit(
            name="kubelet.service", enabled=True, started=True if joined else None, inputs=inputs if joined else ()
        )
        return _host_state.Wanted(
            owner=OWNER,
            files=files,
            packages=[
                _packages.WantedPackage(name=name, version=version, hold=True)
                for name, version in self._versions(settings, joined=joined).items()
            ],
            units=[kubelet],
        )

    def _versions(self, settings: Settings, *, joined: bool) -> dict[str, str]:
        """Return which version of each package is wanted: a node's changes only in an upgrade.

        A package that is missing on a node comes back in the version of the others.
        """
        versions = dict.fromkeys(PACKAGES, settings.version)
        have = {name: found.version for name, found in _packages.read_installed(PACKAGES).items()}
        if joined and have:
            usual = have.get("kubelet") or next(iter(have.values()))
            now = {name: have.get(name, usual) for name in PACKAGES if name not in settings.upgrade}
            other = {name: text for name, text in now.items() if not fnmatch.fnmatchcase(text, settings.version)}
            versions |= other
            if not settings.upgrade:
                self.outcome.kept = other
        return versions

    def _kernel(self) -> None:
        """Load modules and set what pods need of the kernel, now; the files do it at the next boot."""
        there = {
            "overlay": re.search(r"\boverlay$", _kubernetes.read(self.places.at("proc/filesystems")), re.M) is not None,
            "br_netfilter": os.path.exists(self.places.at("proc/sys/net/bridge/bridge-nf-call-iptables")),
        }
        for name in MODULES:
            if not there[name]:
                self._run(f"load the kernel module {name}", ["modprobe", name])
        for name, value in SYSCTLS.items():
            path = self.places.at("proc/sys", *name.split("."))
            if os.path.exists(path) and _kubernetes.read(path).strip() != value:
                self._run(f"set {name} = {value}", ["sysctl", "-w", f"{name}={value}"])

    def _run(self, what: str, argv: t.Sequence[str]) -> None:
        if not self.check:
            done = self.runner(argv)
            if done.rc != 0:
                raise HostError(f"{' '.join(argv)} failed, which pods need: {done.output}")
        self.outcome.act(what)

    def _join(self, settings: Settings, join: Join, *, resumed: bool) -> None:
        self.outcome.act(f"join the cluster at {join.endpoint}")
        self.outcome.joined = True
        if self.check:
            return
        self._forget_subnet()
        _kubernetes.begin(self.places, "join")
        text = json.dumps(join_config(settings, join, resumed=resumed))
        _kubernetes.kubeadm_by_file(self.runner, self.places, "join", text, timeout=JOIN_SECONDS)
        _kubernetes.begin(self.places, "done")

    # --- Being none any more ------------------------------------------------------------------------------------

    def absent(self) -> Outcome:
        """Leave the cluster if it was we who joined it, and give the machine back as it was."""
        with _kubernetes.alone(self.places, check=self.check):
            if _kubernetes.begun(self.places):
                self._leave()
            self._take(self.state.absent(_host_state.Wanted(owner=OWNER)))
        return self.outcome

    def _leave(self) -> None:
        self.outcome.act("leave the cluster")
        if self.check:
            return
        if os.path.exists(self.places.at("usr/bin/kubeadm")):
            words = ("reset", "--force", f"--cri-socket={_kubernetes.CRI_SOCKET}")
            _kubernetes.kubeadm(self.runner, *words, timeout=JOIN_SECONDS)
        for link in ("cni0", "flannel.1"):
            if os.path.exists(self.places.at("sys/class/net", link)):
                self.runner(["ip", "link", "delete", link])
        for pattern in LEFT_BEHIND:
            for path in glob.glob(self.places.at(pattern)):
                os.unlink(path)
        self._forget_subnet()
        shutil.rmtree(self.places.at("var/lib/cni"), ignore_errors=True)
        for family in ("iptables", "ip6tables"):
            self._clear_rules(family)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.places.marker)

    def _forget_subnet(self) -> None:
        """Remove what flannel has left of an earlier life, with which the first pods would get addresses of then."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.places.at(SUBNET))

    def _clear_rules(self, family: str) -> None:
        """Take the rules of kube-proxy, flannel and the plugins out; Docker's and everybody else's stay."""
        saved = self.runner([f"{family}-save"])
        kept = [line for line in saved.stdout.splitlines() if not CHAINS.search(line)]
        if saved.rc == 0 and kept and len(kept) != len(saved.stdout.splitlines()):
            done = self.runner([f"{family}-restore"], stdin="\n".join(kept) + "\n")
            if done.rc != 0:
                raise HostError(f"{family}-restore failed: {done.output}")

    def _take(self, done: _host_state.Outcome) -> None:
        for field in dataclasses.fields(_host_state.Outcome):
            getattr(self.outcome, field.name).extend(getattr(done, field.name))
