# SPDX-License-Identifier: GPL-3.0-or-later
"""What daemons and clients of HDFS read: XML that means what was said, and each daemon its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_conf

FULL: dict[str, Any] = {
    "namenode": "name.corp.lab",
    "port": "8020",
    "replication": 2,
    "block_size": "64m",
    "host": "data.corp.lab",
    "secondary": "data.corp.lab",
    "name_dirs": ["/a/name", "/b/name"],
    "data_dirs": ["/a/data"],
    "checkpoint_dir": "/a/checkpoint",
    "reserved": "10g",
    "options": {"dfs.heartbeat.interval": 1, "x": '<&"> ü'},
}


def read(text: str) -> dict[str, str]:
    root = ET.fromstring(text)
    return {str(item.findtext("name")): str(item.findtext("value")) for item in root.findall("property")}


@pytest.mark.parametrize(("text", "number"), [("64m", 67108864), ("1G", 1 << 30), ("512", 512), (" 2t ", 2 << 40)])
def test_sizes(text: str, number: int) -> None:
    assert _hdfs_conf.size(text) == number


def test_clients_get_names_and_defaults_of_the_site() -> None:
    files = _hdfs_conf.client_files(_hdfs_conf.Settings.parse(FULL))
    assert read(files["core-site.xml"]) == {"fs.defaultFS": "hdfs://name.corp.lab:8020"}
    site = read(files["hdfs-site.xml"])
    assert site["dfs.replication"] == "2" and site["dfs.blocksize"] == "67108864"
    assert site["dfs.client.use.datanode.hostname"] == "true"
    assert site["x"] == '<&"> ü' and site["dfs.heartbeat.interval"] == "1"
    assert not any("dir" in key for key in site), "a client needs no directories"


def test_each_daemon_has_its_own_files() -> None:
    settings = _hdfs_conf.Settings.parse(FULL)
    found = {part: _hdfs_conf.daemon_files(settings, part) for part in _hdfs_conf.PARTS}
    assert [item["path"] for item in found["namenode"]] == [
        "/etc/slipway/hdfs/namenode/core-site.xml",
        "/etc/slipway/hdfs/namenode/hdfs-site.xml",
    ]
    name = read(found["namenode"][1]["content"])
    assert name["dfs.namenode.name.dir"] == "file:///a/name,file:///b/name"
    assert name["dfs.hosts.exclude"] == "/etc/slipway/hdfs/datanodes.exclude" and "dfs.datanode.data.dir" not in name
    assert "net.topology.script.file.name" in read(found["namenode"][0]["content"])
    data = read(found["datanode"][1]["content"])
    assert data["dfs.datanode.address"] == "data.corp.lab:9866" and data["dfs.datanode.du.reserved"] == str(10 << 30)
    assert "dfs.hosts" not in data, "a DataNode is restarted by nothing that concerns others"
    second = read(found["secondary"][1]["content"])
    assert second["dfs.namenode.checkpoint.dir"] == "file:///a/checkpoint"


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="nodes is no setting of HDFS"):
        _hdfs_conf.Settings.parse({"namenode": "x", "nodes": []})


def test_keys_that_have_a_variable() -> None:
    assert {"dfs.replication", "dfs.hosts", "fs.defaultFS", "dfs.datanode.data.dir"} <= _hdfs_conf.owned_keys()


def test_datanodes_come_from_the_inventory() -> None:
    known: dict[str, dict[str, Any]] = {"node1": {"hdfs_host": "node1.corp.lab", "hdfs_rack": "/a"}, "node2": {}}
    known["node2"]["hdfs_decommission"] = True
    assert _hdfs_conf.datanodes(["node1", "node2"], known) == [
        {"name": "node1.corp.lab", "machine": "node1", "rack": "/a", "decommission": False},
        {"name": "node2", "machine": "node2", "rack": "", "decommission": True},
    ]


PAIR: dict[str, Any] = {
    **FULL,
    "host": "b.corp.lab",
    "nameservice": "site",
    "namenodes": ["b.corp.lab", "a.corp.lab"],
    "journalnodes": ["a.corp.lab", "b.corp.lab", "c.corp.lab"],
    "zookeepers": ["a.corp.lab", "b.corp.lab", "c.corp.lab"],
    "journal_dir": "/a/journal",
}


def test_clients_of_two_know_both_by_one_name() -> None:
    files = _hdfs_conf.client_files(_hdfs_conf.Settings.parse(PAIR))
    assert read(files["core-site.xml"]) == {"fs.defaultFS": "hdfs://site"}
    site = read(files["hdfs-site.xml"])
    assert site["dfs.ha.namenodes.site"] == "nn1,nn2" and "dfs.namenode.rpc-address" not in site
    assert site["dfs.namenode.rpc-address.site.nn1"] == "a.corp.lab:8020", "numbered by name, not by the order given"
    assert site["dfs.namenode.http-address.site.nn2"] == "b.corp.lab:9870"
    assert not any("journal" in key or "shared" in key for key in site)


def test_two_namenodes_share_a_journal() -> None:
    settings = _hdfs_conf.Settings.parse(PAIR)
    found = {
        part: [read(item["content"]) for item in _hdfs_conf.daemon_files(settings, part)] for part in _hdfs_conf.PARTS
    }
    name = found["namenode"][1]
    assert name["dfs.namenode.shared.edits.dir"] == "qjournal://a.corp.lab:8485;b.corp.lab:8485;c.corp.lab:8485/site"
    assert name["dfs.ha.namenode.id"] == "nn2" and name["dfs.ha.automatic-failover.enabled"] == "true"
    decides, keys = found["zkfc"]
    assert decides["ha.zookeeper.quorum"] == "a.corp.lab:2181,b.corp.lab:2181,c.corp.lab:2181"
    assert decides["ha.zookeeper.auth"].startswith("@/run/slipway-hdfs-zkfc/") and keys["dfs.ha.namenode.id"] == "nn2"
    journal = found["journalnode"][1]
    assert journal["dfs.journalnode.rpc-address"] == "b.corp.lab:8485"
    assert journal["dfs.journalnode.enable.sync"] == "false"
    for kept in (journal, keys):
        assert not {"dfs.replication", "dfs.blocksize"} & kept.keys(), "a change of these restarts neither"
    one = read(_hdfs_conf.daemon_files(_hdfs_conf.Settings.parse(FULL), "namenode")[1]["content"])
    assert not any(key.startswith("dfs.ha") or "shared" in key for key in one)
    assert {"dfs.ha.fencing.methods", "dfs.nameservices"} <= _hdfs_conf.owned_keys()


def test_the_login_to_zookeeper_is_of_its_scheme_digest() -> None:
    """As ZooKeeper's DigestAuthenticationProvider computes it for super:test in its own documentation's way."""
    login = _hdfs_conf.zookeeper_login("test")
    assert login["auth"] == "digest:hdfs:test"
    assert re.fullmatch(r"digest:hdfs:[A-Za-z0-9+/]{27}=:rwcda", login["acl"])
    assert login != _hdfs_conf.zookeeper_login("other")
