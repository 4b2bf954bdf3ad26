# SPDX-License-Identifier: GPL-3.0-or-later
"""The question to a cluster, asked of a real kube-apiserver as the account in docs/registry.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.lab import golang
from tests.unit.roles.test_registry_gc import gc

ROOT = Path(__file__).resolve().parents[3]
ADMIN = "the-test-is-admin"
GROUPS = {"rbac.authorization.k8s.io/v1": "/apis/rbac.authorization.k8s.io/v1", "v1": "/api/v1"}
PLURALS = {"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclasses.dataclass(frozen=True)
class Kube:
    """A running API server; ca is the text of its certificate, which it has made itself."""

    url: str
    ca: str

    def ask(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        """Send a request as admin."""
        data = json.dumps(content).encode() if content is not None else None
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=self.ca)),
        )
        with opener.open(request, timeout=30) as answer:
            return dict(json.loads(answer.read()))

    def make(self, path: str, kind: str, name: str, **content: Any) -> None:
        """Make an object in namespace default."""
        group, _, plural = path.rpartition("/")
        version = group.removeprefix("/apis/").removeprefix("/api/")
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **content}
        self.ask("POST", f"{group}/namespaces/default/{plural}", body)


@contextlib.contextmanager
def running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as handle:
        process = subprocess.Popen(argv, stdout=handle, stderr=handle)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    etcd, server = str(golang.program("etcd")), str(golang.program("kube-apiserver"))
    top = tmp_path_factory.mktemp("kube")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (top / "sa.key").write_bytes(key.private_bytes(*form))
    (top / "tokens.csv").write_text(f'{ADMIN},admin,1,"system:masters"\n', encoding="utf-8")
    client, peer, port = (free_port() for _ in range(3))
    where = f"http://127.0.0.1:{client}"
    store = [etcd, "--data-dir", str(top / "etcd"), "--listen-client-urls", where, "--advertise-client-urls", where]
    store += ["--listen-peer-urls", f"http://127.0.0.1:{peer}", "--unsafe-no-fsync"]
    serve = [server, "--etcd-servers", where, "--secure-port", str(port), "--bind-address", "127.0.0.1"]
    serve += ["--cert-dir", str(top / "certs"), "--token-auth-file", str(top / "tokens.csv")]
    serve += ["--authorization-mode", "RBAC", "--service-account-issuer", "https://kube.corp.lab"]
    serve += ["--service-account-key-file", str(top / "sa.key")]
    serve += ["--service-account-signing-key-file", str(top / "sa.key"), "--service-cluster-ip-range", "10.0.0.0/24"]
    serve += ["--disable-admission-plugins", "ServiceAccount"]  # no controllers make accounts here
    with running(store, top / "etcd.log"), running(serve, top / "server.log") as process:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError, ValueError):
                made = Kube(f"https://127.0.0.1:{port}", (top / "certs/apiserver.crt").read_text(encoding="utf-8"))
                made.ask("GET", "/api/v1/namespaces/default")
                made.ask("GET", "/api/v1/namespaces/kube-system")
                break
            assert process.poll() is None, (top / "server.log").read_text(encoding="utf-8")[-3000:]
            assert time.monotonic() < deadline, (top / "server.log").read_text(encoding="utf-8")[-3000:]
            time.sleep(0.3)
        yield made


@pytest.fixture(scope="module")
def token(kube: Kube) -> str:
    """The token of the account that the manual has people make."""
    text = (ROOT / "docs/registry.md").read_text(encoding="utf-8")
    (manifests,) = re.findall(r"```yaml\n(apiVersion: v1\nkind: ServiceAccount.*?)```", text, re.DOTALL)
    for item in yaml.safe_load_all(manifests):
        namespace = item["metadata"].get("namespace")
        plural = PLURALS.get(item["kind"], f"{item['kind'].lower()}s")
        below = f"/namespaces/{namespace}" if namespace else ""
        kube.ask("POST", f"{GROUPS[item['apiVersion']]}{below}/{plural}", item)
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    made = kube.ask("POST", "/api/v1/namespaces/kube-system/serviceaccounts/registry-gc/token", wanted)
    return str(made["status"]["token"])


def template(image: str, restart: str = "Always") -> dict[str, Any]:
    labels = {"app": "a"}
    spec = {
        "containers": [{"name": "c", "image": image}],
        "initContainers": [{"name": "i", "image": f"{image}-init"}],
        "restartPolicy": restart,
    }
    return {"metadata": {"labels": labels}, "spec": spec}


def ask(config: Any, tmp_path: Path, kube: Kube, token: str) -> Any:
    path = tmp_path / "clusters.json"
    path.write_text(json.dumps([{"server": kube.url, "token": token, "ca_certificate": kube.ca}]), encoding="utf-8")
    return gc.in_use(gc.dataclasses.replace(config, clusters=str(path)))


@pytest.fixture
def config() -> Any:
    known = ("data_dir", "marker", "run_dir", "state", "registry", "network")
    return gc.Config(
        **dict.fromkeys(known, ""), hosts=[], retention=[], protected=[], untagged_days=0, grace="1h", max_share=1
    )


def test_every_kind_of_object_is_found_page_by_page(
    kube: Kube, token: str, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "PAGE", 3)
    selector = {"selector": {"matchLabels": {"app": "a"}}}
    for number in range(10):
        kube.make("/api/v1/pods", "Pod", f"p{number}", spec=template(f"team/pod:{number}")["spec"])
    for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"):
        name = kind.lower()
        scale = {} if kind == "DaemonSet" else {"replicas": 0}
        spec = {**selector, **scale, "template": template(f"registry.corp.lab:6001/team/{name}:1")}
        kube.make(f"/apis/apps/v1/{name}s", kind, name, spec=spec)
    controller = {"replicas": 0, "selector": {"app": "a"}, "template": template("docker.io/library/controller:1")}
    kube.make("/api/v1/replicationcontrollers", "ReplicationController", "rc", spec=controller)
    kube.make("/apis/batch/v1/jobs", "Job", "job", spec={"template": template("job", "Never"), "suspend": True})
    cron = {"schedule": "@daily", "suspend": True, "jobTemplate": {"spec": {"template": template("cron:1", "Never")}}}
    kube.make("/apis/batch/v1/cronjobs", "CronJob", "cron", spec=cron)
    kube.make("/api/v1/podtemplates", "PodTemplate", "t", template=template("template:1"))
    revision = {"spec": {"template": template("revision:1")}}
    kube.make("/apis/apps/v1/controllerrevisions", "ControllerRevision", "r", revision=1, data=revision)
    running = f"registry.corp.lab:6001/team/pod@sha256:{'a' * 64}"
    state = {"name": "c", "image": "team/pod:0", "imageID": running, "ready": True, "restartCount": 0}
    kube.ask(
        "PUT",
        "/api/v1/namespaces/default/pods/p0/status",
        {**kube.ask("GET", "/api/v1/namespaces/default/pods/p0"), "status": {"containerStatuses": [state]}},
    )
    used = ask(config, tmp_path, kube, token)
    names = {f"team/{name}" for name in ("deployment", "replicaset", "statefulset", "daemonset")}
    names |= {"controller", "cron", "template", "revision"}
    wanted = {(name, tag) for name in names for tag in ("1", "1-init")}
    wanted |= {("team/pod", f"{number}{more}") for number in range(10) for more in ("", "-init")}
    wanted |= {("job", "latest"), ("job-init", "latest")}
    assert used.tags == wanted
    assert used.digests == {f"sha256:{'a' * 64}"}


def test_an_account_that_lacks_a_right_stops_the_collection(
    kube: Kube, token: str, config: Any, tmp_path: Path
) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/registry-gc"
    role = kube.ask("GET", path)
    kept = [rule for rule in role["rules"] if rule["apiGroups"] != ["batch"]]
    kube.ask("PUT", path, {**role, "rules": kept})
    deadline = time.monotonic() + 60
    with pytest.raises(gc.CollectionError, match=r"/apis/batch/v1/cronjobs: 403 cronjobs.batch is forbidden"):
        while time.monotonic() < deadline:  # the authorizer learns it by a watch
            ask(config, tmp_path, kube, token)
            time.sleep(0.3)
    with pytest.raises(gc.CollectionError, match="401 Unauthorized"):
        ask(config, tmp_path, kube, "no token")
