# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules for Kubernetes share: kubeadm and kubectl without the shell's proxy, and who a kubeconfig trusts.

kubeadm copies the proxy variables of its environment into the manifests of the control plane, credentials included
(kubernetes/kubeadm issue 666), and kubectl would ask the proxy for the API server. Neither gets any of ours.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _files
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result, Runner, run

SCRUBBED = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
CRI_SOCKET = "unix:///run/containerd/containerd.sock"
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
# What kubectl says of an API server that is just restarting; asked again, it answers. In its first seconds it has not
# read who may do what, and forbids all to the administrator too.
AWAY = re.compile(
    r"was refused|reset by peer|\bEOF\b|TLS handshake timeout|i/o timeout|etcdserver: |http2: |"
    r"ServiceUnavailable|currently unable to handle|in the time allotted|"
    r"Client\.Timeout exceeded|context deadline exceeded|is forbidden: User "
)
# How long it may take to come back: a kubelet of another release makes it anew some seconds after its own start.
PATIENCE_SECONDS = 120.0
DIGEST = "slipway.platform/digest"


@dataclasses.dataclass(frozen=True)
class Places:
    """Where Kubernetes keeps things on a host; tests put them elsewhere."""

    root: str = "/"

    def at(self, *parts: str) -> str:
        """Return a path below the root."""
        return os.path.join(self.root, *parts)

    @property
    def admin(self) -> str:
        """The administrator's kubeconfig."""
        return self.at("etc/kubernetes/admin.conf")

    @property
    def kubelet(self) -> str:
        """The kubelet's kubeconfig: whoever has one has joined."""
        return self.at("etc/kubernetes/kubelet.conf")

    @property
    def manifests(self) -> str:
        """Directory of the pods that the kubelet runs without an API server."""
        return self.at("etc/kubernetes/manifests")

    @property
    def marker(self) -> str:
        """Where we remember what we have begun: "init" or "join", and "done" after it."""
        return self.at("var/lib/slipway/kubernetes.json")


def hidden(text: str) -> str:
    """Return a text without bootstrap tokens and the credentials of URLs."""
    return re.sub(r"://[^/@\s\"]*@", "://***@", TOKEN.sub("***", text))


def told(output: str) -> str:
    """Return the lines of kubeadm's or kubectl's output that say why it failed, as one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"\[ERROR|error|Error|E\d{4} |fatal|\s*failed", line)]
    return hidden("; ".join(dict.fromkeys(telling or lines[-3:])))[:800] or "it says nothing"


def kubeadm(runner: Runner, *words: str, timeout: float = 60) -> Result:
    """Run kubeadm with an environment that holds nothing of ours; HostError in its own words."""
    done = runner([*SCRUBBED, "kubeadm", *words], timeout=timeout)
    if done.rc != 0:
        raise HostError(f"kubeadm {words[0]} failed: {told(done.output)}")
    if re.search(r"WARNING HTTPProxy.* uses proxy ", done.output):
        raise HostError("kubeadm saw a proxy although its environment has none: it would use it for the API server")
    return done


def kubeadm_by_file(runner: Runner, places: Places, verb: str, text: str, *, timeout: float) -> None:
    """Run kubeadm's init or join with a configuration that only root can read, and that is gone afterwards."""
    path = places.at(f"run/slipway/kubeadm-{verb}.json")
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    _files.write_atomic(path=path, content=text.encode(), mode=0o600)
    try:
        kubeadm(runner, verb, f"--config={path}", timeout=timeout)
    finally:
        os.unlink(path)


@dataclasses.dataclass
class Api:
    """The API server, asked by kubectl as the administrator on a machine of the control plane.

    patience: for how many seconds one that is away is asked again; what is asked may be done twice then.
    """

    runner: Runner
    places: Places = dataclasses.field(default_factory=Places)
    patience: float = 0.0
    pause: t.Callable[[float], None] = time.sleep

    def ask(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl and return what it prints; HostError in its own words."""
        done = self.run(*words, stdin=stdin, timeout=timeout)
        if done.rc != 0:
            raise HostError(f"kubectl {' '.join(words[:3])} failed: {told(done.stderr or done.stdout)}")
        return done.stdout

    def run(self, *words: str, stdin: str | None = None, timeout: float = 60) -> Result:
        """Run kubectl and return all of it."""
        deadline = time.monotonic() + self.patience
        while True:
            done = self._once(*words, stdin=stdin, timeout=timeout)
            if done.rc == 0 or not AWAY.search(done.stderr) or time.monotonic() >= deadline:
                return done
            self.pause(1)

    def _once(self, *words: str, stdin: str | None = None, timeout: float = 60) -> Result:
        if not os.path.exists(self.places.admin):
            raise HostError(f"{self.places.admin} is not there: it needs a machine on which a control plane runs")
        argv = [*SCRUBBED, "kubectl", f"--kubeconfig={self.places.admin}", "--request-timeout=20s", *words]
        return self.runner(argv, timeout=timeout, stdin=stdin)

    def wait(self, seconds: float) -> None:
        """Wait until the API server answers that it is ready; HostError when it does not."""
        deadline = time.monotonic() + seconds
        while True:
            done = self._once("get", "--raw=/readyz")
            if done.rc == 0:
                return
            if time.monotonic() >= deadline:
                raise HostError(f"the API server does not answer: {told(done.stderr)}")
            self.pause(1)

    def get(self, *words: str) -> dict[str, t.Any] | None:
        """Return an object; None where there is none."""
        done = self.run("get", *words, "--output=json", "--ignore-not-found")
        if done.rc != 0:
            raise HostError(f"kubectl get {' '.join(words[:2])} failed: {told(done.stderr)}")
        return t.cast("dict[str, t.Any]", json.loads(done.stdout)) if done.stdout.strip() else None

    def apply(self, documents: t.Sequence[t.Mapping[str, t.Any]], *, check: bool, dry_run: str = "server") -> list[str]:
        """Apply objects; kubectl tells which of them it had to change. dry_run: who predicts it in check mode."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        words = ["apply", "--filename=-", *([f"--dry-run={dry_run}"] if check else [])]
        said = self.ask(*words, stdin=text, timeout=120).splitlines()
        matches = [match for line in said if (match := re.match(r"(\S+) (created|configured)", line))]
        return [f"{match[2]} {match[1]}" for match in matches]


@dataclasses.dataclass(kw_only=True)
class Administrator:
    """Who works on a cluster, on a machine of its control plane; runner, places and pause are for tests.

    patience: as of Api.
    """

    check: bool
    runner: Runner = run
    places: Places = dataclasses.field(default_factory=Places)
    pause: t.Callable[[float], None] = time.sleep
    patience: float = PATIENCE_SECONDS

    def __post_init__(self) -> None:
        self.api = Api(self.runner, self.places, self.patience, self.pause)


def resource(kind: str, version: str, name: str, namespace: str = "", **more: t.Any) -> dict[str, t.Any]:
    """Return an object of the API."""
    metadata: dict[str, t.Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def confined(name: str, image: str, words: t.Sequence[str]) -> dict[str, t.Any]:
    """Return a container by the image's own entry point, as Pod Security's level restricted wants it, read-only too."""
    return {
        "name": name,
        "image": image,
        "args": list(words),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def placement(
    pull_secret: str, node_selector: t.Mapping[str, str], tolerations: t.Iterable[t.Mapping[str, t.Any]]
) -> dict[str, t.Any]:
    """Return what a pod's specification says of where it may run, and by which secret its images come."""
    made = {
        "imagePullSecrets": [{"name": pull_secret}] if pull_secret else [],
        "nodeSelector": dict(node_selector),
        "tolerations": [dict(one) for one in tolerations],
    }
    return {key: value for key, value in made.items() if value}


def digest(content: t.Any) -> str:
    """Return what changes when a pod has to be made anew: it stands in the pod's annotation DIGEST."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def alone(places: Places, *, check: bool) -> t.Iterator[None]:
    """Wait for a kubeadm that a run which was cut off has left working here: two of them would undo each other."""
    if check:
        yield
        return
    directory = places.at("run/slipway/kubeadm")
    os.makedirs(directory, mode=0o755, exist_ok=True)
    with _files.alone(directory):
        yield


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of the first certificate in a PEM text; empty where there is none."""
    match = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.S)
    try:
        return hashlib.sha256(base64.b64decode(match[1], validate=False)).hexdigest() if match else ""
    except binascii.Error:
        return ""


def read(path: str) -> str:
    """Return a file's text; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def cluster_of(path: str) -> tuple[str, str]:
    """Return the API server and the fingerprint of the authority in a kubeconfig; both empty where there is none."""
    text = read(path)
    server = re.search(r"^\s*server: (\S+)$", text, re.M)
    authority = re.search(r"^\s*certificate-authority-data: (\S+)$", text, re.M)
    try:
        pem = base64.b64decode(authority[1]).decode("ascii", "replace") if authority else ""
    except binascii.Error:
        pem = ""
    return (server[1] if server else ""), fingerprint(pem)


def begun(places: Places) -> str:
    """Return what a run of ours has begun here: "init", "join", or "done" when it ended; empty when nothing."""
    try:
        found = json.loads(read(places.marker) or "{}")
    except ValueError:
        return ""
    return str(found.get("state", "")) if isinstance(found, dict) else ""


def begin(places: Places, state: str) -> None:
    """Remember it, so that a run which was interrupted is finished by the next one, and nobody's else's is."""
    _files.make_private_dirs(os.path.dirname(places.marker))
    _files.write_atomic(path=places.marker, content=json.dumps({"state": state}).encode(), mode=0o600)
