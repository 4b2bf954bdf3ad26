# SPDX-License-Identifier: GPL-3.0-or-later
"""A release is there whole or not at all, and only the one that was pinned."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import urllib.error
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _tarball
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

URL = "https://archive.example.com/x-1.tar.gz"


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.uid = 4, 1234
            tar.addfile(member, io.BytesIO(b"text"))
    return data.getvalue()


def serving(*answers: bytes | Exception) -> Any:
    left = list(answers)

    @contextlib.contextmanager
    def open_url(url: str) -> Iterator[Any]:
        assert url == URL
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield io.BytesIO(answer)

    return open_url


def sha512(data: bytes) -> str:
    return hashlib.sha512(data).hexdigest()


def test_it_is_unpacked_and_named(tmp_path: Path) -> None:
    data, target = archive("x-1/bin/x", "x-1/share/y"), tmp_path / "opt" / "x-1"
    assert _tarball.installed(str(target)) == ""
    _tarball.install(URL, str(target), checksum=sha512(data).upper(), open_url=serving(OSError("reset"), data))
    assert (target / "bin/x").read_text() == "text"
    assert _tarball.installed(str(target)) == sha512(data)
    assert [path.name for path in (tmp_path / "opt").iterdir()] == ["x-1"], "nothing is left beside it"
    other = archive("x-1/bin/z")
    _tarball.install(URL, str(target), checksum=sha512(other), open_url=serving(other))
    assert [path.name for path in (target / "bin").iterdir()] == ["z"], "replaced as a whole"


def http_error(code: int, reason: str = "no") -> urllib.error.HTTPError:
    return urllib.error.HTTPError(URL, code, reason, Message(), None)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([archive("x-1/a")], "is not the file that was pinned"),
        ([http_error(404, "Not Found")], "can't be fetched: the answer is 404 Not Found"),
        ([OSError("a"), OSError("b"), urllib.error.URLError("Tunnel connection failed: 407")], "failed: 407"),
        ([http_error(503), http_error(503), http_error(503)], "the answer is 503"),
    ],
)
def test_what_is_not_the_release_leaves_nothing(tmp_path: Path, answers: list[Any], message: str) -> None:
    target = tmp_path / "opt" / "x-1"
    with pytest.raises(HostError, match=message):
        _tarball.install(URL, str(target), checksum="a" * 128, open_url=serving(*answers))
    assert list((tmp_path / "opt").iterdir()) == []


def test_an_archive_is_one_directory(tmp_path: Path) -> None:
    data = archive("a/x", "b/x")
    with pytest.raises(HostError, match="holds 2 entries"):
        _tarball.install(URL, str(tmp_path / "x"), checksum=sha512(data), open_url=serving(data))


@pytest.mark.parametrize(
    ("host", "direct"),
    [("mirror.corp.lab", True), ("corp.lab", True), ("10.1.2.3", True), ("notcorp.lab", False), ("10.2.0.1", False)],
)
def test_who_is_reached_directly(host: str, direct: bool) -> None:
    assert _tarball.is_direct(f"https://{host}/x.tar.gz", [".corp.lab", "10.1.0.0/16", "single"]) is direct


def test_a_proxy_is_the_one_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    open_url = _tarball.opener({"http": "http://127.0.0.1:9"})
    with pytest.raises(OSError, match="refused"), open_url("http://example.invalid/x"):
        pass
