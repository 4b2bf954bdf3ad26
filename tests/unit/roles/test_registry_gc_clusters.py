# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that a cluster uses are never collected: what its API server says, over TLS, page by page, or nothing."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.roles.test_registry_gc import INDEX, OLD, Disk, changed, config, digest, disk, gc, result

__all__ = ["config", "disk"]
HOST = "registry.corp.lab:6001"
TOKEN = "a.service-account.token"
GROUPS = {
    "pods": "v1",
    "podtemplates": "v1",
    "replicationcontrollers": "v1",
    "jobs": "batch/v1",
    "cronjobs": "batch/v1",
}
KINDS = {
    "pods": "PodList",
    "podtemplates": "PodTemplateList",
    "replicationcontrollers": "ReplicationControllerList",
    "controllerrevisions": "ControllerRevisionList",
    "daemonsets": "DaemonSetList",
    "deployments": "DeploymentList",
    "replicasets": "ReplicaSetList",
    "statefulsets": "StatefulSetList",
    "cronjobs": "CronJobList",
    "jobs": "JobList",
    "rollouts": "RolloutList",
}


def pod_spec(*images: str) -> dict[str, Any]:
    """Return a pod's spec with one container for each image."""
    containers = [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]
    return {"containers": containers, "restartPolicy": "Always", "serviceAccountName": "default"}


def workload(*images: str) -> dict[str, Any]:
    """Return what deployments and the like have: a template, and no pods."""
    template = {"metadata": {"labels": {"app": "a"}}, "spec": pod_spec(*images)}
    return {"metadata": {"name": "a", "namespace": "b"}, "spec": {"replicas": 0, "template": template}, "status": {}}


class Server(http.server.ThreadingHTTPServer):
    """An API server: lists in pages, to who has the token, as kube-apiserver 1.31 words it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists: dict[str, list[dict[str, Any]]] = {}
        self.failures: dict[str, list[tuple[int, Any]]] = {}
        self.page = 2
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def answer(self, status: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def status(self, code: int, reason: str, message: str) -> None:
        kind = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.answer(code, {**kind, "message": message, "reason": reason, "code": code})

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        given = dict(urllib.parse.parse_qsl(query))
        self.server.asked.append(path)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.status(401, "Unauthorized", "Unauthorized")
        name = path.rpartition("/")[2]
        if self.server.failures.get(name):
            return self.answer(*self.server.failures[name].pop(0))
        group = GROUPS.get(name, "argoproj.io/v1alpha1" if name == "rollouts" else "apps/v1")
        if name not in KINDS or path not in (f"/apis/{group}/{name}", f"/prefix/api/v1/{name}", f"/api/{group}/{name}"):
            return self.status(404, "NotFound", "the server could not find the requested resource")
        start = int(given.get("continue") or 0)
        items = self.server.lists.get(name, [])
        end = start + min(self.server.page, int(given["limit"]))
        meta = {"resourceVersion": "17", **({"continue": str(end)} if end < len(items) else {})}
        return self.answer(200, {"kind": KINDS[name], "apiVersion": group, "metadata": meta, "items": items[start:end]})

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


def certificate(tmp_path: Path, address: str) -> tuple[str, str]:
    """Make a certificate for an address; return its file, with its key, and its text."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    made = builder.not_valid_after(now + datetime.timedelta(1)).add_extension(names, critical=False)
    signed = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    text = signed.public_bytes(serialization.Encoding.PEM).decode()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "server.pem"
    path.write_text(key.private_bytes(*form).decode() + text, encoding="utf-8")
    return str(path), text


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    path, text = certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    made = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made, text
    made.shutdown()
    made.server_close()


@pytest.fixture
def cluster(served: tuple[Server, str]) -> Server:
    made = served[0]
    made.lists, made.failures, made.asked, made.page = {}, {}, [], 2
    return made


@pytest.fixture
def asking(config: Any, cluster: Server, served: tuple[Server, str], tmp_path: Path) -> Any:
    """The configuration of a registry that deletes all but the newest tag, and asks the cluster."""
    return asks(config, tmp_path, {"server": cluster.url, "token": TOKEN, "ca_certificate": served[1]})


def asks(config: Any, tmp_path: Path, *clusters: dict[str, Any]) -> Any:
    path = tmp_path / "clusters.json"
    path.write_text(json.dumps(clusters), encoding="utf-8")
    return changed(config, {"keep_last": 1}, clusters=str(path))


def pushed(disk: Disk, repository: str, number: int = 4) -> None:
    for index in range(number):
        disk.image(repository, f"v{index}", days=OLD - index)


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("pods", {"spec": pod_spec("sidecar:1", f"{HOST}/team/app:v0")}),
        ("pods", {"spec": {**pod_spec("a:1"), "initContainers": [{"name": "i", "image": f"{HOST}/team/app:v0"}]}}),
        ("pods", {"spec": {**pod_spec("a:1"), "ephemeralContainers": [{"name": "e", "image": "team/app:v0"}]}}),
        ("pods", {"spec": {**pod_spec("a:1"), "volumes": [{"name": "v", "image": {"reference": "team/app:v0"}}]}}),
        ("pods", {"spec": {}, "status": {"containerStatuses": [{"image": "docker.io/team/app:v0", "imageID": ""}]}}),
        ("deployments", workload(f"{HOST}/team/app:v0")),
        ("statefulsets", workload("docker.io/team/app:v0")),
        ("daemonsets", workload("index.docker.io/team/app:v0")),
        ("replicasets", workload("quay.io/team/app:v0")),
        ("replicationcontrollers", workload("team/app:v0")),
        ("jobs", workload("team/app:v0")),
        ("cronjobs", {"spec": {"schedule": "@daily", "suspend": True, "jobTemplate": workload("team/app:v0")}}),
        ("podtemplates", {"template": {"spec": pod_spec("team/app:v0")}}),
        ("controllerrevisions", {"data": {"spec": {"template": {"spec": pod_spec("team/app:v0")}}}, "revision": 1}),
    ],
)
def test_what_a_cluster_names_stays(name: str, item: dict[str, Any], asking: Any, disk: Disk, cluster: Server) -> None:
    pushed(disk, "team/app")
    cluster.lists[name] = [workload("x:1"), workload("y:1"), workload("z:1"), item]  # on the second page
    gc.run(asking)
    assert disk.tags("team/app") == ["v0", "v3"]
    assert cluster.asked.count(next(path for path in gc.CLUSTER_LISTS if path.endswith(f"/{name}"))) == 2
    assert set(cluster.asked) == set(gc.CLUSTER_LISTS)
    assert result(asking)["in_use"] >= 4


def test_without_a_cluster_the_rules_alone_decide(config: Any, disk: Disk) -> None:
    pushed(disk, "team/app")
    gc.run(changed(config, {"keep_last": 1}))
    assert disk.tags("team/app") == ["v3"]


@pytest.mark.parametrize("image", ["hello", "library/hello", "docker.io/library/hello:latest", f"{HOST}/hello"])
def test_bare_names_are_the_registrys(image: str, asking: Any, disk: Disk, cluster: Server) -> None:
    disk.image("hello", "latest", days=OLD)
    disk.image("hello", "newer", days=OLD - 1)
    cluster.lists["deployments"] = [workload(image)]
    gc.run(asking)
    assert disk.tags("hello") == ["latest", "newer"]


@pytest.mark.parametrize("form", ["{host}/team/app@{digest}", "docker-pullable://{host}/team/app@{digest}", "{config}"])
def test_what_runs_by_digest_stays_when_its_tag_has_moved(form: str, asking: Any, disk: Disk, cluster: Server) -> None:
    old = disk.image("team/app", "", layers=("old",))
    own = json.loads((disk.root / gc.blob_path(old)).read_text(encoding="utf-8"))["config"]["digest"]
    disk.image("team/app", "v1", layers=("new",))
    image = form.format(host=HOST, digest=old, config=own)
    cluster.lists["pods"] = [{"spec": pod_spec("team/app:v1"), "status": {"containerStatuses": [{"imageID": image}]}}]
    gc.run(changed(asking, untagged_days=10))
    assert disk.has(old)
    assert disk.has(digest(b"old"))
    cluster.lists["pods"] = []
    cluster.lists["jobs"] = []
    gc.run(changed(asking, untagged_days=10))
    assert not disk.has(old)


def test_a_platform_that_runs_stays_and_so_does_the_index_that_a_tag_names(
    asking: Any, disk: Disk, cluster: Server
) -> None:
    children = [disk.image("team/multi", "", layers=(name,)) for name in ("amd64", "arm64")]
    disk.index("team/multi", "v1", children)
    disk.image("team/multi", "v2", days=OLD - 1)
    cluster.lists["daemonsets"] = [workload(f"{HOST}/team/multi:v1@{children[0]}")]
    gc.run(changed(asking, untagged_days=10))
    assert disk.tags("team/multi") == ["v1", "v2"]
    assert [disk.has(name) for name in children] == [True, True]
    assert INDEX


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ((403, {"kind": "Status", "message": 'pods is forbidden: User "x" cannot list'}), "403 pods is forbidden"),
        ((500, {"kind": "Status", "message": "etcdserver: request timed out"}), "500 etcdserver"),
        ((404, {"kind": "Status", "message": "the server could not find the requested resource"}), "404 the server"),
        ((200, {"kind": "PodList", "metadata": {}, "items": None}), "the answer is no list"),
        ((200, {"kind": "Table", "metadata": {}, "items": []}), "the answer is no list"),
        ((200, b"<html>login</html>"), "Expecting value"),
        ((302, {}), "302"),
    ],
)
def test_a_cluster_that_cannot_be_asked_stops_the_collection(
    failure: tuple[int, Any], says: str, asking: Any, disk: Disk, cluster: Server
) -> None:
    pushed(disk, "team/app")
    before = disk.files()
    cluster.failures["statefulsets"] = [failure] * 3
    with pytest.raises(gc.CollectionError, match="nothing is deleted, because the cluster https://127"):
        gc.run(asking)
    assert disk.files() == before
    assert result(asking)["ok"] is False
    assert says in result(asking)["error"]
    assert TOKEN not in json.dumps(result(asking))


def test_a_second_page_that_fails_stops_it_too(asking: Any, disk: Disk, cluster: Server) -> None:
    pushed(disk, "team/app")
    cluster.lists["pods"] = [workload(f"x:{number}") for number in range(5)]
    page = {"kind": "PodList", "metadata": {"continue": "2"}, "items": []}
    cluster.failures["pods"] = [(200, page), (503, {"message": "apiserver not ready"})]
    with pytest.raises(gc.CollectionError, match="503 apiserver not ready"):
        gc.run(asking)
    assert len(disk.tags("team/app")) == 4


def test_a_list_that_expired_on_the_way_is_read_again(asking: Any, disk: Disk, cluster: Server) -> None:
    """410: the server has compacted what the token of the next page refers to."""
    pushed(disk, "team/app")
    cluster.lists["pods"] = [{"spec": pod_spec("team/app:v1")}]
    gone = (410, {"kind": "Status", "message": "The provided continue parameter is too old"})
    cluster.failures["pods"] = [gone]
    gc.run(asking)
    assert disk.tags("team/app") == ["v1", "v3"]
    pushed(disk, "team/more")
    cluster.failures["pods"] = [gone] * 3
    with pytest.raises(gc.CollectionError, match="410"):
        gc.run(asking)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token": "another"}, "401 Unauthorized"),
        ({"ca_certificate": None}, "CERTIFICATE_VERIFY_FAILED"),
        ({"server": "https://127.0.0.1:1"}, "Connection refused"),
        ({"host": "localhost"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ca_certificate": "no certificate"}, "cannot be asked"),
        ({"unknown": 1}, "does not say which clusters to ask"),
    ],
)
def test_only_who_it_is_is_believed(
    change: dict[str, Any], says: str, config: Any, disk: Disk, served: tuple[Server, str], tmp_path: Path
) -> None:
    pushed(disk, "team/app")
    given = {"server": served[0].url, "token": TOKEN, "ca_certificate": served[1], **change}
    if host := given.pop("host", ""):
        given["server"] = given["server"].replace("127.0.0.1", host)
    with pytest.raises(gc.CollectionError, match=says):
        gc.run(asks(config, tmp_path, given))
    assert len(disk.tags("team/app")) == 4


def test_one_of_two_clusters_that_does_not_answer_is_enough(
    config: Any, disk: Disk, cluster: Server, served: tuple[Server, str], tmp_path: Path
) -> None:
    pushed(disk, "team/app")
    good = {"server": cluster.url, "token": TOKEN, "ca_certificate": served[1]}
    with pytest.raises(gc.CollectionError, match=r"https://127\.0\.0\.1:1 cannot be asked"):
        gc.run(asks(config, tmp_path, good, {**good, "server": "https://127.0.0.1:1"}))
    assert len(disk.tags("team/app")) == 4


def test_a_missing_file_is_not_the_same_as_no_cluster(config: Any, disk: Disk) -> None:
    pushed(disk, "team/app")
    with pytest.raises(gc.CollectionError, match="does not say which clusters to ask"):
        gc.run(changed(config, {"keep_last": 1}, clusters="/nonexistent/clusters.json"))
    assert len(disk.tags("team/app")) == 4


def test_other_lists_are_read_where_they_are_named(
    config: Any, disk: Disk, cluster: Server, served: tuple[Server, str], tmp_path: Path
) -> None:
    pushed(disk, "team/app")
    cluster.lists["rollouts"] = [workload("team/app:v0")]
    given = {"server": cluster.url, "token": TOKEN, "ca_certificate": served[1]}
    gc.run(asks(config, tmp_path, {**given, "resources": ["/apis/argoproj.io/v1alpha1/rollouts"]}))
    assert disk.tags("team/app") == ["v0", "v3"]


def test_a_dry_run_says_what_is_in_use_and_fails_as_the_run_would(
    asking: Any, disk: Disk, cluster: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(disk, "team/app")
    cluster.lists["pods"] = [{"spec": pod_spec("team/app:v0")}]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(gc.dataclasses.asdict(asking)), encoding="utf-8")
    assert gc.main(["--dry-run", "--config", str(path)]) == 0
    said = capsys.readouterr().out
    assert "1 names and digests are in use by clusters" in said
    assert "team/app:v0" not in said
    assert "team/app:v1" in said
    cluster.failures["pods"] = [(500, {"message": "no"})]
    assert gc.main(["--dry-run", "--config", str(path)]) == 1
    assert "nothing is deleted, because the cluster" in capsys.readouterr().err
