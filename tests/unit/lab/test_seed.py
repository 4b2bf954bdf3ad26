"""Reading a registry's files without a registry."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.lab import seed
from tests.lab.errors import LabError


def test_a_tag_leads_to_its_manifest(tmp_path: Path) -> None:
    base = tmp_path / "docker" / "registry" / "v2"
    link = base / "repositories" / "hello" / "_manifests" / "tags" / "1" / "current" / "link"
    blob = base / "blobs" / "sha256" / "ab" / "abcd" / "data"
    for path, text in ((link, "sha256:abcd\n"), (blob, "{}")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert seed.Store(tmp_path).manifest("hello", "1") == b"{}"


def test_the_environment_says_who_may_push_else_the_inventory_does() -> None:
    assert seed.admin({"LAB_REGISTRY_USER": "u", "LAB_REGISTRY_PASSWORD": "p"}) == ("u", "p")
    user, password = seed.admin({})
    assert user
    assert password


def test_a_server_that_speaks_no_tls_is_one_clear_line(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    registry = seed.Registry(
        host="registry.corp.lab",
        port=server.server_port,
        address="127.0.0.1",
        ca=tmp_path / "none",
        user="",
        password="",
    )
    with pytest.raises(LabError, match=r"registry\.corp\.lab:\d+ \(127\.0\.0\.1\) can't be used"):
        seed._push_blob(registry, "hello", "sha256:00", tmp_path / "none")
    server.server_close()
