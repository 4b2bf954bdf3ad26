# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster, asked by kubectl on a machine of its control plane."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import yaml

from tests.testinfra.verify.machine import wrong

# Without the login's proxy, which does not know the API server.
KUBECTL = "env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root kubectl --kubeconfig=/etc/kubernetes/admin.conf"
PLUGIN = "app.kubernetes.io/name=nvidia-device-plugin"
PREFIX = "nvidia.com/"
# A pull through a slow network, on a node that has much to do.
SECONDS = 120.0


class Api:
    """The API server."""

    def __init__(self, host: Any) -> None:
        """Keep the machine that may ask it."""
        self.host = host

    def ask(self, words: str, *arguments: str) -> str:
        """Run kubectl and return what it prints. Fails the check when that does not work."""
        done = self.host.run(f"{KUBECTL} --request-timeout=20s {words}", *arguments)
        if done.rc != 0:
            wrong(f"kubectl {words.split(' -', maxsplit=1)[0]}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return str(done.stdout)

    def get(self, *words: str) -> dict[str, Any]:
        """Return an object, or nothing where there is none."""
        text = self.ask(f"get {' '.join(words)} --output=json --ignore-not-found")
        return dict(json.loads(text)) if text.strip() else {}

    def shares(self) -> int:
        """Return how many pods one GPU is for, as the plugin's configuration says."""
        for item in self.get("configmaps", "--all-namespaces", f"--selector={PLUGIN}").get("items", []):
            config = yaml.safe_load(item.get("data", {}).get("config.yaml") or "{}")
            sliced = ((config.get("sharing") or {}).get("timeSlicing") or {}).get("resources") or []
            for entry in sliced:
                return int(entry.get("replicas", 1))
        return 1

    def run(self, pod: Mapping[str, Any], seconds: float = SECONDS) -> tuple[dict[str, Any], str]:
        """Run a pod to its end; return its last status and what it printed. It is gone afterwards."""
        name = pod["metadata"]["name"]
        gone = f"delete pod {name} --ignore-not-found --grace-period=0 --force --wait=true"
        self.ask(gone)
        self.ask("apply --filename=/dev/stdin <<'END'\n" + json.dumps(pod) + "\nEND")
        try:
            deadline = time.monotonic() + seconds
            while True:
                status = dict(self.get("pod", name).get("status", {}))
                if status.get("phase") == "Succeeded":
                    return status, self.ask(f"logs {name}")
                full = any(one.get("reason") == "Unschedulable" for one in status.get("conditions", []))
                if status.get("phase") == "Failed" or full or time.monotonic() > deadline:
                    return status, ""
                time.sleep(1)
        finally:
            self.host.run(f"{KUBECTL} --request-timeout=20s {gone}")


def resource(node: Mapping[str, Any]) -> str:
    """Return the name by which pods ask a node for a GPU; empty where it has none."""
    offered = node.get("status", {}).get("allocatable", {})
    names = sorted(name for name, count in offered.items() if name.startswith(PREFIX) and int(count))
    return names[0] if names else ""


def gpus(node: Mapping[str, Any], wanted: int) -> str:
    """Return a sentence where a node does not offer as many GPUs as it should, or not all of them are healthy."""
    status = node["status"]
    there, free = (
        sum(int(count) for name, count in status.get(part, {}).items() if name.startswith(PREFIX))
        for part in ("capacity", "allocatable")
    )
    name = node["metadata"]["name"]
    if free == wanted:
        return ""
    sick = f", {there - free} of them unhealthy" if there > free else ""
    return f"the node {name} offers {free} GPUs to pods, the machine has {wanted} for them{sick}"


def knows_cdi(node: Mapping[str, Any]) -> bool:
    """Tell whether a node's runtime takes CDI devices from the kubelet; containerd does so since 1.7."""
    kind, _, version = node["status"].get("nodeInfo", {}).get("containerRuntimeVersion", "").partition("://")
    return kind != "containerd" or [int(part) for part in version.split(".")[:2]] >= [1, 7]


def gpu_pod(node: Mapping[str, Any], image: str, asked: str, command: str) -> dict[str, Any]:
    """Return a pod that asks for one GPU of a node, and prints."""
    name = node["metadata"]["name"]
    by_class = {} if knows_cdi(node) else {"runtimeClassName": "nvidia"}
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"slipway-verify-gpu-{name}"[:63].rstrip("-.")},
        "spec": {
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}
            },
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            **by_class,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["/bin/sh", "-c", command],
                    "resources": {"limits": {asked: "1"}},
                }
            ],
        },
    }


def why(status: Mapping[str, Any]) -> str:
    """Return what a pod says of itself that did not end well."""
    waiting = [one.get("state", {}).get("waiting") or {} for one in status.get("containerStatuses", [])]
    ended = [one.get("state", {}).get("terminated") or {} for one in status.get("containerStatuses", [])]
    refused = [one for one in status.get("conditions", []) if one.get("status") == "False" and one.get("message")]
    said = [one.get("message") or one.get("reason") for one in [*waiting, *ended, *refused] if one]
    return next((str(text) for text in said if text), str(status.get("message") or status.get("phase") or "?"))
