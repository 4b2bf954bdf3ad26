# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters take a dictionary of settings and fail in one sentence for anything else."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter.container_network import FilterModule

FILTERS = FilterModule().filters()


def test_each_filter_does_its_part() -> None:
    settings = {"builds": True, "http": {"url": "http://proxy.corp.lab:8080"}, "dns_servers": ["10.0.0.1"]}
    state = FILTERS["container_network_state"](settings)
    assert sorted(state) == ["files", "json_keys", "packages", "units"]
    assert FILTERS["container_network_daemon_json"](settings) == {"dns": ["10.0.0.1"]}


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_other_input_is_refused(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match="need a dictionary"):
        FILTERS[name]([])
    with pytest.raises(AnsibleFilterError, match="does not know dns"):
        FILTERS[name]({"dns": []})


def test_a_proxy_that_nobody_can_use_is_refused_without_its_password() -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        FILTERS["container_network_state"]({"builds": True, "http": {"url": "proxy", "user": "u", "password": "s3"}})
    assert "it needs a scheme" in str(caught.value)
    assert "s3" not in str(caught.value)
