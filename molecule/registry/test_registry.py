# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry serves who may, refuses who may not, and comes back from everything short of its disk dying."""

from __future__ import annotations

import base64
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.lab import Lab
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
NAME = "registry-stack.corp.lab:6001"
URL = f"https://{NAME}"
REGISTRY, PROXY = "slipway-registry", "slipway-registry-proxy"
CI = ("ci", "pä ss:{{ w0rd }}$1%41\"'")
BOB = ("bob", "bobs-password")
SECRETS = [Secret(password, user) for user, password in (CI, BOB)]
IMAGE = f"{NAME}/team/app:1"
CA = "/root/ca.crt"
CURL = f"curl -sS --cacert {CA} --max-time 60"
# The health unit looks every 15 seconds, and restarts what does not answer at the second look.
REPAIRED_WITHIN = 60


def converge(**variables: Any) -> Play:
    """Run only the registry of the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--skip-tags", "engine"))


def users(*logins: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "password": password} for name, password in logins]


def status(host: Any, path: str, *, login: tuple[str, str] | None = None, bearer: str = "", method: str = "GET") -> int:
    """Return the status of a request; 0 when nobody answers."""
    command = f"{CURL} -o /dev/null -w '%{{http_code}}' -X {method}"
    if method == "HEAD":
        command = command.replace("-X HEAD", "--head")
    if login:
        command += " -u " + shlex.quote(":".join(login))
    if bearer:
        command += " -H " + shlex.quote(f"Authorization: Bearer {bearer}")
    return int(host.run(f"{command} {shlex.quote(URL + path)}").stdout or 0)


def eventually(check: Callable[[], bool], within: float = REPAIRED_WITHIN) -> bool:
    """Tell whether a check becomes true within some seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(1)
    return check()


def serves(host: Any) -> bool:
    return status(host, "/v2/team/app/tags/list") == 200 and status(host, "/healthz") == 200


def started(host: Any) -> list[str]:
    """Return what changes when a container is made anew or restarted."""
    form = "'{{.Id}} {{.State.StartedAt}}'"
    return str(host.check_output(f"docker inspect -f {form} {REGISTRY} {PROXY}")).splitlines()


def login(host: Any, user: str, password: str) -> Any:
    return host.run(f"printf %s {shlex.quote(password)} | docker login --username {user} --password-stdin {NAME}")


def push(host: Any, image: str = IMAGE) -> Any:
    return host.run(f"docker push {image}")


def pull(host: Any, image: str = IMAGE) -> Any:
    host.run(f"docker image rm -f {image}")
    return host.run(f"docker pull {image}")


def make_image(host: Any, image: str = IMAGE, size: str = "3M") -> None:
    host.check_output(f"head -c {size} /dev/urandom > /root/blob && tar -C /root -c blob | docker import - {image}")


def healthy_round(host: Any) -> None:
    """Have the health unit look now instead of waiting for its timer."""
    host.check_output("systemctl start slipway-registry-health.service")


@pytest.fixture(scope="module", autouse=True)
def _client(hosts: dict[str, Any]) -> Iterator[None]:
    """Make the machine a client of its own registry, and put one image there."""
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    for host in hosts.values():
        directory = f"/etc/docker/certs.d/{NAME}"
        host.check_output(f"mkdir -p {directory} && printf %s {shlex.quote(ca)} | tee {CA} > {directory}/ca.crt")
        assert login(host, *CI).rc == 0
        make_image(host)
        assert push(host).rc == 0
    yield


def test_pull_is_anonymous(host: Any) -> None:
    host.check_output(f"docker logout {NAME}")
    assert pull(host).rc == 0


def test_anonymous_push_is_refused_with_what_to_do(host: Any) -> None:
    host.check_output(f"docker logout {NAME}")
    make_image(host, f"{NAME}/team/other:1")
    refused = push(host, f"{NAME}/team/other:1")
    assert refused.rc != 0
    assert f"docker login {NAME}" in refused.stderr + refused.stdout
    assert status(host, "/v2/team/other/tags/list") == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_way_to_write_without_a_login(method: str, host: Any) -> None:
    path = "/v2/team/app/blobs/uploads/" if method == "POST" else "/v2/team/app/manifests/1"
    wrong = base64.b64encode(b"ci:wrong").decode()
    assert status(host, path, method=method) == 401
    assert status(host, path, method=method, bearer="anonymous") == 401
    assert status(host, path, method=method, bearer=wrong) == 401
    assert status(host, path, method=method, login=("ci", "wrong")) == 401
    assert status(host, path, method=method, bearer="x'\"; DROP") == 401


def test_wrong_password_is_refused(host: Any) -> None:
    refused = login(host, "ci", "not-the-password")
    assert refused.rc != 0
    assert "incorrect user name or password" in refused.stderr
    assert login(host, *CI).rc == 0
    assert login(host, *BOB).rc == 0


def test_a_large_upload_after_a_login_is_forgotten(host: Any) -> None:
    """The login is asked for anew ten seconds after it last was; that question has no body, nor the length of one."""
    host.check_output("head -c 2M /dev/zero > /root/large")
    upload = f"{URL}/v2/team/app/blobs/uploads/00000000-0000-4000-8000-000000000000?digest=sha256:{64 * '0'}"
    user = shlex.quote(":".join(CI))
    time.sleep(11)
    # No such upload, and no doubt about who asks.
    put = f"{CURL} -o /dev/null -w '%{{http_code}}' --user {user} --upload-file /root/large '{upload}'"
    assert host.check_output(put) == "404"


def test_docker_hub_login_does_not_spoil_the_mirror(host: Any) -> None:
    """Docker sends it to mirrors too: it gets an anonymous token for a pull, and nothing for a push."""
    assert status(host, "/token?scope=repository%3Alibrary%2Fapp%3Apull", login=("hubuser", "hubpassword")) == 200
    assert status(host, "/token?scope=repository%3Aapp%3Apush%2Cpull", login=("hubuser", "hubpassword")) == 401
    assert status(host, "/token", login=("hubuser", "hubpassword")) == 401


def test_bare_name_is_what_was_pushed(host: Any) -> None:
    """`docker run bare:1` asks its mirror for library/bare."""
    assert login(host, *CI).rc == 0
    host.check_output(f"docker tag {IMAGE} {NAME}/bare:1")
    assert push(host, f"{NAME}/bare:1").rc == 0
    assert status(host, "/v2/library/bare/manifests/1", method="HEAD") == 200
    assert "library" not in host.check_output(f"{CURL} {URL}/v2/_catalog")


def test_containers_have_no_rights_they_do_not_need(host: Any) -> None:
    for container in json.loads(host.check_output(f"docker inspect {REGISTRY} {PROXY}")):
        settings = container["HostConfig"]
        assert settings["Privileged"] is False
        assert settings["ReadonlyRootfs"] is True
        assert settings["CapDrop"] == ["ALL"]
        assert settings["SecurityOpt"] == ["no-new-privileges"]
        assert settings["RestartPolicy"]["Name"] == "always"
        assert settings["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
        assert settings["PidsLimit"] > 0
        assert settings["Memory"] > 0
        assert container["Config"]["User"].split(":")[0].isdigit()
        assert container["Config"]["User"] != "0:0"
    assert host.check_output(f"docker port {REGISTRY}") == ""


def test_log_has_no_traces(host: Any) -> None:
    log = host.run(f"docker logs {REGISTRY}")
    assert "traces export" not in log.stdout + log.stderr
    assert "panic" not in log.stdout + log.stderr


def test_nobody_else_learns_a_password(host: Any) -> None:
    play = converge().succeeded()
    assert leaks_in(play.output, SECRETS) == []
    assert leaks_on(host, SECRETS) == []
    log = host.run(f"docker logs {PROXY}")
    assert leaks_in(log.stdout + log.stderr, SECRETS) == []
    for path in ("nginx/tls/private_key.pem", "nginx/auth/htpasswd", "distribution/config.yml"):
        assert host.file(f"/etc/slipway/registry/{path}").mode == 0o640
    pki = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
    assert [path.name for path in pki.glob("*.key") if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("container", [REGISTRY, PROXY])
def test_docker_kill(container: str, host: Any) -> None:
    """Docker counts it as a stop by hand and its restart policy does nothing: the health unit does."""
    host.check_output(f"docker kill {container}")
    assert eventually(lambda: serves(host))
    assert pull(host).rc == 0


def test_docker_stop(host: Any) -> None:
    host.check_output(f"docker stop {REGISTRY} {PROXY}")
    assert eventually(lambda: serves(host))


def test_crash_after_a_reload(host: Any) -> None:
    """Docker does not restart a container that was sent its stop signal by `docker kill`; HUP has to be another."""
    host.check_output(f"docker kill --signal HUP {PROXY} && sleep 1")
    pid = host.check_output(f"docker inspect -f '{{{{.State.Pid}}}}' {PROXY}")
    host.check_output("systemctl stop slipway-registry-health.timer")
    try:
        host.check_output(f"kill -9 {pid}")
        assert eventually(lambda: serves(host), within=20)
    finally:
        host.check_output("systemctl start slipway-registry-health.timer")


def test_docker_restart(host: Any) -> None:
    host.check_output("systemctl restart docker")
    assert eventually(lambda: serves(host))
    assert pull(host).rc == 0


def test_dockerd_killed(host: Any) -> None:
    host.check_output("kill -9 $(systemctl show --property=MainPID --value docker)")
    assert eventually(lambda: host.run("docker info").rc == 0 and serves(host))
    assert pull(host).rc == 0


def test_reboot(host: Any, lab: Lab) -> None:
    lab.reboot("registry-stack")
    assert eventually(lambda: serves(host))
    assert pull(host).rc == 0


def test_container_removed(host: Any) -> None:
    host.check_output(f"docker rm -f {REGISTRY}")
    healthy_round(host)
    assert "is gone" in host.check_output("journalctl -u slipway-registry-health -o cat -n 20")
    play = converge().succeeded()
    assert "create slipway-registry" in play.output
    assert pull(host).rc == 0
    assert converge().succeeded().changed == 0


def test_restart_policy_is_repaired_in_place(host: Any) -> None:
    before = started(host)
    host.check_output(f"docker update --restart no {PROXY}")
    play = converge().succeeded()
    assert "somebody changed HostConfig.RestartPolicy" in play.output
    assert host.check_output(f"docker inspect -f '{{{{.HostConfig.RestartPolicy.Name}}}}' {PROXY}") == "always"
    assert started(host) == before


def test_users_change_without_a_restart(host: Any) -> None:
    before = started(host)
    play = converge(registry_users=users(("ci", "another-password"), ("new", "news-password"))).succeeded()
    assert leaks_in(play.output, [Secret("another-password", "ci"), Secret("news-password", "new")]) == []
    assert status(host, "/v2/", login=("new", "news-password")) == 200
    assert status(host, "/v2/", login=("ci", "another-password")) == 200
    assert eventually(lambda: status(host, "/v2/", login=CI) == 401, within=15)
    assert status(host, "/v2/", login=BOB) == 401
    converge().succeeded()
    assert status(host, "/v2/", login=CI) == 200
    assert started(host) == before


def test_pulls_by_login_only(host: Any) -> None:
    before = started(host)
    converge(registry_pull="authenticated").succeeded()
    host.check_output(f"docker logout {NAME}")
    assert eventually(lambda: pull(host).rc != 0, within=10)
    assert status(host, "/v2/team/app/manifests/1") == 401
    assert status(host, "/token") == 401
    assert status(host, "/v2/team/app/manifests/1", bearer="anonymous") == 401
    assert status(host, "/v2/team/app/tags/list", login=BOB) == 200
    assert login(host, *CI).rc == 0
    assert pull(host).rc == 0
    converge().succeeded()
    assert started(host) == before


def test_full_disk(host: Any) -> None:
    """Pushes are refused with the reason, pulls go on, and nothing is lost; then pushes are let in again."""
    host.check_output("mkdir -p /srv/small && mount -t tmpfs -o size=200m tmpfs /srv/small")
    converge(registry_data_dir="/srv/small", registry_min_free="60m").succeeded()
    assert login(host, *CI).rc == 0
    make_image(host)
    assert push(host).rc == 0
    make_image(host, f"{NAME}/team/big:2", "10M")
    host.check_output("head -c 150M /dev/zero > /srv/small/filler")
    healthy_round(host)
    refused = push(host, f"{NAME}/team/big:2")
    assert refused.rc != 0
    assert "/srv/small has less than 60m free" in refused.stderr + refused.stdout
    assert pull(host).rc == 0
    assert "/srv/small has" in host.check_output("journalctl -u slipway-registry-health -o cat -n 20")
    # Between two looks of the health unit the disk may fill up to the last byte.
    host.check_output("rm -f /run/slipway-registry/read-only; systemctl stop slipway-registry-health.timer")
    host.run("head -c 100M /dev/zero >> /srv/small/filler")
    full = push(host, f"{NAME}/team/big:2")
    assert full.rc != 0
    assert "is its disk /srv/small full?" in full.stderr + full.stdout
    assert pull(host).rc == 0
    host.check_output("rm /srv/small/filler; systemctl start slipway-registry-health.timer")
    healthy_round(host)
    assert push(host, f"{NAME}/team/big:2").rc == 0
    assert pull(host, f"{NAME}/team/big:2").rc == 0


def test_disk_that_is_not_mounted(host: Any) -> None:
    """The empty directory below the mount point must not be taken for the registry's data."""
    host.check_output("umount --lazy /srv/small")
    healthy_round(host)
    assert status(host, "/v2/team/app/blobs/uploads/", method="POST", login=CI) == 403
    assert "is its disk mounted?" in host.check_output("journalctl -u slipway-registry-health -o cat -n 20")
    converge().succeeded()
    assert eventually(lambda: serves(host))
    assert pull(host).rc == 0


def test_journal_is_not_flooded(host: Any) -> None:
    """Rounds in which all is well say nothing, neither does systemd about them."""
    healthy_round(host)
    host.run("journalctl --sync")
    count = "journalctl -u slipway-registry-health.service -o cat | wc -l"
    before = int(host.check_output(count))
    for _ in range(5):
        healthy_round(host)
    host.run("journalctl --sync")
    assert int(host.check_output(count)) == before


def test_input_that_cannot_work() -> None:
    """All mistakes are told at once, in one sentence each, before anything changes."""
    wrong = {
        "registry_tls": "files",
        "registry_certificate": "x",
        "registry_users": [],
        "registry_pull": "authenticated",
        "registry_min_free": "a lot",
        "registry_alternative_names": ["*.corp"],
    }
    play = run_play(HERE / "validate.yml", wrong)
    assert play.rc != 0
    for sentence in (
        "registry_certificate is a text that is no certificate: it needs PEM text of a certificate.",
        "registry_users is empty: it needs at least one user while registry_pull is authenticated.",
        "registry_min_free is 'a lot': it needs a size such as 10m or 2g.",
        "registry_alternative_names[0] is '*.corp': it needs a host name or an IP address.",
    ):
        assert sentence in play.output


def test_name_that_is_taken(host: Any) -> None:
    """A container of that name which is not ours is never removed."""
    host.check_output(f"docker rm -f {REGISTRY} && docker create --name {REGISTRY} {IMAGE} true")
    play = converge()
    assert play.rc != 0
    assert f"container {REGISTRY} is there already" in play.output
    host.check_output(f"docker rm {REGISTRY}")
    converge().succeeded()
    assert pull(host).rc == 0


def test_removal_keeps_the_images(host: Any) -> None:
    run_play(HERE / "remove.yml").succeeded()
    left = host.check_output("docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}'").split()
    assert not {name for name in left if name.startswith("slipway-registry")}
    for path in (
        "/etc/slipway/registry",
        "/usr/local/lib/slipway/registry-health",
        "/usr/local/lib/slipway/registry-gc",
        "/var/lib/slipway/registry",
        "/run/slipway-registry",
    ):
        assert not host.file(path).exists
    assert not host.run("systemctl list-unit-files 'slipway-registry*' --no-legend").stdout
    assert host.file("/srv/registry/docker").exists
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
    converge().succeeded()
    assert pull(host).rc == 0
