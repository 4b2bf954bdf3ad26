# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare names come from the private registry, from nowhere else where that is asked, and no daemon restarts for it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cri
from tests.testinfra.lab import Lab, Request, log_size, put_program
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
MACHINE = "registry-trust"
REGISTRY = "registry-trust.corp.lab:6001"
PRIVATE = "greeting:1"
CRI = "/usr/local/bin/test-cri"
# The machine's own root is an overlay already, and there is none on top of one.
PODMAN = "podman --root /var/lib/docker/podman --runroot /run/podman --storage-driver vfs"
UPSTREAM = "registry-1.docker.io:443"
USER, PASSWORD = "puller", 's3"cr:e t%{{ 7 }}€'
long_only = pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")
WITH_LOGIN = {
    "registry_trust_port": 6002,
    "registry_trust_user": USER,
    "registry_trust_password": PASSWORD,
    "registry_trust_docker_mirror": False,
}


def converge(**variables: Any) -> Play:
    """Run the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables)


def daemons(host: Any) -> list[str]:
    """What changes whenever a daemon is started again."""
    return [host.check_output(f"systemctl show -p MainPID --value {unit}") for unit in ("docker", "containerd")]


def drop(host: Any, image: str) -> None:
    host.run(f"docker image rm -f {image}")
    host.run(f"{CRI} remove docker.io/library/{image}")


def docker_pull(host: Any, image: str) -> str:
    """Pull anew; return why it failed, or nothing."""
    drop(host, image)
    done = host.run(f"docker pull -q {image}")
    return "" if done.rc == 0 else str(done.stderr)


def cri_pull(host: Any, image: str) -> str:
    """Pull anew as the kubelet does; return why it failed, or nothing."""
    drop(host, image)
    done = host.run(f"{CRI} pull {image}")
    return "" if done.rc == 0 else str(done.stderr)


def with_proxy(host: Any, command: str) -> str:
    """Run what has no daemon that knows the proxy; return why it failed, or nothing."""
    proxy = "set -a; . /etc/slipway/docker_proxy/http.env; . /etc/slipway/docker_proxy/https.env"
    done = host.run(f"bash -c '{proxy}; {command}'")
    return "" if done.rc == 0 else str(done.stderr)


def skopeo_pull(host: Any, image: str) -> str:
    """Pull as Skopeo and Buildah do; return why it failed, or nothing."""
    return with_proxy(host, f"rm -rf /tmp/copy; skopeo copy -q docker://{image} dir:/tmp/copy")


def podman_pull(host: Any, image: str) -> str:
    """Pull anew as Podman does, which looks bare names up by itself; return why it failed, or nothing."""
    host.run(f"{PODMAN} image rm -f {image}")
    return with_proxy(host, f"{PODMAN} pull -q {image}")


PULLS = {"docker": docker_pull, "kubelet": cri_pull, "skopeo": skopeo_pull, "podman": podman_pull}
every_runtime = pytest.mark.parametrize("pull", PULLS.values(), ids=PULLS.keys())


def upstream_requests(lab: Lab, *, patience: float) -> list[Request]:
    """What squid has logged of this machine's tunnels to Docker Hub; a tunnel is logged when it closes."""
    end = time.monotonic() + patience
    while True:
        found = [request for request in lab.squid_log(MACHINE) if request.url == UPSTREAM]
        if found or time.monotonic() > end:
            return found
        time.sleep(0.5)


@pytest.fixture(scope="module", autouse=True)
def kubelet() -> None:
    """Put the program that pulls as the kubelet does on the machine."""
    put_program(MACHINE, cri.build(), CRI)


@pytest.fixture
def restored() -> Iterator[None]:
    """Bring the scenario's own values back after a test that changed them."""
    yield
    converge().succeeded()


@every_runtime
def test_a_bare_name_comes_from_the_private_registry(host: Any, lab: Lab, pull: Any) -> None:
    assert pull(host, PRIVATE) == ""
    assert [request for request in lab.squid_log(MACHINE) if "corp.lab" in request.url] == []


@every_runtime
def test_what_only_the_upstream_has_arrives_through_the_proxy(host: Any, lab: Lab, pull: Any) -> None:
    assert pull(host, "world:1") == ""
    assert upstream_requests(lab, patience=100) != []


def test_a_full_name_is_trusted_by_every_runtime(host: Any) -> None:
    image = f"{REGISTRY}/library/{PRIVATE}"
    assert [pull(host, image) for pull in PULLS.values()] == [""] * len(PULLS)
    assert host.run(f"curl -sf https://{REGISTRY}/v2/").rc == 0


def test_without_fallback_nothing_else_is_asked(host: Any, lab: Lab, restored: None) -> None:
    """Of containerd and containers/image; and the daemons stay the same processes."""
    # Squid logs a tunnel when it closes: those of earlier pulls close with the daemons, before this test looks.
    host.run("systemctl restart docker containerd")
    time.sleep(1)
    lab.mark = log_size()
    before = daemons(host)
    play = converge(registry_trust_fallback=False).succeeded()
    assert daemons(host) == before
    assert "dockerd has no switch against falling back to Docker Hub" in play.output
    assert [pull(host, PRIVATE) for pull in (cri_pull, skopeo_pull, podman_pull)] == ["", "", ""]
    assert "not found" in cri_pull(host, "world:1")
    assert "blocked" in skopeo_pull(host, "world:1")
    assert "blocked" in podman_pull(host, "world:1")
    host.run("systemctl stop test-registry-6001")
    try:
        start = time.monotonic()
        reason = cri_pull(host, "world:1")
        assert "registry-trust.corp.lab:6001" in reason
        assert time.monotonic() - start < 15
    finally:
        host.run("systemctl start test-registry-6001")
    assert upstream_requests(lab, patience=8) == []


def test_podmans_own_short_names_go_first(host: Any) -> None:
    """Debian's list says that hello is quay.io/podman/hello; the page says how a site takes that back."""
    assert "quay.io/podman/hello" in podman_pull(host, "hello:1")
    ours = "/etc/containers/registries.conf.d/zz-site.conf"
    host.check_output('printf \'[aliases]\\n"hello" = ""\\n\' >%s', ours)
    try:
        assert podman_pull(host, "hello:1") == ""
    finally:
        host.check_output("rm %s", ours)


@long_only
def test_another_ca_is_refused(host: Any, restored: None) -> None:
    other = subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -days 3 -subj /CN=other",
        shell=True, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    converge(registry_trust_ca_certificate=other).succeeded()
    image = f"{REGISTRY}/library/{PRIVATE}"
    reasons = [pull(host, image) for pull in PULLS.values()]
    assert all("certificate" in reason for reason in reasons), reasons


def test_a_login_is_used_by_each_runtime_that_can(host: Any, restored: None) -> None:
    play = converge(**WITH_LOGIN).succeeded()
    full = f"registry-trust.corp.lab:6002/library/{PRIVATE}"
    assert cri_pull(host, PRIVATE) == ""
    assert [pull(host, PRIVATE) for pull in (skopeo_pull, podman_pull)] == ["", ""]
    assert [pull(host, full) for pull in (docker_pull, skopeo_pull, podman_pull)] == ["", "", ""]
    secrets = [Secret(PASSWORD, USER)]
    assert leaks_in(play.output, secrets, where="Ansible's output") == []
    # The registry's own unit file and configuration are the test's, the password stands there as a bcrypt hash only.
    assert leaks_on(host, secrets) == []
    again = converge(**WITH_LOGIN).succeeded()
    assert again.changed == 0


@long_only
def test_a_wrong_login_fails_and_says_so(host: Any, restored: None) -> None:
    converge(**{**WITH_LOGIN, "registry_trust_password": "wrong", "registry_trust_fallback": False}).succeeded()
    reason = cri_pull(host, PRIVATE)
    assert "authorization failed" in reason or "401 Unauthorized" in reason
    assert "authentication required" in skopeo_pull(host, PRIVATE)
    assert "authentication required" in podman_pull(host, PRIVATE)


@long_only
def test_a_login_that_dockerd_cannot_send_is_refused(host: Any) -> None:
    before = host.check_output("find /etc /var/lib/slipway -type f -newer /run/before-the-check | sort | xargs md5sum")
    play = converge(**{**WITH_LOGIN, "registry_trust_docker_mirror": True})
    assert play.rc != 0
    assert (
        "registry_trust_user is 'puller': it needs to be empty, or registry_trust_docker_mirror to be false"
        in play.output
    )
    after = host.check_output("find /etc /var/lib/slipway -type f -newer /run/before-the-check | sort | xargs md5sum")
    assert before == after


def test_changing_the_mirror_restarts_nothing(host: Any, restored: None) -> None:
    before = daemons(host)
    converge(registry_trust_mirrors=["docker.io", "quay.io"]).succeeded()
    assert host.file("/etc/containerd/certs.d/quay.io/hosts.toml").exists
    converge(registry_trust_mirrors=["quay.io"]).succeeded()
    assert f"https://{REGISTRY}" not in host.check_output("docker info")
    assert "by hand" in host.file("/etc/containerd/certs.d/docker.io/hosts.toml").content_string
    converge().succeeded()
    assert f"https://{REGISTRY}" in host.check_output("docker info")
    assert not host.file("/etc/containerd/certs.d/quay.io").exists
    assert daemons(host) == before


@long_only
def test_a_file_edited_by_hand_is_repaired(host: Any) -> None:
    path = "/etc/containerd/certs.d/docker.io/hosts.toml"
    content = host.file(path).content_string
    host.run(f"echo broken >> {path}")
    assert converge().succeeded().changed == 1
    assert host.file(path).content_string == content


@long_only
def test_a_login_leaves_the_users_other_logins_alone(host: Any, restored: None) -> None:
    converge(**WITH_LOGIN).succeeded()
    logins = json.loads(host.file("/root/.docker/config.json").content_string)["auths"]
    assert sorted(logins) == ["elsewhere.corp.lab", "registry-trust.corp.lab:6002"]
    converge().succeeded()
    logins = json.loads(host.file("/root/.docker/config.json").content_string)["auths"]
    assert sorted(logins) == ["elsewhere.corp.lab"]


def test_zz_removal_gives_everything_back(host: Any) -> None:
    """Last in the file: nothing is there afterwards that was not there before."""
    converge(**WITH_LOGIN).succeeded()
    run_play(HERE / "remove.yml").succeeded()
    assert host.file("/etc/containerd/certs.d/docker.io/hosts.toml").content_string == (
        'server = "https://registry-1.docker.io" # by hand\n'
    )
    left = host.check_output("find /etc/slipway /etc/docker /etc/containerd/certs.d /usr/local/share /var/lib/slipway")
    mine = [
        path for path in left.split() if "registry_trust" in path or "registry-trust" in path or "slipway-reg" in path
    ]
    assert mine == []
    assert not host.file("/etc/containers/registries.conf.d/50-slipway.conf").exists
    assert not host.file("/etc/containers/certs.d").exists
    assert host.run(f"curl -s https://{REGISTRY}/v2/").rc == 60  # curl(1): the certificate is not trusted
    assert json.loads(host.file("/root/.docker/config.json").content_string) == {
        "auths": {"elsewhere.corp.lab": {"auth": "b3BlcmF0b3I6b3du"}}
    }
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
