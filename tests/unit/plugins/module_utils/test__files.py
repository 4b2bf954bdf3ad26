# SPDX-License-Identifier: GPL-3.0-or-later
"""Files reach their wanted state whole, what was there before comes back, and no diff shows a secret."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _files
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from hypothesis import given
from hypothesis import strategies as st

ME = {"owner": str(os.geteuid()), "group": str(os.getegid())}


@pytest.fixture
def ledger(tmp_path: Path) -> _files.Ledger:
    """Return the empty ledger of an owner `web`."""
    found = _files.Ledger(owner="web", state_dir=str(tmp_path / "state"))
    found.load()
    return found


def wanted(path: Path, content: str = "new\n", **more: Any) -> _files.WantedFile:
    return _files.WantedFile(path=str(path), content=content.encode(), **{**ME, **more})


def ensure(item: _files.WantedFile, ledger: _files.Ledger, *, check: bool = False) -> _files.Change | None:
    return _files.ensure(item, ledger=ledger, check=check)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def reloaded(ledger: _files.Ledger) -> _files.Ledger:
    again = _files.Ledger(owner=ledger.owner, state_dir=ledger.state_dir)
    again.load()
    return again


# --- the ledger ---


def test_a_ledger_is_private_and_gone_when_empty(ledger: _files.Ledger) -> None:
    ledger.set("paths", ["/a", "/b", "/a"])
    ledger.save()
    assert mode(Path(ledger.path)) == 0o600 and mode(Path(ledger.state_dir)) == 0o700
    assert reloaded(ledger).get("paths") == ["/a", "/b"]
    ledger.set("paths", [])
    ledger.save()
    assert not Path(ledger.state_dir).exists()
    ledger.save()


def test_a_ledger_that_is_gone_can_still_be_emptied(ledger: _files.Ledger) -> None:
    ledger.set("paths", ["/a"])
    ledger.save()
    os.unlink(ledger.path)
    ledger.set("paths", [])
    ledger.save()


@pytest.mark.parametrize("text", ["{", "[]", "\x80"])
def test_a_broken_ledger_is_named(ledger: _files.Ledger, text: str) -> None:
    Path(ledger.path).parent.mkdir(parents=True)
    Path(ledger.path).write_bytes(text.encode("latin-1"))
    with pytest.raises(HostError, match=r"web\.json is not JSON .*: move it away and run again"):
        ledger.load()


def test_a_full_disk_is_one_sentence(ledger: _files.Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ledger.set("paths", ["/a"])
    with pytest.raises(HostError, match=r"^.*web\.json can't be changed: No space left on device$"):
        ledger.save()
    assert os.listdir(os.path.dirname(ledger.path)) == []


# --- users and groups ---


def test_names_and_numbers_of_users() -> None:
    assert _files.user_id("root") == _files.user_id("0") == _files.group_id("root") == 0
    assert _files.group_id("4711") == 4711
    with pytest.raises(HostError, match="user 'nobody-here' does not exist"):
        _files.user_id("nobody-here")
    with pytest.raises(HostError, match="group 'nobody-here' does not exist"):
        _files.group_id("nobody-here")


# --- ensure ---


def test_writes_a_file_with_its_parents(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "etc/a/b.conf"
    change = ensure(wanted(path, mode=0o640), ledger)
    assert change is not None and change.action == "written"
    assert path.read_text() == "new\n" and mode(path) == 0o640
    assert reloaded(ledger).get("directories") == [str(tmp_path / "etc"), str(tmp_path / "etc/a")]
    assert ledger.get("paths") == ledger.get("pending") == [str(path)]
    assert mode(path.parent) == 0o755
    assert os.listdir(path.parent) == ["b.conf"]
    assert ensure(wanted(path, mode=0o640), ledger) is None


@pytest.mark.parametrize(
    ("kind", "more"),
    [("file", {}), ("directory", {"mode": 0o750}), ("link", {"target": "/x"})],
)
def test_each_kind_is_made_once(tmp_path: Path, ledger: _files.Ledger, kind: str, more: dict[str, Any]) -> None:
    item = wanted(tmp_path / "it", kind=kind, **more)
    predicted = ensure(item, ledger, check=True)
    assert not os.path.lexists(item.path) and ledger.get("paths") == []
    assert ensure(item, ledger) == predicted is not None
    assert _files.matches(item)
    assert ensure(item, ledger) is None
    assert ensure(item, ledger, check=True) is None


@pytest.mark.parametrize(
    "now",
    ["content", "mode", "link"],
)
def test_each_difference_is_found(tmp_path: Path, ledger: _files.Ledger, now: str) -> None:
    path = tmp_path / "a"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("new\n")
    elsewhere.chmod(0o644)
    if now == "link":
        path.symlink_to(elsewhere)
    else:
        path.write_text("old\n" if now == "content" else "new\n")
        path.chmod(0o600 if now == "mode" else 0o644)
    assert ensure(wanted(path), ledger) is not None
    assert not path.is_symlink() and path.read_text() == "new\n" and mode(path) == 0o644


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path, ledger: _files.Ledger) -> None:
    victim = tmp_path / "passwd"
    victim.write_text("root\n")
    path = tmp_path / "a.conf"
    path.symlink_to(victim)
    change = ensure(wanted(path), ledger)
    assert change is not None and change.diff["before"] == f"link to {victim}\n"
    assert victim.read_text() == "root\n" and path.read_text() == "new\n"
    _files.forget(str(path), ledger=ledger, check=False)
    assert os.readlink(path) == str(victim)


def test_a_link_takes_the_place_of_a_file_and_of_a_leftover(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    (tmp_path / "a.slipway-new").symlink_to("/left/by/a/killed/run")
    ensure(wanted(path, kind="link", target="b"), ledger)
    assert os.readlink(path) == "b" and not os.path.lexists(tmp_path / "a.slipway-new")


def test_the_mode_of_a_directory_is_set(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "d"
    path.mkdir(mode=0o777)
    change = ensure(wanted(path, kind="directory", mode=0o700), ledger)
    assert change is not None and change.diff["after"].startswith("directory mode 0700")
    assert change.diff["before"].startswith("directory mode 07")
    assert mode(path) == 0o700
    assert ledger.get("directories") == []  # it was there before us


@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        ("file", "directory", "is a directory: move it away, it has to be a file"),
        ("link", "directory", "is a directory: move it away, it has to be a link"),
        ("directory", "file", "is not a directory: move it away, it has to be a directory"),
        ("absent", "full directory", "is a directory with something in it: move it away, it has to be absent"),
        ("file", "pipe", "is a device, socket or pipe: move it away, it has to be a file"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_what_is_not_ours_to_replace_is_refused(
    tmp_path: Path, ledger: _files.Ledger, kind: str, make: str, words: str, check: bool
) -> None:
    path = tmp_path / "a"
    if "directory" in make:
        path.mkdir()
        if make.startswith("full"):
            (path / "child").touch()
    elif make == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
    with pytest.raises(HostError, match=words):
        ensure(wanted(path, kind=kind), ledger, check=check)
    assert os.path.lexists(path)


def test_absent_takes_files_and_empty_directories(tmp_path: Path, ledger: _files.Ledger) -> None:
    file, directory = tmp_path / "f", tmp_path / "d"
    file.write_text("mine\n")
    directory.mkdir()
    for path in (file, directory):
        change = ensure(wanted(path, kind="absent"), ledger)
        assert change is not None and change.action == "removed" and change.diff["after"] == ""
        assert not path.exists()
        assert ensure(wanted(path, kind="absent"), ledger) is None
    change = _files.forget(str(file), ledger=ledger, check=False)
    assert change is not None and change.action == "restored" and file.read_text() == "mine\n"


def test_a_file_above_a_path_is_one_sentence(tmp_path: Path, ledger: _files.Ledger) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(HostError, match=r"/a/b\.conf can't be changed: File exists"):
        ensure(wanted(tmp_path / "a/b.conf"), ledger)


def test_an_unknown_user_stops_a_run_but_not_a_prediction(tmp_path: Path, ledger: _files.Ledger) -> None:
    item = wanted(tmp_path / "a", owner="not-yet")
    (tmp_path / "a").write_text("new\n")
    predicted = ensure(item, ledger, check=True)
    assert predicted is not None and "owner not-yet" in predicted.diff["after"]
    with pytest.raises(HostError, match="user 'not-yet' does not exist"):
        ensure(item, ledger)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner_and_group_are_set_and_given_back(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "a"
    path.write_text("old\n")
    os.chown(path, 4711, 4712)
    path.chmod(0o4750)
    ensure(wanted(path, owner="1234", group="1235"), ledger)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
    _files.forget(str(path), ledger=ledger, check=False)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (4711, 4712, 0o4750)


# --- what was there before ---


def test_the_original_is_kept_once_and_restored(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "a"
    path.write_text("original\n")
    path.chmod(0o600)
    for content in ("one\n", "two\n"):
        ensure(wanted(path, content), ledger)
    originals = Path(ledger.state_dir, "originals")
    assert mode(originals) == 0o700, "an original may be a secret"
    change = _files.forget(str(path), ledger=ledger, check=True)
    assert change is not None and change.action == "restored" and path.read_text() == "two\n"
    assert _files.forget(str(path), ledger=ledger, check=False) == change
    assert path.read_text() == "original\n" and mode(path) == 0o600
    assert ledger.get("paths") == []
    assert not originals.exists()


def test_a_file_of_ours_is_removed(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "a"
    ensure(wanted(path), ledger)
    change = _files.forget(str(path), ledger=ledger, check=False)
    assert change is not None and change.action == "removed"
    assert not path.exists()
    assert _files.forget(str(path), ledger=ledger, check=False) is None


def test_an_original_comes_back_into_a_directory_that_is_gone(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "d/a"
    path.parent.mkdir()
    path.write_text("original\n")
    ensure(wanted(path), ledger)
    path.unlink()
    path.parent.rmdir()
    _files.forget(str(path), ledger=ledger, check=False)
    assert path.read_text() == "original\n"


def test_a_copy_cut_short_is_never_taken_for_the_original(
    tmp_path: Path, ledger: _files.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("original\n")

    def killed(_source: str, target: str, **_: Any) -> None:
        Path(target).write_text("orig")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copy2", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure(wanted(path), ledger)
    again = reloaded(ledger)
    ensure(wanted(path), again)
    _files.forget(str(path), ledger=again, check=False)
    assert path.read_text() == "original\n"


def test_a_link_is_kept_though_a_killed_run_left_its_copy(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "a"
    path.symlink_to("/elsewhere")
    partial = Path(ledger.backup_path(str(path)) + ".slipway-new")
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/elsewhere")
    ensure(wanted(path), ledger)
    _files.forget(str(path), ledger=ledger, check=False)
    assert os.readlink(path) == "/elsewhere"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_killed_while_it_restores_loses_nothing(
    tmp_path: Path, ledger: _files.Ledger, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    path = tmp_path / "a"
    path.write_text("original\n")
    ensure(wanted(path), ledger)
    steps = 0
    unlink, rename = os.unlink, os.rename

    def count(then: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == step:
                raise KeyboardInterrupt
            return then(*arguments)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", count(unlink))
        patch.setattr(os, "rename", count(rename))
        with pytest.raises(KeyboardInterrupt):
            _files.forget(str(path), ledger=ledger, check=False)
    again = reloaded(ledger)
    for known in again.get("paths"):
        _files.forget(known, ledger=again, check=False)
    assert path.read_text() == "original\n"


def test_a_run_killed_before_it_writes_is_undone_completely(
    tmp_path: Path, ledger: _files.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: _files.WantedFile) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_files, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure(wanted(tmp_path / "d/a"), ledger)
    again = reloaded(ledger)
    assert again.get("paths") == again.get("pending") == [str(tmp_path / "d/a")]
    assert _files.forget(str(tmp_path / "d/a"), ledger=again, check=False) is None
    _files.prune_directories(ledger=again, keep=(), check=False)
    assert not (tmp_path / "d").exists()


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        _files.write_atomic(path=str(tmp_path / "a"), content=b"x", mode=0o644)
    assert os.listdir(tmp_path) == []


# --- secrets ---


@pytest.mark.parametrize("file_mode", [0o600, 0o644])
def test_a_secret_is_in_no_diff(tmp_path: Path, ledger: _files.Ledger, file_mode: int) -> None:
    path = tmp_path / "a.env"
    steps: list[_files.Change | None] = [
        ensure(wanted(path, "PASSWORD=first\n", secret=True, mode=file_mode), ledger),
        ensure(wanted(path, "PASSWORD=second\n", secret=True, mode=file_mode), ledger),
        ensure(wanted(path, "harmless\n", mode=0o644), ledger),
        ensure(wanted(path, "PASSWORD=third\n", secret=True, mode=file_mode), ledger),
        _files.forget(str(path), ledger=ledger, check=True),
        _files.forget(str(path), ledger=ledger, check=False),
    ]
    assert None not in steps
    assert "PASSWORD" not in str(steps)
    assert ledger.get("secrets") == []


def test_each_secret_stays_one(tmp_path: Path, ledger: _files.Ledger) -> None:
    for name in ("a", "b"):
        ensure(wanted(tmp_path / name, f"PASSWORD {name}", secret=True), ledger)
    again = reloaded(ledger)
    for name in ("a", "b"):
        assert "PASSWORD" not in str(_files.forget(str(tmp_path / name), ledger=again, check=False))


def test_a_file_that_becomes_a_secret_is_one(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "a"
    ensure(wanted(path, "PASSWORD"), ledger)
    assert ensure(wanted(path, "PASSWORD", secret=True), ledger) is None
    assert "PASSWORD" not in str(_files.forget(str(path), ledger=ledger, check=False))


def test_what_others_may_not_read_is_not_shown(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "shadow"
    path.write_text("root:hash\n")
    path.chmod(0o640)
    change = ensure(wanted(path, "alice:hash\n", mode=0o640), ledger)
    assert change is not None and "hash" not in str(change.diff)
    assert _files.SECRET_NOTE in change.diff["before"] and _files.NEW_SECRET_NOTE in change.diff["after"]


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8))
def test_no_secret_is_ever_described(secret: str) -> None:
    item = _files.WantedFile(path="/nowhere", content=secret.encode(), secret=True)
    shown = _files._describe_wanted(item)
    assert secret not in shown.replace(_files.NEW_SECRET_NOTE, "")


# --- directories ---


def test_directories_of_ours_go_when_they_are_empty(tmp_path: Path, ledger: _files.Ledger) -> None:
    one, two = tmp_path / "d/one/a", tmp_path / "d/two/b"
    for path in (one, two):
        ensure(wanted(path), ledger)
    foreign = tmp_path / "d/two/foreign"
    foreign.touch()
    for path in (one, two):
        _files.forget(str(path), ledger=ledger, check=False)
    changes = _files.prune_directories(ledger=ledger, keep=(), check=False)
    assert [change.path for change in changes] == [str(one.parent)]
    assert foreign.exists() and ledger.get("directories") == [str(tmp_path / "d"), str(two.parent)]


def test_a_check_predicts_which_directories_go(tmp_path: Path, ledger: _files.Ledger) -> None:
    path = tmp_path / "d/e/a"
    ensure(wanted(path), ledger)
    ensure(wanted(tmp_path / "kept", kind="directory", mode=0o755), ledger)
    keep = {str(tmp_path / "kept")}
    assert _files.prune_directories(ledger=ledger, keep=keep, check=True) == []
    predicted = _files.prune_directories(ledger=ledger, keep=keep, check=True, gone=[str(path)])
    assert path.exists()
    path.unlink()
    assert _files.prune_directories(ledger=ledger, keep=keep, check=False) == predicted != []
    assert sorted(os.listdir(tmp_path)) == ["kept", "state"]


def test_a_directory_that_can_not_go_is_not_reported(
    tmp_path: Path, ledger: _files.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(wanted(tmp_path / "mounted", kind="directory", mode=0o755), ledger)

    def busy(_: str) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "rmdir", busy)
    assert _files.prune_directories(ledger=ledger, keep=(), check=False) == []


def test_a_directory_that_became_something_else_stays(tmp_path: Path, ledger: _files.Ledger) -> None:
    ensure(wanted(tmp_path / "d", kind="directory", mode=0o755), ledger)
    (tmp_path / "d").rmdir()
    (tmp_path / "d").symlink_to(tmp_path)
    assert _files.prune_directories(ledger=ledger, keep=(), check=False) == []
    assert (tmp_path / "d").is_symlink()


# --- describing ---


def test_a_special_file_is_described_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert _files.describe(str(tmp_path / "pipe")).startswith("device, socket or pipe mode")


def test_below_a_file_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert _files.describe(str(tmp_path / "a/b")) == ""
    _files.remove_path(str(tmp_path / "a/b"))


def test_missing_parents_end_at_the_top() -> None:
    assert _files.missing_parents("/nowhere-a/b/c") == ["/nowhere-a", "/nowhere-a/b"]
    assert _files.missing_parents("nowhere-a/b") == ["nowhere-a"]


def test_a_full_directory_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").touch()
    _files.remove_path(str(tmp_path / "d"))
    assert (tmp_path / "d/a").exists()


def test_the_ledger_is_json_that_an_operator_can_read(tmp_path: Path, ledger: _files.Ledger) -> None:
    ensure(wanted(tmp_path / "a"), ledger)
    stored = json.loads(Path(ledger.path).read_text())
    assert stored == {"paths": [str(tmp_path / "a")], "pending": [str(tmp_path / "a")]}


def test_two_runs_on_one_host_wait_for_each_other(tmp_path: Path) -> None:
    """What a controller that died has left working is not joined by its successor."""
    waited: list[float] = []
    first = contextlib.ExitStack()
    first.enter_context(_files.alone(str(tmp_path)))

    def pause(seconds: float) -> None:
        waited.append(seconds)
        first.close()

    with _files.alone(str(tmp_path), pause=pause):
        assert waited == [_files.LOCK_POLL_SECONDS]
        with pytest.raises(HostError, match="another run has been working on this host for 0 seconds: it needs to end"):
            _files.alone(str(tmp_path), seconds=0).__enter__()
