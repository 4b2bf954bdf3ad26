# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a private registry over HTTPS, without an engine and never through a proxy (OCI distribution spec)."""

from __future__ import annotations

import base64
import http.client
import ssl
import typing as t
import urllib.error
import urllib.request

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

IMAGES = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
INDEXES = "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json"
MANIFESTS = f"{IMAGES}, {INDEXES}"
SECONDS = 20.0


class UnansweredError(HostError):
    """The registry cannot be reached, or is not the one that the authorities vouch for."""


def manifest_path(repository: str, reference: str) -> str:
    """Return the path of an image's manifest; reference: a tag or a digest."""
    return f"/v2/{repository}/manifests/{reference}"


def ask(
    address: str,
    path: str,
    *,
    login: tuple[str, str] = ("", ""),
    ca: str = "",
    accept: str = MANIFESTS,
    method: t.Literal["GET", "HEAD"] = "GET",
    seconds: float = SECONDS,
) -> tuple[int, bytes]:
    """Return an answer's status and body.

    Args:
        address: host and port.
        path: what is asked for, from the root.
        login: a user and a password; an empty user asks as a stranger.
        ca: PEM text of an authority beside the system's.
        accept: media types.
        method: HEAD where only the status matters.
        seconds: how long one step of the connection may take.

    Raises:
        UnansweredError: nobody answers, or somebody else.
        HostError: ca is no certificate.
    """
    context = ssl.create_default_context()
    if ca.strip():
        try:
            context.load_verify_locations(cadata=ca)
        except ssl.SSLError as exc:
            raise HostError(f"the authority of the private registry {address} is no certificate") from exc
    request = urllib.request.Request(f"https://{address}{path}", headers={"Accept": accept}, method=method)
    user, password = login
    if user:
        # Not a header like others: urllib sends those along to wherever a redirection leads.
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=seconds) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, b""
    except (OSError, http.client.HTTPException) as exc:
        raise UnansweredError(f"the registry {address} cannot be asked for {path}: {exc}") from None
