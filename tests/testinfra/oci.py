# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain requests to a registry, sent from a machine exactly as given, and images that are pushed without any engine."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

# Sends requests over one connection. Arguments: host, port, CA file ("" speaks HTTP) and, packed, JSON
# [[method, path, login, headers, body], ...]; prints the statuses.
ASK = """
import base64, http.client, json, ssl, sys, zlib
host, port, ca, packed = sys.argv[1:]
requests = json.loads(zlib.decompress(base64.b64decode(packed)))
def connect():
    if not ca:
        return http.client.HTTPConnection(host, int(port), timeout=60)
    return http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=ca), timeout=60)
statuses, connection = [], connect()
for method, path, login, headers, body in requests:
    connection.putrequest(method, path)
    if login:
        headers = dict(headers, Authorization="Basic " + base64.b64encode(login.encode()).decode())
    if body or method not in ("GET", "HEAD"):
        headers = dict(headers, **{"Content-Length": str(len(body))})
    for item in headers.items():
        connection.putheader(*item)
    connection.endheaders(body.encode() or None)
    answer = connection.getresponse()
    answer.read()
    statuses.append(answer.status)
    if answer.will_close:
        connection.close()
        connection = connect()
print(json.dumps(statuses))
"""
# Pushes blobs and a manifest that names them. The same arguments, JSON [login, repository, tag, blobs, manifest].
PUSH = """
import base64, hashlib, http.client, json, ssl, sys, urllib.parse, zlib
host, port, ca, packed = sys.argv[1:]
login, repository, tag, blobs, manifest = json.loads(zlib.decompress(base64.b64decode(packed)))
if ca:
    link = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=ca), timeout=60)
else:
    link = http.client.HTTPConnection(host, int(port), timeout=60)
def ask(method, path, body=b"", kind="application/octet-stream"):
    headers = {"Content-Type": kind}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    link.request(method, path, body, headers)
    answer = link.getresponse()
    answer.read()
    return answer
for blob in blobs:
    digest = "sha256:" + hashlib.sha256(blob.encode()).hexdigest()
    if ask("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
        continue
    place = urllib.parse.urlsplit(ask("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"])
    answer = ask("PUT", f"{place.path}?{place.query}&digest={digest}", blob.encode())
    assert answer.status == 201, (repository, answer.status)
answer = ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest.encode(), json.loads(manifest)["mediaType"])
assert answer.status == 201, (repository, tag, answer.status)
"""
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "{}"


def digest(text: str) -> str:
    """Return the digest of a text as the registry names it."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Registry:
    """A registry as one machine reaches it; without a CA file, by HTTP."""

    host: Any
    name: str
    port: int
    ca: str = ""

    def _run(self, program: str, value: Any) -> str:
        packed = base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
        done = self.host.run("python3 -c %s %s %s %s %s", program, self.name, str(self.port), self.ca, packed)
        assert done.rc == 0, done.stderr
        return str(done.stdout)

    def ask(self, *requests: Sequence[Any]) -> list[int]:
        """Return the statuses of requests (method, path, "user:password", headers, body); the last may be left out."""
        empty = ("", "", "", {}, "")
        return list(json.loads(self._run(ASK, [[*request, *empty[len(request) :]] for request in requests])))

    def push(self, repository: str, tag: str, layer: str, *, login: str = "") -> str:
        """Push an image with one layer, a text; return its manifest's digest. Without a tag it has none."""
        part = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": len(layer), "digest": digest(layer)}
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": digest(CONFIG)}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [part]}
        return self._manifest(repository, tag, [layer, CONFIG], manifest, login)

    def push_index(self, repository: str, tag: str, children: Sequence[str], *, login: str = "") -> str:
        """Push an index of manifests that are there; return its digest."""
        parts = [
            {
                "mediaType": MANIFEST,
                "size": 1,
                "digest": child,
                "platform": {"os": "linux", "architecture": str(number)},
            }
            for number, child in enumerate(children)
        ]
        return self._manifest(repository, tag, [], {"schemaVersion": 2, "mediaType": INDEX, "manifests": parts}, login)

    def _manifest(self, repository: str, tag: str, blobs: list[str], content: dict[str, Any], login: str) -> str:
        text = json.dumps(content)
        self._run(PUSH, [login, repository, tag or digest(text), blobs, text])
        return digest(text)
