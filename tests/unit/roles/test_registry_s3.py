# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that asks the registry's bucket: how it signs, and what it says of each answer."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "roles/registry/files/registry_s3.py"
SECRET = "top-secret-key"
OK = (200, "")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_s3", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_s3"] = module
    spec.loader.exec_module(module)
    return module


s3: Any = _load()


class Storage(http.server.BaseHTTPRequestHandler):
    """Answers every request with the next of some answers, the last one again and again; notes what came."""

    protocol_version = "HTTP/1.1"
    answers: list[tuple[int, str]] = []  # noqa: RUF012  # one server at a time
    seen: list[str] = []  # noqa: RUF012

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append(f"{self.command} {self.path}")
        status, code = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        """Every method gets the same answer: do_GET, do_PUT, do_DELETE."""
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def storage(*answers: tuple[int, str]) -> Iterator[dict[str, Any]]:
    """Run a server; yield the bucket on it as the role writes it."""
    Storage.answers, Storage.seen = list(answers), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "endpoint": f"http://127.0.0.1:{server.server_address[1]}", "region": "us-east-1", "name": "images",
            "prefix": "a/b", "access_key": "lab", "secret_key": SECRET, "ca": "", "path_style": True,
        }  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()


def run(bucket: dict[str, Any], tmp_path: Path, *arguments: str) -> int:
    """Run the program with a bucket in a file."""
    (tmp_path / "bucket.json").write_text(json.dumps(bucket), encoding="utf-8")
    return int(s3.main(["--config", str(tmp_path / "bucket.json"), *arguments]))


def test_signs_as_amazon_documents_it() -> None:
    """The example of a bucket's listing in "Signature Calculations for the Authorization Header"."""
    key, secret = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    bucket = s3.Bucket("https://s3.amazonaws.com", "us-east-1", "examplebucket", "", key, secret, path_style=False)
    then = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)
    found = s3.headers(bucket, "GET", bucket.path(""), "max-keys=2&prefix=J", b"", then)
    assert found["host"] == "examplebucket.s3.amazonaws.com"
    assert found["Authorization"].endswith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


def test_without_an_endpoint_it_is_amazons_own() -> None:
    bucket = s3.Bucket("", "eu-central-1", "images", "", "lab", SECRET)
    assert (bucket.host, bucket.path("a b")) == ("s3.eu-central-1.amazonaws.com", "/images/a%20b")
    assert SECRET not in repr(bucket)


def test_only_looks_unless_it_shall_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with storage(OK) as bucket:
        assert run(bucket, tmp_path) == 0
        assert Storage.seen == ["GET /images/?list-type=2&max-keys=1&prefix=a%2Fb%2F"]
        Storage.seen.clear()
        assert run(bucket, tmp_path, "--write") == 0
    assert [line.split()[0] for line in Storage.seen] == ["GET", "PUT", "GET", "DELETE"]
    assert len({line.split()[1] for line in Storage.seen[1:]}) == 1
    assert Storage.seen[1].startswith("PUT /images/a/b/.slipway-check-")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(403, "SignatureDoesNotMatch")], "refuses the secret key (registry_s3_secret_key)"),
        ([(403, "InvalidAccessKeyId")], "does not know the access key (registry_s3_access_key)"),
        ([(404, "NoSuchBucket")], "has no bucket images (registry_s3_bucket)"),
        ([(301, "PermanentRedirect")], "wants another region than us-east-1 (registry_s3_region)"),
        ([(403, "RequestTimeTooSkewed")], "has another time than this machine"),
        ([(403, "AccessDenied")], "does not let the access key list in bucket images"),
        ([OK, (403, "AccessDenied")], "does not let the access key write in bucket images"),
        ([OK, OK, (403, "AccessDenied")], "does not let the access key read in bucket images"),
        ([OK, OK, OK, (403, "AccessDenied")], "does not let the access key delete in bucket images"),
        ([(502, "")], "answers 502 when asked to list in bucket images"),
    ],
)
def test_says_what_is_wrong(
    answers: list[tuple[int, str]], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with storage(*answers) as bucket:
        assert run(bucket, tmp_path, "--write") == 1
    said = capsys.readouterr().out
    assert said.startswith(f"the object storage {bucket['endpoint']} ")
    assert words in said
    assert SECRET not in said
    assert said.count("\n") == 1


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with storage(OK) as bucket:
        pass
    assert run(bucket, tmp_path) == 1
    assert f"{bucket['endpoint']} does not answer" in capsys.readouterr().out
