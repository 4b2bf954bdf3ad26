#!/usr/bin/python3
# Managed by slipway.platform.registry_cache. Edits are undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look after the pull-through caches of this host.

Without arguments: one round, for the systemd timer: start what was stopped, delete what was used longest ago where a
cache is too large or the disk nearly full, and directories that no cache has.
With --ready, for the role: print who does not answer, exit 1 if there is one.
With --check, for verify: ask each cache for something that nobody has, so that it asks its upstream, through its proxy,
with its login; print what is wrong as a list in JSON.

Only the standard library, Python 3.11 or later.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import typing as t
from pathlib import Path

CONFIG = "/etc/slipway/registry-cache/program.json"
LOCK = "/run/slipway/stack-registry-cache.lock"
STATE = "/run/slipway-registry-cache/state.json"
MARKER = ".slipway-registry-cache"
STACK = "label=slipway.stack=registry-cache"
NOBODY_HAS = "sha256:" + hashlib.sha256(b"slipway registry-cache --check").hexdigest()
TIMEOUT = 60  # seconds; distribution gives up on a proxy that swallows packets after 30
# Deletes until this much more than min_free is free, or this share of max_size is left, so that it is not always at it.
HYSTERESIS = 1.1
WARNING, NOTICE = "<4>", "<5>"
SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")
# What Go's HTTP client and distribution say, in order, to what that means. {}: a cache of the configuration.
MEANINGS = (
    (r"Proxy Authentication Required", "the proxy {proxy} refuses the login of {proxy_user}"),
    (r"proxyconnect", "the proxy {proxy} does not answer"),
    (r"x509|certificate", "the certificate of {url}, or of a proxy before it, is not trusted on this machine"),
    (r"incorrect username|unauthorized|authentication required|401|denied", "{url} refuses the login of {user}"),
    (r"no such host|server misbehaving", "a name does not resolve"),
    (r"dial tcp|timeout|deadline exceeded", "{url} does not answer"),
)

Cache = dict[str, t.Any]


class Blob(t.NamedTuple):
    """A file with content: when it was last used, bytes on disk, path."""

    used: float
    size: int
    path: Path


def human(size: float) -> str:
    """Return a size for a message."""
    power = 0
    while size >= 1024 and power < len(SIZES) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f} {SIZES[power]}"


def get(config: dict[str, t.Any], cache: Cache, path: str, timeout: float = 10) -> tuple[int, str]:
    """Return status and body; raises OSError."""
    context = ssl.create_default_context()
    # That the certificate is the right one is the machines' to say; here the answer counts.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", cache["port"]), timeout=timeout) as raw,
            context.wrap_socket(raw, server_hostname=config["host"]) as tls,
        ):
            client = http.client.HTTPConnection(config["host"])
            client.sock = tls
            client.request("GET", path, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
            answer = client.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error}") from error


def silent(config: dict[str, t.Any]) -> list[str]:
    """Return a sentence for each cache that does not answer."""
    found = []
    for cache in config["caches"]:
        try:
            front, behind = get(config, cache, "/v2/")[0], get(config, cache, "/healthz")[0]
        except OSError as error:
            found.append(f"the cache of {cache['name']} does not answer on port {cache['port']}: {error}")
            continue
        if (front, behind) != (200, 200):
            found.append(f"the cache of {cache['name']} behind nginx answers {behind if front == 200 else front}")
    return found


def meaning(cache: Cache, status: int, body: str) -> str:
    """Return what an answer says of proxy, login and upstream; empty when all is well."""
    refused = status in (401, 403)
    if status == 404 or (refused and not cache["user"]):  # who wants a login for an unknown name has answered
        return ""
    if status == 429 or "TOOMANYREQUESTS" in body.upper():
        return f"{cache['url']} limits how much may be pulled"
    for pattern, words in MEANINGS:
        if re.search(pattern, body, re.IGNORECASE):
            return words.format(**{**cache, "user": cache["user"] or "nobody"})
    try:
        detail = json.loads(body)["errors"][0].get("detail") or body
    except (ValueError, LookupError, TypeError, AttributeError):
        detail = body
    return f"{cache['url']} was asked, and the answer was {status}: {str(detail)[:200]}"


def check(config: dict[str, t.Any]) -> list[str]:
    """Return a sentence for each cache that cannot get at its upstream, and for a disk that is full."""
    found = silent(config)
    for cache in config["caches"]:
        if any(f"the cache of {cache['name']} " in sentence for sentence in found):
            continue
        try:
            status, body = get(config, cache, f"/v2/{cache['probe']}/manifests/{NOBODY_HAS}", TIMEOUT)
            wrong = meaning(cache, status, body)
        except OSError as error:
            wrong = f"no answer: {error}"
        if wrong:
            found.append(f"the cache of {cache['name']} serves only what it has: {wrong}")
    free = free_bytes(config["data_dir"])
    if free < config["min_free"] and sum(blob.size for blob in blobs(config)) < config["min_free"] - free:
        found.append(
            f"{config['data_dir']} has {human(free)} free, and nothing to delete: something else fills the disk"
        )
    return found


def free_bytes(path: str) -> int:
    """Return what is free on the disk of a path."""
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def blobs(config: dict[str, t.Any], key: str = "*") -> list[Blob]:
    """Return the content of one cache or all, what was used longest ago first."""
    found = []
    for path in Path(config["data_dir"]).glob(f"{key}/docker/registry/v2/blobs/sha256/*/*/data"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found.append(Blob(max(stat.st_atime, stat.st_mtime), stat.st_blocks * 512, path))
    return sorted(found)


def delete(found: t.Iterable[Blob], wanted: float) -> int:
    """Delete from the front until so many bytes are gone; return how many were.

    Nothing else is to be done: without the file the cache does not have it, and fetches it when it is asked for.
    """
    gone = 0
    for blob in found:
        if gone >= wanted:
            break
        with contextlib.suppress(FileNotFoundError):
            blob.path.unlink()
            gone += blob.size
            with contextlib.suppress(OSError):
                blob.path.parent.rmdir()
    return gone


def evict(config: dict[str, t.Any]) -> list[str]:
    """Keep each cache below its size and the disk above its reserve; return what was done."""
    done = []
    for cache in config["caches"]:
        if not cache["max_size"]:
            continue
        found = blobs(config, cache["key"])
        size = sum(blob.size for blob in found)
        if size > cache["max_size"]:
            gone = delete(found, size - cache["max_size"] / HYSTERESIS)
            done.append(f"deleted {human(gone)} of {cache['name']}, which was larger than {human(cache['max_size'])}")
    free = free_bytes(config["data_dir"])
    if free < config["min_free"]:
        gone = delete(blobs(config), config["min_free"] * HYSTERESIS - free)
        done += [f"deleted {human(gone)}, because the disk had {human(free)} free"] if gone else []
    return done


def drop(config: dict[str, t.Any]) -> list[str]:
    """Delete what is left of caches that are no more; return what was done."""
    top = Path(config["data_dir"])
    if not (top / MARKER).exists():
        return []
    known = {cache["key"] for cache in config["caches"]}
    stale = [
        path for path in sorted(top.iterdir()) if path.name not in known and (path / "docker/registry/v2").is_dir()
    ]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return [f"deleted {path}, which no cache has" for path in stale]


def docker(*words: str) -> str:
    """Return what docker says, or nothing."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=120)
    return done.stdout if done.returncode == 0 else ""


def revive() -> list[str]:
    """Start what somebody stopped; return what was done."""
    done = []
    for line in docker("ps", "--all", "--filter", STACK, "--format", "{{.Names}} {{.State}}").splitlines():
        name, _, state = line.partition(" ")
        verb = {"paused": "unpause", "exited": "start", "created": "start"}.get(state)
        if verb and docker(verb, name):
            done.append(f"{verb} {name}")
    return done


@contextlib.contextmanager
def alone(lock: str) -> t.Iterator[bool]:
    """Yield False while the role is at work on the containers."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def one_round(config: dict[str, t.Any]) -> list[str]:
    """Do what is due; return the journal's lines."""
    lines = [f"{NOTICE}{text}" for text in [*revive(), *drop(config)]]
    lines += [f"{WARNING}{text}" for text in evict(config)]
    with contextlib.suppress(OSError):
        temporary = f"{STATE}.new"
        with open(temporary, "w", encoding="utf-8") as handle:
            json.dump({"looked": time.time()}, handle)
        os.replace(temporary, STATE)
    return lines


def main(argv: list[str] | None = None) -> int:
    """Do one round, or say what is wrong; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ready", action="store_true", help="print who does not answer, exit 1 if there is one")
    parser.add_argument("--check", action="store_true", help="print as JSON which cache cannot get at its upstream")
    parser.add_argument("--config", default=CONFIG)
    args = parser.parse_args(argv)
    with open(args.config, encoding="utf-8") as handle:
        config = json.load(handle)
    if args.check:
        print(json.dumps(check(config)))
        return 0
    if args.ready:
        found = silent(config)
        print("\n".join(found))
        return 1 if found else 0
    with alone(LOCK) as free:
        lines = one_round(config) if free else []
    if lines:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
