# SPDX-License-Identifier: GPL-3.0-or-later
"""A NameNode is formatted once: every way to lose a file system by formatting is refused, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_format
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._hdfs_format import Formatter, Mark
from ansible_collections.slipway.platform.plugins.module_utils._run import Result


def hold(directory: Path, cluster: str = "CID-1") -> str:
    (directory / "current").mkdir(parents=True, exist_ok=True)
    (directory / "current" / "VERSION").write_text(f"#a comment\nnamespaceID=7\nclusterID={cluster}\n")
    return str(directory)


def formatter(tmp_path: Path, *, makes: str = "CID-1", output: str = "", rc: int = 0) -> Formatter:
    def runner(argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout, stdin
        assert list(argv) == ["java", "-format", "-nonInteractive", "-force"]
        assert json.loads((tmp_path / "mark.json").read_text())["done"] is False, "noted before it begins"
        if makes:
            hold(tmp_path / "name", makes)
        return Result(rc, output, "")

    return Formatter(
        directories=[str(tmp_path / "name")],
        checkpoints=[str(tmp_path / "checkpoint")],
        command=["java"],
        mark=str(tmp_path / "mark.json"),
        runner=runner,
    )


def test_once_and_never_again(tmp_path: Path) -> None:
    it = formatter(tmp_path)
    assert it.state() == ("new", "")
    it.refuse_over({"data1": []})
    assert it.format() == "CID-1"
    assert it.state() == ("formatted", "CID-1")
    assert it.adopt("CID-1", check=False) is False, "that is known"


def test_a_file_system_that_is_there_is_taken_over(tmp_path: Path) -> None:
    hold(tmp_path / "name")
    it = formatter(tmp_path)
    assert it.state() == ("formatted", "CID-1")
    assert it.adopt("CID-1", check=True) and _hdfs_format.read_mark(it.mark) is None
    assert it.adopt("CID-1", check=False)
    assert it.adopt("CID-1", check=False) is False


def test_lost_directories_are_not_formatted(tmp_path: Path) -> None:
    it = formatter(tmp_path)
    _hdfs_format.write_mark(Mark("CID-1", "2026-01-01", True), it.mark)
    with pytest.raises(HostError, match=r"has lost the file system CID-1.*nothing was formatted.*hdfs_restore\.yml"):
        it.state()


def test_somebody_elses_format_is_seen(tmp_path: Path) -> None:
    it = formatter(tmp_path)
    _hdfs_format.write_mark(Mark("CID-1", "2026-01-01", True), it.mark)
    hold(tmp_path / "name", "CID-2")
    with pytest.raises(HostError, match="formatted it anew"):
        it.state()
    two = Formatter(directories=[str(tmp_path / "name"), hold(tmp_path / "other", "CID-3")], command=[], mark=it.mark)
    with pytest.raises(HostError, match="different file systems"):
        two.state()


def test_a_datanode_or_a_checkpoint_forbids_it(tmp_path: Path) -> None:
    it = formatter(tmp_path)
    with pytest.raises(HostError, match=r"\(data1 has CID-1\): nothing was formatted"):
        it.refuse_over({"data1": ["CID-1"], "data2": []})
    hold(tmp_path / "checkpoint", "CID-9")
    with pytest.raises(HostError, match="the checkpoint on this machine has CID-9"):
        it.refuse_over({})


def test_a_format_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    it = formatter(tmp_path, makes="", output="ERROR no disk\nmore", rc=1)
    with pytest.raises(HostError, match="could not be formatted: ERROR no disk"):
        it.format()
    hold(tmp_path / "name", "CID-half")
    again = formatter(tmp_path, makes="CID-2")
    assert again.state() == ("new", "")
    assert again.format() == "CID-2"
    assert again.state() == ("formatted", "CID-2")


def test_what_cannot_be_read_is_no_reason_to_format(tmp_path: Path) -> None:
    it = formatter(tmp_path)
    Path(it.mark).write_text("{")
    with pytest.raises(HostError, match="can't be understood"):
        it.state()
    (tmp_path / "odd" / "current" / "VERSION").mkdir(parents=True)
    with pytest.raises(HostError, match="can't be read"):
        _hdfs_format.cluster_ids([str(tmp_path / "odd")])
    (tmp_path / "empty" / "current").mkdir(parents=True)
    (tmp_path / "empty" / "current" / "VERSION").write_text("x\n")
    assert list(_hdfs_format.cluster_ids([str(tmp_path / "empty")]).values()) == ["without ID"]


def one_of_two(tmp_path: Path, *, other: bool, rc: int = 0, makes: str = "CID-1") -> tuple[Formatter, list[list[str]]]:
    asked: list[list[str]] = []

    def runner(argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout, stdin
        asked.append(list(argv))
        if makes and argv[0] == "java":
            hold(tmp_path / "name", makes)
        return Result(rc, "ERROR: no", "")

    it = Formatter(
        directories=[str(tmp_path / "name")],
        command=["java"],
        failover=True,
        other=other,
        mark=str(tmp_path / "mark.json"),
        runner=runner,
    )
    return it, asked


def test_what_one_of_two_has_lost_comes_from_the_other(tmp_path: Path) -> None:
    it, asked = one_of_two(tmp_path, other=True)
    _hdfs_format.write_mark(Mark("CID-1", "2026-01-01", True, True), it.mark)
    assert it.state() == ("new", ""), "lost, and not forbidden"
    assert it.take_over("namenode.service") == "CID-1"
    assert asked == [
        ["systemctl", "stop", "namenode.service"],
        ["java", "-bootstrapStandby", "-nonInteractive", "-force"],
    ]
    found = _hdfs_format.read_mark(it.mark)
    assert found and found.shared and found.cluster == "CID-1"
    alone, _ = one_of_two(tmp_path / "alone", other=False)
    _hdfs_format.write_mark(Mark("CID-1", "2026-01-01", True, True), alone.mark)
    with pytest.raises(HostError, match=r"has lost the file system CID-1.*put back a copy"):
        alone.state()


def test_a_copy_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    it, _ = one_of_two(tmp_path, other=True, rc=1)
    with pytest.raises(HostError, match="could not be made a copy of the other one: ERROR: no"):
        it.take_over("namenode.service")
    it, _ = one_of_two(tmp_path / "empty", other=True, makes="")
    with pytest.raises(HostError, match="its directories hold"):
        it.take_over("namenode.service")


def test_one_that_was_alone_shares_what_it_has(tmp_path: Path) -> None:
    hold(tmp_path / "name")
    it, asked = one_of_two(tmp_path, other=False)
    _hdfs_format.write_mark(Mark("CID-1", "2026-01-01", True), it.mark)
    assert it.state() == ("formatted", "CID-1")
    assert it.shares({"journal1": ["CID-1"]}), "what is in the journal is from a time before"
    it.share("namenode.service")
    assert asked == [
        ["systemctl", "stop", "namenode.service"],
        ["java", "-initializeSharedEdits", "-nonInteractive", "-force"],
    ]
    assert it.shares({}), "one that was cut off is done again"
    assert it.adopt("CID-1", check=False) and it.adopt("CID-1", check=False) is False
    found = _hdfs_format.read_mark(it.mark)
    assert found == Mark("CID-1", "2026-01-01", True, True)
    assert not it.shares({}), "never again"
    single = formatter(tmp_path)
    with pytest.raises(HostError, match="holds one half of what two NameNodes share"):
        single.state()


def test_of_an_unknown_one_the_journal_decides(tmp_path: Path) -> None:
    """The machine is new and the directories are not: who has been one of two stays so."""
    hold(tmp_path / "name")
    it, _ = one_of_two(tmp_path, other=False)
    assert it.shares({"journal1": [], "journal2": []})
    assert not it.shares({"journal1": [], "journal2": ["CID-1"]})


def test_two_that_were_alone_are_not_put_together(tmp_path: Path) -> None:
    hold(tmp_path / "name")
    it, _ = one_of_two(tmp_path, other=True)
    _hdfs_format.write_mark(Mark("CID-1", "2026-01-01", True), it.mark)
    with pytest.raises(HostError, match="was alone, and so does the other NameNode"):
        it.shares({})


def test_a_journal_forbids_to_format_unless_that_was_cut_off(tmp_path: Path) -> None:
    it, _ = one_of_two(tmp_path, other=False, makes="", rc=1)
    journals = {"data1": ["CID-1"]}
    with pytest.raises(HostError, match=r"\(the JournalNode data1 has CID-1\): nothing was formatted"):
        it.refuse_over({"data1": []}, journals)
    with pytest.raises(HostError, match="could not be formatted"):
        it.format()
    it.refuse_over({"data1": []}, journals)
    with pytest.raises(HostError, match="data1 has CID-1"):
        it.refuse_over({"data1": ["CID-1"]}, journals)
