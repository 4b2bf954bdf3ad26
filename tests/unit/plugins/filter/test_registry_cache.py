# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters take a dictionary of settings and fail in one sentence for anything else."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter.registry_cache import FilterModule

FILTERS = FilterModule().filters()
SETTINGS = {
    "host": "cache.corp.lab",
    "upstreams": [{"name": "docker.io", "port": 6011}],
    "image": "docker.io/library/registry:3.1.2",
    "data_dir": "/srv/registry-cache",
    "ttl": "30d",
    "memory": "512m",
    "min_free": "4g",
}


def test_each_filter_does_its_part() -> None:
    assert len(FILTERS["registry_cache_files"](SETTINGS)) == 6
    assert FILTERS["registry_cache_containers"](SETTINGS)[0]["name"] == "slipway-registry-cache-docker-io"
    assert FILTERS["registry_cache_program"](SETTINGS)["caches"][0]["port"] == 6011


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_other_input_is_refused(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match="need a dictionary"):
        FILTERS[name]("docker.io")
    with pytest.raises(AnsibleFilterError, match="does not know hosts"):
        FILTERS[name]({"hosts": "x"})
    with pytest.raises(AnsibleFilterError, match="registry_cache: "):
        FILTERS[name]({**SETTINGS, "upstreams": [{"name": "docker.io"}]})
