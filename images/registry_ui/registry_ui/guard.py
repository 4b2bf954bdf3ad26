# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asking, what they may do, and what a browser may do with our pages."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import secrets
import time
import urllib.parse

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

USER_HEADER = "x-slipway-user"
MAY_HEADER = "x-slipway-may"
GATE_HEADER = "x-slipway-gate"
TOKEN_LIFE = 12 * 3600
MAX_FORM = 64 * 1024
# Nothing inline, nothing from elsewhere, in nobody's frame.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Outside of /ui the registry's notifications and the container's own health check.
OPEN = {"/healthz"}


@dataclasses.dataclass(frozen=True)
class Visitor:
    """Who asks. The proxy in front says so; a browser cannot, because the proxy replaces these headers."""

    name: str
    may_delete: bool

    @classmethod
    def of(cls, request: Request) -> Visitor:
        """Return who asks, by the proxy's headers."""
        name = request.headers.get(USER_HEADER, "")
        return cls(name, bool(name) and "delete" in request.headers.get(MAY_HEADER, "").split())


class Gate:
    """Lets in only who knows the secret, and gives every answer the headers above.

    The secret makes the two headers that name the visitor worth something, should anybody else reach the port.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self.secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers.setdefault(key, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["path"] in OPEN or self._knows(scope):
            await self.app(scope, receive, send_guarded)
        else:
            refuse = PlainTextResponse("Only the registry's proxy is let in here.\n", 403)
            await refuse(scope, receive, send_guarded)

    def _knows(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        said = headers.get(GATE_HEADER) or headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(said.encode(), self.secret)


class Tokens:
    """Proves that a form was made by a page of ours, for this user, today."""

    def __init__(self, key: str) -> None:
        self.key = key.encode()

    def give(self, user: str) -> str:
        """Return a token for a form."""
        until = str(int(time.time()) + TOKEN_LIFE)
        return f"{until}.{self._sign(user, until)}"

    def accept(self, user: str, token: str) -> bool:
        """Tell whether a form's token is good."""
        until, _, signature = token.partition(".")
        if not until.isascii() or not until.isdecimal() or int(until) < time.time():
            return False
        return hmac.compare_digest(signature.encode(), self._sign(user, until).encode())

    def _sign(self, user: str, until: str) -> str:
        digest = hmac.new(self.key, f"{until}|{user}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def new_key() -> str:
    """Return a key for tokens."""
    return secrets.token_urlsafe(32)


def same_origin(request: Request) -> bool:
    """Tell whether a browser says that a form came from our own page; programs say nothing."""
    site = request.headers.get("sec-fetch-site", "")
    origin = request.headers.get("origin", "")
    host = request.headers.get("host", "")
    return site in ("", "same-origin", "none") and (not origin or origin.partition("://")[2] == host)


def inner_path(value: str) -> str:
    """Return where to go after a login, if that is one of our pages; else the first page."""
    is_ours = value.startswith("/ui/") and "\\" not in value and "//" not in value and value.isprintable()
    return value if is_ours else "/ui/"


async def small_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, which is empty when it is too large to be ours."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            return {}
    return dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace")))
