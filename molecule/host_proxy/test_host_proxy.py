# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare machine installs packages through the proxy, and an engine that comes later has it from its start."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.lab import credentials
from tests.testinfra.lab import Lab
from tests.testinfra.play import Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
FILE = "/etc/apt/apt.conf.d/80slipway-proxy"
ORDINARY = "runuser -u nobody --"
LONG = bool(os.environ.get("SLIPWAY_LONG"))
MISTAKES = [
    ({"http_proxy": {"url": "proxy:8080"}}, "host_proxy_http.url is 'proxy:8080': it needs a scheme"),
    ({"http_proxy": {"url": "http://u:s3cr3t@proxy:8080"}}, "no user or password inside"),
    ({"http_proxy": {"url": "http://p:8080", "user": "u"}}, "host_proxy_http.password is empty: it needs a value"),
    ({"no_proxy": ["*.corp"]}, "host_proxy_no_proxy[0] is '*.corp': it needs a suffix"),
    ({"no_proxy": ["a b"]}, "host_proxy_no_proxy[0] is 'a b'"),
    ({"company_certificates": {"x": "no PEM"}}, "host_proxy_ca_certificates.x is a text that is no certificate"),
    ({"http_proxy": {"url": "http://nowhere.corp.lab:1"}}, "nowhere.corp.lab:1 does not resolve on this host"),
]


def converge(**variables: Any) -> Play:
    """Run the scenario's play again, with other values, at the level that shows most."""
    return run_play(HERE / "converge.yml", variables)


@pytest.fixture
def secret() -> Secret:
    account = credentials.from_environment()
    return Secret(account.password, account.user)


def test_apt_goes_through_the_proxy(host: Any, lab: Lab, secret: Secret) -> None:
    assert host.run("apt-get update").rc == 0
    log = lab.squid_log("host-proxy")
    assert log
    assert {request.user for request in log} == {secret.user}
    assert not [request for request in log if request.result.endswith("/407")]


def test_the_file_is_for_root_and_apt_still_works_for_others(host: Any, secret: Secret) -> None:
    assert (host.file(FILE).mode, host.file(FILE).user) == (0o600, "root")
    for command in ("apt-cache policy bash", "apt list bash", "apt-config dump"):
        result = host.run(f"{ORDINARY} {command}")
        assert result.rc == 0, result.stderr
        assert leaks_in(result.stdout + result.stderr, [secret]) == []
    assert "bash" in host.run(f"{ORDINARY} apt-cache policy bash").stdout


def test_names_go_direct(host: Any) -> None:
    dump = host.check_output("apt-config dump Acquire")
    assert 'Acquire::http::Proxy::mirror.corp.lab "DIRECT"' in dump
    assert 'Acquire::http::Proxy::localhost "DIRECT"' in dump
    assert ".corp.lab" not in dump.replace("mirror.corp.lab", "").replace("proxy.corp.lab", "")


def test_the_company_is_trusted(host: Any) -> None:
    certificate = host.file("/usr/local/share/ca-certificates/slipway-lab-internet.crt").content_string
    assert certificate.strip() in host.file("/etc/ssl/certs/ca-certificates.crt").content_string
    assert host.run("find /etc/ssl/certs -name 'slipway-lab-internet.pem'").stdout != ""


def test_nobody_learns_the_password(host: Any, secret: Secret) -> None:
    assert leaks_on(host, [secret]) == []


@pytest.mark.parametrize(("variables", "words"), MISTAKES if LONG else MISTAKES[-1:])
def test_mistakes_are_named_and_change_nothing(variables: dict[str, Any], words: str) -> None:
    play = converge(**variables)
    assert play.rc != 0
    assert words in " ".join(play.output.split())
    assert "s3cr3t" not in play.output
    assert play.changed == 0


def test_one_scheme_only(host: Any, secret: Secret) -> None:
    play = converge(https_proxy={}).succeeded()
    assert leaks_in(play.output, [secret]) == []
    dump = host.check_output("apt-config dump Acquire::https::Proxy")
    assert 'Acquire::https::Proxy "DIRECT"' in dump


def test_what_is_switched_off_is_gone(host: Any) -> None:
    converge(http_proxy={}, https_proxy={}, company_certificates={}).succeeded()
    assert not host.file(FILE).exists
    assert host.run("find /usr/local/share/ca-certificates /etc/ssl/certs -name '*slipway*'").stdout == ""
    assert host.run("find /etc/ssl/certs -xtype l").stdout == ""


def test_an_engine_that_comes_later_has_the_proxy_from_its_start(host: Any, lab: Lab, secret: Secret) -> None:
    """As an administrator or another role installs it: with apt, knowing nothing of us."""
    converge().succeeded()
    result = host.run("DEBIAN_FRONTEND=noninteractive apt-get install -y -q docker.io")
    assert result.rc == 0, result.stdout[-2000:] + result.stderr[-2000:]
    pid = host.check_output("systemctl show --property=MainPID --value docker.service")
    variables = dict(
        entry.split("=", 1) for entry in host.file(f"/proc/{pid}/environ").content_string.split("\0") if entry
    )
    userinfo = urllib.parse.urlsplit(variables["HTTPS_PROXY"]).netloc.rpartition("@")[0]
    assert urllib.parse.unquote(userinfo) == f"{secret.user}:{secret.password}"
    pulled = host.run("docker pull docker.io/library/world:1")
    assert pulled.rc == 0, pulled.stderr
    assert lab.squid_log("host-proxy")
    assert converge().succeeded().changed == 0
    assert host.check_output("systemctl show --property=MainPID --value docker.service") == pid
