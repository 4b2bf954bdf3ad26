# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a cluster from a scenario's tests: kubectl on the control plane's machine, pods, and what no run may disturb."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

# The tests' own login has the site's proxy in its environment, or a poisoned one.
KUBECTL = "env -i PATH=/usr/bin:/bin HOME=/root kubectl --kubeconfig=/etc/kubernetes/admin.conf"
# Paths that one of our ledgers names, with the time of their last change.
OURS = """
import glob, json, os
known = [json.load(open(path)) for path in glob.glob("/var/lib/slipway/ledger/*.json")]
paths = {path for one in known for path in one.get("paths", [])} | set(glob.glob("/var/lib/slipway/**", recursive=True))
print(json.dumps({path: os.lstat(path).st_mtime_ns for path in sorted(paths) if os.path.isfile(path)}))
"""
# Services that are started at boot, with their main process; one that runs once in a while is no daemon.
SERVICES = """
for unit in $(systemctl list-units --type=service --state=running --plain --no-legend | awk '{print $1}'); do
  systemctl show --property=Id,Type,UnitFileState,MainPID "$unit" | xargs
done | grep 'UnitFileState=enabled' | grep -v 'Type=oneshot'
"""


def wait_for(what: Callable[[], Any], why: Callable[[], str], seconds: float = 180) -> Any:
    """Ask again until the answer is true; say why it is not when the time is up."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, why()
        time.sleep(1)
    return answer


class Cluster:
    """kubectl on the control plane's machine."""

    def __init__(self, control: Any) -> None:
        self.control = control

    def run(self, words: str, *arguments: str) -> Any:
        """Run kubectl."""
        return self.control.run(f"{KUBECTL} {words}", *arguments)

    def ask(self, words: str, *arguments: str) -> str:
        """Run kubectl; return what it prints."""
        done = self.run(words, *arguments)
        assert done.rc == 0, f"kubectl {words}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def get(self, words: str) -> Any:
        """Return objects."""
        return json.loads(self.ask(f"get {words} --output=json"))

    def create(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.ask("apply --filename=/dev/stdin <<'END'\n" + text + "\nEND")

    def ready(self, node: str) -> bool:
        """Tell whether a node is ready."""
        done = self.run(f"get node {node} --output=json")
        conditions = json.loads(done.stdout)["status"]["conditions"] if done.rc == 0 else []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod."""
        found: dict[str, Any] = self.get(f"pod {name}")
        return found

    def says(self, name: str) -> str:
        """Return what the cluster and a pod itself say of it."""
        return str(self.run(f"describe pod {name}").stdout[-2500:] + self.run(f"logs {name}").stdout[-500:])

    def phase(self, name: str, wanted: str, seconds: float = 180) -> None:
        """Wait until a pod is where it should be."""
        wait_for(lambda: self.pod(name)["status"]["phase"] == wanted, lambda: self.says(name), seconds)

    def waits(self, name: str, because: str) -> str:
        """Wait until a pod's container waits for a reason; return the runtime's words."""

        def message() -> str:
            states = [one["state"].get("waiting", {}) for one in self.pod(name)["status"].get("containerStatuses", [])]
            return next((one.get("message", "") for one in states if because in one.get("message", "")), "")

        return str(wait_for(message, lambda: self.says(name)))

    def remove(self, *names: str) -> None:
        """Delete objects, at once."""
        for name in names:
            self.ask(f"delete {name} --ignore-not-found --grace-period=0 --force --wait=true")


def pod(name: str, image: str, command: str, node: str, **spec: Any) -> dict[str, Any]:
    """Return a pod of one container that is pulled on that very node."""
    container = {"name": "main", "image": image, "imagePullPolicy": "Always", "command": ["/bin/bash", "-c", command]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            **spec,
        },
    }


def pull_secret(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pull secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": json.dumps(content)},
    }


def pids(host: Any) -> list[str]:
    """Return the main processes of what a node consists of."""
    return str(host.check_output("systemctl show --property=MainPID --value kubelet containerd docker")).split()


def untouched(host: Any, cluster: Cluster) -> dict[str, Any]:
    """Return what no work on another machine may change: daemons, containers of both engines, files of ours."""
    started = "docker ps -q 2>/dev/null | xargs -r docker inspect --format '{{.Name}} {{.State.StartedAt}}'"
    name = host.check_output("hostname")
    pods = cluster.get(f"pods --all-namespaces --field-selector=spec.nodeName={name}")["items"]
    containers = {
        f"{one['metadata']['name']} {each['name']}": (each["containerID"], each["state"]["running"]["startedAt"])
        for one in pods
        for each in one["status"]["containerStatuses"]
    }
    return {
        "daemons": sorted(host.check_output(SERVICES).splitlines()),
        "shims": sorted(host.check_output("ps -C containerd-shim -o pid=,lstart=").splitlines()),
        "docker's containers": sorted(host.check_output(started).splitlines()),
        "the kubelet's containers": containers,
        "files": json.loads(host.check_output("python3 -c %s", OURS)),
    }
