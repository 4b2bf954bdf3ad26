# SPDX-License-Identifier: GPL-3.0-or-later
"""The janitor of shuffle files: what it takes, and every doubt in which it takes nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "roles/spark/files/janitor.py"
A, B = "spark-" + "a" * 32, "spark-" + "b" * 32


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("janitor", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pods(**phases: str) -> dict[str, Any]:
    names = {"a": A, "b": B}
    items = [
        {"metadata": {"labels": {"spark-app-selector": names[name]}}, "status": {"phase": phase}}
        for name, phase in phases.items()
    ]
    return {"kind": "PodList", "metadata": {}, "items": items}


class Node:
    """A directory with the files of two applications and of somebody else, and a janitor in it."""

    def __init__(self, program: ModuleType, root: Path) -> None:
        self.root, self.said, self.answer = root, [], pods(a="Running", b="Running")  # type: ignore[var-annotated]
        self.asked = 0
        for name in (A, B, "spark-x", "registeredExecutors.ldb"):
            (root / name / "blockmgr-1").mkdir(parents=True)
        (root / "elsewhere").mkdir()
        (root / ("spark-" + "c" * 32)).symlink_to(root / "elsewhere")
        self.janitor = program.Janitor(str(root), self.ask, self.said.append)

    def ask(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def there(self) -> set[str]:
        return {name for name in (A, B) if (self.root / name).exists()}


@pytest.fixture
def node(program: ModuleType, tmp_path: Path) -> Node:
    return Node(program, tmp_path)


def test_the_second_look_takes_what_is_gone(node: Node) -> None:
    node.answer = pods(a="Succeeded", b="Running")
    node.janitor.sweep()
    assert node.there() == {A, B}
    node.janitor.sweep()
    assert node.there() == {B}
    assert node.said == [f"removed the files of {A}"]
    # Whatever is not an application's directory is nobody's to take.
    assert {path.name for path in node.root.iterdir()} >= {"spark-x", "registeredExecutors.ldb", "elsewhere"}


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", ""])
def test_one_that_has_not_ended_keeps_its_files(node: Node, phase: str) -> None:
    node.answer = pods(a=phase, b=phase)
    for _ in range(4):
        node.janitor.sweep()
    assert node.there() == {A, B}


def test_pods_that_ended_do_not_hide_one_that_runs(node: Node) -> None:
    node.answer = pods(a="Running", b="Failed")
    node.answer["items"].append({**node.answer["items"][0], "status": {"phase": "Succeeded"}})
    for _ in range(2):
        node.janitor.sweep()
    assert node.there() == {A}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        "no",
        {"kind": "Status", "metadata": {}, "items": []},
        {"kind": "PodList", "metadata": {"continue": "more"}, "items": []},
        {"kind": "PodList", "metadata": {}},
        {"kind": "PodList", "metadata": {}, "items": None},
        {"kind": "PodList", "metadata": {}, "items": [{"metadata": {}, "status": {"phase": "Failed"}}]},
        {"kind": "PodList", "metadata": {}, "items": [{"metadata": {"labels": {"spark-app-selector": A}}}]},
    ],
)
def test_a_doubtful_answer_takes_nothing_and_begins_anew(node: Node, answer: Any) -> None:
    node.answer = pods()
    node.janitor.sweep()
    node.answer = answer
    node.janitor.sweep()
    node.janitor.sweep()
    assert len(node.said) == 1 and node.said[0].startswith("nothing is removed: ")
    node.answer = pods()
    node.janitor.sweep()
    assert node.there() == {A, B}
    node.janitor.sweep()
    assert node.there() == set()


def test_nothing_there_is_nothing_to_ask(node: Node) -> None:
    node.answer = pods()
    for _ in range(2):
        node.janitor.sweep()
    asked = node.asked
    node.janitor.sweep()
    assert node.asked == asked


def test_what_cannot_be_removed_is_told(node: Node, program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"no: {path}")

    monkeypatch.setattr(program.shutil, "rmtree", refuse)
    node.answer = pods(b="Running")
    for _ in range(2):
        node.janitor.sweep()
    assert f"the files of {A} cannot be removed: no" in node.said[0]


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """An API server without TLS, and what it answers."""
    plan: dict[str, Any] = {"status": 200, "body": json.dumps(pods(a="Running")), "seen": []}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            plan["seen"].append((self.path, self.headers["Authorization"]))
            self.send_response(plan["status"])
            self.end_headers()
            self.wfile.write(plan["body"].encode())

        def log_message(self, *words: Any) -> None:
            del words

    served = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}", plan
    served.shutdown()
    served.server_close()


@pytest.fixture
def account(tmp_path: Path, program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "token").write_text("t0ken\n")
    monkeypatch.setattr(program.ssl, "create_default_context", lambda cafile: None)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    return str(tmp_path)


def test_it_asks_for_the_pods_of_one_namespace(
    program: ModuleType, server: tuple[str, dict[str, Any]], account: str
) -> None:
    address, plan = server
    assert program.living(program.ask(address, "jobs", account)) == {A}
    path = "/api/v1/namespaces/jobs/pods?labelSelector=spark-app-selector"
    assert plan["seen"] == [(path, "Bearer t0ken")]


@pytest.mark.parametrize(("status", "body"), [(403, "{}"), (500, ""), (200, '{"kind": "PodL'), (200, "")])
def test_an_error_is_a_doubt(
    program: ModuleType, server: tuple[str, dict[str, Any]], account: str, status: int, body: str
) -> None:
    address, plan = server
    plan |= {"status": status, "body": body}
    with pytest.raises(program.DoubtError, match="the API server does not tell"):
        program.ask(address, "jobs", account)


def test_silence_is_a_doubt(program: ModuleType, account: str, tmp_path: Path) -> None:
    with pytest.raises(program.DoubtError):
        program.ask("http://127.0.0.1:1", "jobs", account)
    (tmp_path / "token").unlink()
    with pytest.raises(program.DoubtError):
        program.ask("http://127.0.0.1:1", "jobs", account)


def test_it_looks_again_and_again(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(program.time, "sleep", pause)
    monkeypatch.setattr(sys, "argv", ["janitor", str(tmp_path), "jobs", "5"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(KeyboardInterrupt):
        program.main()
    assert pauses == [5.0, 5.0, 5.0]
