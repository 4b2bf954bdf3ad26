# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes finds a CRI that answers, Docker's containers notice nothing, and older settings still hold."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cri
from tests.testinfra.lab import put_program
from tests.testinfra.play import Play, run_play

HERE = Path(__file__).resolve().parent
CONFIG = "/etc/containerd/config.toml"
CRI = "/usr/local/bin/test-cri"
CRI_PLUGIN = "io.containerd.grpc.v1.cri"
# A drop-in as NVIDIA's toolkit 1.18 wrote it: in containerd 1.x it replaces all that config.toml says of CRI.
DROP_IN = f'version = 2\n[plugins."{CRI_PLUGIN}".containerd.runtimes.other]\nruntime_type = "io.containerd.runc.v2"\n'


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"disabled_plugins": [CRI_PLUGIN]}, "its CRI plugin is not loaded"),
    ({"root": "/proc/nowhere"}, "mkdir /proc/nowhere"),
]
if os.environ.get("SLIPWAY_LONG"):
    BROKEN += [
        ({"plugins": {CRI_PLUGIN: {"sandbox_image": 5}}}, "Can't convert 5(int64) to string"),
        ({"required_plugins": ["cri"]}, 'invalid required plugin URI "cri"'),
    ]


def converge(*arguments: str, **variables: Any) -> Play:
    """Run the scenario's play again with other values."""
    return run_play(HERE / "converge.yml", variables, arguments=["--diff", *arguments])


def pid(host: Any, unit: str = "containerd") -> str:
    return str(host.check_output(f"systemctl show --property=MainPID --value {unit}"))


def plugins(host: Any) -> dict[str, str]:
    """Status of each plugin, as containerd itself tells it."""
    rows = [line.split() for line in host.check_output("ctr plugins ls").splitlines()[1:]]
    return {f"{row[0]}.{row[1]}": row[-1] for row in rows}


def dump(host: Any) -> dict[str, Any]:
    """The configuration that containerd makes of its files."""
    return tomllib.loads(host.check_output("containerd config dump"))


def write(host: Any, path: str, text: str) -> None:
    host.check_output("printf %%s %s > %s", text, path)


@pytest.fixture(scope="module", autouse=True)
def client(hosts: dict[str, Any]) -> None:
    """Put the program that speaks CRI as the kubelet does onto the machine."""
    for name in hosts:
        put_program(name, cri.build(), CRI)


@pytest.fixture
def undisturbed(host: Any) -> Iterator[None]:
    """Neither dockerd nor its container was restarted during the test."""
    started = "docker inspect -f '{{.State.Running}} {{.State.StartedAt}}' sleeper"
    before = pid(host, "docker"), host.check_output(started)
    yield
    assert (pid(host, "docker"), host.check_output(started)) == before


def test_the_kubelet_finds_its_runtime(host: Any) -> None:
    assert "containerd" in host.check_output(f"{CRI} info")
    assert plugins(host)[CRI_PLUGIN] == "ok"


def test_the_configuration_in_force_is_the_one_for_kubernetes(host: Any) -> None:
    settings = dump(host)["plugins"][CRI_PLUGIN]
    assert settings["registry"]["config_path"] == "/etc/containerd/certs.d"
    assert settings["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
    assert settings["sandbox_image"] == "registry.corp.lab:6001/pause:3.10"
    assert "/etc/containerd/conf.d/*.toml" in host.file(CONFIG).content_string


def test_one_restart_was_enough_and_docker_had_none(host: Any) -> None:
    """One start by the package, one by prepare, one by the role; the second may be in the same second as the mark."""
    boots = host.check_output(
        "journalctl -u containerd -o cat --since @$(stat -c %.6Y /run/before-the-check) | grep -c booted"
    )
    assert boots == "1"
    assert host.check_output("docker inspect -f '{{.State.Running}} {{.RestartCount}}' sleeper") == "true 0"
    assert host.run("docker run --rm tiny:1 sleep 0").rc == 0


def test_a_mirror_from_before_is_still_asked(host: Any) -> None:
    """With mirrors in config.toml beside config_path the CRI plugin would not load at all."""
    hosts_toml = host.file("/etc/containerd/certs.d/docker.io/hosts.toml")
    assert hosts_toml.mode == 0o600
    server = "import http.server as s; s.HTTPServer(('127.0.0.1', 5999), s.SimpleHTTPRequestHandler).serve_forever()"
    host.check_output(
        "systemd-run -q --collect --unit test-mirror -p StandardError=file:/run/mirror.log python3 -c %s", server
    )
    host.check_output("timeout 60 bash -c 'until (: </dev/tcp/127.0.0.1/5999) 2>/dev/null; do sleep 0.2; done'")
    try:
        host.run(f"{CRI} -timeout 20s pull docker.io/library/nowhere:1")
        log = host.check_output("cat /run/mirror.log")
    finally:
        host.run("systemctl stop test-mirror")
    assert "/v2/library/nowhere/manifests/1" in log


def test_the_package_is_held(host: Any) -> None:
    assert "containerd" in host.check_output("apt-mark showhold").split()


def test_a_second_run_changes_nothing(host: Any) -> None:
    before = pid(host)
    assert converge().succeeded().changed == 0
    assert converge("--check").succeeded().changed == 0
    assert pid(host) == before


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("options", "reason"), BROKEN, ids=[next(iter(case[0])) for case in BROKEN])
def test_a_broken_option_never_stays(host: Any, options: dict[str, Any], reason: str) -> None:
    before = host.file(CONFIG).content_string
    play = converge(options=options)
    assert play.rc != 0
    assert reason in " ".join(play.output.split())
    assert host.file(CONFIG).content_string == before
    assert plugins(host)[CRI_PLUGIN] == "ok"


@pytest.mark.usefixtures("undisturbed")
def test_drift_is_repaired(host: Any) -> None:
    write(host, CONFIG, "x = = 1")
    host.check_output("systemctl stop containerd")
    host.check_output("systemctl disable containerd")
    host.check_output("apt-mark unhold containerd")
    converge().succeeded()
    assert plugins(host)[CRI_PLUGIN] == "ok"
    assert host.check_output("systemctl is-enabled containerd") == "enabled"
    assert converge().succeeded().changed == 0


@pytest.mark.usefixtures("undisturbed")
def test_a_drop_in_that_takes_the_registries_away_is_named(host: Any) -> None:
    write(host, "/etc/containerd/conf.d/99-other.toml", DROP_IN)
    play = converge()
    assert play.rc != 0
    assert "99-other.toml" in play.output
    host.check_output("rm /etc/containerd/conf.d/99-other.toml")
    converge().succeeded()
    assert plugins(host)[CRI_PLUGIN] == "ok"


def test_a_drop_in_for_something_else_is_used(host: Any) -> None:
    write(host, "/etc/containerd/conf.d/50-metrics.toml", 'version = 2\n[metrics]\naddress = "127.0.0.1:1338"\n')
    converge().succeeded()
    assert host.run("curl -sf -o /dev/null http://127.0.0.1:1338/v1/metrics").rc == 0
    assert plugins(host)[CRI_PLUGIN] == "ok"
    host.check_output("rm /etc/containerd/conf.d/50-metrics.toml")
    assert converge().succeeded().changed == 1


def test_every_mistake_is_told_in_a_sentence(host: Any) -> None:
    before = host.file(CONFIG).content_string, pid(host)
    options = {"plugins": {CRI_PLUGIN: {"registry": {"mirrors": {"docker.io": {"endpoint": ["https://m"]}}}}}}
    wrong = {"containerd_sandbox_image": "pause", "containerd_cni_bin_dir": "cni", "options": options}
    said = " ".join(converge(**wrong).output.split())
    sentences = [
        "containerd_sandbox_image is 'pause': it needs an image with a tag",
        "containerd_cni_bin_dir is 'cni': it needs an absolute path",
        "registries stand in /etc/containerd/certs.d",
    ]
    assert [sentence for sentence in sentences if sentence not in said] == []
    assert (host.file(CONFIG).content_string, pid(host)) == before


def test_no_credential_was_shown(host: Any) -> None:
    """What was moved from the old configuration is a secret, also in a diff."""
    host.check_output("systemctl is-active containerd")
    output = converge("-vvv").succeeded().output
    assert "old-s3cret" not in output
    assert "cHVsbGVyOm9sZC1zM2NyZXQ" not in output


@pytest.mark.usefixtures("undisturbed")
def test_removal_gives_back_what_was_there(host: Any) -> None:
    play = run_play(HERE / "remove.yml").succeeded()
    assert "old-s3cret" not in play.output
    assert 'endpoint = ["http://127.0.0.1:5999"]' in host.file(CONFIG).content_string
    assert "containerd" in host.check_output("apt-mark showhold").split(), "docker_engine still holds it"
    assert CRI_PLUGIN not in plugins(host)
    assert host.run("docker run --rm tiny:1 sleep 0").rc == 0
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
