# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a private registry whether it has images, by its API and without an engine (distribution: HEAD of a manifest)."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _images, _registry_api
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

WORKERS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry, and the upstream names whose images it has under the same paths. An empty address means none."""

    address: str = ""
    mirrors: tuple[str, ...] = ()
    ca_certificate: str = ""
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)

    def path(self, image: str) -> str:
        """Return the path of the manifest of an image that has to be here; empty for any other."""
        name = _images.parse(image)
        if not self.address or name.host not in (self.address, *self.mirrors):
            return ""
        return _registry_api.manifest_path(name.path.removeprefix("library/"), name.digest or name.tag)


def missing(registry: Registry, images: t.Sequence[str]) -> list[str]:
    """Return those images that the registry ought to have and has not."""
    wanted = {image: path for image in images if (path := registry.path(image))}
    if not wanted:
        return []
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(lambda path: _has(registry, path), wanted.values())
        return [image for image, there in zip(wanted, found, strict=True) if not there]


def _has(registry: Registry, path: str) -> bool:
    status, _ = _registry_api.ask(
        registry.address,
        path,
        login=(registry.user, registry.password),
        ca=registry.ca_certificate,
        method="HEAD",
    )
    if status not in (200, 404):
        raise HostError(f"the registry {registry.address} answers {status} to a question for {path}")
    return status == 200
