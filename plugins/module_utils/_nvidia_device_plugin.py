# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's device plugin in a cluster: the RuntimeClass, a pod on every node with a GPU, and proof that it offers GPUs.

Sources: the README and the helm chart of NVIDIA's k8s-device-plugin, Kubernetes' "Device Plugins" and "Runtime Class".
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _host_state, _images, _kubernetes, _registry_api
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

NAME = "nvidia-device-plugin"
RUNTIME = "nvidia"
RESOURCE = "nvidia.com/gpu"
MANAGED = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": "slipway"}
SELECTOR = ",".join(f"{key}={value}" for key, value in sorted(MANAGED.items()))
SOCKETS = "/var/lib/kubelet/device-plugins"
CDI_ROOT = "/var/run/cdi"
HOOK = "/usr/bin/nvidia-cdi-hook"
# What stands in the name of every build of NVIDIA's plugin, the one that another tool may have brought too.
IMAGE_NAME = "k8s-device-plugin"
# Kubernetes tolerates these on behalf of every DaemonSet.
TOLERATED = "node.kubernetes.io/"
# A pod that cannot get its image says so in these words, and then waits.
PULL_FAILED = ("ErrImagePull", "ImagePullBackOff")
POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registry:
    """The private registry that the nodes ask first; an empty host means there is none. ca: PEM text."""

    host: str = ""
    port: int = 443
    ca: str = ""
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)

    def status(self, image: _images.Name) -> int:
        """Return the HTTP status of an image's manifest; 0 where the registry does not answer."""
        path = _registry_api.manifest_path(image.path.removeprefix("library/"), image.digest or image.tag)
        address, login = f"{self.host}:{self.port}", (self.user, self.password)
        try:
            return _registry_api.ask(address, path, login=login, ca=self.ca, method="HEAD")[0]
        except _registry_api.UnansweredError:
            return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say; seconds: how long the nodes may take, 0 for not waiting at all."""

    image: str
    namespace: str = NAME
    strategies: tuple[str, ...] = ("cdi-cri", "envvar")
    node_labels: tuple[str, ...] = ("nvidia.com/gpu.present",)
    tolerations: tuple[t.Mapping[str, t.Any], ...] = ()
    config: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    registry: Registry = dataclasses.field(default_factory=Registry)
    seconds: float = 0


# --- What is wanted of the cluster ----------------------------------------------------------------------------------


def _object(kind: str, version: str, name: str, namespace: str = "", **more: t.Any) -> dict[str, t.Any]:
    made = _kubernetes.resource(kind, version, name, namespace, **more)
    made["metadata"]["labels"] = dict(MANAGED)
    return made


def namespace(name: str) -> dict[str, t.Any]:
    """Return the namespace, in which pods may mount what the kubelet has on the host."""
    made = _object("Namespace", "v1", name)
    made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "privileged"
    return made


def runtime_class() -> dict[str, t.Any]:
    """Return the RuntimeClass: the name by which pods ask for containerd's handler of the same name."""
    return _object("RuntimeClass", "node.k8s.io/v1", RUNTIME, handler=RUNTIME)


def documents(settings: Settings) -> list[dict[str, t.Any]]:
    """Return the plugin's own objects: a configuration where there is one, and a pod on every node with a GPU."""
    made = []
    if settings.config:
        # JSON is YAML.
        data = {"config.yaml": json.dumps({"version": "v1", **settings.config}, indent=2, sort_keys=True) + "\n"}
        made.append(_object("ConfigMap", "v1", NAME, settings.namespace, data=data))
    pod = _pod(settings)
    annotations = {_kubernetes.DIGEST: _kubernetes.digest([pod, *(item["data"] for item in made)])}
    template = {"metadata": {"labels": dict(MANAGED), "annotations": annotations}, "spec": pod}
    spec = {
        "selector": {"matchLabels": dict(MANAGED)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "template": template,
    }
    return [*made, _object("DaemonSet", "apps/v1", NAME, settings.namespace, spec=spec)]


def _pod(settings: Settings) -> dict[str, t.Any]:
    mounts: dict[str, dict[str, t.Any]] = {
        "sockets": {"mountPath": SOCKETS},
        # The plugin writes CDI specs of its own.
        "cdi": {"mountPath": CDI_ROOT},
        "driver-root": {"mountPath": "/driver-root", "readOnly": True},
    }
    volumes: list[dict[str, t.Any]] = [
        {"name": "sockets", "hostPath": {"path": SOCKETS, "type": "Directory"}},
        {"name": "cdi", "hostPath": {"path": CDI_ROOT, "type": "DirectoryOrCreate"}},
        {"name": "driver-root", "hostPath": {"path": "/", "type": "Directory"}},
    ]
    environment = {
        "DEVICE_LIST_STRATEGY": ",".join(settings.strategies),
        "DEVICE_ID_STRATEGY": "uuid",
        # A plugin that finds no GPU has no place on that node: it fails, and this role says so.
        "FAIL_ON_INIT_ERROR": "true",
        "NVIDIA_DRIVER_ROOT": "/",
        "NVIDIA_CDI_HOOK_PATH": HOOK,
        # How the plugin itself gets at the GPUs, by the RuntimeClass.
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    }
    if settings.config:
        environment["CONFIG_FILE"] = "/config/config.yaml"
        mounts["config"] = {"mountPath": "/config", "readOnly": True}
        volumes.append({"name": "config", "configMap": {"name": NAME}})
    container = {
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [NAME],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "volumeMounts": [{"name": name, **where} for name, where in mounts.items()],
    }
    terms = [
        {"matchExpressions": [{"key": label, "operator": "In", "values": ["true"]}]} for label in settings.node_labels
    ]
    return {
        "priorityClassName": "system-node-critical",
        "runtimeClassName": RUNTIME,
        "automountServiceAccountToken": False,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        "tolerations": [dict(one) for one in settings.tolerations],
        "containers": [container],
        "volumes": volumes,
    }


# --- What there is --------------------------------------------------------------------------------------------------


def tolerates(taint: t.Mapping[str, t.Any], tolerations: t.Iterable[t.Mapping[str, t.Any]]) -> bool:
    """Tell whether pods with these tolerations may be on a node with this taint."""
    if taint["effect"] == "PreferNoSchedule" or str(taint["key"]).startswith(TOLERATED):
        return True
    for one in tolerations:
        exists = one.get("operator", "Equal") == "Exists"
        same_key = one.get("key") == taint["key"] or (exists and not one.get("key"))
        same_value = exists or str(one.get("value") or "") == str(taint.get("value") or "")
        if same_key and same_value and one.get("effect") in (None, "", taint["effect"]):
            return True
    return False


def wanted_nodes(settings: Settings, nodes: t.Iterable[t.Mapping[str, t.Any]]) -> list[t.Mapping[str, t.Any]]:
    """Return the nodes that have to offer GPUs: labelled, ready, and without a taint that keeps the plugin away."""
    return [
        node
        for node in nodes
        if any(node["metadata"].get("labels", {}).get(label) == "true" for label in settings.node_labels)
        and all(tolerates(taint, settings.tolerations) for taint in node.get("spec", {}).get("taints", []))
        and any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", []))
    ]


def offers(node: t.Mapping[str, t.Any]) -> int:
    """Return how many GPUs, or parts and shares of them, a node has for pods."""
    found = node["status"].get("allocatable", {})
    return sum(int(count) for name, count in found.items() if name.startswith("nvidia.com/"))


def _managed(item: t.Mapping[str, t.Any]) -> bool:
    labels = item["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in MANAGED.items())


def _waits(pod: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """Return reason and message of a container that does not run; both empty where all do."""
    for status in pod.get("status", {}).get("containerStatuses", []):
        if status.get("ready"):
            continue
        state = status.get("state", {})
        ended = state.get("waiting") or state.get("terminated") or {}
        return str(ended.get("reason") or "it has not started"), str(ended.get("message") or "")
    return "", ""


def _ready(pod: t.Mapping[str, t.Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done, and how many GPUs each node offers."""

    gpus: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(kw_only=True)
class DevicePlugin(_kubernetes.Administrator):
    """The plugin in a cluster; status, which asks a registry for an image, is for tests."""

    status: t.Callable[[Registry, _images.Name], int] = Registry.status
    outcome: Outcome = dataclasses.field(default_factory=Outcome)

    def present(self, settings: Settings) -> Outcome:
        """Have the RuntimeClass and the plugin, and GPUs on every node that should offer some."""
        try:
            image = _images.parse(settings.image)
        except ValueError as exc:
            raise HostError(f"image '{settings.image}' cannot run: it needs {exc}") from None
        if self.check and not os.path.exists(self.places.admin):
            self.outcome.act(f"create the RuntimeClass {RUNTIME} and the DaemonSet {settings.namespace}/{NAME}")
            return self.outcome
        self._judge_others(settings)
        self._judge_registry(settings.registry, image)
        made = documents(settings)
        self._apply([*self._surroundings(settings), *made], settings)
        self._remove_stale(settings, {(item["kind"], item["metadata"]["name"]) for item in made})
        if not self.check and settings.seconds:
            self._wait(settings, made[-1]["spec"]["template"]["metadata"]["annotations"][_kubernetes.DIGEST])
        return self.outcome

    def absent(self) -> Outcome:
        """Take away what this module made. Pods that have a GPU keep it; no other one gets any."""
        if os.path.exists(self.places.admin):
            kinds = ("DaemonSet", "ConfigMap", "RuntimeClass", "Namespace")
            for item in sorted(self._ours(*kinds), key=lambda item: kinds.index(item["kind"])):
                self._delete(item)
        return self.outcome

    # --- Refusals -----------------------------------------------------------------------------------------------

    def _judge_others(self, settings: Settings) -> None:
        """Raise HostError where something else does the same: two plugins for one resource take it from each other."""
        for item in self._list("daemonsets"):
            where = item["metadata"]
            images = [one["image"] for one in item["spec"]["template"]["spec"]["containers"]]
            if not _managed(item) and any(IMAGE_NAME in image for image in images):
                raise HostError(
                    f"the DaemonSet {where['namespace']}/{where['name']} runs NVIDIA's device plugin already: it needs "
                    "to go first, or nvidia_device_plugin_enabled false; nothing was changed"
                )
        there = self.api.get("runtimeclass", RUNTIME)
        if there and there.get("handler") != RUNTIME:
            raise HostError(
                f"the RuntimeClass {RUNTIME} has the handler {there.get('handler')}, which cannot be changed: it needs "
                "to go first; nothing was changed"
            )

    def _judge_registry(self, registry: Registry, image: _images.Name) -> None:
        """Raise HostError where the private registry has no such image. One that does not answer may do so later."""
        if not registry.host:
            return
        status = self.status(registry, image)
        where = f"{registry.host}:{registry.port}"
        if status == 404:
            raise HostError(
                f"{image} is not in {where} (as {image.own}): it needs {image} in registry_mirror_images, and "
                "playbooks/mirror.yml; nothing was changed"
            )
        if status in (401, 403):
            raise HostError(
                f"{where} does not show {image.own} to {registry.user or 'a stranger'}: it needs a user that may pull "
                "it; nothing was changed"
            )

    # --- Objects ------------------------------------------------------------------------------------------------

    def _list(self, kind: str, *words: str) -> list[dict[str, t.Any]]:
        return list((self.api.get(kind, "--all-namespaces", *words) or {}).get("items", []))

    def _ours(self, *kinds: str) -> list[dict[str, t.Any]]:
        return self._list(",".join(kinds).lower(), f"--selector={SELECTOR}")

    def _surroundings(self, settings: Settings) -> list[dict[str, t.Any]]:
        """Return namespace and RuntimeClass, unless they are somebody else's."""
        found = []
        for made in (namespace(settings.namespace), runtime_class()):
            there = self.api.get(made["kind"].lower(), made["metadata"]["name"])
            if there is None or _managed(there):
                found.append(made)
        return found

    def _apply(self, items: t.Sequence[t.Mapping[str, t.Any]], settings: Settings) -> None:
        """Apply objects; kubectl tells which of them it had to change."""
        # The API server refuses what is in a namespace that is not there yet.
        unknown = self.check and self.api.get("namespace", settings.namespace) is None
        for action in self.api.apply(items, check=self.check, dry_run="client" if unknown else "server"):
            self.outcome.act(action)

    def _remove_stale(self, settings: Settings, wanted: set[tuple[str, str]]) -> None:
        """Delete what an earlier run made elsewhere, or with a configuration that there is no more."""
        for item in self._ours("DaemonSet", "ConfigMap"):
            where = item["metadata"]
            if where["namespace"] != settings.namespace or (item["kind"], where["name"]) not in wanted:
                self._delete(item)

    def _delete(self, item: t.Mapping[str, t.Any]) -> None:
        where = item["metadata"]
        self.outcome.act(f"delete {item['kind'].lower()} {where['name']}")
        if not self.check:
            words = [f"--namespace={where['namespace']}"] if where.get("namespace") else []
            gone = ("delete", item["kind"].lower(), where["name"], *words, "--ignore-not-found", "--timeout=120s")
            self.api.ask(*gone, timeout=150)

    # --- Proof --------------------------------------------------------------------------------------------------

    def _wait(self, settings: Settings, digest: str) -> None:
        """Wait until every node that should offers GPUs, by the plugin as it is wanted."""
        deadline = time.monotonic() + settings.seconds
        while True:
            nodes = wanted_nodes(settings, (self.api.get("nodes") or {}).get("items", []))
            pods = {
                pod.get("spec", {}).get("nodeName"): pod
                for pod in self._list("pods", f"--selector={SELECTOR}")
                if pod["metadata"].get("annotations", {}).get(_kubernetes.DIGEST) == digest
            }
            late = {}
            for node in nodes:
                name = node["metadata"]["name"]
                pod = pods.get(name)
                if not (pod and _ready(pod) and offers(node)):
                    late[name] = pod
            if not late:
                self.outcome.gpus = {node["metadata"]["name"]: offers(node) for node in nodes}
                return
            if time.monotonic() > deadline:
                name, pod = next(iter(late.items()))
                raise HostError(
                    f"node {name} offers no GPU after {settings.seconds:g} seconds: {self._why(settings, pod)}"
                )
            self.pause(POLL_SECONDS)

    def _why(self, settings: Settings, pod: t.Mapping[str, t.Any] | None) -> str:
        if pod is None:
            return f"the DaemonSet {settings.namespace}/{NAME} has made no pod there"
        reason, message = _waits(pod)
        if reason in PULL_FAILED:
            host = _images.parse(settings.image).host
            return _kubernetes.hidden(
                f"it cannot pull {settings.image}: that needs the image in the private registry "
                f"(registry_mirror_images), and {host} in registry_trust_mirrors: {message or reason}"
            )
        said = self.api.run("logs", f"--namespace={settings.namespace}", pod["metadata"]["name"], "--tail=3")
        last = (said.stdout.strip().splitlines() or [message or "it says nothing"])[-1]
        return _kubernetes.hidden(f"the plugin {f'({reason}) ' if reason else ''}says: {last}")[:800]
