# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters take a dictionary of settings and fail in one sentence for anything else."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter.registry_trust import FilterModule

FILTERS = FilterModule().filters()
SETTINGS = {"host": "registry.corp.lab", "fallback": False, "user": "u", "password": "p"}


def test_each_filter_does_its_part() -> None:
    paths = [item["path"] for item in FILTERS["registry_trust_files"](SETTINGS)]
    assert "/etc/containerd/certs.d/docker.io/hosts.toml" in paths
    assert FILTERS["registry_trust_json_keys"](SETTINGS)[0]["keys"] == ["auths", "registry.corp.lab:6001"]
    assert FILTERS["registry_trust_daemon_json"](SETTINGS) == {"registry-mirrors": ["https://registry.corp.lab:6001"]}
    assert len(FILTERS["registry_trust_notices"](SETTINGS)) == 1


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_other_input_is_refused(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match="need a dictionary"):
        FILTERS[name]("registry.corp.lab")
    with pytest.raises(AnsibleFilterError, match="does not know hostname"):
        FILTERS[name]({"hostname": "x"})
