# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry's client for the tests, of the standard library: runs on the machine, as root.

push NAME TAG SEED...      an image of one layer for each seed; TAG "-" pushes by digest only; prints its digest
index NAME TAG DIGEST...   an image for several platforms; prints its digest
slow NAME TAG SEED         like push, but says /root/slow-begun in mid-layer and waits for /root/slow-on
pull NAME DIGEST...        reads manifests and all that they name, by digest; exits 1 at the first wrong byte
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import pathlib
import ssl
import sys
import time
import typing as t

HOST, PORT = "registry-drill.corp.lab", 6001
LOGIN = "Basic " + base64.b64encode(b"ci:ci-may-push").decode()
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_BYTES = 2_000_000


def ask(method: str, path: str, body: t.Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send one request; return status, headers and body."""
    context = ssl.create_default_context(cafile="/root/ca.crt")
    connection = http.client.HTTPSConnection(HOST, PORT, context=context, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Authorization": LOGIN, "Accept": f"{IMAGE}, {INDEX}, {DOCKER}", **named})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def expect(wanted: int, answer: tuple[int, dict[str, str], bytes]) -> dict[str, str]:
    """Return the headers of an answer with the wanted status, or give up."""
    if answer[0] != wanted:
        sys.exit(f"{answer[0]} instead of {wanted}: {answer[2][:300]!r}")
    return answer[1]


def digest_of(data: bytes) -> str:
    """Return the digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(seed: str) -> bytes:
    """Return bytes that only this seed makes."""
    return b"".join(hashlib.sha256(f"{seed} {part}".encode()).digest() for part in range(LAYER_BYTES // 32))


def slowly(data: bytes) -> t.Iterator[bytes]:
    """Yield bytes as a client that takes its time."""
    yield data[: len(data) // 2]
    pathlib.Path("/root/slow-begun").touch()
    while not os.path.exists("/root/slow-on"):
        time.sleep(0.1)
    yield data[len(data) // 2 :]


def blob(name: str, data: bytes, kind: str, *, slow: bool = False) -> dict[str, t.Any]:
    """Upload a blob; return its descriptor."""
    where = expect(202, ask("POST", f"/v2/{name}/blobs/uploads/"))["location"].partition(f"{PORT}")[2]
    if slow:
        where = expect(202, ask("PATCH", where, slowly(data)))["location"].partition(f"{PORT}")[2]
    body = b"" if slow else data
    expect(201, ask("PUT", f"{where}&digest={digest_of(data)}", body, Content_Type="application/octet-stream"))
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def manifest(name: str, tag: str, content: dict[str, t.Any]) -> str:
    """Upload a manifest under a tag, or `-` for none; return its digest."""
    body = json.dumps({"schemaVersion": 2, **content}).encode()
    reference = digest_of(body) if tag == "-" else tag
    expect(201, ask("PUT", f"/v2/{name}/manifests/{reference}", body, Content_Type=content["mediaType"]))
    return digest_of(body)


def push(name: str, tag: str, *seeds: str, slow: bool = False) -> str:
    """Upload an image; return its digest."""
    layers = [blob(name, layer(seed), LAYER, slow=slow) for seed in seeds]
    described = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "seeds": seeds}
    config = blob(name, json.dumps(described).encode(), CONFIG)
    return manifest(name, tag, {"mediaType": IMAGE, "config": config, "layers": layers})


def index(name: str, tag: str, *images: str) -> str:
    """Upload an index of images; return its digest."""
    parts = []
    for image, architecture in zip(images, ("amd64", "arm64"), strict=False):
        size = int(expect(200, ask("HEAD", f"/v2/{name}/manifests/{image}"))["content-length"])
        platform = {"architecture": architecture, "os": "linux"}
        parts.append({"mediaType": IMAGE, "digest": image, "size": size, "platform": platform})
    return manifest(name, tag, {"mediaType": INDEX, "manifests": parts})


def pull(name: str, *digests: str) -> str:
    """Read images and all that they name; give up at the first wrong byte."""
    for digest in digests:
        answer = ask("GET", f"/v2/{name}/manifests/{digest}")
        expect(200, answer)
        if digest_of(answer[2]) != digest:
            sys.exit(f"{name}@{digest} has other bytes")
        content = json.loads(answer[2])
        pull(name, *(part["digest"] for part in content.get("manifests", [])))
        for part in [*content.get("layers", []), *([content["config"]] if "config" in content else [])]:
            answer = ask("GET", f"/v2/{name}/blobs/{part['digest']}")
            expect(200, answer)
            if digest_of(answer[2]) != part["digest"]:
                sys.exit(f"{part['digest']} of {name} has other bytes")
    return "pulled"


def main() -> None:
    """Do what the command line says."""
    verb, *words = sys.argv[1:]
    if verb == "slow":
        print(push(*words, slow=True))
    else:
        actions: dict[str, t.Callable[..., str]] = {"push": push, "index": index, "pull": pull}
        print(actions[verb](*words))


if __name__ == "__main__":
    main()
