# SPDX-License-Identifier: GPL-3.0-or-later
"""One key of a user's file is ours; everything else, and the file's owner, mode and order, is the user's."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _json_keys
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._files import Ledger
from ansible_collections.slipway.platform.plugins.module_utils._json_keys import WantedKey

as_user = _json_keys.as_user
OURS = {"httpProxy": "http://172.17.0.1:3128"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the user who runs the tests, known under the name ops."""
    directory = tmp_path / "home"
    directory.mkdir()
    account = pwd.struct_passwd(("ops", "x", os.getuid(), os.getgid(), "", str(directory), "/bin/sh"))

    def lookup(name: str) -> pwd.struct_passwd:
        if name != "ops":
            raise KeyError(name)
        return account

    monkeypatch.setattr(_json_keys.pwd, "getpwnam", lookup)
    # Without the fork, which hides what runs from the coverage gate; that one has tests of its own below.
    monkeypatch.setattr(_json_keys, "as_user", lambda _account, work: json.loads(json.dumps(work())))
    return directory


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def ledger(state: str, owner: str = "network") -> Ledger:
    book = Ledger(owner=owner, state_dir=state)
    book.load()
    return book


def key(value: Any = OURS, *, keys: tuple[str, ...] = ("proxies", "default"), secret: bool = False) -> WantedKey:
    return WantedKey(user="ops", path=".docker/config.json", keys=keys, value=value, secret=secret)


def apply(state: str, *wanted: WantedKey, check: bool = False, owner: str = "network") -> list[str]:
    """Apply and return what changed."""
    changes = _json_keys.apply(wanted, ledger=ledger(state, owner), check=check)
    return [change.action for change in changes if change]


def write(home: Path, content: str, mode: int = 0o644) -> Path:
    path = home / ".docker/config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    return path


def test_makes_the_file_for_its_user_only_and_removes_it(home: Path, state: str) -> None:
    assert apply(state, key()) == ["written"]
    path = home / ".docker/config.json"
    assert json.loads(path.read_text()) == {"proxies": {"default": OURS}}
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert apply(state, key()) == []
    assert apply(state) == ["removed"]
    assert list(home.iterdir()) == []
    assert apply(state) == []
    assert not Path(ledger(state).path).exists()


def test_leaves_every_other_key_and_the_mode(home: Path, state: str) -> None:
    before = {"auths": {"a": {"auth": "x"}}, "proxies": {"tcp://other": {"httpProxy": "p"}}, "z": [1]}
    path = write(home, json.dumps(before), 0o640)
    apply(state, key())
    now = json.loads(path.read_text())
    assert now == {**before, "proxies": {"tcp://other": {"httpProxy": "p"}, "default": OURS}}
    assert list(now) == ["auths", "proxies", "z"]
    assert path.stat().st_mode & 0o777 == 0o640
    apply(state)
    assert json.loads(path.read_text()) == before


def test_gives_back_a_value_that_was_there(home: Path, state: str) -> None:
    path = write(home, '{"proxies": {"default": {"httpProxy": "theirs"}}}')
    apply(state, key())
    apply(state, key({"httpProxy": "changed"}))
    apply(state)
    assert json.loads(path.read_text()) == {"proxies": {"default": {"httpProxy": "theirs"}}}


def test_removal_leaves_what_somebody_changed_since(home: Path, state: str) -> None:
    apply(state, key())
    path = write(home, '{"proxies": {"default": {"httpProxy": "theirs"}}}')
    assert apply(state) == []
    assert json.loads(path.read_text()) == {"proxies": {"default": {"httpProxy": "theirs"}}}


def test_a_change_by_hand_is_repaired(home: Path, state: str) -> None:
    apply(state, key())
    path = write(home, "{}")
    assert apply(state, key()) == ["written"]
    assert json.loads(path.read_text()) == {"proxies": {"default": OURS}}


def test_two_owners_share_a_file(home: Path, state: str) -> None:
    apply(state, key(), owner="network")
    login = key({"auth": "x"}, keys=("auths", "registry:6001"), secret=True)
    apply(state, login, owner="trust")
    assert set(json.loads((home / ".docker/config.json").read_text())) == {"proxies", "auths"}
    apply(state, owner="trust")
    assert json.loads((home / ".docker/config.json").read_text()) == {"proxies": {"default": OURS}}
    apply(state, owner="network")
    assert list(home.iterdir()) == []


def test_check_mode_predicts_and_touches_nothing(home: Path, state: str) -> None:
    assert apply(state, key(), check=True) == ["written"]
    assert list(home.iterdir()) == []
    assert not Path(state).exists()
    apply(state, key())
    content = (home / ".docker/config.json").read_bytes()
    assert apply(state, check=True) == ["removed"]
    assert (home / ".docker/config.json").read_bytes() == content


def test_a_secret_is_in_no_diff(home: Path, state: str) -> None:
    book = ledger(state)
    write(home, '{"auths": {"r": {"auth": "their-secret"}}}')
    changes = _json_keys.apply(
        [key({"auth": "our-secret"}, keys=("auths", "r"), secret=True)], ledger=book, check=False
    )
    changes += _json_keys.apply([], ledger=book, check=False)
    assert "secret content" in str(changes)
    assert "our-secret" not in str(changes)
    assert "their-secret" not in str(changes)


def test_a_diff_names_the_key(home: Path, state: str) -> None:
    (change,) = _json_keys.apply([key()], ledger=ledger(state), check=True)
    assert change is not None
    assert change.diff["after_header"] == "~ops/.docker/config.json proxies.default"
    assert json.loads(change.diff["after"]) == OURS


@pytest.mark.parametrize("link", [".docker", ".docker/config.json"])
def test_no_link_is_followed(home: Path, state: str, tmp_path: Path, link: str) -> None:
    target = tmp_path / "victim"
    if link == ".docker":
        target.mkdir()
    else:
        (home / ".docker").mkdir()
        target.write_text("{}")
    (home / link).symlink_to(target)
    with pytest.raises(HostError, match="a link"):
        apply(state, key())
    assert target.is_dir() or target.read_text() == "{}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"proxies": 5}', "proxies is int: it needs to be an object"),
        (" " * (_json_keys.MAX_SIZE + 1), "is larger than"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_stays(home: Path, state: str, content: str, words: str) -> None:
    path = write(home, content)
    with pytest.raises(HostError, match=words):
        apply(state, key())
    assert path.read_text() == content


def test_a_pipe_is_refused_at_once(home: Path, state: str) -> None:
    (home / ".docker").mkdir()
    os.mkfifo(home / ".docker/config.json")
    with pytest.raises(HostError, match="is not a file"):
        apply(state, key())


def test_an_empty_file_is_an_empty_object(home: Path, state: str) -> None:
    path = write(home, "")
    apply(state, key())
    assert json.loads(path.read_text()) == {"proxies": {"default": OURS}}


def test_a_user_must_exist_and_have_a_home(home: Path, state: str) -> None:
    with pytest.raises(HostError, match="user 'nobody-here' does not exist"):
        _json_keys.account_of("nobody-here")
    home.rmdir()
    with pytest.raises(HostError, match="user 'ops' has no home"):
        apply(state, key())


def test_a_user_who_left_is_forgotten(home: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(state, key())
    monkeypatch.setattr(_json_keys.pwd, "getpwnam", {}.__getitem__)
    assert apply(state) == []
    assert ledger(state).get(_json_keys.LEDGER_KEY) == []


def test_a_directory_that_cannot_be_written_is_one_sentence(
    home: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_json_keys.os, "rename", refuse)
    account = _json_keys.account_of("ops")
    with pytest.raises(HostError, match=r"config.json can't be written: No space left"):
        _json_keys._Home(account.pw_dir, ".docker/config.json").write({}, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_work_has_the_users_identity(tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    assert as_user(account, lambda: [os.geteuid(), os.getegid()]) == [account.pw_uid, account.pw_gid]


def test_a_child_that_breaks_is_one_sentence() -> None:
    account = pwd.getpwuid(os.getuid())
    with pytest.raises(HostError, match="ZeroDivisionError"):
        as_user(account, lambda: 1 // 0)
    with pytest.raises(HostError, match="ended without an answer"):
        as_user(account, lambda: os._exit(3))


def test_a_file_is_read_and_written_by_the_child(home: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_json_keys, "as_user", as_user)
    assert apply(state, key()) == ["written"]
    assert json.loads((home / ".docker/config.json").read_text()) == {"proxies": {"default": OURS}}
    assert apply(state) == ["removed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_file_that_its_user_cannot_read_is_refused(tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    os.chown(tmp_path, account.pw_uid, account.pw_gid)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "config.json").chmod(0o600)
    with pytest.raises(HostError, match="it needs to belong to that user"):
        as_user(account, _json_keys._Home(str(tmp_path), "config.json").read)


def test_put_and_take_are_inverse() -> None:
    data: dict[str, Any] = {"a": {"b": 1}}
    entry = _json_keys.Entry("u", "p", ("a", "c", "d"), [], _json_keys.depth(data, ("a", "c", "d")), [], "")
    _json_keys.put(data, entry.keys, 5)
    assert data == {"a": {"b": 1, "c": {"d": 5}}}
    _json_keys.take(data, entry)
    assert data == {"a": {"b": 1}}
    assert _json_keys.Entry.parse(entry.text()) == entry
