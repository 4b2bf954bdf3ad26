# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a private registry whether it has images, by its API and without an engine (distribution: HEAD of a manifest)."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import ssl
import typing as t
import urllib.error
import urllib.request

from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

SECONDS = 20
WORKERS = 4
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry, and the upstream names whose images it has under the same paths. An empty address means none."""

    address: str = ""
    mirrors: tuple[str, ...] = ()
    ca_certificate: str = ""
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)

    def path(self, image: str) -> str:
        """Return the repository and tag, as in a URL, of an image that has to be here; empty for any other."""
        name = _images.parse(image)
        if not self.address or name.host not in (self.address, *self.mirrors):
            return ""
        return f"{name.path.removeprefix('library/')}/manifests/{name.digest or name.tag}"


def missing(registry: Registry, images: t.Sequence[str]) -> list[str]:
    """Return those images that the registry ought to have and has not."""
    wanted = {image: path for image in images if (path := registry.path(image))}
    if not wanted:
        return []
    opener = _opener(registry)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(lambda path: _has(opener, registry, path), wanted.values())
        return [image for image, there in zip(wanted, found, strict=True) if not there]


def _opener(registry: Registry) -> urllib.request.OpenerDirector:
    """Return what asks: never by a proxy, and with the company's authority beside the system's."""
    context = ssl.create_default_context()
    if registry.ca_certificate.strip():
        context.load_verify_locations(cadata=registry.ca_certificate)
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def _has(opener: urllib.request.OpenerDirector, registry: Registry, path: str) -> bool:
    headers = {"Accept": ", ".join(MANIFESTS)}
    if registry.user:
        login = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    request = urllib.request.Request(f"https://{registry.address}/v2/{path}", headers=headers, method="HEAD")
    try:
        with opener.open(request, timeout=SECONDS):
            return True
    except urllib.error.HTTPError as exc:
        if exc.code == 404:
            return False
        raise HostError(f"the registry {registry.address} answers {exc.code} to a question for {path}") from None
    except OSError as exc:
        raise HostError(f"the registry {registry.address} cannot be asked for {path}: {exc}") from None
