# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines without a proxy pull through the caches, each image crosses the proxy once, and all else is said."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import cri
from tests.testinfra.lab import Lab, Request, log_size, put_program
from tests.testinfra.oci import Registry
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
RACK, NODE = "cache-rack", "cache-node"
NAME = "cache-rack.corp.lab"
CRI = "/usr/local/bin/test-cri"
PROGRAM = "/usr/local/lib/slipway/registry-cache"
CONTAINER = "slipway-registry-cache"
DATA = "/srv/registry-cache"
HUB, KUBERNETES = "registry-1.docker.io:443", "registry.k8s.io:443"
PAUSE = "registry.k8s.io/pause:3.10"


class _Loader(yaml.SafeLoader):
    """YAML as Ansible reads it: !unsafe is plain text."""


_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
VARIABLES = yaml.load((HERE / "vars.yml").read_text(encoding="utf-8"), Loader=_Loader)
CACHES: dict[str, Any] = VARIABLES["site_registry_caches"]
OWN_PROXY = CACHES["upstreams"][1]["proxy"]
VAULT = CACHES["upstreams"][2]


@pytest.fixture(scope="module")
def rack(hosts: dict[str, Any]) -> Any:
    """The machine with the caches and the private registry."""
    return hosts[RACK]


@pytest.fixture(scope="module")
def node(hosts: dict[str, Any]) -> Any:
    """The machine that pulls; its engines have no proxy."""
    put_program(NODE, cri.build(), CRI)
    return hosts[NODE]


@pytest.fixture(scope="module", autouse=True)
def vault(rack: Any) -> Iterator[None]:
    """Run an upstream that wants a login, on the caches' machine."""
    import bcrypt

    hashed = bcrypt.hashpw(VAULT["password"].encode(), bcrypt.gensalt(4)).decode()
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/tmp/data"}},
        "http": {"addr": ":5000"},
        "auth": {"htpasswd": {"realm": "vault", "path": "/etc/vault/users"}},
    }
    for name, text in (("users", f"{VAULT['user']}:{hashed}\n"), ("config.yml", json.dumps(config))):
        rack.check_output(f"mkdir -p /etc/vault && printf %s {shlex.quote(text)} > /etc/vault/{name}")
    rack.run("docker rm -f test-vault")
    rack.check_output(
        "docker run -d --name test-vault -p 6020:5000 -v /etc/vault:/etc/vault:ro --entrypoint registry"
        " docker.io/library/registry:3.1.2 serve /etc/vault/config.yml"
    )
    upstream, login = Registry(rack, "127.0.0.1", 6020), f"{VAULT['user']}:{VAULT['password']}"
    assert eventually(lambda: rack.run("curl -s http://127.0.0.1:6020/v2/").rc == 0)
    upstream.push("team/app", "1", "secret work", login=login)
    yield
    rack.run("docker rm -f test-vault")


def converge(*, tags: str = "caches", **variables: Any) -> Play:
    """Run the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables, arguments=("-vvv", "--diff", "--tags", tags))


def caches(**changes: Any) -> dict[str, Any]:
    """Return site_registry_caches with other values for its upstreams, by name; None leaves one out."""
    upstreams = []
    for item in CACHES["upstreams"]:
        change = changes.get(item["name"].replace(".", "_"), {})
        if change is not None:
            upstreams.append({**item, **change})
    return {**CACHES, "upstreams": upstreams}


def drop(host: Any, image: str) -> None:
    host.run(f"docker image rm -f {image}")
    host.run(f"{CRI} remove {image if '/' in image else 'docker.io/library/' + image}")


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


def copy(host: Any, image: str) -> str:
    """Pull as Podman, Skopeo and Buildah do; return why it failed, or nothing."""
    done = host.run(f"rm -rf /tmp/copy; skopeo copy -q docker://{image} dir:/tmp/copy")
    return "" if done.rc == 0 else str(done.stderr)


PULLS = pytest.mark.parametrize("pull", [docker_pull, cri_pull, copy], ids=["docker", "kubelet", "skopeo"])


def eventually(check: Callable[[], Any], within: float = 60) -> Any:
    """Return what a check says once it says something, or at the end."""
    deadline = time.monotonic() + within
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def requests(lab: Lab, url: str) -> list[Request]:
    """What squid has logged of the rack's tunnels to an upstream; a tunnel is logged when it closes."""
    return [request for request in lab.squid_log(RACK) if request.url == url]


def quiet() -> int:
    """Return the size of squid's log, once nobody wrote to it for three seconds; other machines may be at work."""
    deadline, size = time.monotonic() + 20, log_size()
    while time.monotonic() < deadline:
        time.sleep(3)
        before, size = size, log_size()
        if size == before:
            break
    return size


def restart(rack: Any, name: str = "docker-io") -> None:
    """Have a cache forget all it has in memory, close its tunnels, and start again."""
    rack.check_output(f"docker restart -t 5 {CONTAINER}-{name}")
    assert eventually(lambda: rack.run(f"{PROGRAM} --ready").rc == 0)


def forget_tags(rack: Any) -> None:
    """Have nginx forget what it was told of tags, as if registry_cache_fresh were over."""
    rack.check_output(f"docker restart -t 5 {CONTAINER}-proxy")
    assert eventually(lambda: rack.run(f"{PROGRAM} --ready").rc == 0)


def problems(rack: Any) -> str:
    """What verify would say of the caches' upstreams."""
    return "; ".join(json.loads(rack.check_output(f"{PROGRAM} --check")))


@PULLS
def test_a_node_without_a_proxy_pulls_through_the_cache(node: Any, pull: Any) -> None:
    assert (
        "PROXY" not in node.check_output("systemctl show -p Environment -p EnvironmentFiles docker containerd").upper()
    )
    assert pull(node, "world:1") == ""


def test_the_proxy_saw_the_cache_and_no_node(rack: Any, node: Any, lab: Lab) -> None:
    forget_tags(rack)
    restart(rack)
    lab.mark = log_size()
    assert cri_pull(node, "world:1") == ""
    restart(rack)
    seen = eventually(lambda: requests(lab, HUB))
    assert {request.result for request in seen} == {"TCP_TUNNEL/200"}
    assert {request.user for request in seen} == {proxy_account()["user"]}
    assert lab.squid_log(NODE) == []


def proxy_account() -> dict[str, str]:
    """The lab's own account at its proxy."""
    state = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway/lab/proxy.json"
    found: dict[str, str] = json.loads(state.read_text(encoding="utf-8"))
    return found


def test_what_was_pulled_once_asks_nobody(rack: Any, node: Any, lab: Lab) -> None:
    """Not the proxy, by any runtime, from any machine."""
    assert cri_pull(node, "world:1") == ""
    restart(rack)  # closes the tunnels of earlier pulls, before the test looks
    lab.mark = quiet()
    assert [docker_pull(node, "world:1"), cri_pull(node, "world:1"), copy(node, "world:1")] == ["", "", ""]
    restart(rack)  # closes the tunnels of these, had there been any
    time.sleep(3)
    assert requests(lab, HUB) == []


def test_a_cache_with_a_proxy_login_of_its_own(rack: Any, node: Any, lab: Lab) -> None:
    """Before squid knows the account, verify says whose login it refuses."""
    refused = f"the proxy proxy.corp.lab:8080 refuses the login of {OWN_PROXY['user']}"
    assert f"the cache of registry.k8s.io serves only what it has: {refused}" in problems(rack)
    with lab.proxy_account(OWN_PROXY["user"], OWN_PROXY["password"], "registry_cache"):
        assert eventually(lambda: "registry.k8s.io" not in problems(rack), 20)
        assert [cri_pull(node, PAUSE), copy(node, PAUSE)] == ["", ""]
        restart(rack, "registry-k8s-io")
        seen = eventually(lambda: [item for item in requests(lab, KUBERNETES) if item.result == "TCP_TUNNEL/200"])
        assert {request.user for request in seen} == {OWN_PROXY["user"]}
    assert cri_pull(node, PAUSE) == "", "the account is gone, the image is there"


def test_an_upstream_with_a_login(rack: Any, node: Any) -> None:
    """A wrong one is named by verify; a right one serves machines that have none."""
    assert "vault.corp.lab" not in problems(rack)
    assert copy(node, "vault.corp.lab/team/app:1") == ""
    converge(site_registry_caches=caches(vault_corp_lab={"password": "wrong"})).succeeded()
    said = (
        "the cache of vault.corp.lab serves only what it has: http://cache-rack.corp.lab:6020 refuses the login of rack"
    )
    assert said in problems(rack)
    verdict = REPOSITORY / ".slipway/verify-registry-cache.json"
    files = [REPOSITORY / "inventory/lab/group_vars/all/site.yml", HERE / "vars.yml"]
    given = [word for file in files for word in ("-e", f"@{file}")]
    run_play(REPOSITORY / "playbooks/verify.yml", {"verify_verdict": str(verdict)}, arguments=given)
    results = json.loads(verdict.read_text(encoding="utf-8"))["results"]
    found = {(item["check"], item["machine"]): item for item in results if "cache" in item["check"]}
    check = "each cache gets at its upstream, through its proxy, with its login"
    assert said in found[check, RACK]["reason"]
    assert found[check, NODE]["outcome"] == "skipped"
    for check, machine in (
        ("the caches answer, and the system trusts their certificate", NODE),
        ("the caches' containers run, restart by themselves and have no privileges", RACK),
        ("the caches are looked after: stopped containers, space", RACK),
    ):
        assert found[check, machine]["outcome"] == "passed", found[check, machine]["reason"]
    converge().succeeded()
    assert "vault.corp.lab" not in problems(rack)


def test_with_the_proxy_down_what_is_cached_is_served(rack: Any, node: Any) -> None:
    """Also when caches and nginx start anew meanwhile, so that nothing is in memory."""
    rule = "-d 172.29.64.2 -p tcp --dport 8080 -j REJECT --reject-with tcp-reset"
    rack.check_output(f"iptables -I FORWARD {rule}")
    try:
        forget_tags(rack)
        restart(rack)
        assert [docker_pull(node, "world:1"), cri_pull(node, "world:1"), copy(node, "world:1")] == ["", "", ""]
        down = "the proxy proxy.corp.lab:8080 does not answer"
        assert f"the cache of docker.io serves only what it has: {down}" in problems(rack)
        assert "not found" in cri_pull(node, "debian:13")
    finally:
        rack.check_output(f"iptables -D FORWARD {rule}")
    assert cri_pull(node, "debian:13") == ""
    assert "docker.io" not in problems(rack)


def test_the_private_registry_comes_first(rack: Any, node: Any) -> None:
    private = Registry(rack, NAME, 6001, "/root/ca.crt")
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    rack.check_output(f"printf %s {shlex.quote(ca)} > /root/ca.crt")
    private.push("ours", "1", "private work", login="ci:ci-may-push")
    assert copy(node, "ours:1") == ""
    asked = rack.run(f"docker logs {CONTAINER}-proxy").stdout
    assert "library/world" in asked
    assert "library/ours" not in asked
    mirrors = json.loads(node.check_output("docker info --format '{{json .RegistryConfig.Mirrors}}'"))
    assert [mirror.rstrip("/") for mirror in mirrors] == [f"https://{NAME}:6001", f"https://{NAME}:6011"]


def test_without_fallback_nobody_else_is_asked(node: Any, lab: Lab) -> None:
    assert "not found" in cri_pull(node, "nosuch:1")
    assert "blocked" in copy(node, "nosuch:1")
    assert lab.squid_log(NODE) == []


def test_a_push_is_refused_and_says_why(node: Any) -> None:
    assert docker_pull(node, "world:1") == ""
    node.check_output(f"docker tag world:1 {NAME}:6011/team/world:1")
    done = node.run(f"docker push {NAME}:6011/team/world:1")
    node.run(f"docker image rm {NAME}:6011/team/world:1")
    assert done.rc != 0
    assert "this is a cache of docker.io and takes no pushes: push to the private registry" in done.stdout + done.stderr


def test_a_cache_that_grows_too_large_loses_what_is_old_and_fetches_it_again(rack: Any, node: Any) -> None:
    config = json.loads(rack.check_output("cat /etc/slipway/registry-cache/program.json"))
    config["caches"][0]["max_size"] = 2**20
    rack.check_output(f"printf %s {shlex.quote(json.dumps(config))} > /root/small.json")
    assert "which was larger than 1.0 MiB" in rack.check_output(f"{PROGRAM} --config /root/small.json")
    assert int(rack.check_output(f"du -sm {DATA}/docker-io").split()[0]) < 2
    assert [docker_pull(node, "world:1"), cri_pull(node, "world:1"), copy(node, "world:1")] == ["", "", ""]
    assert int(rack.check_output(f"du -sm {DATA}/docker-io").split()[0]) > 2


def test_what_somebody_stopped_is_started(rack: Any) -> None:
    rack.check_output(f"docker stop -t 5 {CONTAINER}-docker-io {CONTAINER}-proxy")
    rack.check_output("systemctl start slipway-registry-cache.service")
    assert eventually(lambda: rack.run(f"{PROGRAM} --ready").rc == 0), rack.run(f"{PROGRAM} --ready").stdout


def test_the_containers_have_no_rights_they_do_not_need(rack: Any) -> None:
    names = rack.check_output("docker ps -q --filter label=slipway.stack=registry-cache").split()
    assert len(names) == 4
    for container in json.loads(rack.check_output(f"docker inspect {' '.join(names)}")):
        settings = container["HostConfig"]
        assert settings["ReadonlyRootfs"] and not settings["Privileged"]
        assert settings["CapDrop"] == ["ALL"]
        assert settings["SecurityOpt"] == ["no-new-privileges"]
        assert settings["RestartPolicy"]["Name"] == "always"
        assert container["Config"]["User"] in ("65530:65530", "65533:65533")


def test_no_password_gets_out(rack: Any, node: Any) -> None:
    lab_account = proxy_account()
    secrets = [
        Secret(lab_account["password"], lab_account["user"]),
        Secret(OWN_PROXY["password"], OWN_PROXY["user"]),
        Secret(VAULT["password"], VAULT["user"]),
    ]
    play = converge().succeeded()
    assert play.changed == 0
    changed = converge(
        site_registry_caches=caches(registry_k8s_io={"proxy": {**OWN_PROXY, "user": "other"}})
    ).succeeded()
    assert changed.changed == 2, "its file, its container"
    assert leaks_in(play.output + changed.output, secrets) == []
    assert leaks_on(rack, secrets) == []
    assert leaks_on(node, secrets) == []


def test_input_that_cannot_work() -> None:
    upstreams = [
        {"name": "docker.io", "port": 6011, "user": "u"},
        {"name": "docker-io", "port": 6011, "url": "ftp://x"},
    ]
    play = converge(site_registry_caches={"host": NAME, "upstreams": upstreams})
    assert play.rc != 0
    for said in (
        "registry_cache_upstreams[0].password is empty: it needs a value, because user is set.",
        "registry_cache_upstreams[1].name is 'docker-io': it needs a name that differs from docker.io",
        "registry_cache_upstreams[1].port is 6011: it needs a port that no other cache has.",
        "registry_cache_upstreams[1].url is 'ftp://x': it needs http:// or https://",
    ):
        assert said in play.output


def test_y_a_cache_that_is_no_longer_wanted_goes(rack: Any, node: Any) -> None:
    without = caches(registry_k8s_io=None)
    converge(site_registry_caches=without).succeeded()
    assert "k8s" not in rack.check_output("docker ps -a --format '{{.Names}}'")
    assert not rack.file("/etc/slipway/registry-cache/registry-k8s-io").exists
    assert not node.file("/etc/containerd/certs.d/registry.k8s.io").exists
    rack.check_output("systemctl start slipway-registry-cache.service")
    assert not rack.file(f"{DATA}/registry-k8s-io").exists
    assert cri_pull(node, "world:1") == ""
    assert converge(site_registry_caches=without).succeeded().changed == 0


def test_z_switched_off_nothing_is_left(rack: Any, node: Any) -> None:
    converge(site_registry_caches={}).succeeded()
    assert CONTAINER not in rack.check_output(
        "docker ps -a --format '{{.Names}}'; docker network ls --format '{{.Name}}'"
    )
    left = rack.check_output(
        "find / -xdev -path /proc -prune -o -name '*registry-cache*' -print -o -name 'registry_cache*' -print"
    )
    assert left.split() == []
    assert not rack.run("systemctl list-unit-files 'slipway-registry-cache*' --no-legend").stdout
    for path in ("/etc/docker/certs.d", "/etc/containers", "/etc/containerd/certs.d"):
        assert "601" not in node.run(f"grep -r cache-rack.corp.lab:601 {path}").stdout
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
