# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of HDFS and of tarballs through their main(): changed, unchanged, check mode, a sentence for errors."""

from __future__ import annotations

import functools
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import (
    _hdfs_checkpoint,
    _hdfs_cluster,
    _hdfs_conf,
    _hdfs_format,
    _hdfs_service,
    _hdfs_web,
    _tarball,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import (
    hdfs_checkpoint,
    hdfs_cluster,
    hdfs_format,
    hdfs_service,
    tarball,
)

from tests.unit.fakes import FakeHost, FakeUnit
from tests.unit.plugins.module_utils.hdfs_namenode import NameNode, live

DATANODE = "slipway-hdfs-datanode.service"


def call(capsys: pytest.CaptureFixture[str], module: Any, **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


@pytest.fixture
def node(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NameNode:
    """Return the NameNode that all modules ask."""
    found = NameNode()
    monkeypatch.setattr(
        _hdfs_web, "view", functools.partial(lambda v, address, fetch=None: v(address, found), _hdfs_web.view)
    )
    monkeypatch.setattr(
        _hdfs_cluster,
        "Cluster",
        functools.partial(
            _hdfs_cluster.Cluster, fetch=found, pause=lambda _: None, lookup=lambda *_, **__: [], runner=host
        ),
    )
    monkeypatch.setattr(_hdfs_conf, "INCLUDE", str(tmp_path / "etc/datanodes"))
    monkeypatch.setattr(_hdfs_conf, "EXCLUDE", str(tmp_path / "etc/datanodes.exclude"))
    monkeypatch.setattr(_hdfs_cluster, "RACKS", str(tmp_path / "etc/racks"))
    return found


def test_format(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, formatter = tmp_path / "name", _hdfs_format.Formatter
    monkeypatch.setattr(
        _hdfs_format, "Formatter", functools.partial(_hdfs_format.Formatter, mark=str(tmp_path / "mark.json"))
    )
    script = tmp_path / "format"
    script.write_text(f"#!/bin/sh\nmkdir -p {name}/current\necho clusterID=CID-1 >{name}/current/VERSION\n")
    script.chmod(0o755)
    arguments = {"directories": [str(name)], "command": [str(script)]}
    run = functools.partial(call, capsys, hdfs_format)
    assert run(state="looked", **arguments)["new"] is True
    assert run(state="planned", **arguments) | {"invocation": 0} == {
        "changed": False,
        "clusters": [],
        "new": True,
        "invocation": 0,
    }
    assert run(**arguments, _ansible_check_mode=True)["changed"] is True and not name.exists()
    refused = run(**arguments, holders={"data1": ["CID-9"]})
    assert refused["failed"] and "data1 has CID-9" in refused["msg"]
    assert run(**arguments)["clusters"] == ["CID-1"]
    again = run(**arguments)
    assert (again["changed"], again["new"]) == (False, False)
    pair = functools.partial(run, **arguments, failover=True)
    asked: list[str] = []
    monkeypatch.setattr(formatter, "share", lambda _self, unit: asked.append(unit))
    assert pair(_ansible_check_mode=True)["changed"] is True and asked == []
    assert pair(journals={"data1": ["CID-1"]})["changed"] is True and asked == ["slipway-hdfs-namenode.service"]
    assert pair()["changed"] is False and len(asked) == 1
    assert pair(other=True)["changed"] is False, "what is there is left alone"
    (name / "current" / "VERSION").unlink()
    assert "has lost the file system" in pair()["msg"]
    assert pair(other=True, holders={"data1": ["CID-1"]})["clusters"] == ["CID-1"]
    assert run(state="looked", **arguments)["clusters"] == ["CID-1"]


def test_cluster(capsys: pytest.CaptureFixture[str], node: NameNode, warned: list[str]) -> None:
    members = [{"name": "one"}, {"name": "two", "decommission": True}]
    run = functools.partial(call, capsys, hdfs_cluster, address="name:9870", datanodes=members)
    assert run(state="listed", refresh=["hdfs"])["changed"] is True
    assert run(state="listed", refresh=["hdfs"])["changed"] is False
    node.live = {"two": live("Decommission In Progress", 2)}
    result = run(state="settled", users=["ada"], directories=[{"path": "/logs", "mode": "1777"}], slice=0)
    assert result["changed"] and set(result["leaving"]) == {"two"}
    assert set(node.paths) == {"/user", "/tmp", "/user/ada", "/logs"}
    assert node.paths["/user/ada"]["owner"] == "ada" and node.paths["/tmp"]["permission"] == "1777"
    assert any("one is unknown" in text for text in warned)
    assert run(state="settled", users=["ada"], _ansible_check_mode=True)["changed"] is False
    assert run(state="settled", users=["ada"], others=["other:9870"], slice=0)["changed"] is False, "they are there"
    node.safe_mode = "on"
    assert "read-only" in run(state="settled", timeout=0)["msg"]
    node.up = False
    assert run(state="settled", _ansible_check_mode=True)["changed"] is False


def test_service(
    capsys: pytest.CaptureFixture[str], node: NameNode, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    bean = {"name": "Hadoop:service=DataNode,name=DataNodeInfo", "BPServiceActorInfo": '"RUNNING"'}
    answer = functools.partial(lambda *_: (200, json.dumps({"beans": [bean]}).encode()))
    monkeypatch.setattr(_hdfs_service, "Daemon", functools.partial(_hdfs_service.Daemon, runner=host, fetch=answer))
    host.units[DATANODE] = FakeUnit()
    arguments = {"component": "datanode", "host": "data", "port": 9864, "namenodes": ["name:9870"]}
    run = functools.partial(call, capsys, hdfs_service, **arguments)
    monkeypatch.setattr(_hdfs_service, "refuse_loopback", lambda _name: None)
    assert run()["actions"] == [f"enable {DATANODE}", f"start {DATANODE}"]
    assert run()["changed"] is False
    node.live = {"data": live("Decommission In Progress", 3)}
    assert run(state="retired")["changed"] is False, "it has not handed everything over"
    node.live = {"data": live("Decommissioned", 3)}
    assert run(state="retired")["actions"] == [f"disable {DATANODE}", f"stop {DATANODE}"]
    node.up = False
    assert "was left running" in run(state="retired")["msg"]

    def refuse(_name: str) -> None:
        raise HostError("loopback")

    monkeypatch.setattr(_hdfs_service, "refuse_loopback", refuse)
    assert run()["msg"] == "loopback"
    assert socket.gethostname()


def test_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _hdfs_checkpoint.Checkpoint("CID-1", 12, "clusterID=CID-1\n")
    monkeypatch.setattr(_hdfs_checkpoint, "make", lambda *_: found)
    run = functools.partial(call, capsys, hdfs_checkpoint, directory=str(tmp_path))
    assert run(state="made")["transaction"] == 12
    assert run(state="made", _ansible_check_mode=True)["changed"] is True
    assert run(state="looked")["checkpoint"] is None
    done: list[str] = []

    class Importer:
        def __init__(self, **_: Any) -> None:
            pass

        def needed(self, checkpoint: Any) -> bool:
            if checkpoint is None:
                raise HostError("there is no checkpoint")
            return checkpoint == found and not done

        def restore(self, checkpoint: Any, *, source: str, directory: str) -> None:
            assert checkpoint == found and directory
            done.append(source)

    monkeypatch.setattr(_hdfs_checkpoint, "Importer", Importer)
    given = {"cluster": "CID-1", "transaction": 12, "version": "clusterID=CID-1\n"}
    assert run(state="imported", checkpoint=given, _ansible_check_mode=True)["changed"] is True and not done
    assert run(state="imported", checkpoint=given, source="second:9868")["changed"] is True
    assert done == ["second:9868"]
    assert run(state="imported", checkpoint=given)["changed"] is False
    assert run(state="imported")["msg"] == "there is no checkpoint"


def test_tarball(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[dict[str, str]] = []
    target = tmp_path / "x-1"

    def install(_url: str, path: str, *, checksum: str, open_url: Any) -> None:
        assert open_url == "opener"
        Path(path).mkdir()
        (Path(path) / _tarball.MARK).write_text(checksum)

    def opener(proxies: dict[str, str]) -> str:
        used.append(proxies)
        return "opener"

    monkeypatch.setattr(_tarball, "install", install)
    monkeypatch.setattr(_tarball, "opener", opener)
    proxy = {"url": "http://proxy.corp.lab:8080", "user": "corp\\svc", "password": "p@ss/w0rd"}
    arguments = {"url": "https://archive.example.com/x.tar.gz", "checksum": "a" * 128, "path": str(target)}
    run = functools.partial(call, capsys, tarball, **arguments)
    assert run(proxy=proxy, _ansible_check_mode=True)["changed"] is True and not target.exists()
    assert run(proxy=proxy)["changed"] is True
    assert used == [{"https": "http://corp%5Csvc:p%40ss%2Fw0rd@proxy.corp.lab:8080"}]
    assert run(proxy=proxy)["changed"] is False
    (target / _tarball.MARK).unlink()
    target.rmdir()
    assert run(proxy=proxy, no_proxy=["archive.example.com"])["changed"] is True and used[-1] == {}
    (target / _tarball.MARK).write_text("other")
    assert "msg" in run(proxy={"url": "nonsense"})
