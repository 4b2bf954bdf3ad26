# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of role hdfs: what is wrong with a file system in one sentence each, and where a DataNode stands."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILES = Path(__file__).resolve().parents[3] / "roles/hdfs/files"
GIB = 1 << 30


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


status, rack = load("hdfs_status"), load("hdfs_racks")


def found(*, info: dict[str, Any] | None = None, **system: Any) -> dict[str, dict[str, Any]]:
    live = {"one:9866": {"adminState": "In Service", "numBlocks": 3, "remaining": GIB, "location": "/a"}}
    return {
        "NameNodeStatus": {"State": "active"},
        "NameNodeInfo": {"ClusterId": "CID-1", "Version": "3.4.2, r1", "LiveNodes": json.dumps(live), **(info or {})},
        "FSNamesystem": {
            "CapacityTotal": 10 * GIB,
            "CapacityUsed": GIB,
            "CapacityRemaining": 8 * GIB,
            "FilesTotal": 4,
            "BlocksTotal": 3,
            **system,
        },
    }


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            found(info={"Safemode": "Safe mode is ON.\n Resources are low on NN."}),
            "read-only (safe mode): Safe mode is ON",
        ),
        (found(MissingBlocks=2), "2 blocks are missing"),
        (found(CorruptBlocks=1), "1 blocks have a corrupt copy"),
        (found(LowRedundancyBlocks=7), "7 blocks have fewer copies"),
        (found(UnderReplicatedBlocks=7), "7 blocks have fewer copies"),
        (found(info={"DeadNodes": '{"two:9866": {}, "three": {"decommissioned": true}}'}), "DataNodes are dead: two"),
        (found(VolumeFailuresTotal=1), "1 disks"),
        (found(CapacityUsed=9 * GIB, CapacityRemaining=GIB), "HDFS is 90 % full: 1.0 GiB of 10.0 GiB are left on 1"),
        (found(CapacityUsed=0, CapacityRemaining=0), "no DataNode has room: all of 10.0 GiB"),
        (found(info={"LiveNodes": "{}"}), "no DataNode is alive"),
        (found(info={"LiveNodes": '{"one:1": {"remaining": 0}}'}), "DataNodes are full: one"),
    ],
)
def test_one_sentence_for_each_trouble(state: dict[str, Any], sentence: str) -> None:
    problems = status.problems(state)
    assert len(problems) == 1 and sentence in problems[0], problems


def test_nothing_to_say_of_a_sound_one() -> None:
    assert status.problems(found()) == []
    text = status.summary(found())
    assert "file system CID-1, Hadoop 3.4.2" in text and "one: In Service, 3 blocks, /a" in text and "!" not in text


@pytest.mark.parametrize(
    ("number", "text"), [(5, "5 B"), (2048, "2.0 KiB"), (3 << 50, "3.0 PiB"), (1 << 70, "1048576.0 PiB")]
)
def test_sizes_for_people(number: int, text: str) -> None:
    assert status.size(number) == text


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    beans = [{"name": f"Hadoop:service=NameNode,name={name}", **bean} for name, bean in found(MissingBlocks=1).items()]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"beans": beans}).encode())

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(status, "CONFIG", tmp_path / "status.json")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status.CONFIG.write_text(json.dumps({"addresses": [f"127.0.0.1:{server.server_port}"]}))
        assert status.main(["--check"]) == 0
        assert "1 blocks are missing" in json.loads(capsys.readouterr().out)[0]
        assert status.main([]) == 1
        assert "! 1 blocks are missing" in capsys.readouterr().out
        server.shutdown()
    status.CONFIG.write_text(json.dumps({"addresses": ["127.0.0.1:1"]}))
    assert status.main([]) == 1 and "does not answer" in capsys.readouterr().out
    assert status.main(["--check"]) == 0 and "does not answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "sentences"),
    [
        (["active", "standby"], []),
        (["standby", "standby"], ["no NameNode is active: nothing can be read or written"]),
        (["active", "initializing"], ["the NameNode at b:1 is initializing"]),
        (["", "active"], ["the NameNode at a:1 does not answer: away"]),
    ],
)
def test_two_of_them(
    states: list[str],
    sentences: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = dict(zip(["a:1", "b:1"], states, strict=True))

    def beans(address: str) -> dict[str, dict[str, Any]]:
        if not known[address]:
            raise OSError("away")
        return {**found(), "NameNodeStatus": {"State": known[address]}}

    monkeypatch.setattr(status, "beans", beans)
    monkeypatch.setattr(status, "CONFIG", tmp_path / "status.json")
    status.CONFIG.write_text(json.dumps({"addresses": list(known)}))
    assert status.main(["--check"]) == 0 and json.loads(capsys.readouterr().out) == sentences
    assert status.main([]) == bool(sentences)
    said = capsys.readouterr().out
    assert f"NameNode b:1: {states[1]}" in said and all(f"! {one}" in said for one in sentences)
    assert ("file system CID-1" in said) == ("active" in states)


def test_racks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def addresses(name: str) -> set[str]:
        asked.append(name)
        return {"one": {"10.0.0.1"}, "two": {"10.0.0.2"}}.get(name, set())

    monkeypatch.setattr(rack, "addresses", addresses)
    known = rack.table("# Managed\none /a\ntwo /b\nhalf\n")
    assert rack.racks(["10.0.0.2", "one", "10.9.9.9"], known) == ["/b", "/a", "/default-rack"]
    asked.clear()
    assert rack.racks(["two"], known) == ["/b"] and asked == [], "a name needs no DNS"


def test_addresses_of_a_name() -> None:
    assert "127.0.0.1" in rack.addresses("127.0.0.1")
    assert rack.addresses("does-not-exist.invalid") == set()
