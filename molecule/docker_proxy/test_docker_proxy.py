# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulls go through the proxy under the right user, whatever the password; and nobody else learns it."""

from __future__ import annotations

import base64
import json
import os
import random
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _proxy

from tests.lab import credentials
from tests.testinfra.lab import Lab, Request, log_size
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
URL = "http://proxy.corp.lab:8080"
IMAGE = "docker.io/library/world:1"
OWNER = "molecule-docker-proxy"
SOCKET = "/run/docker.sock"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
LONG = bool(os.environ.get("SLIPWAY_LONG"))
HOSTILE = [
    ("{{ user }}", "{{ 7 * 7 }}{% raw %} $HOME `id` '\"\\"),
    ("a b", " leading, trailing and  double "),
    ("it's", 'say "hi"'),
    ("$HOME", "${PATH}$(id)$$%n%H%%41%"),
    ("back\\slash\\", "\\n\\x41\\\\"),
    ("#user", ";comment # not"),
    ("jürgen", "пароль€🐳"),
    ("100%", "p@ss:w0rd/?&=+!*|<>[]~^"),
]


def converge(**variables: Any) -> Play:
    """Run the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables)


def account(user: str, password: str, url: str = URL) -> dict[str, str]:
    return {"url": url, "user": user, "password": password}


def process_environment(host: Any, unit: str) -> dict[str, str]:
    """Return the environment of a unit's main process as the kernel has it."""
    pid = host.check_output(f"systemctl show --property=MainPID --value {unit}.service")
    text = host.run(f"cat /proc/{pid}/environ").stdout
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def credentials_of(url: str) -> tuple[str, str]:
    userinfo = urllib.parse.urlsplit(url).netloc.rpartition("@")[0]
    user, _, password = userinfo.partition(":")
    return urllib.parse.unquote(user), urllib.parse.unquote(password)


def starts(host: Any) -> tuple[str, str]:
    """Return what changes whenever an engine is started again."""
    return tuple(
        host.check_output(f"systemctl show --property=InvocationID --value {unit}.service")
        for unit in ("docker", "containerd")
    )


def started_count(host: Any, unit: str = "docker") -> int:
    """How often systemd has started a unit since boot."""
    host.run("journalctl --sync")
    return int(host.run(f"journalctl -b -u {unit}.service _PID=1 -o cat | grep -c '^Started'").stdout.strip())


def systemd_reloads(host: Any) -> int:
    """How often systemd has read its units again since boot."""
    host.run("journalctl --sync")
    return int(host.run("journalctl -b _PID=1 -o cat | grep -c '^Reloading'").stdout.strip())


def pull(host: Any) -> str:
    """Pull the image anew; return why it failed, or nothing."""
    name, _, tag = IMAGE.rpartition(":")
    host.run(f"curl -sS --unix-socket {SOCKET} -X DELETE 'http://docker/images/{IMAGE}?force=1'")
    # What `docker pull` does; the machine's image has the daemon only.
    result = host.run(
        f"curl -sS --unix-socket {SOCKET} -X POST 'http://docker/images/create?fromImage={name}&tag={tag}'"
    )
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    errors = [str(line.get("error") or line.get("message")) for line in lines if "error" in line or "message" in line]
    return "".join([str(result.stderr), *errors])


def pulled_as(lab: Lab, host: Any, user: str) -> None:
    """Pull, and see in squid's log that it was this user, always with success."""
    lab.mark = log_size()
    assert pull(host) == ""
    log = requests(lab)
    assert log, "squid has seen nothing"
    assert {(request.user, request.result.rpartition("/")[2]) for request in log} == {(user, "200")}, log


def requests(lab: Lab) -> list[Request]:
    """What squid has logged of this machine's CONNECTs; a tunnel is logged when it closes."""
    for _ in range(20):
        log = [item for item in lab.squid_log("docker-proxy") if item.url.startswith("registry-1.docker.io")]
        if log:
            return log
        time.sleep(0.5)
    return []


@pytest.fixture
def main_account() -> credentials.Account:
    return credentials.from_environment()


def test_a_pull_is_logged_under_the_user(host: Any, lab: Lab, main_account: credentials.Account) -> None:
    pulled_as(lab, host, main_account.user)


@pytest.mark.parametrize("unit", ["docker", "containerd"])
def test_the_process_has_the_variables(host: Any, unit: str, main_account: credentials.Account) -> None:
    environment = process_environment(host, unit)
    for name in NAMES:
        assert credentials_of(environment[name]) == (main_account.user, main_account.password)
    for name in ("NO_PROXY", "no_proxy"):
        assert environment[name] == ".corp.lab,127.0.0.0/8,172.29.64.0/24,localhost"


def test_nobody_learns_the_password(host: Any, main_account: credentials.Account) -> None:
    secret = Secret(main_account.password, main_account.user)
    assert leaks_on(host, [secret]) == []
    for user in ("", "runuser -u nobody -- "):
        shown = host.check_output(f"{user}systemctl show docker.service containerd.service")
        assert "EnvironmentFiles=/etc/slipway/docker_proxy/http.env" in shown
        assert leaks_in(shown, [secret]) == []
    assert host.file("/etc/slipway/docker_proxy").mode == 0o700
    assert host.file("/etc/slipway/docker_proxy/https.env").mode == 0o600


def test_systemd_reads_back_any_value(host: Any) -> None:
    """The real systemd, and not only the parser in the unit tests: a hundred values through both kinds of file."""
    chance = random.Random(1)
    letters = " '\"%$\\{}#;@:/!?&=+`|<>*~^()[],abcnx0127äß€漢🐳"
    values = {f"V{number}": "".join(chance.choices(letters, k=30)) for number in range(100)}
    unit = "/run/systemd/system/slipway-test.service"
    texts = {
        "/run/slipway-test.env": _proxy.systemd_environment_file({f"FILE_{k}": v for k, v in values.items()}),
        unit: "[Service]\nType=oneshot\nExecStart=/usr/bin/env -0\nStandardOutput=truncate:/run/slipway-test.out\n"
        "EnvironmentFile=/run/slipway-test.env\n"
        + _proxy.systemd_environment({f"UNIT_{k}": v for k, v in values.items()}),
    }
    for path, text in texts.items():
        host.check_output(f"echo {base64.b64encode(text.encode()).decode()} | base64 -d > {path}")
    host.check_output("systemctl daemon-reload && systemctl start slipway-test.service")
    entries = host.run("cat /run/slipway-test.out").stdout_bytes.decode().split("\0")
    found = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    host.check_output(f"rm {unit} /run/slipway-test.env /run/slipway-test.out && systemctl daemon-reload")
    assert {name: found.get(f"FILE_{name}") for name in values} == values
    assert {name: found.get(f"UNIT_{name}") for name in values} == values


def test_order_means_nothing(host: Any) -> None:
    before = starts(host)
    play = converge(no_proxy=["172.29.64.0/24", ".CORP.lab", "localhost", "127.0.0.0/8", ".corp.lab"]).succeeded()
    assert play.changed == 0
    assert starts(host) == before


def test_a_wrong_password_is_called_wrong(host: Any, main_account: credentials.Account) -> None:
    wrong = "wr@ng%41 pässword"
    before = starts(host)
    play = converge(proxy=account(main_account.user, wrong))
    assert play.rc != 0
    assert play.seconds < 30
    assert "host_proxy_http, host_proxy_https: the proxy proxy.corp.lab:8080 answered 407" in play.output
    assert leaks_in(play.output, [Secret(wrong, main_account.user)]) == []
    assert play.changed == 0
    assert starts(host) == before


@pytest.mark.parametrize(("port", "words"), [(8099, "refused the connection"), (8098, "gave no answer within 10 s")])
def test_a_proxy_that_is_down_is_named(host: Any, main_account: credentials.Account, port: int, words: str) -> None:
    if port == 8098:
        host.check_output("iptables -I OUTPUT -p tcp --dport 8098 -j DROP")
    play = converge(proxy=account(main_account.user, main_account.password, f"http://proxy.corp.lab:{port}"))
    if port == 8098:
        host.check_output("iptables -D OUTPUT -p tcp --dport 8098 -j DROP")
    assert play.rc != 0
    assert play.seconds < 30
    assert f"the proxy proxy.corp.lab:{port} {words}" in " ".join(play.output.split())
    assert play.changed == 0


def test_proxies_in_daemon_json_are_refused_by_name(host: Any) -> None:
    path = "/etc/docker/daemon.json"
    host.check_output(f"""echo '{{"proxies": {{"https-proxy": "http://x:foreign@p:1"}}}}' > {path}""")
    play = converge()
    host.check_output(f"rm {path}")
    assert play.rc != 0
    assert "/etc/docker/daemon.json on this host holds proxies (https-proxy)" in " ".join(play.output.split())
    assert "foreign" not in play.output


def test_an_interrupted_run_is_finished_by_the_next(host: Any, lab: Lab) -> None:
    reloads = systemd_reloads(host)
    with lab.proxy_account("third", "after the break", OWNER):
        proxy = account("third", "after the break")
        assert converge(proxy=proxy, interrupted=True).rc != 0
        assert credentials_of(process_environment(host, "docker")["HTTPS_PROXY"])[0] != "third"
        converge(proxy=proxy).succeeded()
        assert credentials_of(process_environment(host, "docker")["HTTPS_PROXY"])[0] == "third"
        assert converge(proxy=proxy).succeeded().changed == 0
    # Only the files with the variables have changed, no unit: a reload would take GPUs from running containers.
    assert systemd_reloads(host) == reloads


@pytest.mark.parametrize(("user", "password"), HOSTILE if LONG else HOSTILE[:1])
def test_hostile_credentials_in_the_unit_and_back(host: Any, lab: Lab, user: str, password: str) -> None:
    """The unit is the harder place, and the default mode afterwards leaves nothing of it."""
    secret, proxy = Secret(password, user), account(user, password)
    with lab.proxy_account(user, password, OWNER):
        count = started_count(host)
        play = converge(proxy=proxy, docker_proxy_credentials="environment").succeeded()
        assert leaks_in(play.output, [secret]) == []
        assert started_count(host) == count + 1
        shown = host.check_output("systemctl show --property=Environment docker")
        assert all(f"{name}=http://" in shown for name in NAMES)
        # This is what the mode is: every local user may look.
        assert leaks_in(host.check_output("runuser -u nobody -- systemctl show docker"), [secret]) != []
        assert not host.file("/etc/slipway/docker_proxy").exists
        assert host.file("/etc/systemd/system/docker.service.d/http-proxy.conf").mode == 0o600
        assert host.run("journalctl -b _PID=1 | grep 'Failed to resolve specifiers'").stdout == ""
        assert_used(host, lab, user, password)

        play = converge(proxy=proxy).succeeded()
        assert leaks_in(play.output, [secret]) == []
        assert leaks_on(host, [secret]) == []
        assert_used(host, lab, user, password)


def assert_used(host: Any, lab: Lab, user: str, password: str) -> None:
    """The daemon, a pull and apt go through the proxy with exactly these credentials."""
    assert credentials_of(process_environment(host, "docker")["HTTPS_PROXY"]) == (user, password)
    pulled_as(lab, host, user)
    assert host.run("apt-get update").rc == 0


def test_each_scheme_has_its_own(host: Any, lab: Lab) -> None:
    proxy = account("second", "other%41pass")
    with lab.proxy_account("second", "other%41pass", OWNER):
        converge(docker_proxy_http={}, docker_proxy_https=proxy, docker_proxy_engines=["docker"]).succeeded()
        environment = process_environment(host, "docker")
        assert "HTTP_PROXY" not in environment
        assert credentials_of(environment["https_proxy"]) == ("second", "other%41pass")
        assert "https_proxy" not in process_environment(host, "containerd")
        assert not host.file("/etc/systemd/system/containerd.service.d").exists
        assert not host.file("/etc/systemd/system/docker.service.d/http-proxy.conf").exists
        pulled_as(lab, host, "second")


def test_a_certificate_that_is_dropped_is_gone_and_missed(host: Any) -> None:
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    before, count = host.file(bundle).size, started_count(host)
    converge(company_certificates={}).succeeded()
    assert host.file(bundle).size < before
    assert host.run("ls /etc/ssl/certs | grep slipway").stdout == ""
    assert host.run("find /etc/ssl/certs -xtype l").stdout == ""
    assert started_count(host) == count + 1
    assert "x509" in pull(host)


def test_switched_off_is_gone_after_one_restart(host: Any) -> None:
    count = started_count(host)
    converge(proxy={}).succeeded()
    assert started_count(host) == count + 1
    assert not any(name in process_environment(host, "docker") for name in (*NAMES, "NO_PROXY"))
    for path in ("/etc/slipway", "/etc/systemd/system/docker.service.d", "/etc/apt/apt.conf.d/80slipway-proxy"):
        assert not host.file(path).exists, path


def test_removal_leaves_nothing(host: Any) -> None:
    count = started_count(host)
    play = run_play(HERE / "remove.yml").succeeded()
    assert play.changed > 0
    assert started_count(host) == count + 1
    for path in (
        "/etc/slipway",
        "/etc/systemd/system/docker.service.d",
        "/etc/systemd/system/containerd.service.d",
        "/etc/apt/apt.conf.d/80slipway-proxy",
        "/var/lib/slipway/ledger/docker_proxy.json",
    ):
        assert not host.file(path).exists, path
    assert host.run("find / -xdev -name '*slipway-lab-internet*'").stdout == ""
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
    check = run_play(HERE / "converge.yml", arguments=["--check", "--diff"]).succeeded()
    assert check.changed > 0
    assert not host.file("/etc/slipway").exists
