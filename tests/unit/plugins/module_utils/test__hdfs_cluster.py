# SPDX-License-Identifier: GPL-3.0-or-later
"""DataNodes come and go by the inventory: what may not go is refused, and who leaves is waited for."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_cluster, _hdfs_conf, _hdfs_web
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._hdfs_cluster import Cluster, Directory, Member

from tests.unit.fakes import FakeHost, FakeUnit
from tests.unit.plugins.module_utils.hdfs_namenode import NameNode, live

ONE, TWO = Member(name="one", rack="/a"), Member(name="two", rack="/b")
REFRESH = ["hdfs", "dfsadmin", "-refreshNodes"]


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the NameNode's lists below a directory of the test's, owned by whoever runs it."""
    monkeypatch.setattr(_hdfs_conf, "INCLUDE", str(tmp_path / "etc/datanodes"))
    monkeypatch.setattr(_hdfs_conf, "EXCLUDE", str(tmp_path / "etc/datanodes.exclude"))
    monkeypatch.setattr(_hdfs_cluster, "RACKS", str(tmp_path / "etc/racks"))
    return tmp_path / "etc"


def cluster(host: FakeHost, node: NameNode, *, check: bool = False, lookup: Any = None) -> Cluster:
    found = lookup or (lambda *_, **__: [])
    return Cluster("name:9870", "hdfs", check=check, fetch=node, pause=lambda _: None, lookup=found, runner=host)


def test_the_lists_are_written_and_read_again(host: FakeHost, lists: Path) -> None:
    host.units[_hdfs_cluster.NAMENODE] = FakeUnit("active")
    outcome = cluster(host, NameNode()).listed([ONE, Member(name="two", decommission=True)], REFRESH)
    assert outcome.changed and host.did("hdfs dfsadmin -refreshNodes")
    assert (lists / "datanodes").read_text() == "one\ntwo\n" and (lists / "datanodes.exclude").read_text() == "two\n"
    assert "one /a\ntwo /default-rack\n" in (lists / "racks").read_text()
    assert not cluster(host, NameNode()).listed([ONE, Member(name="two", decommission=True)], REFRESH).changed
    assert len(host.did("hdfs dfsadmin -refreshNodes")) == 1


def test_a_namenode_that_is_not_there_reads_them_when_it_starts(host: FakeHost, lists: Path) -> None:
    assert cluster(host, NameNode(up=False)).listed([ONE], REFRESH).changed
    assert not host.did("hdfs dfsadmin*")
    assert cluster(host, NameNode(up=False), check=True).listed([ONE, TWO], REFRESH).changed
    assert (lists / "datanodes").read_text() == "one\n"


def test_one_that_just_starts_is_waited_for(host: FakeHost, lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.units[_hdfs_cluster.NAMENODE] = FakeUnit("active")
    monkeypatch.setattr(_hdfs_cluster, "STARTING_SECONDS", 0.0)
    assert cluster(host, NameNode(up=False)).listed([ONE], REFRESH).changed
    monkeypatch.setattr(_hdfs_cluster, "STARTING_SECONDS", 30.0)
    node = NameNode(up=False)
    late = cluster(host, node)
    late.pause = lambda _: setattr(node, "up", True)
    late.listed([ONE, TWO], REFRESH)
    assert host.did("hdfs dfsadmin*")
    assert (lists / "datanodes").read_text() == "one\ntwo\n"


def test_a_name_that_does_not_resolve_is_refused(host: FakeHost, lists: Path) -> None:
    def lookup(name: str, *_: Any, **__: Any) -> Any:
        if name == "two":
            raise socket.gaierror("no")

    with pytest.raises(HostError, match=r"^two does not resolve"):
        cluster(host, NameNode(), lookup=lookup).listed([ONE, TWO], REFRESH)
    assert not lists.exists()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (NameNode(up=False), "does not answer"),
        (NameNode(live={"two": live(blocks=5)}), "still has 5 blocks"),
        (NameNode(dead={"two": {}}, missing=3), "3 blocks are missing"),
        (NameNode(live={"two": live()}), ""),
        (NameNode(live={"two": live("Decommissioned", 5)}), ""),
        (NameNode(dead={"two": {}}), ""),
        (NameNode(), ""),
    ],
)
def test_who_may_be_dropped(host: FakeHost, lists: Path, node: NameNode, message: str) -> None:
    cluster(host, NameNode()).listed([ONE, TWO], REFRESH)
    if message:
        with pytest.raises(HostError, match=message):
            cluster(host, node).listed([ONE], REFRESH)
        assert (lists / "datanodes").read_text() == "one\ntwo\n"
    else:
        assert cluster(host, node).listed([ONE], REFRESH).changed


def test_safe_mode_is_waited_for_and_named(host: FakeHost) -> None:
    node = NameNode(safe_mode="Safe mode is ON.\nResources are low on NN.")
    with pytest.raises(HostError, match=r"HDFS is read-only after 0 seconds: Safe mode is ON\. Resources are low"):
        cluster(host, node).out_of_safe_mode(0)
    it = cluster(host, node)
    it.pause = lambda _: setattr(node, "safe_mode", "")
    assert it.out_of_safe_mode(30).safe_mode == ""


def test_directories_are_made_and_mended(host: FakeHost) -> None:
    node = NameNode()
    wanted = [Directory(path="/logs", owner="spark", group="spark", mode="1777")]
    assert cluster(host, node, check=True).directories(wanted) == ["make /logs", "own /logs", "permit /logs"]
    assert node.asked == []
    cluster(host, node).directories(wanted)
    assert node.paths["/logs"] == {"type": "DIRECTORY", "owner": "spark", "group": "spark", "permission": "1777"}
    assert cluster(host, node).directories(wanted) == []
    node.paths["/logs"]["permission"] = "755"
    assert cluster(host, node).directories(wanted) == ["permit /logs"]
    node.paths["/logs"]["type"] = "FILE"
    with pytest.raises(HostError, match="is a file"):
        cluster(host, node).directories(wanted)


def test_who_leaves_is_waited_for(host: FakeHost) -> None:
    leaver = Member(name="two", decommission=True)
    node = NameNode(live={"two": live("Decommission In Progress", 9)}, leaving={"two": {"underReplicatedBlocks": 4}})
    it = cluster(host, node)
    assert it.leaving([ONE, leaver], 0) == {"two": "4 of 9 blocks are still to be copied"}
    it.pause = lambda _: node.live.update(two=live("Decommissioned", 9))
    assert it.leaving([ONE, leaver], 30) == {}
    assert cluster(host, NameNode(live={"two": live()})).leaving([leaver], 0) == {"two": "still In Service"}
    assert "dead" in cluster(host, NameNode(dead={"two": {}})).leaving([leaver], 0)["two"]
    assert "answer" in cluster(host, NameNode(up=False)).leaving([leaver], 0)["two"]
    assert cluster(host, NameNode()).leaving([leaver], 0) == {}, "one that never came has nothing"


def test_what_somebody_should_know() -> None:
    node = NameNode(live={"one": live(rack="/b")}, dead={"two": {}}, missing=2)
    view = _hdfs_web.view("name:9870", node)
    assert view is not None
    found = _hdfs_cluster.problems([ONE, TWO, Member(name="three")], view)
    assert [sentence.partition(":")[0] for sentence in found] == [
        "2 blocks of HDFS are missing",
        "one is in rack /b until the NameNode is restarted, and then in /a",
        "the DataNode two is dead",
        "the DataNode three is unknown to the NameNode",
    ]
    wait = functools.partial(_hdfs_cluster.problems, [Member(name="two", decommission=True)])
    assert wait(view) == ["2 blocks of HDFS are missing: no DataNode that lives has them"]
