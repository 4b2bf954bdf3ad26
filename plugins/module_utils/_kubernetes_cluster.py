# SPDX-License-Identifier: GPL-3.0-or-later
"""A node as the cluster sees it, asked on the machine of the control plane: tokens, labels, taints, draining, a pod.

Sources: kubectl drain and the eviction API, kubeadm token, the API's core/v1.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _host_state, _kubernetes
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

# A join takes seconds; what is left of a run that was killed is of no use to anybody soon after.
TOKEN_LIFE = "15m"
# On the node itself: which labels and taints are ours to take back.
LABELS, TAINTS = "slipway.platform/labels", "slipway.platform/taints"
# On the node while an upgrade of ours is under way: to which version, and whether it was we who cordoned it.
UPGRADE = "slipway.platform/upgrade"
POLL_SECONDS = 1.0

Taint = t.Mapping[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A node as wanted; seconds: how long to wait for it to be ready, 0 for not at all."""

    name: str
    labels: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    seconds: float = 0


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done, and what the cluster said."""

    told: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def _same(left: Taint, right: Taint) -> bool:
    return (left["key"], left["effect"]) == (right["key"], right["effect"])


def desired(node: Node, found: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the patch (merge) that a node needs; empty where it is as wanted.

    Labels and taints that others set stay; ours, which an annotation names, go when they are no longer wanted.
    """
    metadata, spec = found["metadata"], found.get("spec", {})
    notes = metadata.get("annotations", {})
    labels, taints = metadata.get("labels", {}), list(spec.get("taints", []))
    ours, ours_of_taints = json.loads(notes.get(LABELS, "[]")), json.loads(notes.get(TAINTS, "[]"))
    changes: dict[str, t.Any] = {name: value for name, value in node.labels.items() if labels.get(name) != value}
    changes |= {name: None for name in ours if name not in node.labels and name in labels}
    kept = [one for one in taints if not any(_same(one, other) for other in [*ours_of_taints, *node.taints])]
    wanted = [*kept, *(dict(one) for one in node.taints)]
    names = json.dumps(sorted(node.labels))
    keys = json.dumps([{"key": one["key"], "effect": one["effect"]} for one in node.taints], sort_keys=True)
    patch: dict[str, t.Any] = {}
    written = {
        name: value if value != "[]" else None
        for name, value in ((LABELS, names), (TAINTS, keys))
        if notes.get(name, "[]") != value
    }
    if changes or written:
        patch["metadata"] = {"labels": changes, "annotations": written}
    if sorted(map(str, map(_plain, wanted))) != sorted(map(str, map(_plain, taints))):
        patch["spec"] = {"taints": wanted or None}
    return patch


def _plain(taint: Taint) -> tuple[str, str, str]:
    return str(taint["key"]), str(taint.get("value") or ""), str(taint["effect"])


def is_ready(found: t.Mapping[str, t.Any] | None) -> bool:
    """Tell whether a node says that it is ready."""
    conditions = (found or {}).get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def why_not(found: t.Mapping[str, t.Any] | None) -> str:
    """Return what a node says of itself."""
    if found is None:
        return "the cluster does not know it"
    conditions = found.get("status", {}).get("conditions", [])
    return next((str(one.get("message")) for one in conditions if one["type"] == "Ready"), "it says nothing")


def mark_of(found: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """Return what an upgrade of ours has noted on a node; empty where none is under way."""
    try:
        mark = json.loads((found or {})["metadata"]["annotations"][UPGRADE])
    except (KeyError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def report(found: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what an upgrade wants to know of a node."""
    return {
        "name": found["metadata"]["name"],
        "kubelet": found.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""),
        "ready": is_ready(found),
        "why": "" if is_ready(found) else why_not(found),
        "upgrading": bool(mark_of(found)),
    }


def smoke_pod(name: str, node: str, image: str) -> dict[str, t.Any]:
    """Return a pod that has to run on that very node and has to be pulled."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "slipway"}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {"name": "smoke", "image": image, "imagePullPolicy": "Always", "command": ["/bin/sh", "-c", "exit 0"]}
            ],
        },
    }


@dataclasses.dataclass(kw_only=True)
class Cluster(_kubernetes.Administrator):
    """The cluster, asked on a machine of its control plane."""

    outcome: Outcome = dataclasses.field(default_factory=Outcome)

    def info(self) -> Outcome:
        """Tell which cluster this is, at once or not at all: it is asked before anything changes."""
        server, authority = _kubernetes.cluster_of(self.places.admin)
        if not authority:
            raise HostError(f"{self.places.admin} is not there: it needs a machine on which a control plane runs")
        said = dataclasses.replace(self.api, patience=0).ask("get", "--raw=/version")
        version = json.loads(said).get("gitVersion", "")
        self.outcome.told = {"authority": authority, "server": server, "version": version}
        return self.outcome

    def nodes(self, *, seconds: float) -> Outcome:
        """Tell which version the API server has, and every node's.

        Waits for a kubeadm that is at work here, and for a server that is just restarting.
        """
        with _kubernetes.alone(self.places, check=False):
            self.api.wait(seconds)
        version = json.loads(self.api.ask("get", "--raw=/version")).get("gitVersion", "")
        found = self.api.get("nodes") or {"items": []}
        self.outcome.told = {"version": version, "nodes": [report(item) for item in found["items"]]}
        return self.outcome

    def make_token(self, node: str) -> Outcome:
        """Make a token for one join, and say how to join with it."""
        done = _kubernetes.kubeadm(
            self.runner,
            "token",
            "create",
            f"--kubeconfig={self.places.admin}",
            f"--ttl={TOKEN_LIFE}",
            f"--description=slipway: join of {node}",
            "--print-join-command",
        )
        endpoint = re.search(r"kubeadm join (\S+)", done.stdout)
        token = re.search(r"--token (\S+)", done.stdout)
        hashes = re.findall(r"--discovery-token-ca-cert-hash (\S+)", done.stdout)
        if not (endpoint and token and hashes):
            raise HostError("kubeadm token create printed no command to join with")
        self.outcome.told = {"endpoint": endpoint[1], "token": token[1], "hashes": hashes}
        return self.outcome

    def forget_token(self, identifier: str) -> Outcome:
        """Delete a token by its public half."""
        words = ("token", "delete", identifier[:6], f"--kubeconfig={self.places.admin}")
        _kubernetes.kubeadm(self.runner, *words)
        return self.outcome

    # --- A node -------------------------------------------------------------------------------------------------

    def settle(self, node: Node) -> Outcome:
        """Give a node its labels and taints, and wait until it is ready."""
        found = self._node(node)
        if found is None and self.check:
            return self.outcome
        patch = desired(node, found or {"metadata": {}})
        if patch:
            self.outcome.act(f"patch node {node.name}: {json.dumps(patch, sort_keys=True)}")
            self._patch(node.name, patch)
        self.outcome.told = {"ready": is_ready(found)}
        return self.outcome

    def _node(self, node: Node) -> dict[str, t.Any] | None:
        """Return the node, ready where that is asked for."""
        deadline = time.monotonic() + node.seconds
        while True:
            found = self.api.get("node", node.name)
            if is_ready(found) or self.check or (found and not node.seconds):
                return found
            if time.monotonic() >= deadline:
                raise HostError(f"node {node.name} is not ready after {node.seconds:g} seconds: {why_not(found)}")
            self.pause(POLL_SECONDS)

    def cordon(self, name: str, *, on: bool) -> Outcome:
        """Let no new pod on a node, or let them again."""
        found = self.api.get("node", name)
        if found and bool(found.get("spec", {}).get("unschedulable")) != on:
            self.outcome.act(f"{'cordon' if on else 'uncordon'} node {name}")
            if not self.check:
                self.api.ask("cordon" if on else "uncordon", name)
        return self.outcome

    def upgrade_begin(self, name: str, *, version: str, cordon: bool) -> Outcome:
        """Note on a node that its upgrade has begun, and with cordon let no new pod on it: both at once.

        Who finds the node cordoned already leaves it so afterwards.
        """
        found = self.api.get("node", name)
        if found is None:
            raise HostError(f"the cluster has no node {name}")
        mark, closed = mark_of(found), bool(found.get("spec", {}).get("unschedulable"))
        wanted = {"to": version, "cordoned": bool(mark.get("cordoned")) or (cordon and not closed)}
        if mark == wanted and (closed or not cordon):
            return self.outcome
        self.outcome.act(f"{'cordon' if cordon and not closed else 'mark'} node {name} for its upgrade to {version}")
        patch: dict[str, t.Any] = {"metadata": {"annotations": {UPGRADE: json.dumps(wanted, sort_keys=True)}}}
        if cordon:
            patch["spec"] = {"unschedulable": True}
        return self._patch(name, patch)

    def upgrade_end(self, name: str) -> Outcome:
        """Take the note away, and let pods on the node again if it was we who cordoned it."""
        mark = mark_of(self.api.get("node", name))
        if mark:
            self.outcome.act(f"{'uncordon' if mark.get('cordoned') else 'unmark'} node {name} after its upgrade")
            patch: dict[str, t.Any] = {"metadata": {"annotations": {UPGRADE: None}}}
            if mark.get("cordoned"):
                patch["spec"] = {"unschedulable": None}
            self._patch(name, patch)
        return self.outcome

    def _patch(self, name: str, patch: t.Mapping[str, t.Any]) -> Outcome:
        if not self.check:
            self.api.ask("patch", "node", name, "--type=merge", f"--patch={json.dumps(patch)}")
        return self.outcome

    def await_version(self, name: str, *, version: str, seconds: float) -> Outcome:
        """Wait until a node is ready with a kubelet of a version."""
        deadline = time.monotonic() + seconds
        while not self.check:
            done = self.api.run("get", "node", name, "--output=json")
            said = report(json.loads(done.stdout)) if done.rc == 0 else {"why": _kubernetes.told(done.stderr)}
            if said.get("ready") and said["kubelet"] == version:
                break
            if time.monotonic() >= deadline:
                why = said["why"] or f"its kubelet is {said['kubelet']}"
                raise HostError(f"node {name} is not ready at {version} after {seconds:g} seconds: {why}")
            self.pause(POLL_SECONDS)
        return self.outcome

    def drain(self, name: str, *, seconds: float, lose: bool) -> Outcome:
        """Cordon a node and evict its pods as their disruption budgets allow; HostError names what holds it up.

        lose: also pods that nothing makes anew, and what lies in emptyDir volumes.
        """
        if self.api.get("node", name) is None:
            return self.outcome
        self.outcome.act(f"drain node {name}")
        if not self.check:
            words = ["drain", name, "--ignore-daemonsets", f"--timeout={seconds:g}s"]
            words += ["--force", "--delete-emptydir-data"] if lose else []
            done = self.api.run(*words, timeout=seconds + 60)
            if done.rc != 0:
                held = [line for line in done.stderr.splitlines() if "disruption budget" in line]
                why = _kubernetes.hidden(held[-1].strip()) if held else _kubernetes.told(done.stderr)
                raise HostError(f"node {name} could not be drained within {seconds:g} seconds: {why}")
        return self.outcome

    def delete(self, name: str) -> Outcome:
        """Take a node out of the cluster."""
        if self.api.get("node", name) is not None:
            self.outcome.act(f"delete node {name}")
            if not self.check:
                self.api.ask("delete", "node", name, "--timeout=60s", timeout=90)
        return self.outcome

    def smoke(self, name: str, image: str, *, seconds: float) -> Outcome:
        """Run a pod of an image on a node, to its end; HostError says why it did not run."""
        if self.check:
            return self.outcome
        pod = f"slipway-smoke-{name}"[:63].rstrip("-.")
        gone = ("delete", "pod", pod, "--ignore-not-found", "--grace-period=0", "--force", "--wait=true")
        self.api.ask(*gone)
        self.api.ask("apply", "--filename=-", stdin=json.dumps(smoke_pod(pod, name, image)))
        try:
            self._watch(pod, image, name, seconds)
        finally:
            self.api.run(*gone)
        return self.outcome

    def _watch(self, pod: str, image: str, node: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            status = (self.api.get("pod", pod) or {}).get("status", {})
            if status.get("phase") == "Succeeded":
                return
            waiting = [one.get("state", {}).get("waiting", {}) for one in status.get("containerStatuses", [])]
            why = "; ".join(str(one.get("message") or one.get("reason")) for one in waiting if one)
            if status.get("phase") == "Failed" or time.monotonic() > deadline:
                reason = _kubernetes.hidden(why or str(status.get("message") or status.get("phase") or "no status"))
                raise HostError(f"a pod with image {image} did not run on {node} within {seconds:g} seconds: {reason}")
            self.pause(POLL_SECONDS)
