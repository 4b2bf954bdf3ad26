"""Pushes `hello:1`, the image that exists nowhere else, into the private registry, over its HTTP API.

No engine takes part: what a machine trusts, or whether it has an engine at all, plays no role.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import yaml

from tests.lab.errors import LabError
from tests.lab.paths import REPOSITORY

SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where to push, and as whom.

    Attributes:
        host: Name in its certificate.
        port: TCP port.
        address: Where it is; the host need not know the name.
        ca: PEM file of the authority that signed for it.
        user: Who may push.
        password: In the clear.
    """

    host: str
    port: int
    address: str
    ca: Path
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Store:
    """The files of a registry (distribution's filesystem driver), read without one.

    Attributes:
        root: Its rootdirectory.
    """

    root: Path

    def manifest(self, repository: str, tag: str) -> bytes:
        """Manifest of a tag."""
        link = self._base / "repositories" / repository / "_manifests" / "tags" / tag / "current" / "link"
        return self.blob(link.read_text(encoding="ascii").strip()).read_bytes()

    def blob(self, digest: str) -> Path:
        """File of a blob; `digest` is sha256:…."""
        kind, _, value = digest.partition(":")
        return self._base / "blobs" / kind / value[:2] / value / "data"

    @property
    def _base(self) -> Path:
        return self.root / "docker" / "registry" / "v2"


def admin(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Who may push to the lab's registry: LAB_REGISTRY_USER and LAB_REGISTRY_PASSWORD, else the inventory's first."""
    if "LAB_REGISTRY_USER" in environment:
        return environment["LAB_REGISTRY_USER"], environment.get("LAB_REGISTRY_PASSWORD", "")
    file = REPOSITORY / "inventory" / "lab" / "group_vars" / "registries.yml"
    user = yaml.safe_load(file.read_text(encoding="utf-8"))["registry_users"][0]
    return str(user["name"]), str(user["password"])


def push(store: Store, source: tuple[str, str], registry: Registry, target: tuple[str, str]) -> None:
    """Copy an image.

    Args:
        store: Where it is.
        source: Its repository and tag there.
        registry: Where it goes.
        target: Its repository and tag there.

    Raises:
        LabError: The registry refused or could not be reached.
    """
    manifest = store.manifest(*source)
    content = json.loads(manifest)
    repository, tag = target
    for part in [content["config"], *content["layers"]]:
        _push_blob(registry, repository, part["digest"], store.blob(part["digest"]))
    headers = {"Content-Type": content["mediaType"]}
    status, _, text = _request(registry, "PUT", f"/v2/{repository}/manifests/{tag}", manifest, headers)
    _expect(status, 201, f"the manifest of {repository}:{tag}", text)


def _push_blob(registry: Registry, repository: str, digest: str, file: Path) -> None:
    if _request(registry, "HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
        return
    status, location, text = _request(registry, "POST", f"/v2/{repository}/blobs/uploads/")
    _expect(status, 202, f"an upload to {repository}", text)
    parts = urlsplit(location)
    path = f"{parts.path}?{parts.query}{'&' if parts.query else ''}digest={digest}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
    with file.open("rb") as stream:
        status, _, text = _request(registry, "PUT", path, stream, headers)
    _expect(status, 201, f"blob {digest}", text)


def _expect(status: int, wanted: int, what: str, text: str) -> None:
    if status != wanted:
        raise LabError(f"The registry answered {status} instead of {wanted} to {what}: {text[:300]}")


def _request(
    registry: Registry,
    method: str,
    path: str,
    body: bytes | BinaryIO | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """One request on a connection of its own.

    Returns:
        Status, Location header, body.
    """
    credentials = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
    try:
        context = ssl.create_default_context(cafile=str(registry.ca))
        connection = http.client.HTTPSConnection(registry.host, registry.port, timeout=SECONDS)
        plain = socket.create_connection((registry.address, registry.port), timeout=SECONDS)
        connection.sock = context.wrap_socket(plain, server_hostname=registry.host)
        connection.request(method, path, body, {"Authorization": f"Basic {credentials}", **(headers or {})})
        answer = connection.getresponse()
        result = answer.status, answer.headers.get("Location", ""), answer.read().decode(errors="replace")
        connection.close()
    except OSError as error:
        where = f"{registry.host}:{registry.port} ({registry.address})"
        raise LabError(f"The registry {where} can't be used: {error}") from error
    return result
