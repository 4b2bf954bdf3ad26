# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker runs with what was asked for, and goes on running whatever it is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.play import Play, run_play

HERE = Path(__file__).resolve().parent
CONFIG = "/etc/docker/daemon.json"
# A container of the machine's own shell: nothing has to be pulled.
IMAGE = r"""
set -e
mkdir -p /root/img && cd /root/img
mkdir -p usr/bin usr/lib64 usr/lib/x86_64-linux-gnu
ln -sfn usr/bin bin; ln -sfn usr/lib lib; ln -sfn usr/lib64 lib64
cp -L /bin/bash /bin/sleep usr/bin/
ldd /bin/bash /bin/sleep | grep -o '/lib[^ ]*' | sort -u | xargs -I{} cp -L {} usr/lib/x86_64-linux-gnu/
cp -L /lib64/ld-linux-x86-64.so.2 usr/lib64/
tar -c . | docker import - tiny:1
docker run -d --name sleeper tiny:1 sleep infinity
"""


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"log-driver": "nonsense"}, "no log driver named 'nonsense' is registered"),
    ({"registry-mirrors": ["nonsense"]}, "invalid mirror: unsupported scheme"),
    ({"nonsense": 1}, "the following directives don't match any configuration option: nonsense"),
]
if os.environ.get("SLIPWAY_LONG"):
    BROKEN += [
        ({"hosts": ["fd://"]}, "are specified both as a flag and in the configuration file: hosts"),
        ({"mtu": "many"}, "cannot unmarshal string"),
    ]


def converge(*arguments: str, **variables: Any) -> Play:
    """Run the scenario's play again with other values."""
    return run_play(HERE / "converge.yml", variables, arguments=["--diff", "--skip-tags", "machine", *arguments])


def pid(host: Any, unit: str = "docker") -> str:
    return str(host.check_output(f"systemctl show --property=MainPID --value {unit}"))


def config(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(CONFIG).content_string)
    return found


def info(host: Any) -> dict[str, Any]:
    """What the running daemon says, not what stands in a file."""
    found: dict[str, Any] = json.loads(host.check_output("docker info --format '{{json .}}'"))
    return found


def write(host: Any, path: str, text: str) -> None:
    host.check_output("printf %%s %s > %s", text, path)


@pytest.fixture(scope="module", autouse=True)
def sleeper(hosts: dict[str, Any]) -> None:
    """A container that no test may disturb."""
    for host in hosts.values():
        if host.run("docker inspect sleeper").rc:
            assert host.run("sh -c %s", IMAGE).rc == 0


@pytest.fixture
def undisturbed(host: Any) -> Iterator[None]:
    """The container was not restarted during the test."""
    before = host.check_output("docker inspect -f '{{.State.StartedAt}}' sleeper")
    yield
    assert host.check_output("docker inspect -f '{{.State.Running}} {{.State.StartedAt}}' sleeper") == f"true {before}"


def test_the_first_start_already_had_the_configuration(host: Any) -> None:
    starts = host.check_output(
        "journalctl -u docker -o cat | grep 'Daemon has completed init\\|Reloaded configuration'"
    )
    assert len(starts.splitlines()) == 1


def test_the_daemon_runs_with_what_was_asked_for(host: Any) -> None:
    said = info(host)
    assert said["LiveRestoreEnabled"] is True
    assert said["LoggingDriver"] == "json-file"
    assert said["Labels"] == ["from=other"]
    limits = host.check_output("docker inspect -f '{{json .HostConfig.LogConfig.Config}}' sleeper")
    assert json.loads(limits) == {"max-file": "3", "max-size": "10m"}


def test_a_key_that_nobody_owns_is_kept_and_reported(host: Any) -> None:
    assert config(host)["shutdown-timeout"] == 20
    assert "holds keys that no role owns: shutdown-timeout" in converge().succeeded().output


def test_packages_are_pinned_and_held(host: Any) -> None:
    held = host.check_output("apt-mark showhold").split()
    assert {"docker.io", "containerd"} <= {*held}
    assert host.package("docker.io").version.startswith(("26.1.", "20.10."))


def test_a_listed_user_is_in_the_group(host: Any) -> None:
    assert "docker" in host.user("ops").groups


def test_a_second_run_changes_nothing(host: Any) -> None:
    before = pid(host), pid(host, "containerd")
    assert converge().succeeded().changed == 0
    assert converge("--check").succeeded().changed == 0
    assert (pid(host), pid(host, "containerd")) == before


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("options", "reason"), BROKEN, ids=[next(iter(case[0])) for case in BROKEN])
def test_a_broken_option_never_stays(host: Any, options: dict[str, Any], reason: str) -> None:
    before = config(host)
    play = converge(options=options)
    assert play.rc != 0
    assert reason in " ".join(play.output.split())
    assert config(host) == before
    assert host.run("docker ps").rc == 0


def test_nothing_is_left_of_broken_options(host: Any) -> None:
    assert converge().succeeded().changed == 0
    assert info(host)["LiveRestoreEnabled"] is True


@pytest.mark.usefixtures("undisturbed")
def test_a_mirror_costs_a_reload_and_dns_one_restart(host: Any) -> None:
    first = pid(host)
    converge(options={"registry-mirrors": ["https://mirror.corp.lab"]}).succeeded()
    assert pid(host) == first
    assert info(host)["RegistryConfig"]["Mirrors"] == ["https://mirror.corp.lab/"]
    starts = "journalctl -u docker -o cat | grep -c 'Daemon has completed initialization'"
    before = int(host.check_output(starts))
    converge(options={"dns": ["172.29.64.2"]}).succeeded()
    assert int(host.check_output(starts)) == before + 1
    # A mirror that goes asks for a restart: dockerd does not unlearn a key by SIGHUP.
    assert info(host)["RegistryConfig"]["Mirrors"] in (None, [])
    converge().succeeded()


def test_a_run_that_was_interrupted_is_finished_by_the_next(host: Any) -> None:
    """Only the fragment is written, as if the run had been killed before the engine took it over."""
    before = pid(host)
    run_play(HERE / "fragment.yml").succeeded()
    assert pid(host) == before
    converge(fragment={"labels": ["from=other"], "mtu": 1400}).succeeded()
    assert pid(host) != before
    converge().succeeded()


@pytest.mark.usefixtures("undisturbed")
def test_drift_is_repaired(host: Any) -> None:
    write(host, CONFIG, '{"live-restore": false, "shutdown-timeout": 20}')
    host.check_output("systemctl stop docker.socket docker.service")
    host.check_output("systemctl disable docker.socket docker.service")
    host.check_output("apt-mark unhold docker.io")
    host.check_output("gpasswd -d ops docker")
    converge().succeeded()
    assert info(host)["LiveRestoreEnabled"] is True
    assert host.check_output("systemctl is-enabled docker.socket docker.service").split() == ["enabled"] * 2
    assert "docker.io" in host.check_output("apt-mark showhold")
    assert "docker" in host.user("ops").groups
    assert converge().succeeded().changed == 0


@pytest.mark.usefixtures("undisturbed")
def test_broken_json_is_made_again_with_the_daemon_up(host: Any) -> None:
    before = config(host), pid(host)
    write(host, CONFIG, "{broken")
    assert "was not valid JSON" in converge().succeeded().output
    assert (config(host), pid(host)) == before


def test_a_daemon_that_lost_its_socket_answers_again(host: Any) -> None:
    host.check_output("rm /run/docker.sock")
    converge().succeeded()
    assert host.run("docker ps").rc == 0


def test_contradicting_roles_are_named(host: Any) -> None:
    before = config(host)
    play = converge(fragment={"live-restore": False})
    assert "fragments 'docker_engine' and 'other' contradict each other" in " ".join(play.output.split())
    assert config(host) == before


def test_every_mistake_is_told_in_a_sentence(host: Any) -> None:
    before = config(host), pid(host)
    options = {"--dns": ["192.0.2.1"], "bip": "nonsense"}
    said = " ".join(converge(options=options, users=["No One"], source="docker", key="text").output.split())
    sentences = [
        "docker_engine_options.--dns is",
        "docker_engine_options.bip is 'nonsense': it needs an address with its prefix",
        "docker_engine_users[0] is 'No One': it needs a user name",
        "docker_engine_repository_key is not an armoured key: it needs the text of the public key",
    ]
    assert [sentence for sentence in sentences if sentence not in said] == []
    said = " ".join(converge(users=["ghost"]).output.split())
    assert "docker_engine_users has 'ghost': it needs a user that exists on this host" in said
    said = " ".join(converge(unknown_keys="fail").output.split())
    assert "holds keys that no role owns (shutdown-timeout)" in said
    assert (config(host), pid(host)) == before


def test_dockers_own_packages_take_over_and_adopt_older_sources(host: Any) -> None:
    """Each historic layout of the repository is there at once: apt would refuse everything."""
    release = host.check_output("sh -c '. /etc/os-release; echo $VERSION_CODENAME'")
    url, keys = "https://download.docker.com/linux/debian", "/etc/apt/keyrings"
    host.check_output(f"mkdir -p {keys}")
    for key in ("docker.gpg", "docker.asc"):
        write(host, f"{keys}/{key}", "old")
    one_line = f"deb [arch=amd64 signed-by={keys}/docker.gpg] {url} {release} stable\n"
    stanza = f"Types: deb\nURIs: {url}\nSuites: {release}\nComponents: stable\nSigned-By: {keys}/docker.asc\n"
    write(host, "/etc/apt/sources.list.d/docker.list", one_line)
    write(host, "/etc/apt/sources.list.d/docker.sources", stanza)
    converge(source="docker").succeeded()
    assert host.run("apt-get -o APT::Update::Error-Mode=any update").rc == 0
    assert host.package("docker-ce").is_installed
    assert not host.package("docker.io").is_installed
    assert host.run("docker image inspect tiny:1").rc == 0, "the images are gone"
    assert info(host)["LiveRestoreEnabled"] is True
    assert converge(source="docker").succeeded().changed == 0
    left = host.check_output("ls /etc/apt/sources.list.d /etc/apt/keyrings")
    assert "docker.list" not in left
    assert "docker.gpg" not in left


def test_removal_undoes_everything_but_the_data(host: Any) -> None:
    run_play(HERE / "remove.yml").succeeded()
    assert config(host) == {"shutdown-timeout": 20}
    assert host.run("dpkg --get-selections | grep 'hold$'").stdout == ""
    assert host.file("/etc/apt/sources.list.d/docker.list").exists, "what was there before did not come back"
    assert not host.package("docker-ce").is_installed
    assert "docker" not in host.user("ops").groups
    assert host.run("pgrep -x dockerd").rc != 0
    assert host.run("pgrep -x sleep").rc != 0
    assert host.file("/etc/apt/sources.list.d/slipway-docker.sources").exists is False
    assert host.check_output("ls /var/lib/docker/image") != ""
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
