# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster as its administrator sees it on the control plane's machine, for scenarios that have one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

# Whatever the login's environment has: kubectl would ask a proxy for the API server.
KUBECTL = "env -i PATH=/usr/bin:/bin HOME=/root kubectl --kubeconfig=/etc/kubernetes/admin.conf"


def wait_for(what: Callable[[], Any], why: Callable[[], str], seconds: float = 240) -> Any:
    """Ask again until the answer is true; say why it is not when the time is up."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, why()
        time.sleep(1)
    return answer


class Cluster:
    """kubectl on a machine of the control plane."""

    def __init__(self, control: Any) -> None:
        self.control = control

    def run(self, words: str, *arguments: str) -> Any:
        """Run kubectl and return all of it."""
        return self.control.run(f"{KUBECTL} {words}", *arguments)

    def ask(self, words: str, *arguments: str) -> str:
        """Run kubectl and return what it prints."""
        done = self.run(words, *arguments)
        assert done.rc == 0, f"kubectl {words}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def get(self, words: str) -> Any:
        """Return objects."""
        return json.loads(self.ask(f"get {words} --output=json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.ask("apply --filename=/dev/stdin <<'END'\n" + text.replace("%", "%%") + "\nEND")

    def node(self, name: str) -> dict[str, Any]:
        """Return a node: its kubelet's version, whether it is ready, whether it is cordoned, and its annotations."""
        found = self.get(f"node {name}")
        ready = [one["status"] for one in found["status"]["conditions"] if one["type"] == "Ready"]
        return {
            "kubelet": found["status"]["nodeInfo"]["kubeletVersion"],
            "ready": ready == ["True"],
            "cordoned": bool(found["spec"].get("unschedulable")),
            "annotations": found["metadata"].get("annotations", {}),
        }
