# SPDX-License-Identifier: GPL-3.0-or-later
"""A single control plane by kubeadm, its pod network (flannel) and its DNS (CoreDNS), brought up once and kept.

Sources: kubeadm's API v1beta4, flannel's Documentation/kubernetes.md, CoreDNS' plugins forward and kubernetes.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _host_state, _kubernetes
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

# What an init that was cut off has left; kubeadm takes it over when told so.
MANIFESTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
PORTS = (6443, 10259, 10257, 10250, 2379, 2380)
INIT_SECONDS = 540.0
ANSWER_SECONDS = 120.0
PROXY = re.compile(r"\b(https?|all|no|ftp)_proxy\b", re.I)
FLANNEL = "kube-flannel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say; version is what kubeadm calls it (v1.34.3), empty for kubeadm's own."""

    name: str
    endpoint: str
    pod_subnet: str
    service_subnet: str
    dns_domain: str
    image_repository: str
    version: str = ""
    kubelet: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    kube_proxy: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    taints: tuple[t.Mapping[str, t.Any], ...] = ()
    flannel_image: str = ""
    flannel_plugin_image: str = ""
    flannel_backend: str = "vxlan"
    dns_servers: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def init_config(settings: Settings, *, resumed: bool) -> list[dict[str, t.Any]]:
    """Return kubeadm's configuration, document by document."""
    ignored = [*settings.ignored, *(_half_made() if resumed else ())]
    cluster: dict[str, t.Any] = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "controlPlaneEndpoint": settings.endpoint,
        "imageRepository": settings.image_repository,
        "networking": {
            "podSubnet": settings.pod_subnet,
            "serviceSubnet": settings.service_subnet,
            "dnsDomain": settings.dns_domain,
        },
    }
    if settings.version:
        cluster["kubernetesVersion"] = settings.version
    return [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "nodeRegistration": {
                "name": settings.name,
                "criSocket": _kubernetes.CRI_SOCKET,
                "taints": [dict(taint) for taint in settings.taints],
                "ignorePreflightErrors": ignored,
            },
        },
        cluster,
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            **settings.kubelet,
        },
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            **settings.kube_proxy,
        },
    ]


def _half_made() -> list[str]:
    manifests = [f"FileAvailable--etc-kubernetes-manifests-{name}.yaml" for name in MANIFESTS]
    return [*manifests, "DirAvailable--var-lib-etcd", *(f"Port-{port}" for port in PORTS)]


def corefile(settings: Settings) -> str:
    """Return CoreDNS' configuration: the cluster's own names, and the company's servers for all others."""
    upstream = " ".join(settings.dns_servers) or "/etc/resolv.conf"
    return (
        ".:53 {\n"
        "    errors\n"
        "    health {\n        lameduck 5s\n    }\n"
        "    ready\n"
        f"    kubernetes {settings.dns_domain} in-addr.arpa ip6.arpa {{\n"
        "        pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }\n"
        "    prometheus :9153\n"
        f"    forward . {upstream} {{\n        max_concurrent 1000\n    }}\n"
        "    cache 30\n    loop\n    reload\n    loadbalance\n"
        "}\n"
    )


def flannel(settings: Settings) -> list[dict[str, t.Any]]:
    """Return flannel's objects: one pod on every node, also on one that is not ready yet."""
    rbac = "rbac.authorization.k8s.io/v1"
    namespace = _kubernetes.resource("Namespace", "v1", FLANNEL)
    namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "privileged"}
    plugins = [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    data = {
        "cni-conf.json": json.dumps({"name": "cbr0", "cniVersion": "1.0.0", "plugins": plugins}, sort_keys=True),
        "net-conf.json": json.dumps(
            {"Network": settings.pod_subnet, "Backend": {"Type": settings.flannel_backend}}, sort_keys=True
        ),
    }
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flannel"}
    return [
        namespace,
        _kubernetes.resource("ServiceAccount", "v1", "flannel", FLANNEL),
        _kubernetes.resource("ClusterRole", rbac, "flannel", rules=rules),
        _kubernetes.resource(
            "ClusterRoleBinding",
            rbac,
            "flannel",
            roleRef=role,
            subjects=[{"kind": "ServiceAccount", "name": "flannel", "namespace": FLANNEL}],
        ),
        _kubernetes.resource("ConfigMap", "v1", "kube-flannel-cfg", FLANNEL, data=data),
        _kubernetes.resource("DaemonSet", "apps/v1", "kube-flannel-ds", FLANNEL, spec=_flannel_pods(settings)),
    ]


def _flannel_pods(settings: Settings) -> dict[str, t.Any]:
    labels = {"app": "flannel"}
    hosts = {
        "run": "/run/flannel",
        "cni-plugin": "/opt/cni/bin",
        "cni": "/etc/cni/net.d",
        "xtables-lock": "/run/xtables.lock",
    }
    volumes: list[dict[str, t.Any]] = [{"name": name, "hostPath": {"path": path}} for name, path in hosts.items()]
    volumes[-1]["hostPath"]["type"] = "FileOrCreate"
    volumes.append({"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}})

    def copies(name: str, image: str, source: str, target: str, volume: str) -> dict[str, t.Any]:
        mounts = [{"name": volume, "mountPath": os.path.dirname(target)}]
        if volume == "cni":
            mounts.append({"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"})
        return {"name": name, "image": image, "command": ["cp"], "args": ["-f", source, target], "volumeMounts": mounts}

    plugin = copies(
        "install-cni-plugin", settings.flannel_plugin_image, "/flannel", "/opt/cni/bin/flannel", "cni-plugin"
    )
    conf = "/etc/cni/net.d/10-flannel.conflist"
    config = copies("install-cni", settings.flannel_image, "/etc/kube-flannel/cni-conf.json", conf, "cni")
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
    daemon = {
        "name": "kube-flannel",
        "image": settings.flannel_image,
        "command": ["/opt/bin/flanneld"],
        "args": ["--ip-masq", "--kube-subnet-mgr"],
        "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
        "securityContext": {"privileged": False, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        "env": [
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
            {"name": "EVENT_QUEUE_DEPTH", "value": "5000"},
        ],
        "volumeMounts": [
            {"name": "run", "mountPath": "/run/flannel"},
            {"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"},
            {"name": "xtables-lock", "mountPath": "/run/xtables.lock"},
        ],
    }
    pod = {
        "priorityClassName": "system-node-critical",
        "hostNetwork": True,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "serviceAccountName": "flannel",
        "initContainers": [plugin, config],
        "containers": [daemon],
        "volumes": volumes,
    }
    return {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done."""


@dataclasses.dataclass(kw_only=True)
class ControlPlaneHost(_kubernetes.Administrator):
    """The machine of the control plane."""

    outcome: Outcome = dataclasses.field(default_factory=Outcome)

    def present(self, settings: Settings) -> Outcome:
        """Have a control plane, its pod network and its DNS."""
        with _kubernetes.alone(self.places, check=self.check):
            self._init(settings)
        self._refuse_proxies()
        if self.check and not os.path.exists(self.places.admin):
            return self.outcome
        self.api.wait(ANSWER_SECONDS)
        documents = flannel(settings) if settings.flannel_image else []
        dns = _kubernetes.resource("ConfigMap", "v1", "coredns", "kube-system", data={"Corefile": corefile(settings)})
        for action in self.api.apply([*documents, dns], check=self.check):
            self.outcome.act(action)
        return self.outcome

    def _init(self, settings: Settings) -> None:
        state = _kubernetes.begun(self.places)
        if os.path.exists(self.places.admin) and state in ("", "done"):
            return
        self.outcome.act("kubeadm init")
        if self.check:
            return
        _kubernetes.begin(self.places, "init")
        documents = init_config(settings, resumed=state == "init")
        text = "\n---\n".join(json.dumps(document) for document in documents)
        _kubernetes.kubeadm_by_file(self.runner, self.places, "init", text, timeout=INIT_SECONDS)
        self._forget_tokens()
        _kubernetes.begin(self.places, "done")

    def _forget_tokens(self) -> None:
        """Delete the token that every init makes and that would be good for a day: each join has its own."""
        words = (*_kubernetes.SCRUBBED, "kubeadm", "--kubeconfig", self.places.admin, "token", "list", "--output=json")
        listed = self.runner(words)
        for name in sorted(set(re.findall(r'"token": *"([a-z0-9]{6})\.[a-z0-9]{16}"', listed.stdout))):
            _kubernetes.kubeadm(self.runner, "token", "delete", name, f"--kubeconfig={self.places.admin}")

    def _refuse_proxies(self) -> None:
        """A control plane with a proxy asks it for pods and services, and shows its credentials to any local user."""
        found = [
            path
            for path in sorted(glob.glob(os.path.join(self.places.manifests, "*.yaml")))
            if PROXY.search(_kubernetes.read(path))
        ]
        if found:
            raise HostError(
                f"{', '.join(found)} hold proxy variables, with which the API server asks the proxy for pods and "
                "services: it needs them taken out (the kubelet then restarts it)"
            )
