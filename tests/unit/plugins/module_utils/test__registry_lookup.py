# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry is asked whether it has images, as the one it is and as whom it knows."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _registry_lookup
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

from tests.lab import pki

K8S = "registry.k8s.io"


class Served(BaseHTTPRequestHandler):
    """Has what `has` says, for whom `login` says."""

    has: tuple[str, ...] = ()
    login = ""

    def do_HEAD(self) -> None:
        wanted = f"Basic {base64.b64encode(Served.login.encode()).decode()}" if Served.login else None
        status = 200 if self.path in Served.has else 404
        if wanted and self.headers.get("Authorization") != wanted:
            status = 401
        assert "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A registry on this host: how it is to be reached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = pki.Files(tmp_path / "tls.crt", tmp_path / "tls.key")
    pki.ensure(("localhost",), files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://nobody.invalid:1")
    Served.has, Served.login = (), ""
    yield {
        "address": f"localhost:{server.server_address[1]}",
        "mirrors": ("docker.io", K8S),
        "ca_certificate": pki.ca_files().certificate.read_text(encoding="ascii"),
    }
    server.shutdown()
    server.server_close()


def ask(registry: dict[str, Any], *images: str, **more: str) -> list[str]:
    return _registry_lookup.missing(_registry_lookup.Registry(**{**registry, **more}), images)


def test_what_is_missing(registry: dict[str, Any]) -> None:
    Served.has = ("/v2/kube-apiserver/manifests/v1", "/v2/coredns/coredns/manifests/v1", "/v2/debian/manifests/13")
    images = [f"{K8S}/kube-apiserver:v1", f"{K8S}/coredns/coredns:v1", f"{K8S}/etcd:3", "debian:13", "quay.io/a/b:1"]
    assert ask(registry, *images) == [f"{K8S}/etcd:3"], "of quay.io it has to have nothing"
    assert ask(registry, f"{registry['address']}/own:1") == [f"{registry['address']}/own:1"]


def test_without_a_registry_nobody_is_asked() -> None:
    assert _registry_lookup.missing(_registry_lookup.Registry(), [f"{K8S}/etcd:3"]) == []


def test_one_that_asks_who_we_are(registry: dict[str, Any]) -> None:
    Served.has, Served.login = ("/v2/etcd/manifests/3",), 'puller:s3"cr:e t%'
    assert ask(registry, f"{K8S}/etcd:3", user="puller", password='s3"cr:e t%') == []
    with pytest.raises(HostError, match="answers 401 to a question for /v2/etcd/manifests/3"):
        ask(registry, f"{K8S}/etcd:3")


def test_one_that_nobody_vouches_for(registry: dict[str, Any]) -> None:
    with pytest.raises(HostError, match=r"cannot be asked for /v2/etcd/manifests/3: .*certificate"):
        ask(registry, f"{K8S}/etcd:3", ca_certificate="")


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(_registry_lookup.Registry(user="u", password="secret"))
