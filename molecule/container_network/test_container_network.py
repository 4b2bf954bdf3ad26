# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers resolve the company's names and use its proxy, and nothing that they or their images hold is secret."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import credentials
from tests.testinfra.lab import Lab, Request
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
MACHINE = "container-network"
IMAGE = "debian:13"
FORWARDER = "http://172.17.0.1:3128"
UPDATE = "apt-get -o APT::Update::Error-Mode=any update"
UNIT = "slipway-proxy-forwarder.service"
PROXY_URL = "http://proxy.corp.lab:8080"
HOSTILE = [
    ("{{ user }}", "{{ 7 * 7 }}{% raw %} $HOME `id` '\"\\#;"),
    ("jürgen a b", "%41%%20 пароль€ *login=PASS"),
    ("back\\slash\\", "\\n\\x41\\\\ ${PATH}$(id)"),
]
long_only = pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")


def converge(*, quick: bool = True, **variables: Any) -> Play:
    """Run the scenario's play again, with other values, at the level that shows most; quick leaves the engine out."""
    arguments = ["-vvv", "--diff", *(["--skip-tags", "engine"] if quick else [])]
    return run_play(HERE / "converge.yml", variables, arguments=arguments)


def inside(host: Any, command: str, *options: str, image: str = IMAGE) -> Any:
    """Run a shell command in a new container."""
    return host.run(f"docker run --rm {' '.join(options)} {image} sh -c %s", command)


def resolv_conf(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        found.setdefault(word, []).extend(rest)
    return found


def requests(lab: Lab, part: str) -> list[Request]:
    """What squid has logged of this machine that mentions a host; tunnels are logged when they close."""
    for _ in range(20):
        log = [item for item in lab.squid_log(MACHINE) if part in item.url]
        if log:
            return log
        time.sleep(0.5)
    return []


@pytest.fixture(scope="module", autouse=True)
def image(hosts: dict[str, Any]) -> None:
    """Have an image, and one with curl, which only the proxy can bring."""
    host = hosts[MACHINE]
    assert host.run(f"docker image inspect {IMAGE} >/dev/null || docker pull -q {IMAGE}").rc == 0
    recipe = f"FROM {IMAGE}\nRUN {UPDATE} && apt-get install -y --no-install-recommends curl && env > /environment\n"
    host.check_output("mkdir -p /srv/build && printf %s > /srv/build/Dockerfile", recipe)
    if host.run("docker image inspect built:1").rc != 0:
        done = host.run("docker build -t built:1 /srv/build")
        assert done.rc == 0, done.stderr


@pytest.fixture
def main_account() -> credentials.Account:
    return credentials.from_environment()


@pytest.fixture
def network(host: Any) -> Iterator[str]:
    """A user's network with a container `web` that answers on port 8000."""
    host.check_output("docker network create test-net")
    serve = "perl -MIO::Socket::INET -e %s"
    program = (
        '$s=IO::Socket::INET->new(LocalPort=>8000,Listen=>5,ReuseAddr=>1);'
        'while($c=$s->accept){sysread $c,$b,9999;print $c "HTTP/1.0 200 OK\\r\\n\\r\\nhere";close $c}'
    )  # fmt: skip
    host.check_output(f"docker run -d --name web --network test-net {IMAGE} {serve}", program)
    yield "test-net"
    host.run("docker rm -f web; docker network rm test-net")


@pytest.fixture
def restored() -> Iterator[None]:
    """Bring the scenario's own values back after a test that changed them."""
    yield
    converge().succeeded()


@pytest.fixture
def engine_restored() -> Iterator[None]:
    """The same after a test that changed what the engine reads."""
    yield
    converge(quick=False).succeeded()


def test_a_container_asks_the_companys_servers(host: Any) -> None:
    found = resolv_conf(inside(host, "cat /etc/resolv.conf; getent hosts proxy.corp.lab; getent hosts proxy").stdout)
    assert found["nameserver"] == ["172.29.64.2", "172.29.64.250"]
    assert found["search"] == ["corp.lab"]
    assert "timeout:1" in found["options"]
    assert len([line for line in found if line.startswith("172.29.64.2")]) == 1


def test_a_users_network_resolves_the_company_and_its_own_containers(host: Any, network: str) -> None:
    done = inside(
        host, "getent hosts proxy.corp.lab && getent hosts web && cat /etc/resolv.conf", f"--network {network}"
    )
    assert done.rc == 0
    assert resolv_conf(done.stdout)["nameserver"] == ["127.0.0.11"]


def test_apt_in_a_container_uses_the_proxy_under_the_right_user(
    host: Any, lab: Lab, main_account: credentials.Account
) -> None:
    done = inside(host, UPDATE)
    assert done.rc == 0, done.stderr
    log = requests(lab, "debian")
    assert {(item.user, item.result.rpartition("/")[2][0]) for item in log} <= {
        (main_account.user, "2"),
        (main_account.user, "3"),
    }
    assert log != []


def test_another_container_and_the_companys_machines_are_reached_directly(host: Any, lab: Lab, network: str) -> None:
    address = host.check_output("docker inspect -f '{{(index .NetworkSettings.Networks \"test-net\").IPAddress}}' web")
    urls = f"http://{address}:8000/ http://web:8000/"
    done = inside(host, f"curl -sS {urls}", f"--network {network}", image="built:1")
    assert done.stdout == "herehere", done.stderr
    inside(host, "curl -s -m 3 http://proxy.corp.lab:1/", image="built:1")
    time.sleep(1)
    assert [item.url for item in lab.squid_log(MACHINE) if "web" in item.url or ".corp.lab" in item.url] == []
    assert [item.url for item in lab.squid_log(MACHINE) if address in item.url] == []


def test_a_build_used_the_proxy_and_its_image_holds_no_secret(host: Any, main_account: credentials.Account) -> None:
    environment = inside(host, "cat /environment", image="built:1").stdout
    assert f"http_proxy={FORWARDER}" in environment
    kept = host.check_output("docker image inspect built:1; docker history --no-trunc built:1")
    assert "3128" not in kept
    host.run("docker run -d --name sleeping built:1 sleep 600")
    try:
        assert FORWARDER in host.check_output("docker inspect sleeping")
        secrets = [Secret(main_account.password, main_account.user)]
        assert leaks_on(host, secrets) == []
        assert leaks_in(environment, secrets) == []
    finally:
        host.run("docker rm -f sleeping")


def test_settings_of_a_user_are_added_to_and_stay_his(host: Any) -> None:
    path = "/home/ops/.docker/config.json"
    settings = json.loads(host.file(path).content_string)
    assert settings["detachKeys"] == "ctrl-x"
    assert settings["auths"] == {"elsewhere.corp.lab": {"auth": "b3duOmxvZ2lu"}}
    assert settings["proxies"]["default"]["httpsProxy"] == FORWARDER
    assert (host.file(path).user, host.file(path).group, host.file(path).mode) == ("ops", "ops", 0o640)
    assert host.file("/root/.docker/config.json").mode == 0o600


@long_only
def test_a_link_in_a_home_is_not_followed(host: Any) -> None:
    host.check_output("mv ~ops/.docker /srv/elsewhere && ln -s /srv/elsewhere ~ops/.docker")
    try:
        play = converge()
        assert play.rc != 0
        assert "/home/ops/.docker is not a directory, or a link" in play.output
    finally:
        host.check_output("rm ~ops/.docker && mv /srv/elsewhere ~ops/.docker")


def test_the_forwarder_is_the_only_squid_and_runs_without_privilege(host: Any) -> None:
    assert host.service(UNIT).is_running
    assert not host.service("squid.service").is_running
    assert not host.service("squid.service").is_enabled
    users = set(host.check_output("ps -C squid -o user=").split())
    assert users == {"proxy"}
    assert [line for line in host.check_output("ss -Hltn sport = :3128").splitlines() if "172.17.0.1" not in line] == []


@long_only
def test_a_neighbour_is_refused(host: Any) -> None:
    """A machine that shares a network with this one and routes to docker0's address; its network is like Docker's."""
    host.check_output("ip netns add other && ip link add lan0 type veth peer name lan1 netns other")
    host.check_output("ip address add 172.30.99.1/24 dev lan0 && ip link set lan0 up")
    host.check_output("ip -n other address add 172.30.99.2/24 dev lan1 && ip -n other link set lan1 up")
    host.check_output("ip -n other route add 172.17.0.0/16 via 172.30.99.1")
    try:
        host.check_output(f"systemctl restart {UNIT}")
        code = "curl -s -o /dev/null -w '%{http_code}' -x " + FORWARDER + " http://deb.corp.lab/"
        assert host.run(f"ip netns exec other {code}").stdout == "403"
    finally:
        host.check_output("ip netns delete other")
        host.check_output(f"systemctl restart {UNIT}")


@long_only
@pytest.mark.parametrize(("user", "password"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_account_passes_the_forwarder(host: Any, lab: Lab, restored: None, user: str, password: str) -> None:
    with lab.proxy_account(user, password, MACHINE):
        play = converge(proxy={"url": PROXY_URL, "user": user, "password": password}).succeeded()
        assert leaks_in(play.output, [Secret(password, user)]) == []
        done = inside(host, UPDATE)
        assert done.rc == 0, done.stderr
        assert {item.user for item in requests(lab, "debian")} == {user}
        assert leaks_on(host, [Secret(password, user)]) == []


def test_builds_alone(host: Any, lab: Lab, restored: None) -> None:
    converge(container_network_proxy_containers=False).succeeded()
    assert "proxy" not in inside(host, "env").stdout.lower()
    assert host.run("docker build -t direct:1 --no-cache /srv/build").rc != 0
    done = host.run("slipway-build --no-cache -t built:2 /srv/build")
    assert done.rc == 0, done.stderr
    assert "3128" not in host.check_output("docker image inspect built:2; docker history --no-trunc built:2")


@long_only
def test_containers_without_builds_are_refused(host: Any) -> None:
    play = converge(container_network_proxy_builds=False)
    assert play.rc != 0
    assert "container_network_proxy_builds is false: it needs to be true as well" in play.output


@long_only
def test_off_leaves_the_machines_own_servers(host: Any, engine_restored: None) -> None:
    lists: dict[str, Any] = {f"container_network_dns_{name}": [] for name in ("servers", "search", "options")}
    switches = {f"container_network_proxy_{name}": False for name in ("containers", "builds")}
    converge(quick=False, **lists, **switches).succeeded()
    own = resolv_conf(host.file("/etc/resolv.conf").content_string)
    assert resolv_conf(inside(host, "cat /etc/resolv.conf").stdout)["nameserver"] == own["nameserver"]
    assert not host.package("squid").is_installed
    assert not host.file("/etc/slipway/proxy_forwarder").exists
    assert "proxies" not in json.loads(host.file("/home/ops/.docker/config.json").content_string)


@long_only
def test_a_machine_whose_resolver_containers_cannot_reach_is_refused(host: Any) -> None:
    host.check_output("cp /etc/resolv.conf /run/resolv.saved && echo nameserver 127.0.0.1 > /etc/resolv.conf")
    try:
        play = converge(container_network_dns_servers=[])
    finally:
        host.check_output("cat /run/resolv.saved > /etc/resolv.conf")
    assert play.rc != 0
    assert "/etc/resolv.conf names 127.0.0.1: it needs one to three DNS servers" in play.output


@long_only
def test_the_forwarder_survives_a_reboot_and_its_own_death(host: Any, lab: Lab) -> None:
    host.run("pkill -9 -u proxy squid")
    lab.reboot(MACHINE)
    for _ in range(40):
        if host.run(f"systemctl is-active {UNIT}").stdout.strip() == "active":
            break
        time.sleep(0.5)
    assert inside(host, UPDATE).rc == 0


def test_zz_removal_gives_everything_back(host: Any) -> None:
    """Last in the file: nothing is there afterwards that was not there before."""
    run_play(HERE / "remove.yml").succeeded()
    assert not host.package("squid").is_installed
    assert not host.file(f"/etc/systemd/system/{UNIT}").exists
    assert not host.file("/etc/slipway/proxy_forwarder").exists
    assert not host.file("/root/.docker/config.json").exists
    assert json.loads(host.file("/home/ops/.docker/config.json").content_string) == {
        "detachKeys": "ctrl-x",
        "auths": {"elsewhere.corp.lab": {"auth": "b3duOmxvZ2lu"}},
    }
    assert "dns" not in json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
