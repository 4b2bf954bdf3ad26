# SPDX-License-Identifier: GPL-3.0-or-later
"""One upload in two parts, each to another registry: upload.py FIRST SECOND USER:PASSWORD BYTES BYTES.

Of the standard library: runs on the machine, as root. Fails unless each of the two then serves all of it.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import ssl
import sys
import urllib.parse


def ask(where: str, login: str, method: str, path: str, body: bytes | None = None) -> tuple[str, bytes]:
    """Send one request; return the path of the answer's Location, and its body."""
    host, _, port = where.partition(":")
    context = ssl.create_default_context(cafile="/root/ca.crt")
    connection = http.client.HTTPSConnection(host, int(port), timeout=60, context=context)
    authorization = "Basic " + base64.b64encode(login.encode()).decode()
    connection.request(method, path, body, {"Authorization": authorization})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {path} at {where} gives {answer.status}: {content[:500]!r}")
    there = urllib.parse.urlsplit(answer.headers.get("Location", ""))
    return f"{there.path}?{there.query}", content


def main(first: str, second: str, login: str, *sizes: str) -> None:
    """Upload the first bytes here, the second there, and read all of them at both."""
    here, there = (os.urandom(int(size)) for size in sizes)
    digest = f"sha256:{hashlib.sha256(here + there).hexdigest()}"
    path, _ = ask(first, login, "POST", "/v2/team/parts/blobs/uploads/")
    path, _ = ask(first, login, "PATCH", path, here)
    path, _ = ask(second, login, "PATCH", path, there)
    ask(second, login, "PUT", f"{path}&digest={urllib.parse.quote(digest)}")
    for where in (first, second):
        _, content = ask(where, login, "GET", f"/v2/team/parts/blobs/{digest}")
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            sys.exit(f"{where} serves other bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
