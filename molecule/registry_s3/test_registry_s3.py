# SPDX-License-Identifier: GPL-3.0-or-later
"""Two registries behind one name share a bucket: either serves what the other got, and one may die at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
A, B, BOTH = "registry-s3-a.corp.lab:6001", "registry-s3-b.corp.lab:6001", "registry-s3.corp.lab:6001"
KEY = 's3cr%41+/k"ey\\$1=#'
CI = ("ci", "ci-may-push")
CA = "/root/ca.crt"
CURL = f"curl -sS --cacert {CA} --max-time 60"
HEALTH = "/run/slipway-registry/health.json"
STORE = "/srv/s3/images/site/registry/docker/registry/v2"
LONG = bool(os.environ.get("SLIPWAY_LONG"))
# The registry looks at its storage every 10 seconds and gives up at the third failure.
NOTICED_WITHIN = 90
TWO_MACHINES = (HERE / "upload.py").read_text(encoding="utf-8")


def converge(*arguments: str, **variables: Any) -> Play:
    """Run only the registries of the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--skip-tags", "engine", *arguments))


def eventually(check: Callable[[], bool], within: float = NOTICED_WITHIN) -> bool:
    """Tell whether a check becomes true within some seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(1)
    return check()


def status(host: Any, registry: str, path: str = "/healthz") -> int:
    """Return the status of a request; 0 when nobody answers."""
    return int(host.run(f"{CURL} -o /dev/null -w '%{{http_code}}' https://{registry}{path}").stdout or 0)


def make_image(host: Any, image: str, size: str = "3M") -> str:
    """Import an image of random bytes; return its layer's digest, by which docker knows that all of it is there."""
    host.check_output(f"head -c {size} /dev/urandom > /root/blob && tar -C /root -c blob | docker import - {image}")
    return layer(host, image)


def layer(host: Any, image: str) -> str:
    return str(host.check_output(f"docker image inspect -f '{{{{json .RootFS.Layers}}}}' {image}"))


def pulled(host: Any, image: str) -> str:
    """Pull an image that is not there any more; return its layer's digest, which docker has checked."""
    host.run("docker image ls -q --filter reference='*/*/*:*' | sort -u | xargs -r docker image rm -f")
    done = host.run(f"docker pull {image}")
    assert done.rc == 0, done.stderr
    return layer(host, image)


def problems(host: Any) -> dict[str, str]:
    """Have the health unit look now; return what it sees."""
    host.check_output("systemctl start slipway-registry-health.service")
    found = json.loads(host.check_output(f"cat {HEALTH}"))["problems"]
    return {key: text for key, (text, _since) in found.items()}


def damaged(host: Any) -> list[str]:
    """Return the blobs in the bucket whose bytes are not what their names say."""
    lines = host.check_output(f"cd {STORE}/blobs/sha256 && find . -name data -exec sha256sum {{}} +").splitlines()
    assert lines
    return [line for line in lines if line.split()[0] != line.split("/")[-2]]


@pytest.fixture(scope="module")
def a(hosts: dict[str, Any]) -> Any:
    return hosts["registry-s3-a"]


@pytest.fixture(scope="module")
def b(hosts: dict[str, Any]) -> Any:
    """The machine that is the client too."""
    return hosts["registry-s3-b"]


@pytest.fixture(scope="module", autouse=True)
def _client(b: Any) -> Iterator[None]:
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    b.check_output(f"printf %s {shlex.quote(ca)} > {CA}")
    for name in (A, B, BOTH):
        directory = f"/etc/docker/certs.d/{name}"
        b.check_output(f"mkdir -p {directory} && cp {CA} {directory}/ca.crt")
        login = f"docker login --username {CI[0]} --password-stdin {name}"
        assert b.run(f"printf %s {shlex.quote(CI[1])} | {login}").rc == 0
    yield


def test_what_one_got_the_other_serves(b: Any) -> None:
    pushed = make_image(b, f"{A}/team/app:1", "45M")  # more than one part of an upload, and of a copy in the bucket
    assert b.run(f"docker push {A}/team/app:1").rc == 0
    assert pulled(b, f"{B}/team/app:1") == pushed
    assert b.run(f"test -e {STORE}/repositories/team/app/_manifests/tags/1/current/link").rc == 0


@pytest.mark.parametrize("sizes", [(6_000_000, 7_000_000), (3_000_000, 4_000_000), (12_000_000, 1000)])
@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_an_upload_goes_on_at_the_other_machine(order: tuple[str, str], sizes: tuple[int, int], b: Any) -> None:
    """Both sign its state with the same secret; parts of an upload are 10 MB, so some end within one."""
    words = shlex.join([*order, ":".join(CI), *map(str, sizes)])
    done = b.run(f"python3 -c {shlex.quote(TWO_MACHINES)} {words}")
    assert done.rc == 0, done.stderr


def test_clients_need_not_reach_the_storage(b: Any) -> None:
    digest = b.check_output(f"cat {STORE}/repositories/team/app/_manifests/tags/1/current/link")
    manifest = json.loads(b.check_output(f"{CURL} https://{A}/v2/team/app/manifests/{digest}"))
    assert status(b, A, f"/v2/team/app/blobs/{manifest['layers'][0]['digest']}") == 200


def test_nobody_else_learns_the_keys(a: Any, b: Any) -> None:
    key = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/registry-s3.corp.lab.key").read_text(
        encoding="utf-8"
    )
    uploads = hashlib.sha256(f"slipway uploads{key.strip()}".encode()).hexdigest()
    secrets = [Secret(KEY, "lab"), Secret(uploads), Secret(CI[1], CI[0])]
    play = converge().succeeded()
    assert play.changed == 0
    assert leaks_in(play.output, secrets) == []
    for host in (a, b):
        assert leaks_on(host, secrets) == []
        assert host.file("/etc/slipway/registry/bucket.json").mode == 0o600
        assert host.file("/etc/slipway/registry/distribution/config.yml").mode == 0o640
        assert uploads in host.check_output("cat /etc/slipway/registry/distribution/config.yml")
        log = host.run("docker logs slipway-registry; journalctl --no-pager -u slipway-registry-health")
        assert leaks_in(log.stdout + log.stderr, secrets) == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"registry_s3_secret_key": "another-secret"}, "refuses the secret key (registry_s3_secret_key)"),
        ({"registry_s3_bucket": "nothing"}, "has no bucket nothing (registry_s3_bucket)"),
        ({"registry_s3_endpoint": "https://registry-s3-b.corp.lab:7071"}, "does not answer: [Errno 111]"),
        ({"registry_s3_ca_certificate": "the registry's own"}, "is not trusted (registry_s3_ca_certificate)"),
    ],
)
def test_what_does_not_work_changes_nothing(variables: dict[str, str], words: str, a: Any, b: Any) -> None:
    """And on the second machine it is not even tried."""
    if "registry_s3_ca_certificate" in variables:
        own = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt"
        variables = {"registry_s3_ca_certificate": own.read_text(encoding="ascii")}
    before = a.check_output("sha256sum /etc/slipway/registry/distribution/* /etc/slipway/registry/*.json")
    play = converge(**variables)
    assert play.rc != 0
    assert words in play.output
    assert "another-secret" not in play.output
    assert "registry-s3-b : " not in play.output.partition("PLAY RECAP")[2].replace("  ", " ").replace("  ", " ")
    assert a.check_output("sha256sum /etc/slipway/registry/distribution/* /etc/slipway/registry/*.json") == before
    assert status(b, A) == 200


def test_the_sites_playbook_takes_one_machine_after_the_other(b: Any) -> None:
    values = {
        "site_registry": {"host": "registry-s3.corp.lab"},
        "registry_storage": "s3",
        "registry_s3_bucket": "nothing",
    }
    values |= {"registry_s3_endpoint": "https://registry-s3-b.corp.lab:7070", "registry_s3_access_key": "lab"}
    values |= {"registry_s3_secret_key": KEY, "registry_users": [{"name": CI[0], "password": CI[1]}]}
    values |= {"registry_pki_dir": f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/pki"}
    lab_ca = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway/lab/internet-ca.crt"
    values |= {"registry_s3_ca_certificate": lab_ca.read_text(encoding="ascii")}
    play = run_play(REPOSITORY / "playbooks/registry.yml", values, arguments=())
    assert play.rc != 0
    assert "has no bucket nothing" in play.output
    assert "registry-s3-a" in play.output.partition("PLAY RECAP")[2]
    assert "registry-s3-b" not in play.output.partition("PLAY RECAP")[2]


def test_a_directory_cannot_be_shared(b: Any) -> None:
    values = {"site_registry": {"host": "registry-s3.corp.lab"}, "registry_storage": "filesystem"}
    play = run_play(REPOSITORY / "playbooks/pki.yml", values, arguments=())
    assert play.rc != 0
    assert "registry_storage is filesystem: it needs to be s3 where several machines are one registry" in play.output


def test_garbage_is_collected_while_all_hold_writes_off(a: Any, b: Any) -> None:
    make_image(b, f"{A}/team/gone:1", "12M")
    assert b.run(f"docker push {A}/team/gone:1").rc == 0
    digest = b.check_output(f"cat {STORE}/repositories/team/gone/_manifests/tags/1/current/link")
    url = f"https://{A}/v2/team/gone/manifests/{digest}"
    blob = json.loads(b.check_output(f"{CURL} {url}"))["layers"][0]["digest"].partition(":")[2]
    path = f"{STORE}/blobs/sha256/{blob[:2]}/{blob}/data"
    b.check_output(f"{CURL} -f -X DELETE -u {':'.join(CI)} {url}")
    listing = run_play(HERE / "gc.yml").succeeded()
    assert f"blob eligible for deletion: sha256:{blob}" in listing.output
    assert listing.changed == 0
    assert b.file(path).exists
    run_play(HERE / "gc.yml", {"registry_gc_run": True}).succeeded()
    assert not b.file(path).exists
    for host in (a, b):
        assert "let pushes in again" in host.check_output("journalctl --no-pager -u slipway-registry-hold")
        assert not host.file("/run/slipway-registry/collecting").exists
    assert pulled(b, f"{B}/team/app:1")
    assert damaged(b) == []
    values = {"registry_gc_run": True, "site_registry": {"host": "registry-s3.corp.lab"}}
    alone = run_play(HERE / "gc.yml", values, arguments=("--limit", "registry-s3-a"))
    assert alone.rc != 0
    assert "registry-s3-b has to take part" in alone.output


def test_a_machine_dies_in_mid_push(b: Any, lab: Lab) -> None:
    """While its upload is held up halfway, so that no luck is needed. The client knows only the common name."""
    image = f"{BOTH}/team/killed:1"
    pushed = make_image(b, image, "60M")
    b.check_output(
        "rm -rf /srv/s3/images/.sgwtmp/multipart/*"
        f" && systemd-run --unit=push --setenv=HOME=/root --property=StandardOutput=file:/root/push.log"
        f" --property=StandardError=inherit --property=RemainAfterExit=yes docker push {image}"
    )
    halfway = "find /srv/s3/images/.sgwtmp/multipart -type f -size +1M | grep -q ."
    begun = b.run(f"timeout 60 sh -c 'until {halfway}; do sleep 0.1; done' && systemctl kill --signal=STOP lab-s3")
    assert begun.rc == 0, b.check_output("cat /root/push.log")
    try:
        peer = "$(getent hosts registry-s3-a.corp.lab | cut -d' ' -f1)"
        assert b.check_output(f"ss -Htn state established '( dport = :6001 )' dst {peer}"), "it goes to the other one"
        lab.kill("registry-s3-a")
        b.check_output("systemctl kill --signal=CONT lab-s3")
        assert eventually(lambda: b.check_output("systemctl show -P SubState push") != "running", within=300)
        first = b.check_output("systemctl show -P Result push")
        print(f"the push that was under way: {first}\n{b.check_output('cat /root/push.log')}")
        if first != "success":
            again = b.run(f"docker push {image}")
            assert again.rc == 0, again.stderr
        start = time.monotonic()
        assert pulled(b, image) == pushed, "pulled by the common name, one of whose addresses is dead"
        print(f"pulled with one dead in {time.monotonic() - start:.1f} s")
        assert damaged(b) == []
    finally:
        b.run("systemctl kill --signal=CONT lab-s3; systemctl reset-failed push; systemctl stop push")
        lab.start("registry-s3-a")
    assert eventually(lambda: status(b, A) == 200)
    assert pulled(b, f"{A}/team/killed:1") == pushed


def test_the_storage_fails(a: Any, b: Any) -> None:
    """Nothing is restarted, because that would help nobody; what is wrong is said, and it heals by itself."""
    started = a.check_output("docker inspect -f '{{.State.StartedAt}}' slipway-registry")
    unit = "/run/systemd/system/lab-s3.service.d"
    rotated = (
        "[Service]\nExecStart=\nExecStart=/bin/sh -c 'ROOT_SECRET_KEY=rotated exec /usr/local/bin/versitygw --quiet"
    )
    rotated += " --port :7070 --cert /etc/lab-s3/server.crt --key /etc/lab-s3/server.key posix /srv/s3'\n"
    write = f"mkdir -p {unit} && printf %s {shlex.quote(rotated)} > {unit}/rotated.conf"
    b.check_output(f"{write} && systemctl daemon-reload && systemctl restart lab-s3")
    try:
        assert eventually(lambda: "storage" in problems(a))
        assert "refuses the secret key (registry_s3_secret_key)" in problems(a)["storage"]
        assert status(b, A, "/v2/team/app/tags/list") == 503
        b.check_output("systemctl stop lab-s3")
        assert "https://registry-s3-b.corp.lab:7070 does not answer" in problems(a)["storage"]
        assert a.check_output("docker inspect -f '{{.State.StartedAt}}' slipway-registry") == started
    finally:
        b.check_output(f"rm -r {unit} && systemctl daemon-reload && systemctl restart lab-s3")
    assert eventually(lambda: status(b, A) == 200 and status(b, B) == 200)
    assert problems(a) == {}


@pytest.mark.skipif(not LONG, reason="make test-long")
def test_version_2_beside_version_3(b: Any) -> None:
    converge("--limit", "registry-s3-b", registry_version="2.8.2").succeeded()
    try:
        pushed = make_image(b, f"{B}/team/two:1", "45M")
        assert b.run(f"docker push {B}/team/two:1").rc == 0
        assert pulled(b, f"{A}/team/two:1") == pushed
        assert pulled(b, f"{B}/team/two:1") == pushed
    finally:
        converge("--limit", "registry-s3-b").succeeded()


def test_back_to_a_directory_and_away(a: Any, b: Any) -> None:
    converge("--limit", "registry-s3-a", registry_storage="filesystem").succeeded()
    assert status(b, A, "/v2/team/app/tags/list") == 404
    assert not a.file("/etc/slipway/registry/bucket.json").exists
    assert "slipway-registry-storage" not in a.check_output("docker network ls")
    assert problems(a) == {}
    # The lab's CA is one that the machine trusts anyway (host_proxy).
    converge("--limit", "registry-s3-a", registry_s3_ca_certificate="").succeeded()
    assert status(b, A, "/v2/team/app/tags/list") == 200
    run_play(HERE / "remove.yml", arguments=("--limit", "registry-s3-a")).succeeded()
    assert a.run("docker ps -aq; docker network ls | grep slipway").stdout == ""
    assert status(b, B, "/v2/team/app/tags/list") == 200, "the bucket stays"
