# SPDX-License-Identifier: GPL-3.0-or-later
"""One definition of an apt repository per host: older ones for the same address are adopted, not doubled.

Two definitions with different Signed-By make apt refuse everything ("Conflicting values set for option Signed-By").
Formats: sources.list(5), one-line and deb822.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import stat
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._files import WantedFile

APT_DIR = "/etc/apt"
HEADER = "# Managed by slipway.platform.{role}. Edits are undone by the next run.\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """An apt repository; key is the armoured public key itself, name that of our files, role who manages them."""

    name: str
    role: str
    url: str
    suite: str
    component: str
    key: str


def files(repository: Repository, *, known: t.Collection[str] = (), apt_dir: str = APT_DIR) -> list[WantedFile]:
    """Return the files that define the repository once: ours, and every older definition without its entry for it.

    known are paths that we changed in an earlier run: they stay listed, so that they are not given back.
    """
    source = os.path.join(apt_dir, "sources.list.d", f"slipway-{repository.name}.sources")
    key = os.path.join(apt_dir, "keyrings", f"slipway-{repository.name}.asc")
    wanted = [
        WantedFile(path=key, content=repository.key.strip().encode() + b"\n"),
        WantedFile(path=source, content=_deb822(repository, key).encode()),
    ]
    places = [os.path.join(apt_dir, "sources.list"), *glob.glob(os.path.join(apt_dir, "sources.list.d", "*"))]
    texts = {path: text for path in places if path != source and (text := _read(path)) is not None}
    keys: set[str] = set()
    rest: dict[str, str] = {}
    for path, text in texts.items():
        rest[path], signed_by = strip(text, repository.url, deb822=path.endswith(".sources"))
        keys |= signed_by
    wanted += [_without(path, rest[path]) for path in sorted(rest) if rest[path] != texts[path] or path in known]
    still_used = "\n".join(rest.values())
    gone = {path for path in keys if path not in still_used and _is_ours_to_remove(path, apt_dir)}
    gone |= {path for path in known if path not in texts and path not in (source, key)}
    wanted += [WantedFile(path=path, kind="absent") for path in sorted(gone)]
    return wanted


def _deb822(repository: Repository, key: str) -> str:
    return (
        HEADER.format(role=repository.role)
        + f"Types: deb\nURIs: {repository.url}\nSuites: {repository.suite}\n"
        + f"Components: {repository.component}\nSigned-By: {key}\n"
    )


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _without(path: str, text: str) -> WantedFile:
    """Return what stays of a file: nothing but comments is no file (apt's own sources.list may be empty)."""
    meaningful = any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())
    if not meaningful:
        return WantedFile(path=path, kind="absent")
    info = os.stat(path)
    return WantedFile(
        path=path,
        content=text.encode(),
        mode=stat.S_IMODE(info.st_mode),
        owner=str(info.st_uid),
        group=str(info.st_gid),
    )


def _is_ours_to_remove(path: str, apt_dir: str) -> bool:
    """Tell whether a key lies where administrators put keys by hand; /usr/share may belong to a package."""
    return path.startswith((os.path.join(apt_dir, "keyrings") + "/", os.path.join(apt_dir, "trusted.gpg.d") + "/"))


def same_address(left: str, right: str) -> bool:
    """Compare two repository addresses; scheme and a closing slash make no difference to what apt finds there."""

    def plain(url: str) -> str:
        return re.sub(r"^[a-z+]+://", "", url.strip().lower()).rstrip("/")

    return plain(left) == plain(right)


def strip(text: str, url: str, *, deb822: bool) -> tuple[str, set[str]]:
    """Return a source file's text without its entries for an address, and the key files that these named."""
    return _strip_deb822(text, url) if deb822 else _strip_lines(text, url)


def _strip_lines(text: str, url: str) -> tuple[str, set[str]]:
    kept, keys = [], set()
    for line in text.splitlines(keepends=True):
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)", line)
        if match and same_address(match["uri"], url):
            keys |= set(re.findall(r"signed-by=([^\s,]+)", match["options"] or "", re.I))
        else:
            kept.append(line)
    return "".join(kept), keys


def _strip_deb822(text: str, url: str) -> tuple[str, set[str]]:
    kept, keys = [], set()
    for stanza in re.split(r"\n(?:[ \t]*\n)+", text):
        uris = re.search(r"^URIs:(.*(?:\n[ \t].*)*)", stanza, re.M | re.I)
        if uris and any(same_address(uri, url) for uri in uris[1].split()):
            keys |= set(re.findall(r"^Signed-By:\s*(/\S+)", stanza, re.M | re.I))
        else:
            kept.append(stanza)
    rest = "\n\n".join(kept)
    return (text if not keys and len(kept) == len(re.split(r"\n(?:[ \t]*\n)+", text)) else rest), keys
