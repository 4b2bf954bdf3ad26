# SPDX-License-Identifier: GPL-3.0-or-later
"""A release that comes as a tarball: fetched through the proxy, checked by SHA-512, unpacked whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import shutil
import tarfile
import tempfile
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.slipway.platform.plugins.module_utils import _files
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

MARK = ".slipway-sha512"
CHUNK = 1 << 20
IDLE_SECONDS = 60.0
TRIES = 3
Opener = t.Callable[[str], t.ContextManager[t.Any]]


def opener(proxies: t.Mapping[str, str]) -> Opener:
    """Return what opens a URL through proxies by scheme, and by nothing that the environment says."""
    director = urllib.request.build_opener(urllib.request.ProxyHandler(dict(proxies)))
    return lambda url: t.cast("t.ContextManager[t.Any]", director.open(url, timeout=IDLE_SECONDS))


def is_direct(url: str, no_proxy: t.Iterable[str]) -> bool:
    """Tell whether a URL's host is reached without a proxy: by a name, .suffix, address or network of the list."""
    host = urllib.parse.urlsplit(url).hostname or ""
    for entry in no_proxy:
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        if host == entry.lstrip(".").lower() or host.endswith("." + entry.lstrip(".").lower()):
            return True
    return False


def installed(target: str) -> str:
    """Return the checksum of the release that is unpacked at a path; empty when there is none."""
    with contextlib.suppress(OSError), open(os.path.join(target, MARK), encoding="ascii") as handle:
        return handle.read().strip()
    return ""


def _fetch(url: str, target: str, open_url: Opener) -> str:
    """Write what is at a URL to a file and return its SHA-512."""
    digest = hashlib.sha512()
    with open_url(url) as answer, open(target, "wb") as handle:
        while chunk := answer.read(CHUNK):
            digest.update(chunk)
            handle.write(chunk)
    return digest.hexdigest()


def fetch(url: str, target: str, *, checksum: str, open_url: Opener) -> None:
    """Download a file; raises HostError in one sentence when that fails, or it is not the one that was meant."""
    problem = ""
    for _ in range(TRIES):
        try:
            found = _fetch(url, target, open_url)
        except urllib.error.HTTPError as exc:
            problem = f"the answer is {exc.code} {exc.reason}"
            if exc.code < 500 or (exc.code in (502, 503) and "proxy" in str(exc.reason).lower()):
                break
        except OSError as exc:
            problem = str(getattr(exc, "reason", exc))
        else:
            if found != checksum.lower():
                raise HostError(
                    f"{url} has the SHA-512 {found[:16]}… and not {checksum[:16]}…: it is not the file that was pinned"
                )
            return
    raise HostError(f"{url} can't be fetched: {problem}")


def _unpack(archive: str, directory: str) -> str:
    """Unpack and return the one directory that the archive consists of."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "tar_filter"):
            tar.extraction_filter = tarfile.tar_filter
        # Python before 3.11.4 has no filters; the checksum has vouched for the archive.
        tar.extractall(directory)
    entries = os.listdir(directory)
    if len(entries) != 1 or not os.path.isdir(os.path.join(directory, entries[0])):
        raise HostError(f"the archive holds {len(entries)} entries: it needs to be one directory")
    return os.path.join(directory, entries[0])


def _own(path: str) -> None:
    """Let root own everything: archives name the users of whoever packed them."""
    if os.geteuid() == 0:
        for directory, names, files in os.walk(path):
            for name in [".", *names, *files]:
                os.lchown(os.path.normpath(os.path.join(directory, name)), 0, 0)
    os.chmod(path, 0o755)


def install(url: str, target: str, *, checksum: str, open_url: Opener) -> None:
    """Have the release at a path; what was there is replaced in one step."""
    parent = os.path.dirname(target)
    with _files.one_sentence(target):
        os.makedirs(parent, mode=0o755, exist_ok=True)
        work = tempfile.mkdtemp(prefix=".slipway-", dir=parent)
        try:
            archive = os.path.join(work, "archive")
            fetch(url, archive, checksum=checksum, open_url=open_url)
            made = _unpack(archive, os.path.join(work, "unpacked"))
            _own(made)
            with open(os.path.join(made, MARK), "w", encoding="ascii") as handle:
                handle.write(checksum.lower() + "\n")
            if os.path.lexists(target):
                os.rename(target, os.path.join(work, "old"))
            os.rename(made, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
