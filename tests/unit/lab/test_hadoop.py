"""Hadoop's tarball: the layout of Apache's, the same bytes of the same jars, and where `internet` has it."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab import hadoop
from tests.lab.errors import LabError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "slipway"


def jars(directory: Path) -> list[Path]:
    directory.mkdir()
    for name in ("hadoop-hdfs-3.4.2.jar", "hadoop-common-3.4.2.jar", "guava-27.jar"):
        (directory / name).write_text(name)
    return sorted(directory.iterdir())


def test_the_layout_is_that_of_apache(tmp_path: Path) -> None:
    found = jars(tmp_path / "jars")
    for name in ("one.tar.gz", "two.tar.gz"):
        hadoop.write_tarball(tmp_path / name, found)
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        names = tar.getnames()
        assert tar.getmember("hadoop-3.4.2/bin/hdfs").mode == 0o755
    assert "hadoop-3.4.2/share/hadoop/hdfs/hadoop-hdfs-3.4.2.jar" in names
    assert "hadoop-3.4.2/share/hadoop/common/hadoop-common-3.4.2.jar" in names
    assert "hadoop-3.4.2/share/hadoop/common/lib/guava-27.jar" in names
    assert "hadoop-3.4.2/share/hadoop/hdfs/webapps/hdfs" in names


def test_it_is_made_once_and_served(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        made.append(command)
        target = next(word for word in command if "outputDirectory" in word).partition("=")[2]
        (Path(target) / "guava-27.jar").write_text("x")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    hadoop.publish()
    hadoop.publish()
    assert len(made) == 1
    served = cache / "lab/internet/apache/dist/hadoop/common/hadoop-3.4.2/hadoop-3.4.2.tar.gz"
    assert served.samefile(hadoop.directory() / "hadoop-3.4.2.tar.gz")
    assert len((cache / "lab/hadoop.sha512").read_text().strip()) == 128


def test_what_cannot_be_had_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout="no such jar", stderr="")
    )
    with pytest.raises(LabError, match="no such jar"):
        hadoop.content()

    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(LabError, match="mvn is not installed"):
        hadoop.content()
