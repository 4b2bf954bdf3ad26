# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what in the registry: every user, verb and repository, hostile paths, and real clients."""

from __future__ import annotations

import base64
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cri
from tests.testinfra import oci
from tests.testinfra.lab import put_program
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in

HERE = Path(__file__).resolve().parent
MACHINE = "registry-stack"
HOST, PORT = f"{MACHINE}.corp.lab", 6001
NAME = f"{HOST}:{PORT}"
CA = "/root/ca.crt"
CRI = "/usr/local/bin/test-cri"
PASSWORD = "a-password-of-theirs"
NOBODY = "sha256:" + "0" * 64
# What each user is given, and what that has to mean: (reads, writes, deletes) as the beginnings of names; "" is all.
GIVEN: dict[str, dict[str, Any]] = {
    "before": {},
    "boss": {"role": "admin"},
    "everywhere": {"role": "writer"},
    "team.a": {"write": ["team-a/", "base", "tools/curl"]},
    "cleaner": {"role": "writer", "write": ["team-a/"], "delete": True},
    "reader": {"role": "reader"},
    "guest": {"read": ["team-a/", "base"]},
    "team-b": {"write": ["team-b/"], "read": ["base"]},
}
A = ("team-a/app", "team-a/x/y")
REPOSITORIES = (*A, "team-a", "team-ab/app", "base", "base/app", "tools/curl", "tools/curl2", "team-b/app")
MEANT: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "before": (REPOSITORIES, REPOSITORIES, REPOSITORIES),
    "boss": (REPOSITORIES, REPOSITORIES, REPOSITORIES),
    "everywhere": (REPOSITORIES, REPOSITORIES, ()),
    "team.a": (REPOSITORIES, (*A, "base", "tools/curl"), ()),
    "cleaner": (REPOSITORIES, A, A),
    "reader": (REPOSITORIES, (), ()),
    "guest": ((*A, "base"), (), ()),
    "team-b": (("team-b/app", "base"), ("team-b/app",), ()),
}
READS = [("GET", "manifests/1"), ("HEAD", "manifests/1"), ("GET", "tags/list"), ("HEAD", f"blobs/{NOBODY}")]
READS += [("GET", f"referrers/{NOBODY}")]
WRITES = [("POST", "blobs/uploads/"), ("PUT", "manifests/2"), ("PATCH", "blobs/uploads/x"), ("PUT", "blobs/uploads/x")]
WRITES += [("GET", "blobs/uploads/x"), ("DELETE", "blobs/uploads/x")]
DELETES = [("DELETE", f"manifests/{NOBODY}"), ("DELETE", f"blobs/{NOBODY}"), ("DELETE", "manifests/none")]
# A push that takes its time: it begins an upload, sends half of the blob, waits until it is told to go on, and ends it.
SLOW_PUSH = f"""
import base64, hashlib, http.client, os, pathlib, ssl, time, urllib.parse
context = ssl.create_default_context(cafile={CA!r})
login = {{"Authorization": "Basic " + base64.b64encode(b"team.a:{PASSWORD}").decode()}}
def ask(method, path, body=None):
    connection = http.client.HTTPSConnection({HOST!r}, {PORT}, context=context, timeout=300)
    connection.request(method, path, body, login, encode_chunked=body is not None)
    answer = connection.getresponse()
    answer.read()
    return answer
def halves():
    yield b"a" * 100000
    pathlib.Path("/root/push-begun").touch()
    while not os.path.exists("/root/push-on"):
        time.sleep(0.2)
    yield b"b" * 100000
place = lambda answer: "{{0.path}}?{{0.query}}".format(urllib.parse.urlsplit(answer.headers["Location"]))
login["Transfer-Encoding"] = "chunked"
upload = place(ask("POST", "/v2/team-a/slow/blobs/uploads/", iter(())))
sent = ask("PATCH", upload, halves())
del login["Transfer-Encoding"]
digest = hashlib.sha256(b"a" * 100000 + b"b" * 100000).hexdigest()
ended = ask("PUT", place(sent) + "&digest=sha256:" + digest)
pathlib.Path("/root/push-ended").write_text(str(ended.status))
"""


def users(**more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "password": PASSWORD, **rights} for name, rights in {**GIVEN, **more}.items()]


def converge(**variables: Any) -> Play:
    play = run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--skip-tags", "engine"))
    return play.succeeded()


def ask(host: Any, *requests: tuple[Any, ...]) -> list[int]:
    """Return the statuses of requests (method, path, user, headers, body); the last ones may be left out."""
    logins = [(f"{request[2]}:{PASSWORD}" if request[2:] and request[2] else "") for request in requests]
    full = [(*request[:2], login, *request[3:]) for request, login in zip(requests, logins, strict=True)]
    return oci.Registry(host, HOST, PORT, CA).ask(*full)


def layer_of(repository: str) -> str:
    """Return the layer of an image that was pushed to a repository; no other has it."""
    return oci.digest(f"layer of {repository}")


@pytest.fixture(scope="module", autouse=True)
def _registry(hosts: dict[str, Any]) -> Iterator[None]:
    """Give the registry users with rights, one image in each repository, and the machine three clients."""
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    (host,) = hosts.values()
    play = converge(registry_users=users(), registry_pull="authenticated")
    assert leaks_in(play.output, [Secret(PASSWORD, name) for name in GIVEN]) == []
    trust = f"/etc/docker/certs.d/{NAME} /etc/containerd/certs.d/{NAME}"
    host.check_output(f"mkdir -p {trust} && printf %s {shlex.quote(ca)} > {CA}")
    host.check_output(f"for d in {trust}; do cp {CA} $d/ca.crt; done")
    for repository in REPOSITORIES:
        oci.Registry(host, HOST, PORT, CA).push(repository, "1", f"layer of {repository}", login=f"boss:{PASSWORD}")
    yield
    converge()


@pytest.fixture(scope="module")
def clients(hosts: dict[str, Any]) -> Any:
    """Install skopeo, and let containerd take pods' pulls."""
    (host,) = hosts.values()
    host.check_output("apt-get -qq update && apt-get -qq install -y --no-install-recommends skopeo >/dev/null 2>&1")
    put_program(MACHINE, cri.build(), CRI)
    config = (
        'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nrestrict_oom_score_adj = true\n'
        '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n'
    )
    host.check_output("mkdir -p /etc/containerd && printf %%s %s > /etc/containerd/config.toml", config)
    text = f'server = "https://{NAME}"\n[host."https://{NAME}"]\nca = "{CA}"\n'
    host.check_output(f"printf %s {shlex.quote(text)} > '/etc/containerd/certs.d/{NAME}/hosts.toml'")
    host.check_output("systemctl restart containerd && systemctl restart docker")
    assert wait(lambda: ask(host, ("GET", "/v2/_catalog", "boss")) == [200])
    return host


def wait(check: Any, within: float = 60) -> bool:
    """Tell whether a check becomes true; it may fail with an assertion until then."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if check():
                return True
        except AssertionError:
            pass
        time.sleep(1)
    return False


@pytest.mark.parametrize("user", GIVEN)
def test_every_verb_on_every_repository(user: str, host: Any) -> None:
    cells, requests = [], []
    for repository in REPOSITORIES:
        for kind, verbs in enumerate((READS, WRITES, DELETES)):
            for method, path in verbs:
                cells.append((method, repository, path, repository in MEANT[user][kind]))
                requests.append((method, f"/v2/{repository}/{path}", user))
    statuses = ask(host, *requests)
    wrong = [
        (*cell, status)
        for cell, status in zip(cells, statuses, strict=True)
        if status in (401, 500, 502, 503) or (status != 403) is not cell[3]
    ]
    assert wrong == []


def test_nobody_and_a_wrong_password_get_nothing(host: Any) -> None:
    verbs = [*READS, *WRITES, *DELETES]
    wrong = {"Authorization": "Basic " + base64.b64encode(b"boss:wrong-password").decode()}
    for headers in ({}, wrong, {"Authorization": "Bearer anonymous"}):
        requests = [(method, f"/v2/base/{path}", "", headers) for method, path in verbs]
        requests.append(("GET", "/v2/_catalog", "", headers))
        assert set(ask(host, *requests)) == {401}


def test_names_of_all_are_for_who_may_read_all(host: Any) -> None:
    everyone = {user: ask(host, ("GET", "/v2/_catalog?n=1000", user))[0] for user in GIVEN}
    assert everyone == {user: 403 if user in ("guest", "team-b") else 200 for user in GIVEN}


def test_library_is_no_way_around(host: Any) -> None:
    got = ask(
        host,
        ("POST", "/v2/library/base/blobs/uploads/", "team.a"),
        ("POST", "/v2/library/team-b/app/blobs/uploads/", "team.a"),
        ("POST", "/v2/library/library/base/blobs/uploads/", "team.a"),
        ("GET", "/v2/library/team-a/app/tags/list", "team-b"),
    )
    assert got == [202, 403, 403, 403]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/team-b/..%2fteam-a/app/tags/list",
        "/v2/team-b/%2e%2e/team-a/app/tags/list",
        "/v2/team-b/../team-a/app/tags/list",
        "/v2/team-b/x/../../team-a/app/tags/list",
        "/v2/team-b%2f..%2fteam-a/app/tags/list",
        "/v2/team-b/app/tags/list/../../../../team-a/app/tags/list",
        "/v2/team-a%2Fapp/tags/list",
        "/v2/%74eam-a/app/tags/list",
        "/v2//team-a/app/tags/list",
        "/v2/./team-a/app/tags/list",
        "/v2/team-a//app/tags/list",
        "//v2/team-a/app/tags/list",
        "/token/../v2/team-a/app/tags/list",
        f"https://{NAME}/v2/team-a/app/tags/list",
        "/v2/team-a/app/tags/list?repository=team-b/app",
        "/v2/team-a/app/tags/list#/team-b/app/tags/list",
        "/v2/TEAM-A/app/tags/list",
        "/v2/team-a\\app/tags/list",
        "/V2/team-a/app/tags/list",
        "/v2/_catalog/",
        "/v2/%5fcatalog",
        "/v2/team-b/../_catalog",
        "/healthz/../v2/_catalog",
    ],
)
def test_no_spelling_gets_what_is_not_theirs(path: str, host: Any) -> None:
    (status,) = ask(host, ("GET", path, "team-b"))
    assert status in (400, 403, 404)
    (status,) = ask(host, ("POST", path.replace("tags/list", "blobs/uploads/"), "team-b"))
    assert status in (400, 403, 404, 405)


SECRET = layer_of("team-a/app")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PART = '--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("query", "headers", "body"),
    [
        (f"?mount={SECRET}&from=team-a/app", {}, ""),
        (f"?from=team-a%2Fapp&mount={SECRET.replace(':', '%3A')}", {}, ""),
        (f"?from=base&mount={SECRET}&from=team-a/app", {}, ""),
        (f"?from=team-a/app&mount={SECRET}&from=base", {}, ""),
        (f"?FROM=base&mount={SECRET}&from=team-a/app", {}, ""),
        (f"?from=base&mount={SECRET}&%66rom=team-a/app", {}, ""),
        (f"?%66rom=team-a/app&from=base&mount={SECRET}", {}, ""),
        (f"?mount={SECRET};from=team-a/app", {}, ""),
        (f"?mount={SECRET}&from=library/team-a/app", {}, ""),
        (f"?mount={SECRET}&from=team-b/../team-a/app", {}, ""),
        (f"?mount={SECRET}&from=team-b%2F..%2Fteam-a%2Fapp", {}, ""),
        ("", FORM, f"mount={SECRET}&from=team-a/app"),
        (f"?from=base&mount={SECRET}", FORM, "from=team-a/app"),
        (
            "",
            {"Content-Type": "multipart/form-data; boundary=x"},
            PART % ("mount", SECRET) + PART % ("from", "team-a/app") + "--x--\r\n",
        ),
    ],
)
def test_no_mount_reads_what_is_not_theirs(query: str, headers: dict[str, str], body: str, host: Any) -> None:
    """It becomes an ordinary upload (202), as where the registry has not got the blob."""
    path = f"/v2/team-b/app/blobs/uploads/{query}"
    assert ask(host, ("POST", path, "team-b", headers, body)) == [202]
    assert ask(host, ("HEAD", f"/v2/team-b/app/blobs/{SECRET}", "boss")) == [404]


def test_a_form_would_mount_without_nginx(host: Any) -> None:
    """The control: the registry itself takes a mount from a form."""
    address = host.check_output(
        "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' slipway-registry"
    )
    url = f"http://{address}:5000/v2/control/app/blobs/uploads/"
    form = f"--data 'mount={SECRET}&from=team-a/app'"
    assert host.check_output(f"curl -sS -o /dev/null -w '%{{http_code}}' {form} {url}") == "201"


def test_mounts_of_what_is_theirs(host: Any) -> None:
    mine = layer_of("base")
    path = f"/v2/team-b/app/blobs/uploads/?mount={mine}&from="
    refused = f"/v2/team-a/app/blobs/uploads/?mount={mine}&from=base"
    assert ask(host, ("POST", path + "base", "team-b"), ("POST", refused, "team-b")) == [201, 403]
    encoded = f"/v2/team-b/app/blobs/uploads/?from=library%2Fbase&mount={mine.replace(':', '%3A')}"
    assert ask(host, ("POST", encoded, "team-b")) == [201]


def docker_login(host: Any, user: str) -> None:
    host.check_output(f"echo {PASSWORD} | docker login --username {user} --password-stdin {NAME} 2>/dev/null")


def test_docker(clients: Any) -> None:
    """Pushes where it may, is told why where it may not (and at once: docker does not try again)."""
    host, image = clients, f"{NAME}/team-a/docker:1"
    host.check_output(f"head -c 1M /dev/urandom > /root/blob && tar -C /root -c blob | docker import - {image}")
    docker_login(host, "team.a")
    assert host.run(f"docker push {image}").rc == 0
    host.check_output(f"docker tag {image} {NAME}/team-b/docker:1")
    start = time.monotonic()
    refused = host.run(f"docker push {NAME}/team-b/docker:1")
    assert refused.rc != 0
    assert "user team.a may not write team-b/docker" in refused.stderr + refused.stdout
    assert time.monotonic() - start < 20
    docker_login(host, "team-b")
    # Docker asks to mount the layers from team-a/docker, where it has seen them: this user may not, and uploads them.
    assert host.run(f"docker push {NAME}/team-b/docker:1").rc == 0
    host.check_output(f"docker image rm {image} {NAME}/team-b/docker:1")
    assert "may not read team-a/docker" in host.run(f"docker pull {image}").stderr
    assert host.run(f"docker pull {NAME}/team-b/docker:1").rc == 0
    host.check_output(f"docker logout {NAME}")
    assert host.run(f"docker pull {NAME}/team-b/docker:1").rc != 0


def test_containerd(clients: Any) -> None:
    """A pod's imagePullSecret decides."""
    pull = f"{CRI} -auth %s:{PASSWORD} pull {NAME}/%s:1"
    allowed = clients.run(pull % ("guest", "team-a/docker"))
    assert allowed.rc == 0, allowed.stderr
    assert clients.run(pull % ("guest", "team-b/docker")).rc != 0
    assert clients.run(f"{CRI} pull {NAME}/team-a/docker:1").rc != 0


def test_skopeo(clients: Any) -> None:
    host, copy = clients, "skopeo copy -q --src-cert-dir /root/trust --dest-cert-dir /root/trust"
    host.check_output(f"mkdir -p /root/trust && cp {CA} /root/trust/")
    source = f"--src-creds cleaner:{PASSWORD} docker://{NAME}/base:1"
    done = host.run(f"{copy} --dest-creds cleaner:{PASSWORD} {source} docker://{NAME}/team-a/skopeo:1")
    assert done.rc == 0, done.stderr
    refused = host.run(f"{copy} --dest-creds cleaner:{PASSWORD} {source} docker://{NAME}/base:2")
    assert "may not write base" in refused.stderr
    delete = f"skopeo delete --cert-dir /root/trust --creds %s:{PASSWORD} docker://{NAME}/%s:1"
    assert host.run(delete % ("team.a", "team-a/skopeo")).rc != 0
    assert host.run(delete % ("cleaner", "base")).rc != 0
    done = host.run(delete % ("cleaner", "team-a/skopeo"))
    assert done.rc == 0, done.stderr
    assert ask(host, ("GET", "/v2/team-a/skopeo/manifests/1", "boss")) == [404]


def test_rights_change_under_a_push(host: Any) -> None:
    """By a reload: nothing restarts, a push in flight goes on, and the next request is judged by the new list."""
    form = "'{{.Id}} {{.State.StartedAt}}'"
    before = host.check_output(f"docker inspect -f {form} slipway-registry slipway-registry-proxy")
    host.check_output("rm -f /root/push-*")
    host.check_output("systemd-run --quiet --unit slow-push python3 -c %s", SLOW_PUSH)
    assert wait(lambda: host.file("/root/push-begun").exists)
    more = {"reader": {"write": ["team-b/"]}, "cleaner": {"role": "reader"}, "new": {"role": "reader"}}
    converge(registry_users=users(**more), registry_pull="authenticated")
    got = ask(
        host,
        ("POST", "/v2/team-b/app/blobs/uploads/", "reader"),
        ("POST", "/v2/team-a/app/blobs/uploads/", "cleaner"),
        ("GET", "/v2/base/tags/list", "new"),
        ("POST", "/v2/base/blobs/uploads/", "new"),
    )
    assert got == [202, 403, 200, 403]
    host.check_output("touch /root/push-on")
    assert wait(lambda: host.file("/root/push-ended").exists)
    assert host.file("/root/push-ended").content_string == "201"
    assert host.check_output(f"docker inspect -f {form} slipway-registry slipway-registry-proxy") == before
