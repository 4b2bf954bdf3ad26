"""Input that can't work: one sentence that names the variable, what it got and what it needs; nothing changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.site.conftest import MACHINES, Run, footprint, lab, on, playbook
from tests.unit.plugins.plugin_utils.certificates import Pair, make

PROXY = {"url": "http://proxy.corp.lab:8080", "user": "someone", "password": "topsecretvalue"}
REGISTRY = {"host": "registry.corp.lab", "port": 6001, "ca_certificate": ""}


def site(**facts: Any) -> str:
    """Return the argument of --extra-vars for some facts."""
    return json.dumps(facts)


def proxy(**parts: str) -> str:
    """Return --extra-vars with a proxy that differs in some parts."""
    wrong = {**PROXY, **parts}
    return site(site_proxy={"http": wrong, "https": wrong, "no_proxy": [".corp.lab"]})


AUTHORITY, STRANGER = make("ca"), make("stranger")
SERVER = make("registry.corp.lab", issuer=AUTHORITY, authority=False)
EXPIRED = make("registry.corp.lab", issuer=AUTHORITY, authority=False, start=-9, end=-2)


def files(certificate: Pair, key: Pair, ca: Pair) -> str:
    """Return --extra-vars for a registry with certificates of the site's own."""
    return site(
        registry_tls="files",
        registry_certificate=certificate.pem,
        registry_private_key=key.key_pem,
        registry_ca_certificate=ca.pem,
    )


CASES = {
    "key of another certificate": (
        files(SERVER, STRANGER, AUTHORITY), "registry_private_key is the key of another certificate", "belongs to",
    ),
    "another CA": (files(SERVER, SERVER, STRANGER), "registry_ca_certificate is", "the CA that signed"),
    "expired certificate": (files(EXPIRED, EXPIRED, AUTHORITY), "registry_certificate is", "valid today"),
    "unknown key": (proxy(uesr="me"), "host_proxy_http.uesr is not an option", "password, url, user"),
    "port of letters": (site(site_registry={**REGISTRY, "port": "abc"}), "registry_port is 'abc'", "number"),
    "no scheme": (proxy(url="proxy.corp.lab:8080"), "host_proxy_http.url is 'proxy.corp.lab:8080'", "a scheme"),
    "credentials inside": (
        proxy(url="http://me:topsecretvalue@proxy.corp.lab:8080"), "host_proxy_http.url is", "no user or password",
    ),
    "star in no_proxy": (
        site(site_proxy={"no_proxy": ["*.corp"]}), "host_proxy_no_proxy[0] is '*.corp'", "a suffix with a leading dot"
    ),
    "space in no_proxy": (site(site_proxy={"no_proxy": ["a b"]}), "host_proxy_no_proxy[0] is 'a b'", "without spaces"),
    "four DNS servers": (
        site(site_dns={"servers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]}),
        "container_network_dns_servers is", "at most 3 servers",
    ),
    "registry does not resolve": (
        site(site_registry={**REGISTRY, "host": "nowhere.corp.lab"}), "nowhere.corp.lab", "resolve"
    ),
    "user without password": (
        site(registry_users=[{"name": "admin", "password": ""}]), "registry_users[0].password is empty", "a password"
    ),
    "pages in no directory": (
        site(registry_ui_data_dir="pages", registry_ui_memory="much"),
        "registry_ui_data_dir is 'pages'", "registry_ui_memory is 'much': it needs a size",
    ),
    "wrong engine option type": (site(docker_engine_options=["a"]), "docker_engine_options is", "a dictionary"),
}  # fmt: skip


def refused(run: Run, variable: str, needs: str) -> None:
    """Assert that a run failed before it changed anything, with the sentence it should have said."""
    assert run.rc != 0
    assert variable in run.errors and needs in run.errors, run.errors
    assert not any(run.changed.values())
    assert "topsecretvalue" not in run.output


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_a_mistake_is_refused_in_one_sentence(case: str) -> None:
    extra, variable, needs = CASES[case]
    refused(playbook("site.yml", "-e", extra, log=f"bad-{case.replace(' ', '-')}"), variable, needs)


@pytest.mark.parametrize(
    ("machine_os", "says"),
    [(("Rocky", "9"), "Rocky 9.0: it needs to be one of Debian 12, Debian 13"), (("Ubuntu", "24"), None)],
)
def test_other_systems_are_refused_and_ubuntu_is_accepted_with_a_notice(
    machine_os: tuple[str, str], says: str | None
) -> None:
    name, major = machine_os
    version = {"Rocky": "9.0", "Ubuntu": "24.04"}[name]
    facts = {"distribution": name, "distribution_major_version": major, "distribution_version": version}
    run = playbook("tests/site/os.yml", "-e", json.dumps({"pretended": facts}), log=f"os-{name}")
    if says:
        refused(run, "ansible_facts.distribution is", says)
    else:
        assert run.rc == 0, run.errors
        assert "not tested" in run.output


@pytest.fixture()
def untouched() -> Iterator[None]:
    """Assert that a failing run leaves every machine as it was."""
    before = {machine: footprint(machine) for machine in MACHINES}
    yield
    assert {machine: footprint(machine) for machine in MACHINES} == before


def test_a_wrong_password_is_called_407_and_never_shown(untouched: None) -> None:
    wrong = {**PROXY, "user": "corp\\svc"}
    extra = site(site_proxy={"http": wrong, "https": wrong, "no_proxy": [".corp.lab", "172.29.64.0/24"]})
    refused(playbook("site.yml", "-vvv", "--diff", "-e", extra, log="407"), "proxy.corp.lab:8080", "407")


def test_a_dead_proxy_is_named_within_30_seconds_and_the_next_run_converges(untouched: None) -> None:
    on("node1", "rm /var/lib/slipway/converged.json")  # else the run ends early and needs no proxy
    on("gateway", "systemctl stop squid")
    try:
        start = time.monotonic()
        run = playbook("site.yml", log="proxy-down")
        took = time.monotonic() - start
    finally:
        on("gateway", "systemctl start squid")
    refused(run, "proxy.corp.lab:8080", "refused")
    assert took < 30
    again = playbook("site.yml", log="proxy-up")
    assert again.rc == 0, again.errors
    assert lab("status")
