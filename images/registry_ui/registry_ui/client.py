# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's HTTP API, as far as a page needs it."""

from __future__ import annotations

import hashlib
import time
import typing as t
import urllib.parse
from dataclasses import dataclass

import httpx

from registry_ui import VERSION
from registry_ui.manifests import MEDIA_TYPES, OCI_INDEX, UnreadableError, load

USER_AGENT = f"slipway-registry-ui/{VERSION}"
PAGE = 500
# Seconds after which a registry is asked again whether it has an API that it did not have.
FORGET = 600.0
# What the registry takes itself; a configuration larger than that is nobody's.
MAX_MANIFEST = 4 * 2**20
MAX_CONFIG = 4 * 2**20


class RegistryError(Exception):
    """The registry refused, or did not answer; status is 0 when it did not."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Fetched:
    """A manifest as it is stored."""

    digest: str
    media_type: str
    content: bytes


class Registry:
    """One registry.

    Args:
        url: Where it is, such as http://registry:5000.
        login: User and password of this program's own, where the registry wants one.
        ca: PEM file of the authority that signed for it.
    """

    def __init__(self, url: str, *, login: tuple[str, str] | None = None, ca: str = "", timeout: float = 15) -> None:
        self._no_referrers_until = 0.0
        self._http = httpx.Client(
            base_url=url,
            auth=login,
            verify=ca or True,
            timeout=timeout,
            headers={"User-Agent": USER_AGENT},
            follow_redirects=True,
            trust_env=False,  # the company's proxy has no business between the two
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, method: str, path: str, **options: t.Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise RegistryError(f"the registry does not answer: {exc or type(exc).__name__}") from exc

    @staticmethod
    def _check(answer: httpx.Response, wanted: t.Container[int]) -> httpx.Response:
        if answer.status_code in wanted:
            return answer
        try:
            first = load(answer.content)["errors"][0]
            reason = f"{first['code']}: {first.get('message', '')}"
        except (UnreadableError, LookupError, TypeError):
            reason = answer.reason_phrase
        raise RegistryError(f"the registry answers {answer.status_code} {reason}", answer.status_code)

    def ping(self) -> float:
        """Return how many seconds an answer takes; raises RegistryError."""
        began = time.monotonic()
        self._check(self._ask("GET", "/v2/"), {200})
        return time.monotonic() - began

    def _pages(self, path: str, key: str) -> t.Iterator[str]:
        following: str | None = f"{path}?n={PAGE}"
        while following:
            answer = self._ask("GET", following)
            if answer.status_code == 404:
                return
            found = load(self._check(answer, {200}).content).get(key)
            yield from (item for item in found or [] if isinstance(item, str))
            following = answer.links.get("next", {}).get("url")

    def repositories(self) -> t.Iterator[str]:
        """Yield the names of all repositories, also of those that have no tag left."""
        return self._pages("/v2/_catalog", "repositories")

    def tags(self, repository: str) -> t.Iterator[str]:
        """Yield a repository's tags."""
        return self._pages(f"/v2/{_quoted(repository)}/tags/list", "tags")

    def digest(self, repository: str, reference: str) -> str:
        """Return what a tag points to now; empty when there is no such tag."""
        answer = self._ask("HEAD", _manifest(repository, reference), headers=ACCEPT)
        if answer.status_code == 404:
            return ""
        return str(self._check(answer, {200}).headers.get("Docker-Content-Digest", ""))

    def manifest(self, repository: str, reference: str) -> Fetched | None:
        """Return a manifest; None when there is none. Raises RegistryError when it is not what its digest says."""
        answer = self._ask("GET", _manifest(repository, reference), headers=ACCEPT)
        if answer.status_code == 404:
            return None
        content = self._check(answer, {200}).content
        digest = str(answer.headers.get("Docker-Content-Digest", ""))
        if len(content) > MAX_MANIFEST:
            raise RegistryError(f"the manifest {repository}@{reference} is too large", 413)
        if digest.startswith("sha256:") and hashlib.sha256(content).hexdigest() != digest[7:]:
            raise RegistryError(f"the manifest {repository}@{reference} is not what its digest says")
        return Fetched(digest, answer.headers.get("Content-Type", "").partition(";")[0].strip(), content)

    def blob(self, repository: str, digest: str) -> bytes:
        """Return a small blob; raises RegistryError when it is large or missing."""
        try:
            with self._http.stream("GET", f"/v2/{_quoted(repository)}/blobs/{_quoted(digest)}") as answer:
                if answer.status_code != 200:
                    answer.read()
                self._check(answer, {200})
                content = b""
                for chunk in answer.iter_bytes():
                    content += chunk
                    if len(content) > MAX_CONFIG:
                        raise RegistryError(f"the blob {digest} is too large to be shown", 413)
        except httpx.HTTPError as exc:
            raise RegistryError(f"the registry does not answer: {exc}") from exc
        return content

    def delete(self, repository: str, reference: str) -> None:
        """Delete a manifest by digest, or a tag by name (distribution 3 or later)."""
        self._check(self._ask("DELETE", _manifest(repository, reference)), {202})

    def put(self, repository: str, reference: str, media_type: str, content: bytes) -> None:
        """Store a manifest again, under its digest or a tag."""
        path, headers = _manifest(repository, reference), {"Content-Type": media_type}
        self._check(self._ask("PUT", path, content=content, headers=headers), {201})

    def referrers(self, repository: str, digest: str) -> bytes | None:
        """Return the index of what refers to a manifest; None from a registry without that API."""
        if time.monotonic() < self._no_referrers_until:
            return None
        answer = self._ask("GET", f"/v2/{_quoted(repository)}/referrers/{_quoted(digest)}")
        if answer.status_code == 404:  # with the API it would be an empty index
            self._no_referrers_until = time.monotonic() + FORGET
        good = answer.status_code == 200 and answer.headers.get("Content-Type", "").startswith(OCI_INDEX)
        return answer.content if good else None


ACCEPT = {"Accept": ", ".join((*MEDIA_TYPES, "*/*;q=0.1"))}


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="/:")


def _manifest(repository: str, reference: str) -> str:
    return f"/v2/{_quoted(repository)}/manifests/{_quoted(reference)}"
