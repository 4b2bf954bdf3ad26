# SPDX-License-Identifier: GPL-3.0-or-later
"""The caches' program: what it makes of answers, and what it deletes, in a real directory and from a TLS server."""

from __future__ import annotations

import fcntl
import http.server
import importlib.util
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "roles/registry_cache/files/registry_cache.py"
HUB = {
    "name": "docker.io",
    "key": "docker-io",
    "container": "slipway-registry-cache-docker-io",
    "port": 0,
    "url": "https://registry-1.docker.io",
    "user": "",
    "proxy": "proxy.corp.lab:8080",
    "proxy_user": "CORP\\svc",
    "max_size": 0,
    "probe": "library/hello-world",
}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_cache", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_cache"] = module
    spec.loader.exec_module(module)
    return module


program: Any = _load()


class Front(http.server.BaseHTTPRequestHandler):
    """Stands for nginx."""

    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012  # one server at a time

    def do_GET(self) -> None:
        status, body = self.answers[self.path.rpartition("/")[2] or self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[dict[str, tuple[int, str]]]:
    """Run a TLS server; yield what it answers by the path's end, and "port" with its port in place of a status."""
    pem = tmp_path / "server.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {pem} -out {pem}.crt -days 3 -subj /CN=cache.corp.lab"
    subprocess.run(command.split(), check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Front.answers = {"/v2/": (200, "{}"), "healthz": (200, ""), "port": (server.server_port, "")}
    Front.answers[program.NOBODY_HAS] = (404, "{}")
    yield Front.answers
    server.shutdown()
    server.server_close()


def config(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / program.MARKER).touch()
    return {"host": "cache.corp.lab", "data_dir": str(data), "min_free": 0, "caches": [{**HUB}], **changes}


def blob(given: dict[str, Any], key: str, name: str, *, kib: int, used: int) -> Path:
    path = Path(given["data_dir"]) / key / f"docker/registry/v2/blobs/sha256/aa/{name}/data"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(1024 * kib))
    os.utime(path, (used, used))
    return path


def error(detail: str, code: str = "UNKNOWN") -> str:
    return json.dumps({"errors": [{"code": code, "message": "unknown error", "detail": detail}]})


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, error("unknown manifest", "MANIFEST_UNKNOWN"), ""),
        (401, error("authentication required", "UNAUTHORIZED"), ""),
        (
            500,
            error('Get "https://registry-1.docker.io/v2/": Proxy Authentication Required'),
            "the proxy proxy.corp.lab:8080 refuses the login of CORP\\svc",
        ),
        (
            500,
            error('Get "https://registry-1.docker.io/v2/": proxyconnect tcp: dial tcp 10.0.0.1:8080: connect: refused'),
            "the proxy proxy.corp.lab:8080 does not answer",
        ),
        (
            500,
            error("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
            "the certificate of https://registry-1.docker.io, or of a proxy before it, is not trusted on this machine",
        ),
        (500, error("dial tcp: lookup proxy.corp.lab: no such host"), "a name does not resolve"),
        (500, error("dial tcp 10.0.0.1:443: connect: refused"), "https://registry-1.docker.io does not answer"),
        (429, "", "https://registry-1.docker.io limits how much may be pulled"),
        (500, error("EOF"), "https://registry-1.docker.io was asked, and the answer was 500: EOF"),
        (500, "nonsense", "https://registry-1.docker.io was asked, and the answer was 500: nonsense"),
    ],
)
def test_an_answer_has_a_meaning(status: int, body: str, said: str) -> None:
    assert program.meaning(HUB, status, body) == said


def test_a_login_that_is_refused_is_named() -> None:
    mine = {**HUB, "user": "rack"}
    said = "https://registry-1.docker.io refuses the login of rack"
    assert program.meaning(mine, 401, error("authentication required", "UNAUTHORIZED")) == said
    assert program.meaning(mine, 500, error("unauthorized: incorrect username or password")) == said


def test_all_is_well(tmp_path: Path, front: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = config(tmp_path, caches=[{**HUB, "port": front["port"][0]}])
    path = tmp_path / "program.json"
    path.write_text(json.dumps(given))
    assert program.main(["--ready", "--config", str(path)]) == 0
    assert program.main(["--check", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "\n[]\n"


def test_who_is_silent_is_named_once(tmp_path: Path, front: Any, capsys: pytest.CaptureFixture[str]) -> None:
    front["healthz"] = (503, "")
    quay = {**HUB, "name": "quay.io", "port": 1}
    given = config(tmp_path, caches=[{**HUB, "port": front["port"][0]}, quay])
    path = tmp_path / "program.json"
    path.write_text(json.dumps(given))
    assert program.main(["--ready", "--config", str(path)]) == 1
    found = program.check(given)
    assert found[0] == "the cache of docker.io behind nginx answers 503"
    assert found[1].startswith("the cache of quay.io does not answer on port 1: ")
    assert len(found) == 2
    assert capsys.readouterr().out.splitlines() == found


def test_an_upstream_out_of_reach_and_a_full_disk_are_said(
    tmp_path: Path, front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    front[program.NOBODY_HAS] = (500, error("proxyconnect tcp: x"))
    monkeypatch.setattr(program, "free_bytes", lambda _path: 2**20)
    given = config(tmp_path, caches=[{**HUB, "port": front["port"][0]}], min_free=2**30)
    assert program.check(given) == [
        "the cache of docker.io serves only what it has: the proxy proxy.corp.lab:8080 does not answer",
        f"{given['data_dir']} has 1.0 MiB free, and nothing to delete: something else fills the disk",
    ]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    given = config(tmp_path, caches=[{**HUB, "max_size": 2**20}, {**HUB, "key": "quay-io", "name": "quay.io"}])
    old, new = (blob(given, "docker-io", name, kib=600, used=used) for name, used in (("old", 1000), ("new", 2000)))
    other = blob(given, "quay-io", "other", kib=600, used=10)
    (done,) = program.evict(given)
    assert "of docker.io, which was larger than 1.0 MiB" in done
    assert [path.exists() for path in (old, new, other)] == [False, True, True]
    assert not old.parent.exists()
    assert program.evict(given) == []


def test_a_full_disk_takes_from_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(tmp_path, min_free=2**20, caches=[HUB, {**HUB, "key": "quay-io"}])
    new, old = blob(given, "docker-io", "new", kib=600, used=2000), blob(given, "quay-io", "old", kib=600, used=1000)
    monkeypatch.setattr(program, "free_bytes", lambda _path: 2**20 - 1)
    (done,) = program.evict(given)
    assert done.endswith("because the disk had 1024.0 KiB free")
    assert [path.exists() for path in (old, new)] == [False, True]
    monkeypatch.setattr(program, "free_bytes", lambda _path: 2**20)
    assert program.evict(given) == []


def test_only_what_was_a_cache_is_dropped(tmp_path: Path) -> None:
    given = config(tmp_path)
    mine, gone = (blob(given, key, "a", kib=1, used=1) for key in ("docker-io", "quay-io"))
    (Path(given["data_dir"]) / "photos").mkdir()
    assert program.drop(given) == [f"deleted {given['data_dir']}/quay-io, which no cache has"]
    assert [mine.exists(), gone.exists()] == [True, False]
    assert (Path(given["data_dir"]) / "photos").exists()
    (Path(given["data_dir"]) / program.MARKER).unlink()
    assert program.drop({**given, "caches": []}) == []


def test_a_round_starts_what_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> SimpleNamespace:
        asked.append(command)
        listing = "a running\nb exited\nc paused\nd restarting\n"
        return SimpleNamespace(returncode=0, stdout=listing if command[1] == "ps" else "x\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(program, "STATE", str(tmp_path / "state.json"))
    monkeypatch.setattr(program, "LOCK", str(tmp_path / "lock"))
    path = tmp_path / "program.json"
    path.write_text(json.dumps(config(tmp_path)))
    assert program.main(["--config", str(path)]) == 0
    assert asked[1:] == [["docker", "start", "b"], ["docker", "unpause", "c"]]
    assert capsys.readouterr().out.splitlines() == ["<5>start b", "<5>unpause c"]
    assert json.loads((tmp_path / "state.json").read_text())["looked"] > 0
    with (tmp_path / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        asked.clear()
        assert program.main(["--config", str(path)]) == 0
        assert asked == []


def test_sizes_are_for_people() -> None:
    assert [program.human(size) for size in (12, 2**10, 3 * 2**39, 2**52)] == [
        "12.0 bytes",
        "1.0 KiB",
        "1.5 TiB",
        "4096.0 TiB",
    ]
