# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: made beside a daemon that stands aside, and imported only where nothing is lost by it."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _files, _hdfs_checkpoint, _hdfs_format
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._hdfs_checkpoint import Checkpoint, Importer
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakeUnit
from tests.unit.plugins.module_utils.hdfs_namenode import NameNode

NAMENODE, SECONDARY = "slipway-hdfs-namenode.service", "slipway-hdfs-secondary.service"
VERSION = "namespaceID=7\nclusterID=CID-1\n"
FOUND = Checkpoint("CID-1", 12, VERSION)


def checkpoint(directory: Path, *transactions: int) -> Path:
    current = directory / "current"
    current.mkdir(parents=True)
    (current / "VERSION").write_text(VERSION)
    for number in transactions:
        (current / f"fsimage_{number:019d}").write_text("image")
        (current / f"fsimage_{number:019d}.md5").write_text("x")
    (current / "fsimage_0000000000000000099").write_text("half, without its checksum")
    return directory


def test_the_newest_whole_image_counts(tmp_path: Path) -> None:
    assert _hdfs_checkpoint.look(str(tmp_path)) is None
    assert _hdfs_checkpoint.look(str(checkpoint(tmp_path / "none"))) is None
    found = _hdfs_checkpoint.look(str(checkpoint(tmp_path / "some", 3, 12)))
    assert found == FOUND and found.image == "fsimage_0000000000000000012"


def test_making_one_lets_the_daemon_stand_aside(host: FakeHost, tmp_path: Path) -> None:
    host.units[SECONDARY] = FakeUnit("active")
    place = str(checkpoint(tmp_path / "some", 12))
    assert _hdfs_checkpoint.make(place, ["java"], runner=host) == FOUND
    assert host.acts() == [f"systemctl stop {SECONDARY}", "java -checkpoint force", f"systemctl start {SECONDARY}"]
    host.answers["java"] = Result(1, "", "ERROR no NameNode\n")
    with pytest.raises(HostError, match="the checkpoint failed: ERROR no NameNode"):
        _hdfs_checkpoint.make(place, ["java"], runner=host)
    assert host.units[SECONDARY].active == "active", "it runs again all the same"


def serving(data: bytes, md5: str) -> Any:
    @contextlib.contextmanager
    def open_url(url: str) -> Iterator[Any]:
        assert url == "http://second:9868/imagetransfer?getimage=1&txid=12"
        yield SimpleNamespace(headers={"Content-MD5": md5}, read=io.BytesIO(data).read)

    return open_url


def test_one_comes_from_the_other_machine(tmp_path: Path) -> None:
    md5 = hashlib.md5(b"image").hexdigest()
    _hdfs_checkpoint.fetch("second:9868", FOUND, str(tmp_path), open_url=serving(b"image", md5))
    assert (tmp_path / "current" / FOUND.image).read_bytes() == b"image"
    assert (tmp_path / "current" / f"{FOUND.image}.md5").read_text() == f"{md5} *{FOUND.image}\n"
    assert _hdfs_checkpoint.look(str(tmp_path)) == FOUND
    with pytest.raises(HostError, match="cut off"):
        _hdfs_checkpoint.fetch("second:9868", FOUND, str(tmp_path), open_url=serving(b"ima", md5))

    def refusing(_url: str) -> Any:
        raise OSError("refused")

    with pytest.raises(HostError, match="can't be fetched from second:9868: refused"):
        _hdfs_checkpoint.fetch("second:9868", FOUND, str(tmp_path), open_url=refusing)


class Process:
    """A NameNode that imports."""

    def __init__(self, ended: int | None = None) -> None:
        self.ended = ended
        self.signals: list[int] = []

    def poll(self) -> int | None:
        return self.ended

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        if self.ended is not None:
            raise ProcessLookupError

    def wait(self, timeout: float) -> int:
        assert timeout
        return 0


@pytest.fixture
def importer(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Importer:
    """An importer whose NameNode writes its directory and serves."""
    host.units = {NAMENODE: FakeUnit("active"), SECONDARY: FakeUnit("active")}
    monkeypatch.setattr(_files, "group_id", lambda _name: tmp_path.stat().st_gid)

    def start(argv: Sequence[str], **_: Any) -> Process:
        assert list(argv[:2]) == ["java", "NameNode"] and argv[-1] == "-importCheckpoint"
        work = Path(argv[2].partition("file://")[2])
        assert (work / "current" / "VERSION").exists()
        (tmp_path / "name" / "current").mkdir(parents=True)
        (tmp_path / "name" / "current" / "VERSION").write_text((work / "current" / "VERSION").read_text())
        return Process()

    return Importer(
        directories=[str(tmp_path / "name")],
        user=getpass.getuser(),
        command=["java"],
        program="NameNode",
        address="name:9870",
        seconds=30,
        mark=str(tmp_path / "mark.json"),
        runner=host,
        web=NameNode(),
        open_url=serving(b"image", ""),
        start=start,
        pause=lambda _: None,
    )


def test_an_import_from_this_machine(importer: Importer, host: FakeHost, tmp_path: Path) -> None:
    place = str(checkpoint(tmp_path / "checkpoint", 12))
    assert importer.needed(FOUND)
    importer.restore(FOUND, source="", directory=place)
    assert host.did("systemctl stop*") == [f"systemctl stop {NAMENODE}", f"systemctl stop {SECONDARY}"]
    assert host.did("systemctl start*") == [f"systemctl start {SECONDARY}"], "the NameNode is started by who follows"
    assert json.loads(Path(importer.mark).read_text())["cluster"] == "CID-1"
    assert not list(tmp_path.glob(".slipway-import-*"))
    assert not importer.needed(FOUND), "what is there is left alone"


def test_an_import_from_another_machine(importer: Importer, host: FakeHost) -> None:
    importer.restore(FOUND, source="second:9868", directory="/nowhere")
    assert host.did("systemctl stop*") == [f"systemctl stop {NAMENODE}"]


def test_what_is_not_imported(importer: Importer) -> None:
    with pytest.raises(HostError, match="there is no checkpoint"):
        importer.needed(None)
    _hdfs_format.write_mark(_hdfs_format.Mark("CID-2", "2026-01-01", True), importer.mark)
    with pytest.raises(HostError, match="the checkpoint is of CID-1, and this NameNode had CID-2"):
        importer.needed(FOUND)


def test_an_import_that_fails_says_why(importer: Importer, tmp_path: Path) -> None:
    def start(_argv: Sequence[str], stdout: Any, **_: Any) -> Process:
        stdout.write("INFO x\nERROR No image is loadable\n")
        return Process(1)

    importer.start = start
    importer.web = NameNode(up=False)
    with pytest.raises(HostError, match="not imported: ERROR No image is loadable"):
        importer.restore(FOUND, source="second:9868", directory="")
    assert not list(tmp_path.glob(".slipway-import-*"))
    importer.start = lambda *_, **__: Process()
    importer.web = NameNode()
    with pytest.raises(HostError, match="the import has left nothing"):
        importer.restore(FOUND, source="second:9868", directory="")


def test_an_import_is_waited_for(importer: Importer) -> None:
    node = NameNode(state="initializing")
    importer.web = node
    importer.pause = lambda _: setattr(node, "state", "active")
    importer.restore(FOUND, source="second:9868", directory="")
