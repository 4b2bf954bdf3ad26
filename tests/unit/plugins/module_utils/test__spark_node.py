# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's directory for shuffle data: whose it is, what goes with it, and what stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _spark_node
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

APPLICATION = "spark-" + "0af" * 10 + "12"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "shuffle"


def node(tmp_path: Path, *, check: bool = False) -> _spark_node.SparkNode:
    return _spark_node.SparkNode(check=check, state_dir=str(tmp_path / "state"))


def fill(directory: Path) -> None:
    (directory / APPLICATION / "blockmgr-1").mkdir(parents=True)
    (directory / "registeredExecutors.ldb").mkdir()


def test_made_once_and_gone_with_spark_s_files(tmp_path: Path, directory: Path) -> None:
    assert node(tmp_path, check=True).present(str(directory), os.getuid()).changed
    assert not directory.exists()
    assert node(tmp_path).present(str(directory), os.getuid()).changed
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    fill(directory)
    assert not node(tmp_path).present(str(directory), os.getuid()).changed
    predicted = node(tmp_path, check=True).absent(str(directory))
    assert (directory / APPLICATION).exists()
    assert predicted.actions == [f"remove 2 of Spark's directories from {directory}"]
    assert node(tmp_path).absent(str(directory)).actions == predicted.actions
    assert not directory.parent.exists()
    assert not node(tmp_path).absent(str(directory)).changed


def test_what_is_not_spark_s_stays(tmp_path: Path, directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "lost+found").mkdir()
    node(tmp_path).present(str(directory), os.getuid())
    fill(directory)
    (directory / "mine").touch()
    (directory / "spark-mine").mkdir()
    with pytest.raises(HostError, match=r"shuffle holds mine, which is not Spark's: spark_shuffle_dir needs a direct"):
        node(tmp_path).present(str(directory), os.getuid())
    node(tmp_path).absent(str(directory))
    assert sorted(os.listdir(directory)) == ["lost+found", "mine", "spark-mine"]


def test_another_directory_takes_its_place(tmp_path: Path, directory: Path) -> None:
    node(tmp_path).present(str(directory), os.getuid())
    fill(directory)
    other = directory.with_name("other")
    assert node(tmp_path).present(str(other), os.getuid()).changed
    assert other.is_dir() and not directory.exists()
