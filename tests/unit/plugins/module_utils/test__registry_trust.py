# SPDX-License-Identifier: GPL-3.0-or-later
"""Each runtime's file holds what it needs, parses, and gives back the login that went in."""

from __future__ import annotations

import base64
import json
import tomllib
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _registry_trust
from ansible_collections.slipway.platform.plugins.module_utils._registry_trust import Trust
from hypothesis import given
from hypothesis import strategies as st

CA = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"
BASE = {"host": "registry.corp.lab", "ca_certificate": CA}
URL = "https://registry.corp.lab:6001"


def trust(**settings: Any) -> Trust:
    return Trust.parse({**BASE, **settings})


def by_path(given_trust: Trust) -> dict[str, dict[str, str]]:
    return {item["path"]: item for item in _registry_trust.files(given_trust)}


def toml(given_trust: Trust, name: str) -> dict[str, Any]:
    item = by_path(given_trust)[f"/etc/containerd/certs.d/{name}/hosts.toml"]
    return tomllib.loads(item.get("content") or item["secret_content"])


def test_every_runtime_and_the_system_trust_the_ca() -> None:
    files = by_path(trust())
    holding = {path for path, item in files.items() if item.get("content") == CA + "\n"}
    assert holding == {
        "/etc/slipway/registry_trust/ca.crt",
        "/usr/local/share/ca-certificates/slipway-registry.crt",
        "/etc/docker/certs.d/registry.corp.lab:6001/ca.crt",
        "/etc/containers/certs.d/registry.corp.lab:6001/ca.crt",
    }
    assert toml(trust(), "registry.corp.lab:6001")["host"][URL]["ca"] == "/etc/slipway/registry_trust/ca.crt"


def test_without_a_host_there_is_nothing() -> None:
    nothing = Trust.parse({})
    assert _registry_trust.files(nothing) == []
    assert _registry_trust.json_keys(nothing) == []
    assert _registry_trust.daemon_json(nothing) == {}
    assert _registry_trust.notices(nothing) == []


def test_a_public_ca_needs_no_file() -> None:
    files = by_path(trust(ca_certificate=""))
    assert set(files) == {
        "/etc/containerd/certs.d/registry.corp.lab:6001/hosts.toml",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
        "/etc/containers/registries.conf.d/50-slipway.conf",
    }
    assert "ca" not in toml(trust(ca_certificate=""), "docker.io")["host"][URL]


def test_the_systems_store_is_optional() -> None:
    assert not any("/usr/local" in path for path in by_path(trust(system_trust=False)))


@pytest.mark.parametrize("fallback", [True, False])
def test_only_without_fallback_the_mirror_is_the_last_resort(fallback: bool) -> None:
    """Measured: without a server line containerd asks the upstream; with the mirror there it asks nobody else."""
    mirror = toml(trust(fallback=fallback), "docker.io")
    assert mirror.get("server") == (None if fallback else URL)
    assert mirror["host"][URL] == {
        "capabilities": ["pull", "resolve"],
        "ca": "/etc/slipway/registry_trust/ca.crt",
        "dial_timeout": "5s",
    }
    registry = toml(trust(fallback=fallback), "registry.corp.lab:6001")
    assert registry["server"] == URL
    assert "push" in registry["host"][URL]["capabilities"]


@pytest.mark.parametrize("fallback", [True, False])
def test_podman_blocks_the_upstream_without_fallback(fallback: bool) -> None:
    text = by_path(trust(fallback=fallback, mirrors=["docker.io", "quay.io"]))[
        "/etc/containers/registries.conf.d/50-slipway.conf"
    ]["content"]
    parsed = tomllib.loads(text)
    assert parsed["unqualified-search-registries"] == ["docker.io"]
    assert [entry["prefix"] for entry in parsed["registry"]] == ["docker.io", "quay.io"]
    assert [entry.get("blocked", False) for entry in parsed["registry"]] == [not fallback] * 2
    assert [entry["mirror"] for entry in parsed["registry"]] == [[{"location": "registry.corp.lab:6001"}]] * 2


def test_bare_names_are_podmans_own_choice_without_the_hub() -> None:
    text = _registry_trust.registries_conf(trust(mirrors=["quay.io"]))
    assert "unqualified" not in text


def test_port_443_is_left_out_of_image_names_too() -> None:
    paths = by_path(trust(port=443))
    assert "/etc/docker/certs.d/registry.corp.lab/ca.crt" in paths
    assert "/etc/docker/certs.d/registry.corp.lab:443/ca.crt" in paths
    assert "/etc/containerd/certs.d/registry.corp.lab/hosts.toml" in paths


@pytest.mark.parametrize(("runtime", "place"), [("docker", "/etc/docker"), ("containers", "/etc/containers")])
def test_only_the_runtimes_that_are_named_are_told(runtime: str, place: str) -> None:
    paths = by_path(trust(runtimes=[runtime], system_trust=False))
    assert {path for path in paths if not path.startswith(place)} == {"/etc/slipway/registry_trust/ca.crt"}


@given(user=st.text(min_size=1).filter(lambda text: ":" not in text), password=st.text(min_size=1))
def test_any_login_survives_both_files(user: str, password: str) -> None:
    """A property: what containerd and Docker decode is what went in."""
    try:
        f"{user}{password}".encode()
    except UnicodeEncodeError:
        return
    given_trust = trust(user=user, password=password)
    header = toml(given_trust, "docker.io")["host"][URL]["header"]["authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"{user}:{password}"
    (key,) = _registry_trust.json_keys(given_trust)
    assert key["keys"] == ["auths", "registry.corp.lab:6001"]
    assert base64.b64decode(key["secret_value"]["auth"]).decode() == f"{user}:{password}"


def test_a_file_with_a_login_is_for_root_only() -> None:
    for path, item in by_path(trust(user="u", password="p")).items():
        if path.endswith("hosts.toml"):
            assert "content" not in item
            assert item["mode"] == "0600"
    assert by_path(trust())["/etc/containerd/certs.d/docker.io/hosts.toml"]["mode"] == "0644"


def test_the_last_resort_has_the_login_too() -> None:
    """Else an image that the registry lacks is told as a wrong login. With fallback the upstream is the last resort."""
    login = {"authorization": "Basic dTpw"}
    for fallback, header in ((False, login), (True, None)):
        given_trust = trust(user="u", password="p", fallback=fallback)
        assert toml(given_trust, "docker.io").get("header") == header
        assert toml(given_trust, "registry.corp.lab:6001")["header"] == login
    assert "header" not in toml(trust(fallback=False), "docker.io")


def test_a_login_is_kept_for_clients_only_where_one_is_served() -> None:
    assert _registry_trust.json_keys(trust(user="u", password="p", runtimes=["containerd"])) == []
    assert _registry_trust.json_keys(trust()) == []


@given(st.text())
def test_toml_strings_are_read_as_they_were(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert tomllib.loads(f"a = {_registry_trust.toml_string(text)}")["a"] == text


@pytest.mark.parametrize(
    ("settings", "mirrors"),
    [({}, [URL]), ({"mirrors": ["quay.io"]}, []), ({"docker_mirror": False}, []), ({"mirrors": []}, [])],
)
def test_dockerd_gets_a_list_that_it_reloads(settings: dict[str, Any], mirrors: list[str]) -> None:
    """An empty list rather than none: dockerd takes that over without a restart."""
    assert _registry_trust.daemon_json(trust(**settings)) == {"registry-mirrors": mirrors}


def test_dockerd_is_not_told_where_it_is_not_served() -> None:
    assert _registry_trust.daemon_json(trust(runtimes=["containerd"])) == {}


def test_what_dockerd_cannot_do_is_said() -> None:
    assert _registry_trust.notices(trust()) == []
    assert "dockerd has no switch" in _registry_trust.notices(trust(fallback=False))[0]
    assert "quay.io" in _registry_trust.notices(trust(mirrors=["docker.io", "quay.io"]))[0]
    assert _registry_trust.notices(trust(fallback=False, mirrors=["quay.io"], runtimes=["containerd"])) == []
    assert _registry_trust.notices(trust(fallback=False, docker_mirror=False)) == []


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="does not know hosts: it takes host, port"):
        Trust.parse({"hosts": "x"})


def test_a_port_may_be_text() -> None:
    assert json.loads(json.dumps(_registry_trust.daemon_json(trust(port="7001")))) == {
        "registry-mirrors": ["https://registry.corp.lab:7001"]
    }


def test_without_mirrors_only_the_registry_itself_is_told() -> None:
    paths = set(by_path(trust(mirrors=[], ca_certificate="")))
    assert paths == {"/etc/containerd/certs.d/registry.corp.lab:6001/hosts.toml"}


CACHES = (
    {"upstream": "docker.io", "host": "cache.corp.lab", "port": "6011"},
    {"upstream": "registry.k8s.io", "host": "cache.corp.lab", "port": 6012},
)
HUB_CACHE, KUBERNETES_CACHE = "https://cache.corp.lab:6011", "https://cache.corp.lab:6012"


@pytest.mark.parametrize("fallback", [True, False])
def test_the_registry_is_asked_then_the_cache_then_the_upstream(fallback: bool) -> None:
    """The tables of hosts.toml are asked in order; the last resort is the cache, or, with fallback, not named."""
    given_trust = trust(caches=CACHES, fallback=fallback, user="u", password="p")
    text = by_path(given_trust)["/etc/containerd/certs.d/docker.io/hosts.toml"]["secret_content"]
    assert text.index(f'[host."{URL}"]') < text.index(f'[host."{HUB_CACHE}"]')
    assert tomllib.loads(text).get("server") == (None if fallback else HUB_CACHE)
    assert "header" not in tomllib.loads(text)["host"][HUB_CACHE]
    assert list(toml(given_trust, "registry.k8s.io")["host"]) == [KUBERNETES_CACHE]
    assert toml(given_trust, "registry.k8s.io").get("server") == (None if fallback else KUBERNETES_CACHE)


def test_podman_asks_in_the_same_order() -> None:
    conf = tomllib.loads(by_path(trust(caches=CACHES))["/etc/containers/registries.conf.d/50-slipway.conf"]["content"])
    assert {item["prefix"]: [mirror["location"] for mirror in item["mirror"]] for item in conf["registry"]} == {
        "docker.io": ["registry.corp.lab:6001", "cache.corp.lab:6011"],
        "registry.k8s.io": ["cache.corp.lab:6012"],
    }


@pytest.mark.parametrize(
    ("settings", "mirrors"),
    [
        ({}, [URL, HUB_CACHE]),
        ({"docker_mirror": False}, [HUB_CACHE]),
        ({"mirrors": []}, [HUB_CACHE]),
        ({"host": ""}, [HUB_CACHE]),
        ({"caches": CACHES[1:]}, [URL]),
    ],
)
def test_dockerd_asks_caches_of_the_hub(settings: dict[str, Any], mirrors: list[str]) -> None:
    assert _registry_trust.daemon_json(trust(**{"caches": CACHES, **settings})) == {"registry-mirrors": mirrors}


def test_caches_are_trusted_by_the_same_ca() -> None:
    files = by_path(trust(caches=CACHES))
    for place in ("docker", "containers"):
        for port in (6011, 6012):
            assert files[f"/etc/{place}/certs.d/cache.corp.lab:{port}/ca.crt"]["content"] == CA + "\n"


def test_caches_do_without_a_registry() -> None:
    alone = trust(host="", caches=CACHES)
    assert "/etc/containerd/certs.d/docker.io/hosts.toml" in by_path(alone)
    assert not [path for path in by_path(alone) if "registry.corp.lab" in path or ":6001" in path]
    assert "a cache (containerd and Podman do)" in _registry_trust.notices(alone)[0]
