# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon is started with its present files, and only what says that it works is believed."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_service
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

from tests.unit.fakes import FakeHost, FakeUnit

UNIT = "slipway-hdfs-datanode.service"


def beans(state: str) -> Any:
    bean = {"name": "Hadoop:service=DataNode,name=DataNodeInfo", "BPServiceActorInfo": f'[{{"ActorState":"{state}"}}]'}
    return lambda _method, _url: (200, json.dumps({"beans": [bean]}).encode())


def daemon(host: FakeHost, state: str = "RUNNING", seconds: float = 0) -> _hdfs_service.Daemon:
    conf = host.root / "hdfs-site.xml"
    conf.touch()
    return _hdfs_service.Daemon(
        component="datanode",
        address="data:9864",
        inputs=(str(conf),),
        seconds=seconds,
        runner=host,
        fetch=beans(state),
        pause=lambda _: None,
    )


def test_it_is_started_once_and_restarted_for_other_files(host: FakeHost) -> None:
    host.units[UNIT] = FakeUnit()
    assert daemon(host).started(check=True) == [f"enable {UNIT}", f"start {UNIT}"]
    assert daemon(host).started(check=False) == [f"enable {UNIT}", f"start {UNIT}"]
    assert daemon(host).started(check=False) == []
    (host.root / "hdfs-site.xml").write_text("other")
    assert daemon(host).started(check=False) == [f"restart {UNIT}"]
    assert daemon(host).stopped(check=False) == [f"disable {UNIT}", f"stop {UNIT}"]


def test_one_that_does_not_work_is_told_with_its_reason(host: FakeHost) -> None:
    host.units[UNIT] = FakeUnit()
    host.journal = [{"_PID": "7", "MESSAGE": "INFO good"}, {"_PID": "7", "MESSAGE": "ERROR Incompatible clusterIDs"}]
    with pytest.raises(HostError, match="does not work after 0 seconds: ERROR Incompatible clusterIDs"):
        daemon(host, "CONNECTING").started(check=False)
    host.journal = []
    with pytest.raises(HostError, match="look at journalctl"):
        daemon(host, "CONNECTING").started(check=False)


def test_what_counts_as_working() -> None:
    works = _hdfs_service.works
    assert works("namenode", {"NameNodeStatus": {"State": "active"}}) and not works("namenode", {})
    assert works("secondary", {"SecondaryNameNodeInfo": {}}) and not works("secondary", {})
    assert not works("datanode", {"DataNodeInfo": {}})


@pytest.mark.parametrize(("address", "wrong"), [("127.0.1.1", True), ("::1", True), ("172.29.64.5", False)])
def test_a_name_that_is_loopback_is_refused(address: str, wrong: bool) -> None:
    def lookup(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, 1, 6, "", (address, 0))]

    if not wrong:
        return _hdfs_service.refuse_loopback("data.corp.lab", lookup=lookup)
    with pytest.raises(HostError, match="/etc/hosts"):
        return _hdfs_service.refuse_loopback("data.corp.lab", lookup=lookup)


def test_a_name_that_does_not_resolve_is_refused() -> None:
    def lookup(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no such name")

    with pytest.raises(HostError, match="does not resolve"):
        _hdfs_service.refuse_loopback("data.corp.lab", lookup=lookup)


def test_one_without_pages_works_when_it_takes_connections(host: FakeHost) -> None:
    unit = "slipway-hdfs-zkfc.service"
    host.units[unit] = FakeUnit()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        it = _hdfs_service.Daemon(
            component="zkfc", address=address, inputs=(), seconds=0, runner=host, pause=lambda _: None
        )
        assert it.started(check=False) == [f"enable {unit}", f"start {unit}"]
    with pytest.raises(HostError, match="does not work after 0 seconds"):
        it.started(check=False)


def test_one_that_stands_by_works() -> None:
    assert _hdfs_service.works("namenode", {"NameNodeStatus": {"State": "standby"}})
    assert not _hdfs_service.works("namenode", {"NameNodeStatus": {"State": "initializing"}})
