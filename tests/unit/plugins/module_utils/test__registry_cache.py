# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cache is made of: each setting arrives where it is read, and no secret where it is not."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml
from ansible_collections.slipway.platform.plugins.module_utils import _registry_cache
from ansible_collections.slipway.platform.plugins.module_utils._registry_cache import Caches
from hypothesis import given, settings
from hypothesis import strategies as st

SITE = {"url": "http://proxy.corp.lab:8080", "user": "CORP\\site", "password": "site%se#cret"}
OWN = {"url": "http://other.corp.lab:3128", "user": "own", "password": "o'wn $ecret"}
HUB = {"name": "docker.io", "port": "6011", "user": None, "password": None, "proxy": None, "max_size": None}
VAULT = {
    "name": "vault.corp.lab:5000",
    "port": 6012,
    "url": "http://vault.corp.lab:5000/",
    "user": "rack",
    "password": 'v"ault',
    "proxy": OWN,
    "max_size": "20g",
}
BASE = {
    "host": "cache.corp.lab",
    "upstreams": [HUB, VAULT],
    "image": "docker.io/library/registry:3.1.2",
    "data_dir": "/srv/registry-cache",
    "ttl": "30d",
    "memory": "512m",
    "min_free": "4g",
    "http": SITE,
    "https": SITE,
    "no_proxy": [".corp.lab"],
}


def caches(**changes: Any) -> Caches:
    return Caches.parse({**BASE, **changes})


def by_path(found: Caches) -> dict[str, dict[str, str]]:
    return {item["path"].removeprefix("/etc/slipway/registry-cache/"): item for item in _registry_cache.files(found)}


def test_distribution_reads_its_configuration() -> None:
    files = by_path(caches())
    hub, vault = (yaml.safe_load(files[f"{key}/config.yml"]["content"]) for key in ("docker-io", "vault-corp-lab-5000"))
    assert hub["proxy"]["remoteurl"] == "https://registry-1.docker.io"
    assert vault["proxy"]["remoteurl"] == "http://vault.corp.lab:5000"
    assert vault["proxy"]["ttl"] == "2592000s"
    assert "username" not in vault["proxy"], "it would ask the upstream before it starts"


@pytest.mark.parametrize(
    ("key", "proxy"),
    [
        ("docker-io", "http://CORP%5Csite:site%25se%23cret@proxy.corp.lab:8080"),
        ("vault-corp-lab-5000", "http://own:o%27wn%20%24ecret@other.corp.lab:3128"),
    ],
)
def test_each_cache_has_its_proxy_as_the_shell_reads_it(key: str, proxy: str) -> None:
    item = by_path(caches())[f"{key}/proxy"]
    assert (item["mode"], item["group"]) == ("0640", "65530")
    shown = subprocess.run(
        ["sh", "-c", f"{item['secret_content']}echo $HTTPS_PROXY $HTTP_PROXY $NO_PROXY"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.split() == [proxy, proxy, ".corp.lab"]


def test_without_a_proxy_there_is_none() -> None:
    item = by_path(caches(http={}, https={}, upstreams=[HUB]))["docker-io/proxy"]
    assert item["secret_content"] == _registry_cache.HEADER


@settings(max_examples=30)
@given(st.text(), st.text())
def test_any_login_comes_through(user: str, password: str) -> None:
    item = by_path(caches(upstreams=[{**VAULT, "user": user, "password": password}]))["vault-corp-lab-5000/login.json"]
    assert json.loads(item["secret_content"]) == {"Username": user, "Secret": password}
    assert item["mode"] == "0640"


def test_secrets_stand_in_secret_content_only() -> None:
    shown = [{**item, "secret_content": ""} for item in _registry_cache.files(caches())]
    open_text = str([shown, _registry_cache.containers(caches()), _registry_cache.program(caches()), caches()])
    for secret in ("cret", "ault"):
        assert secret not in open_text.replace("secret_content", "").replace("vault.corp.lab", "").replace("vault-", "")


def test_containers_differ_in_name_and_places_only() -> None:
    hub, vault = _registry_cache.containers(caches())
    assert hub["name"] == "slipway-registry-cache-docker-io"
    assert "/srv/registry-cache/vault-corp-lab-5000:/var/lib/registry" in vault["volumes"]
    assert {key: value for key, value in hub.items() if key not in ("name", "volumes", "restart_on")} == {
        key: value for key, value in vault.items() if key not in ("name", "volumes", "restart_on")
    }


def test_the_program_is_told_what_it_may_say() -> None:
    told = _registry_cache.program(caches(upstreams=[HUB, VAULT, {"name": "quay.io", "port": 3, "probe": "a/b"}]))
    assert told["min_free"] == 4 * 2**30
    assert told["caches"][0] | {"key": ""} == {
        "name": "docker.io",
        "key": "",
        "container": "slipway-registry-cache-docker-io",
        "port": 6011,
        "url": "https://registry-1.docker.io",
        "user": "",
        "proxy": "proxy.corp.lab:8080",
        "proxy_user": "CORP\\site",
        "max_size": 0,
        "probe": "library/hello-world",
    }
    assert (told["caches"][1]["proxy"], told["caches"][1]["max_size"]) == ("other.corp.lab:3128", 20 * 2**30)
    assert [cache["probe"] for cache in told["caches"][1:]] == ["slipway-check", "a/b"]


def test_unknown_settings_and_broken_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="does not know upstream:"):
        caches(upstream=[])
    with pytest.raises(ValueError, match="is no size"):
        _registry_cache.in_bytes("much")
    with pytest.raises(ValueError, match="is no duration"):
        _registry_cache.in_seconds("30")
