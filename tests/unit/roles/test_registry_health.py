# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's health program: what it sees, says and repairs, against a real TLS server and a fake dockerd."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import http.server
import importlib.util
import json
import os
import shutil
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PROGRAM = Path(__file__).resolve().parents[3] / "roles/registry/files/registry_health.py"
GIB = 2**30


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_health", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_health"] = module
    spec.loader.exec_module(module)
    return module


health: Any = _load()


def certificate(path: Path, *, host: str = "registry.corp.lab", days: float = 100) -> None:
    """Write a self-signed certificate and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, minutes=5)
    start = end - datetime.timedelta(days=200)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + pem)


class Front(http.server.BaseHTTPRequestHandler):
    """Stands for nginx."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, int] = {}  # noqa: RUF012  # one server at a time

    def do_GET(self) -> None:
        self.send_response(self.answers[self.path])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Run a TLS server with the certificate in served.pem; yield what it answers by path."""
    certificate(tmp_path / "served.pem")
    with serving(tmp_path / "served.pem") as port:
        (tmp_path / "port").write_text(str(port), encoding="utf-8")
        Front.answers = {"/v2/": 401, "/healthz": 200}
        yield Front.answers


@contextlib.contextmanager
def serving(pem: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def config(tmp_path: Path, front: dict[str, int]) -> Any:
    data = tmp_path / "data"
    data.mkdir()
    (data / ".marker").touch()
    (tmp_path / "run").mkdir()
    return health.Config(
        host="registry.corp.lab",
        port=int((tmp_path / "port").read_text(encoding="utf-8")),
        certificate=str(tmp_path / "served.pem"),
        data_dir=str(data),
        marker=".marker",
        data_uid=os.getuid(),
        min_free=1,
        warn_days=30,
        registry="registry",
        proxy="proxy",
        run_dir=str(tmp_path / "run"),
        lock=str(tmp_path / "lock"),
    )


def changed(config: Any, **values: Any) -> Any:
    return health.dataclasses.replace(config, **values)


def container(status: str = "running", *, age: float = 100, pid: int = 0) -> dict[str, Any]:
    started = datetime.datetime.fromtimestamp(time.time() - age, datetime.UTC)
    stamp = started.strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
    return {"State": {"Status": status, "StartedAt": stamp, "Pid": pid}}


class Dockerd:
    """Stands for health.Docker."""

    def __init__(self, **containers: Any) -> None:
        self.containers = {"registry": container(), "proxy": container()} | containers
        self.done: list[str] = []
        self.error = ""

    def inspect(self, name: str) -> Any:
        if self.error:
            raise OSError(self.error)
        return self.containers[name]

    def act(self, name: str, action: str) -> None:
        self.done.append(f"{action} {name}")


def state(config: Any) -> Any:
    return health.load_state(config.state)


def test_all_is_well_and_nothing_is_said(config: Any) -> None:
    docker = Dockerd()
    assert health.one_round(config, docker) == []
    assert docker.done == []
    facts = state(config).facts
    assert facts["certificate_days"] == 100
    assert facts["read_only"] is False
    assert facts["free_bytes"] > 0


@pytest.mark.parametrize(
    ("status", "action"), [("exited", "start"), ("created", "start"), ("paused", "unpause"), ("restarting", "")]
)
def test_what_does_not_run_is_started(status: str, action: str, config: Any) -> None:
    docker = Dockerd(proxy=container(status))
    lines = health.one_round(config, docker)
    assert docker.done == ([f"{action} proxy"] if action else [])
    assert lines == ([f"<5>repaired: {action} proxy"] if action else [])


def test_what_does_not_answer_is_restarted_at_the_second_look(config: Any, front: dict[str, int]) -> None:
    front["/healthz"] = 503
    docker = Dockerd()
    assert health.one_round(config, docker) == ["<3>the registry behind nginx answers 503"]
    assert docker.done == []
    assert health.one_round(config, docker) == ["<5>repaired: restart registry"]
    front["/healthz"] = 200
    assert health.one_round(config, docker) == ["<5>over: the registry behind nginx answers 503"]
    assert docker.done == ["restart?t=10 registry"]


def test_a_container_that_was_just_started_is_left_alone(config: Any, front: dict[str, int]) -> None:
    front["/v2/"] = 500
    docker = Dockerd(proxy=container(age=1))
    for _ in range(3):
        health.one_round(config, docker)
    assert docker.done == []


def test_nobody_listens(config: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    docker = Dockerd()
    for _ in range(2):
        lines = health.one_round(changed(config, port=port), docker)
    assert lines == ["<5>repaired: restart proxy"]


def test_a_container_that_is_gone_is_told(config: Any) -> None:
    lines = health.one_round(config, Dockerd(registry=None))
    assert lines == ["<3>container registry is gone: run playbooks/registry.yml"]


def test_dockerd_that_does_not_answer_is_told(config: Any) -> None:
    docker = Dockerd()
    docker.error = "connection refused"
    assert health.one_round(config, docker) == ["<3>dockerd: connection refused"]


def test_another_certificate_than_the_one_on_disk_is_reloaded(config: Any, tmp_path: Path) -> None:
    certificate(tmp_path / "new.pem")
    renewed = changed(config, certificate=str(tmp_path / "new.pem"))
    docker = Dockerd()
    assert "serves another certificate" in health.one_round(renewed, docker)[0]
    assert docker.done == ["kill?signal=HUP proxy"]


def test_an_issuer_in_the_file_vouches_for_nothing_else(config: Any, tmp_path: Path) -> None:
    """What is served has to be the first certificate of the file, not only one by the issuer that follows it."""
    certificate(tmp_path / "new.pem")
    chain = (tmp_path / "new.pem").read_text() + (tmp_path / "served.pem").read_text()
    (tmp_path / "chain.pem").write_text(chain, encoding="utf-8")
    docker = Dockerd()
    assert "serves another" in health.one_round(changed(config, certificate=str(tmp_path / "chain.pem")), docker)[0]
    assert docker.done == ["kill?signal=HUP proxy"]


DAY = 86400


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({}, ""),
        ({"ok": False, "error": "openssl x509: no key"}, "cannot be renewed: openssl x509: no key"),
        ({"looked": time.time() - 5 * DAY}, "nobody looks after the certificate for 5 days"),
        ({"issuer_not_after": time.time() + 40.5 * DAY}, "the issuer of the certificate ends in 40 days: run site.yml"),
        (None, "has left no word"),
        ({"looked": None}, "has left no word"),
    ],
)
def test_what_the_renewal_left_is_told(left: dict[str, Any] | None, words: str, config: Any, tmp_path: Path) -> None:
    path = tmp_path / "renewal.json"
    if left is not None:
        good = {
            "ok": True,
            "error": "",
            "looked": time.time(),
            "renewed": 1.0,
            "issuer_not_after": time.time() + 999 * DAY,
        }
        path.write_text(json.dumps(good | left), encoding="utf-8")
    watched = changed(config, renewal=str(path))
    lines = health.one_round(watched, Dockerd())
    assert [line for line in lines if words in line and line.startswith("<4>")] if words else lines == []
    assert run_main(watched, tmp_path, "--ready") == 0, "what runs is what was asked for"


@pytest.mark.parametrize(("days", "words"), [(10, "expires in 10 days"), (-1, "has expired")])
def test_an_old_certificate_is_told(days: int, words: str, config: Any, tmp_path: Path) -> None:
    certificate(tmp_path / "old.pem", days=days)
    with serving(tmp_path / "old.pem") as port:
        docker = Dockerd()
        old = changed(config, certificate=str(tmp_path / "old.pem"), port=port)
        assert words in health.one_round(old, docker)[0]
        assert docker.done == []


def test_pushes_stop_below_the_limit_and_come_back_well_above(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"bytes": 5 * GIB, "inodes": 10**6}

    def statvfs(_path: str) -> Any:
        return os.statvfs_result((4096, 1, 10**6, 0, free["bytes"], 10**7, 0, free["inodes"], 0, 255))

    monkeypatch.setattr(health.os, "statvfs", statvfs)
    small = changed(config, min_free=2 * GIB)
    docker = Dockerd()
    assert health.one_round(small, docker) == []
    free["bytes"] = GIB
    assert "1.0 GiB of the wanted 2.0 GiB free: pushes are refused" in health.one_round(small, docker)[0]
    assert os.path.exists(small.flag)
    assert health.one_round(small, docker) == [], "said once"
    free["bytes"] = int(2.1 * GIB)
    health.one_round(small, docker)
    assert os.path.exists(small.flag), "not yet well above"
    free["bytes"] = 3 * GIB
    health.one_round(small, docker)
    assert not os.path.exists(small.flag)
    free["inodes"] = 5
    assert "has 5 inodes free" in health.one_round(small, docker)[0]
    assert os.path.exists(small.flag)


def test_a_disk_that_fills_up_is_told_before_pushes_stop(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"bytes": 9 * GIB}

    def statvfs(_path: str) -> Any:
        return os.statvfs_result((4096, 1, 10**6, 0, free["bytes"], 10**7, 0, 10**6, 0, 255))

    monkeypatch.setattr(health.os, "statvfs", statvfs)
    watched, docker = changed(config, min_free=2 * GIB, warn_free=8 * GIB), Dockerd()
    assert health.one_round(watched, docker) == []
    free["bytes"] = 7 * GIB
    told = f"{config.data_dir} has 7.0 GiB free: below 2.0 GiB pushes are refused"
    assert health.one_round(watched, docker) == [f"<4>{told}"]
    assert not os.path.exists(watched.flag)
    free["bytes"] = int(8.5 * GIB)
    assert health.one_round(watched, docker) == [], "not yet well above: it would be told again and again"
    free["bytes"] = GIB
    lines = health.one_round(watched, docker)
    assert "pushes are refused, pulls go on" in lines[0]
    assert lines[1].startswith("<5>over: ")
    assert os.path.exists(watched.flag)
    free["bytes"] = 9 * GIB
    assert health.one_round(watched, docker)[0].startswith("<5>over: ")
    assert not os.path.exists(watched.flag)


def test_writes_that_a_dead_collection_stopped_are_let_in(config: Any) -> None:
    Path(config.collecting).touch()
    with open(config.collecting_lock, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert health.one_round(config, Dockerd()) == []
        assert os.path.exists(config.collecting), "it lives"
        assert state(config).facts["collecting"] is True
    lines = health.one_round(config, Dockerd())
    assert lines == ["<5>repaired: let pushes in again after a garbage collection that was killed"]
    assert not os.path.exists(config.collecting)
    assert state(config).facts["collecting"] is False


def test_long_problems_are_told_again(config: Any, front: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    health.one_round(config, Dockerd(registry=None))
    now = time.time()
    monkeypatch.setattr(health.time, "time", lambda: now + health.REMIND_AFTER + 1)
    assert health.one_round(config, Dockerd(registry=None)) == [
        "<3>container registry is gone: run playbooks/registry.yml"
    ]


def test_a_disk_that_is_not_there(config: Any) -> None:
    os.unlink(os.path.join(config.data_dir, ".marker"))
    assert "is its disk mounted?" in health.one_round(config, Dockerd())[0]
    assert os.path.exists(config.flag)
    os.rmdir(config.data_dir)
    assert "cannot be read: No such file" in str(health.look(config)[0].problems)


def test_data_of_another_user(config: Any) -> None:
    os.mkdir(os.path.join(config.data_dir, "docker"))
    lines = health.one_round(changed(config, data_uid=4242), Dockerd())
    assert f"chown -R 4242 {config.data_dir}/docker" in lines[0]


def test_a_disk_that_was_mounted_later(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_mounted_device", lambda _pid, _target: "7:7")
    docker = Dockerd()
    assert health.one_round(config, docker) == ["<5>repaired: restart registry"]


def test_mounts_of_a_process_are_read() -> None:
    assert ":" in health._mounted_device(os.getpid(), "/")
    assert health._mounted_device(os.getpid(), "/no/such/mount") == ""
    assert health._mounted_device(2**22 + 1, "/") == ""
    assert health._device("/no/such/path") == ""


def run_main(config: Any, tmp_path: Path, *arguments: str) -> int:
    path = tmp_path / "health.json"
    path.write_text(json.dumps(health.dataclasses.asdict(config)), encoding="utf-8")
    return int(health.main(["--config", str(path), *arguments]))


def test_check_says_what_a_user_would_notice(
    config: Any, front: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(config, tmp_path, "--ready") == 0
    assert os.listdir(config.run_dir) == []
    assert run_main(changed(config, min_free=10**18), tmp_path, "--ready") == 0
    assert "pushes are refused" in capsys.readouterr().out
    front["/healthz"] = 502
    assert run_main(config, tmp_path, "--ready") == 1
    assert os.listdir(config.run_dir) == [], "a switch that is not due is taken back"


def test_a_round_waits_for_no_lock(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docker = Dockerd(registry=None)
    monkeypatch.setattr(health, "Docker", lambda: docker)
    assert run_main(config, tmp_path) == 0
    assert "is gone" in capsys.readouterr().out
    with open(config.lock, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.unlink(config.state)
        assert run_main(config, tmp_path) == 0
    assert capsys.readouterr().out == ""
    assert not os.path.exists(config.state)


class DockerHandler(http.server.BaseHTTPRequestHandler):
    """Stands for dockerd on its socket."""

    def do_GET(self) -> None:
        self._answer(200 if "known" in self.path else 404, {"Id": "1"})

    def do_POST(self) -> None:
        self._answer(204 if "known" in self.path else 404, {"message": "No such container: x"})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        data = b"" if status == 204 else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


def test_dockerd_is_asked_on_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, DockerHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        docker = health.Docker(path)
        assert docker.inspect("known") == {"Id": "1"}
        assert docker.inspect("other") is None
        docker.act("known", "restart?t=10")
        with pytest.raises(OSError, match="start other: No such container"):
            docker.act("other", "start")
        server.shutdown()


def test_something_else_on_the_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"nonsense\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(OSError, match="no HTTP answer"):
            health.Docker(path).inspect("x")


@pytest.mark.parametrize(("size", "text"), [(5 * GIB, "5.0 GiB"), (5 * 2**20, "5 MiB")])
def test_sizes(size: int, text: str) -> None:
    assert health.human(size) == text


def test_a_broken_state_file_is_a_first_round(config: Any) -> None:
    Path(config.state).write_text('{"x": 1}', encoding="utf-8")
    assert state(config).problems == {}
    assert health._age("yesterday") == health.GRACE


@pytest.fixture
def bucket(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry whose images are in a bucket; the program that asks says what stands in the file `says`."""
    program = tmp_path / "asks.py"
    program.write_text(
        "import pathlib, sys; assert sys.argv[1] == '--config'; text = pathlib.Path(sys.argv[2]).read_text();"
        " print(text); sys.exit(1 if text else 0)",
        encoding="utf-8",
    )
    (tmp_path / "says").write_text("", encoding="utf-8")
    monkeypatch.setattr(health, "BUCKET", str(tmp_path / "says"))
    shutil.rmtree(config.data_dir)
    return changed(config, bucket=str(program))


def test_a_bucket_needs_no_disk(bucket: Any) -> None:
    Path(bucket.flag).touch()  # left from a full disk
    assert health.one_round(bucket, Dockerd()) == []
    assert not Path(bucket.flag).exists()


def test_a_storage_that_fails_is_told_and_restarts_nothing(bucket: Any, front: dict[str, int], tmp_path: Path) -> None:
    front["/healthz"] = 503
    (tmp_path / "says").write_text("the object storage refuses the secret key", encoding="utf-8")
    docker = Dockerd()
    lines = [health.one_round(bucket, docker) for _ in range(4)]
    assert "<3>the object storage refuses the secret key" in lines[0]
    assert docker.done == []
    front["/healthz"] = 200
    assert "<5>over: the object storage refuses the secret key" in health.one_round(bucket, docker)


def test_a_registry_that_fails_alone_is_restarted(bucket: Any, front: dict[str, int]) -> None:
    front["/healthz"] = 503
    docker = Dockerd()
    for _ in range(3):
        health.one_round(bucket, docker)
    assert docker.done == ["restart?t=10 registry"]


def test_a_program_that_does_not_run_is_told(bucket: Any, front: dict[str, int]) -> None:
    front["/healthz"] = 503
    Path(bucket.bucket).write_text("syntax error", encoding="utf-8")
    findings, _ = health.look(bucket)
    assert "SyntaxError" in findings.problems["storage"]
