# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent to a registry, and what of it goes no further (TLS: test__registry_lookup.py)."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _registry_api


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """A registry over plain HTTP, reached as if it were TLS, whose blobs are elsewhere; keeps what it was asked."""
    asked: list[tuple[str, str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.command, self.path, self.headers.get("Authorization", "")))
            if "/blobs/" in self.path:
                self.send_response(307)
                self.send_header("Location", f"http://{self.headers['Host']}/bucket")
            else:
                self.send_response(200 if self.path == "/bucket" else 404)
            self.end_headers()
            self.wfile.write(b"there" if self.path == "/bucket" else b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request = urllib.request.Request
    monkeypatch.setattr(
        urllib.request, "Request", lambda url, *rest, **named: request(url.replace("https:", "http:"), *rest, **named)
    )
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_login_stays_with_the_registry(registry: tuple[str, list[tuple[str, str, str]]]) -> None:
    """The store that it sends us to has a login of its own in the address, and is nobody to show ours to."""
    address, asked = registry
    assert _registry_api.ask(address, "/v2/a/blobs/sha256:c", login=("puller", "s:cret")) == (200, b"there")
    assert asked == [("GET", "/v2/a/blobs/sha256:c", "Basic cHVsbGVyOnM6Y3JldA=="), ("GET", "/bucket", "")]


def test_what_is_not_there_has_a_status(registry: tuple[str, list[tuple[str, str, str]]]) -> None:
    address, asked = registry
    assert _registry_api.ask(address, _registry_api.manifest_path("a/b", "1"), method="HEAD") == (404, b"")
    assert asked == [("HEAD", "/v2/a/b/manifests/1", "")]


def test_nobody_answers() -> None:
    with pytest.raises(_registry_api.UnansweredError, match=r"the registry 127\.0\.0\.1:9 cannot be asked for /v2/: "):
        _registry_api.ask("127.0.0.1:9", "/v2/")
