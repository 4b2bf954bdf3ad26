# SPDX-License-Identifier: GPL-3.0-or-later
"""A garbage collection deletes what the rules say and nothing else, and undoes itself whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra import oci
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in

HERE = Path(__file__).resolve().parent
HOST, PORT = "registry-stack.corp.lab", 6001
NAME = f"{HOST}:{PORT}"
CA = "/root/ca.crt"
LOGIN = "bob:bobs-password"
PROGRAM = "/usr/local/lib/slipway/registry-gc"
UNIT = "slipway-registry-gc.service"
FLAG = "/run/slipway-registry/collecting"
ROOT = "/srv/registry/docker/registry/v2"
RULES = {
    "registry_retention": [
        {"repositories": ["gc/many", "gc/busy"], "keep_last": 2},
        {"repositories": ["gc/"], "tags": ["pr-*"], "keep_days": 30},
    ],
    "registry_protected": [f"{NAME}/gc/many:v0"],
    "registry_gc_untagged_days": 10,
    "registry_gc_grace": "1h",
    "registry_gc_max_share": 100,
}
# Containers of the naive way: a registry as its own documentation shows it, with a cache of what it knows.
NAIVE = """version: 0.1
storage: {cache: {blobdescriptor: inmemory}, delete: {enabled: true}, filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ":5000"}
"""
# An API server as far as it matters here, with the registry's own certificate: one deployment, scaled to zero.
# tests/unit/roles/test_registry_gc_kubernetes.py asks a real one.
CLUSTER = f"""import http.server, json, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer a-cluster-token"
        template = {{"spec": {{"containers": [{{"name": "c", "image": "{NAME}/gc/used:pr-1"}}]}}}}
        items = [{{"spec": {{"replicas": 0, "template": template}}}}] if "/deployments?" in self.path else []
        body = json.dumps({{"kind": "SomeList", "metadata": {{}}, "items": items, "message": "who are you"}}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("", 7443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls = "/etc/slipway/registry/nginx/tls/"
context.load_cert_chain(tls + "certificate.pem", tls + "private_key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def converge(**variables: Any) -> Play:
    play = run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--skip-tags", "engine"))
    return play.succeeded()


def wait(check: Callable[[], Any], within: float = 30) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.5)
    return False


def registry(host: Any) -> oci.Registry:
    return oci.Registry(host, HOST, PORT, CA)


def push(host: Any, repository: str, tag: str, layer: str, *, days: float = 2) -> str:
    """Push an image and make it as old as that."""
    name = registry(host).push(repository, tag, layer, login=LOGIN)
    age(host, days)
    return name


def age(host: Any, days: float) -> None:
    """Make what was pushed in the last minutes some days older."""
    host.check_output(
        f"find {ROOT} -type f -mmin -50 -exec touch --no-create --date='{days * 24:.0f} hours ago' {{}} +"
    )


def status(host: Any, path: str, method: str = "HEAD") -> int:
    (found,) = registry(host).ask((method, path, LOGIN, {"Accept": f"{oci.MANIFEST}, {oci.INDEX}, */*"}))
    return found


def tags(host: Any, repository: str) -> list[str]:
    text = host.check_output(f"curl -sS --cacert {CA} https://{NAME}/v2/{repository}/tags/list")
    return sorted(json.loads(text).get("tags") or [])


def collect(host: Any) -> dict[str, Any]:
    """Make one collection as the timer does; return what it noted."""
    done = host.run(f"systemctl start {UNIT}")
    noted = json.loads(host.file("/var/lib/slipway/registry/gc.json").content_string)
    assert (done.rc == 0) is noted["ok"], host.run(f"journalctl -u {UNIT} -o cat -n 20").stdout
    return dict(noted)


def started(host: Any) -> str:
    form = "'{{.Id}} {{.State.StartedAt}}'"
    return str(host.check_output(f"docker inspect -f {form} slipway-registry slipway-registry-proxy"))


@pytest.fixture(scope="module", autouse=True)
def _rules(hosts: dict[str, Any]) -> Iterator[None]:
    """Make the machine a client of its own registry, and give it rules."""
    (host,) = hosts.values()
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    directory = f"/etc/docker/certs.d/{NAME}"
    host.check_output(f"mkdir -p {directory} && printf %s {shlex.quote(ca)} | tee {CA} > {directory}/ca.crt")
    user, _, password = LOGIN.partition(":")
    host.check_output(f"echo {password} | docker login --username {user} --password-stdin {NAME} 2>/dev/null")
    converge(**RULES)
    yield
    converge()


@contextlib.contextmanager
def naive(host: Any, image: str) -> Iterator[oci.Registry]:
    """Run a registry without any of this role's care."""
    host.check_output(f"mkdir -p /srv/naive && printf %s {shlex.quote(NAIVE)} > /srv/naive.yml")
    host.check_output(
        "docker run -d --name naive -p 127.0.0.1:5055:5000 -v /srv/naive.yml:/naive.yml -v /srv/naive:/var/lib/registry"
        f" -e OTEL_TRACES_EXPORTER=none --entrypoint registry {image} serve /naive.yml"
    )
    try:
        made = oci.Registry(host, "127.0.0.1", 5055)
        assert wait(lambda: host.run("curl -sf http://127.0.0.1:5055/v2/").rc == 0)
        yield made
    finally:
        host.run("docker rm -f naive; rm -rf /srv/naive /srv/naive.yml")


def test_control_the_naive_way_takes_platforms(host: Any) -> None:
    """What the next test asks, of `registry garbage-collect --delete-untagged` on v2: it fails there."""
    with naive(host, "docker.io/library/registry:2.8.2") as made:
        children = [made.push("multi", "", f"platform {number}") for number in range(2)]
        made.push_index("multi", "1", children)
        host.check_output("docker exec naive registry garbage-collect --delete-untagged /naive.yml")
        accept = {"Accept": f"{oci.MANIFEST}, {oci.INDEX}"}
        got = made.ask(*(("HEAD", f"/v2/multi/manifests/{name}", "", accept) for name in ("1", *children)))
    assert got == [200, 404, 404]


def platforms_stay(host: Any, repository: str) -> None:
    children = [push(host, repository, "", f"platform {number} of {repository}", days=20) for number in range(2)]
    orphan = push(host, repository, "", f"orphan of {repository}", days=20)
    registry(host).push_index(repository, "1", children, login=LOGIN)
    age(host, 20)
    collect(host)
    found = [status(host, f"/v2/{repository}/manifests/{name}") for name in ("1", *children, orphan)]
    assert found == [200, 200, 200, 404]
    assert status(host, f"/v2/{repository}/blobs/{oci.digest(f'platform 1 of {repository}')}") == 200
    assert not host.file(f"{ROOT}/blobs/sha256/{orphan[7:9]}/{orphan[7:]}/data").exists


def test_every_platform_of_a_tag_stays(host: Any) -> None:
    platforms_stay(host, "gc/multi")


@pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")
def test_every_platform_of_a_tag_stays_on_v2(host: Any) -> None:
    converge(**RULES, registry_version="2.8.2")
    assert " 2.8." in host.run("docker exec slipway-registry registry --version").stdout
    platforms_stay(host, "gc/multi-v2")
    push(host, "gc/old", "pr-1", "old on v2", days=40)
    assert collect(host)["tags"] == 1
    assert status(host, "/v2/gc/old/manifests/pr-1") == 404
    assert status(host, f"/v2/gc/old/blobs/{oci.digest('old on v2')}") == 404
    converge(**RULES)


def test_control_the_naive_way_breaks_the_next_push(host: Any) -> None:
    """What the next test asks, of a registry with a cache: it says that it has a layer, and has it not."""
    image = host.check_output("docker inspect -f '{{.Config.Image}}' slipway-registry")
    with naive(host, image) as made:
        name = made.push("again", "1", "once more")
        assert made.ask(("DELETE", f"/v2/again/manifests/{name}")) == [202]
        host.check_output("docker exec naive registry garbage-collect /naive.yml")
        made.push("again", "1", "once more")
        layer = f"/v2/again/blobs/{oci.digest('once more')}"
        assert made.ask(("HEAD", layer)) == [200]
        assert host.run(f"curl -sf -o /dev/null http://127.0.0.1:5055{layer}").rc != 0


def test_what_was_deleted_can_be_pushed_again(host: Any) -> None:
    image = f"{NAME}/gc/again:pr-1"
    host.check_output(f"head -c 2M /dev/urandom > /root/again && tar -C /root -c again | docker import - {image}")
    host.check_output(f"docker push {image}")
    age(host, 40)
    used, before = host.check_output(f"du -s {ROOT}"), started(host)
    done = collect(host)
    assert done["tags"] == 1
    assert done["bytes"] > 2_000_000
    assert int(host.check_output(f"du -s {ROOT}").split()[0]) < int(used.split()[0]) - 1900
    assert status(host, "/v2/gc/again/manifests/pr-1") == 404
    assert "gc/again" not in host.check_output(f"curl -sS --cacert {CA} https://{NAME}/v2/_catalog")
    host.check_output(f"docker push {image}")
    host.check_output(f"docker image rm {image}")
    host.check_output(f"docker pull {image}")
    assert started(host) == before, "nothing has to be restarted"


def test_a_dry_run_says_what_then_happens(host: Any) -> None:
    for number in range(5):
        push(host, "gc/many", f"v{number}", f"many {number}", days=1.1 * (10 - number))
    push(host, "gc/other", "pr-9", "young", days=2)
    push(host, "gc/other", "main", "no rule", days=400)
    listed = run_play(HERE / "gc.yml").succeeded()
    assert listed.changed == 0
    for tag in ("v1", "v2"):
        assert f"gc/many:{tag}  pushed" in listed.output
    assert "2 tags, 2 manifests and 4 blobs would go" in listed.output
    assert tags(host, "gc/many") == [f"v{number}" for number in range(5)]
    promised = json.loads(host.check_output(f"{PROGRAM} --dry-run --json"))
    done = run_play(HERE / "gc.yml", {"registry_gc_run": True}).succeeded()
    assert done.changed == 1
    assert f"2 tags deleted, {promised['bytes']} bytes freed" in done.output
    assert tags(host, "gc/many") == ["v0", "v3", "v4"], "the newest two, and the protected one"
    assert tags(host, "gc/other") == ["main", "pr-9"]
    assert run_play(HERE / "gc.yml", {"registry_gc_run": True}).succeeded().changed == 0


def test_a_push_waits_for_a_collection(host: Any) -> None:
    """Docker takes the 503 as a reason to try again; pulls go on."""
    image = f"{NAME}/gc/waiting:1"
    host.check_output(f"head -c 1M /dev/urandom > /root/again && tar -C /root -c again | docker import - {image}")
    hold = f"touch {FLAG}; sleep 12; rm {FLAG}"
    host.check_output(f"systemd-run --quiet --unit holding flock /run/slipway-registry/gc.lock sh -c '{hold}'")
    assert wait(lambda: host.file(FLAG).exists)
    start = time.monotonic()
    assert registry(host).ask(
        ("POST", "/v2/gc/waiting/blobs/uploads/", LOGIN),
        ("DELETE", f"/v2/gc/multi/manifests/{oci.digest('x')}", LOGIN),
        ("POST", "/v2/gc/waiting/blobs/uploads/"),
    ) == [503, 503, 401]
    assert status(host, "/v2/gc/multi/manifests/1") == 200
    done = host.run(f"docker push {image}")
    assert done.rc == 0, done.stderr
    assert time.monotonic() - start > 5


def slow_down(host: Any, seconds: int) -> None:
    """Let collections wait that long with writes stopped; the next converge takes it back."""
    change = f"import json; p='/etc/slipway/registry/gc.json'; c=json.load(open(p)); c['settle']={seconds}"
    host.check_output(f"python3 -c \"{change}; json.dump(c, open(p, 'w'))\"")


def test_killed_while_writes_are_stopped(host: Any) -> None:
    for number in range(3):
        push(host, "gc/busy", f"v{number}", f"busy {number}", days=9 - number)
    slow_down(host, 60)
    host.check_output(f"systemctl start --no-block {UNIT}")
    assert wait(lambda: host.file(FLAG).exists)
    host.check_output(f"systemctl kill --kill-whom=main --signal=KILL {UNIT}")
    assert wait(lambda: not host.file(FLAG).exists, within=5)
    assert "let pushes in again" in host.check_output(f"journalctl -u {UNIT} -o cat -n 10")
    assert tags(host, "gc/busy") == ["v0", "v1", "v2"]
    push(host, "gc/busy", "v3", "busy 3", days=5)


def test_killed_by_hand_without_systemd(host: Any) -> None:
    """Nobody tidies up after it but the health unit."""
    pid = host.check_output(f"setsid {PROGRAM} > /dev/null 2>&1 < /dev/null & echo $!")
    assert wait(lambda: host.file(FLAG).exists)
    time.sleep(20)
    assert host.file(FLAG).exists, "a collection that lives is left alone"
    host.check_output(f"kill -9 {pid}")
    assert wait(lambda: not host.file(FLAG).exists)
    assert "after a garbage collection that was killed" in host.check_output(
        "journalctl -u slipway-registry-health -o cat -n 5"
    )
    slow_down(host, 2)


def test_killed_before_it_was_proved(host: Any) -> None:
    """What was moved aside comes back; and a registry that does not answer has the same effect."""
    host.check_output("systemctl stop slipway-registry-health.timer")
    host.check_output("docker pause slipway-registry")
    try:
        host.check_output(f"systemctl start --no-block {UNIT}")
        assert wait(lambda: host.file("/srv/registry/.slipway-gc/journal").exists and not host.file(FLAG).exists)
        assert not host.file(f"{ROOT}/repositories/gc/busy/_manifests/tags/v0").exists
        host.check_output(f"systemctl kill --kill-whom=main --signal=KILL {UNIT}")
        assert wait(lambda: host.file(f"{ROOT}/repositories/gc/busy/_manifests/tags/v0").exists, within=5)
    finally:
        host.check_output("docker unpause slipway-registry; systemctl start slipway-registry-health.timer")
    assert tags(host, "gc/busy") == ["v0", "v1", "v2", "v3"]
    assert status(host, f"/v2/gc/busy/blobs/{oci.digest('busy 0')}", "GET") == 200
    collect(host)
    assert tags(host, "gc/busy") == ["v2", "v3"]


def test_what_a_cluster_uses_is_never_deleted(host: Any) -> None:
    """And where the cluster does not answer, nothing is."""
    for number in (1, 2):
        push(host, "gc/used", f"pr-{number}", f"used {number}", days=40)
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    cluster = {"server": f"https://{HOST}:7443", "token": "a-cluster-token", "ca_certificate": ca}
    play = converge(**RULES, registry_gc_clusters=[cluster])
    assert leaks_in(play.output, [Secret("a-cluster-token")]) == []
    assert host.file("/etc/slipway/registry/gc-clusters.json").mode == 0o600
    done = collect(host)
    assert not done["ok"]
    assert f"nothing is deleted, because the cluster https://{HOST}:7443 cannot be asked: " in done["error"]
    assert tags(host, "gc/used") == ["pr-1", "pr-2"]
    host.check_output(f"printf %s {shlex.quote(CLUSTER)} > /root/cluster.py")
    host.check_output("systemd-run --quiet --unit cluster python3 /root/cluster.py")
    try:
        assert wait(lambda: host.run("curl -sk https://127.0.0.1:7443/").rc == 0)
        listed = host.check_output(f"{PROGRAM} --dry-run")
        assert "gc/used:pr-2  pushed" in listed
        assert "gc/used:pr-1  pushed" not in listed
        assert collect(host)["in_use"] == 1
        assert tags(host, "gc/used") == ["pr-1"]
    finally:
        host.check_output("systemctl stop cluster")
    converge(**RULES)
    assert not host.file("/etc/slipway/registry/gc-clusters.json").exists
    assert collect(host)["ok"]
    assert status(host, "/v2/gc/used/manifests/pr-1") == 404


def test_the_timer_follows_the_schedule(host: Any) -> None:
    shown = host.check_output("systemctl show --property=TimersCalendar,ActiveState slipway-registry-gc.timer")
    assert "Sun *-*-* 04:00:00" in shown
    assert "ActiveState=active" in shown
    converge(**RULES, registry_gc_schedule="")
    assert not host.file("/etc/systemd/system/slipway-registry-gc.timer").exists
    assert host.run("systemctl is-active slipway-registry-gc.timer").rc != 0
    assert host.run(f"{PROGRAM} --dry-run").rc == 0, "by hand it still works"


def test_rules_that_cannot_be_meant() -> None:
    wrong = {
        "registry_retention": [{"repositories": ["a/"]}],
        "registry_gc_max_share": 0,
        "registry_protected": ["a b"],
        "registry_gc_schedule": "Sun\n04:00",
    }
    play = run_play(HERE / "validate.yml", wrong)
    assert play.rc != 0
    for sentence in (
        "registry_retention[0] is a rule that keeps nothing: it needs keep_last or keep_days of at least 1",
        "registry_gc_max_share is 0: it needs per cent from 1 to 100.",
        "registry_protected[0] is 'a b': it needs repository, repository:tag or repository@sha256:",
        "it needs a time as systemd takes it",
    ):
        assert sentence in play.output
