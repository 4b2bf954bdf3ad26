# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for passwords finds each form it promises, and says nothing that would leak it again."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import tarfile
import urllib.parse

import pytest

from tests.testinfra.secrets import Secret, leaks_in, leaks_on

SECRET = Secret('p@ss%20#:/"w0rd!ä', "corp\\svc")
URL = f"http://{urllib.parse.quote(SECRET.user, safe='')}:{urllib.parse.quote(SECRET.password, safe='')}@proxy:8080"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"before {SECRET.password} after", "raw"),
        (URL, "percent-encoded"),
        (URL.replace("%C3%A4", "%c3%a4").replace("%3A", "%3a").replace("%2F", "%2f"), "percent-encoded in lower case"),
        (URL.replace("%", "%%"), "percent-encoded for a unit"),
        (json.dumps({"password": SECRET.password}), "in JSON"),
        (json.dumps({"password": SECRET.password}, ensure_ascii=False), "in JSON with Unicode"),
        (base64.b64encode(SECRET.password.encode()).decode(), "base64"),
        (base64.b64encode(f"{SECRET.user}:{SECRET.password}".encode()).decode(), "base64 with its user"),
        (base64.b64encode(f"{SECRET.user}:{SECRET.password}\n".encode()).decode(), "base64 with its user"),
    ],
)
def test_every_form_is_found(text: str, name: str) -> None:
    found = leaks_in(text, [SECRET], where="the log")
    assert any(sentence.endswith(f"({name})") for sentence in found)
    assert all(SECRET.password not in sentence for sentence in found)


def test_harmless_text_is_harmless() -> None:
    assert leaks_in(b"HTTP Proxy: http://xxxxx:xxxxx@proxy.corp.lab:8080 \xff", [SECRET, Secret("x" * 20)]) == []


@dataclasses.dataclass
class Answer:
    stdout_bytes: bytes


class FakeHost:
    """A machine with one readable file, whose processes and units say what they are given."""

    def __init__(self, content: bytes, shown: bytes) -> None:
        self.content = content
        self.shown = shown

    def run(self, command: str) -> Answer:
        if "tar --create" not in command:
            return Answer(self.shown if "systemctl show" in command else b"")
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            member = tarfile.TarInfo("etc/environment")
            member.size = len(self.content)
            archive.addfile(member, io.BytesIO(self.content))
        return Answer(gzip.compress(data.getvalue()))


def test_a_machine_is_searched_where_others_can_look() -> None:
    assert leaks_on(FakeHost(b"PATH=/bin\n", b"Environment=\n"), [SECRET]) == []
    found = leaks_on(FakeHost(f"https_proxy={URL}\n".encode(), URL.replace("%", "%%").encode()), [SECRET])
    assert any(sentence.startswith("/etc/environment holds the password") for sentence in found)
    assert any(sentence.startswith("systemctl show holds") for sentence in found)
