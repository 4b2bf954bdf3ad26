# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters of HDFS take what they document and fail in one sentence for anything else."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter.hdfs import FilterModule

FILTERS = FilterModule().filters()
SETTINGS = {"namenode": "name.corp.lab", "replication": 2}


def test_each_filter_does_its_part() -> None:
    assert set(FILTERS["hdfs_client_files"](SETTINGS)) == {"core-site.xml", "hdfs-site.xml"}
    assert len(FILTERS["hdfs_daemon_files"](SETTINGS, "datanode")) == 2
    assert FILTERS["hdfs_datanodes"](["a"], {"a": {}})[0]["name"] == "a"
    assert FILTERS["hdfs_machines"](["a"], {"a": {"hdfs_host": "a.x"}}) == [{"name": "a.x", "machine": "a"}]
    assert FILTERS["hdfs_zookeeper_login"]("secret")["auth"] == "digest:hdfs:secret"


def test_other_input_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="need a dictionary"):
        FILTERS["hdfs_client_files"]("x")
    with pytest.raises(AnsibleFilterError, match="is no setting"):
        FILTERS["hdfs_client_files"]({**SETTINGS, "hosts": []})
    with pytest.raises(AnsibleFilterError, match="journal is no daemon"):
        FILTERS["hdfs_daemon_files"](SETTINGS, "journal")
    with pytest.raises(AnsibleFilterError, match="machines of the inventory"):
        FILTERS["hdfs_datanodes"](["b"], {"a": {}})
    with pytest.raises(AnsibleFilterError, match="machines of the inventory"):
        FILTERS["hdfs_machines"](["b"], {"a": {}})
