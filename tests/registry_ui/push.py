# SPDX-License-Identifier: GPL-3.0-or-later
"""Pushes small images over the registry's API: as strange ones as a test wants."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from registry_ui.manifests import OCI_IMAGE, OCI_INDEX

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(content: bytes) -> str:
    """Return the digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encode(value: Any) -> bytes:
    """Return JSON bytes."""
    return json.dumps(value).encode()


class Pusher:
    """Pushes to one registry."""

    def __init__(self, url: str, login: tuple[str, str] | None = None) -> None:
        self.http = httpx.Client(
            base_url=url, auth=login, trust_env=False, timeout=60, headers={"User-Agent": "docker/test"}
        )
        self._there: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def blob(self, repository: str, content: bytes) -> dict[str, Any]:
        """Push a blob; return the descriptor without its media type."""
        digest = digest_of(content)
        with self._lock:
            known = (repository, digest) in self._there
            self._there.add((repository, digest))
        if not known:
            begun = self.http.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
            where = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
            self.http.put(where, content=content).raise_for_status()
        return {"digest": digest, "size": len(content)}

    def manifest(self, repository: str, reference: str, content: bytes, media_type: str = OCI_IMAGE) -> str:
        """Push a manifest under a tag, or by digest where the tag is empty; return its digest."""
        path = f"/v2/{repository}/manifests/{reference or digest_of(content)}"
        answer = self.http.put(path, content=content, headers={"Content-Type": media_type})
        assert answer.status_code == 201, answer.text
        return digest_of(content)

    def image(
        self,
        repository: str,
        tag: str = "",
        *,
        layers: Sequence[bytes] = (b"layer",),
        platform: str = "linux/amd64",
        config: Mapping[str, Any] | None = None,
        raw_config: bytes | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Push an image.

        Args:
            repository: Where.
            tag: Its tag; empty pushes by digest.
            layers: Bytes of each layer.
            platform: OS/architecture.
            config: What stands in the configuration beside the platform.
            raw_config: Bytes of the configuration instead.
            more: What stands in the manifest as well.
        """
        system, architecture, *variant = platform.split("/")
        said = {"os": system, "architecture": architecture, "created": "2026-01-02T03:04:05.123456789Z"}
        said |= {"variant": variant[0]} if variant else {}
        content = raw_config if raw_config is not None else encode(said | dict(config or {}))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": self.blob(repository, content) | {"mediaType": CONFIG},
            "layers": [self.blob(repository, layer) | {"mediaType": LAYER} for layer in layers],
        } | dict(more or {})
        return self.manifest(repository, tag, encode(manifest))

    def index(self, repository: str, tag: str, digests: Mapping[str, str], more: Sequence[dict[str, Any]] = ()) -> str:
        """Push an index of images by platform."""
        children = []
        for platform, digest in digests.items():
            system, architecture, *variant = platform.split("/")
            said = {"os": system, "architecture": architecture} | ({"variant": variant[0]} if variant else {})
            head = self.http.head(f"/v2/{repository}/manifests/{digest}", headers={"Accept": OCI_IMAGE})
            size = int(head.raise_for_status().headers["Content-Length"])
            children.append({"mediaType": OCI_IMAGE, "digest": digest, "size": size, "platform": said})
        content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*children, *more]}
        return self.manifest(repository, tag, encode(content), OCI_INDEX)

    def artifact(self, repository: str, tag: str, kind: str, subject: str = "") -> str:
        """Push an SBOM, a signature or the like."""
        empty = self.blob(repository, b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"}
        content: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "artifactType": kind,
            "config": empty,
            "layers": [self.blob(repository, kind.encode()) | {"mediaType": kind}],
        }
        content |= {"subject": {"mediaType": OCI_IMAGE, "digest": subject, "size": 1}} if subject else {}
        return self.manifest(repository, tag, encode(content))
