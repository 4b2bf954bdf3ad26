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

from ansible_collections.slipway.platform.plugins.module_utils import _openpgp
from ansible_collections.slipway.platform.plugins.module_utils._files import WantedFile

APT_DIR = "/etc/apt"
SHARED_KEYS = "/usr/share/keyrings"  # of packages, and where many instructions have people put keys by hand
DPKG_INFO = "/var/lib/dpkg/info"
HEADER = "# Managed by slipway.platform.{role}. Edits are undone by the next run.\n"
# deb822(5): stanzas are separated by empty lines; a field goes on in lines that begin with a blank.
STANZAS = re.compile(r"\n(?:[ \t]*\n)+")
URIS = re.compile(r"^(URIs:)((?:.*)(?:\n[ \t].*)*)", re.M | re.I)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """An apt repository; key is the armoured public key itself, name that of our files, role who manages them.

    A suite that ends in a slash is the path of a flat repository, which has no components (sources.list(5)).
    also are addresses without scheme where the same source was, or is, to be had: entries for them, and for anything
    below them, are former definitions too.
    """

    name: str
    role: str
    url: str
    suite: str
    component: str = ""
    key: str
    also: tuple[str, ...] = ()

    def is_at(self, uri: str) -> bool:
        """Tell whether an entry with this address is a definition of the repository."""
        return same_address(uri, self.url) or any(_is_below(uri, place) for place in self.also)


@dataclasses.dataclass
class Former:
    """What older definitions said: the key files they named, and whether one named none and trusted apt's own."""

    keys: set[str] = dataclasses.field(default_factory=set)
    unsigned: bool = False

    def note(self, keys: t.Iterable[str], *, signed: bool) -> None:
        """Add what one entry says."""
        self.keys |= set(keys)
        self.unsigned |= not signed


@dataclasses.dataclass(frozen=True)
class Places:
    """Where apt and dpkg keep things; tests put them elsewhere."""

    apt: str = APT_DIR
    shared_keys: str = SHARED_KEYS
    dpkg_info: str = DPKG_INFO

    def sources(self) -> list[str]:
        """Return every file that may define repositories."""
        return [os.path.join(self.apt, "sources.list"), *glob.glob(os.path.join(self.apt, "sources.list.d", "*"))]

    @property
    def trusted(self) -> str:
        """The directory of the keys that apt takes for any repository without Signed-By."""
        return os.path.join(self.apt, "trusted.gpg.d")

    def holds(self, path: str) -> bool:
        """Tell whether a path is one that repositories are made of."""
        return path == os.path.join(self.apt, "sources.list") or path.startswith(
            (os.path.join(self.apt, "sources.list.d") + "/", *self._key_directories())
        )

    def is_hand_made_key(self, path: str) -> bool:
        """Tell whether a key lies where administrators put keys by hand, and no package has it in its list."""
        return path.startswith(self._key_directories()) and not self._is_packaged(path)

    def _key_directories(self) -> tuple[str, ...]:
        return os.path.join(self.apt, "keyrings") + "/", self.trusted + "/", self.shared_keys + "/"

    def _is_packaged(self, path: str) -> bool:
        line = f"{path}\n"
        return any(line in (_read(name) or "") for name in glob.glob(os.path.join(self.dpkg_info, "*.list")))


PLACES = Places()


def files(repository: Repository, *, known: t.Collection[str] = (), places: Places = PLACES) -> list[WantedFile]:
    """Return the files that define the repository once: ours, and every older definition without its entry for it.

    known are paths that we changed in an earlier run: those of them that are apt's stay listed, so that they are not
    given back.
    """
    source = os.path.join(places.apt, "sources.list.d", f"slipway-{repository.name}.sources")
    key = os.path.join(places.apt, "keyrings", f"slipway-{repository.name}.asc")
    wanted = [
        WantedFile(path=key, content=repository.key.strip().encode() + b"\n"),
        WantedFile(path=source, content=_deb822(repository, key).encode()),
    ]
    texts = {path: text for path in places.sources() if path != source and (text := _read(path)) is not None}
    former = Former()
    rest = {path: strip(text, repository, former, deb822=path.endswith(".sources")) for path, text in texts.items()}
    wanted += [_without(path, rest[path]) for path in sorted(rest) if rest[path] != texts[path] or path in known]
    still_used = "\n".join(line for text in rest.values() for line in _meaningful(text))
    keys = former.keys | (_trusted_keys(repository, places) if former.unsigned else set())
    gone = {path for path in keys if path not in still_used and places.is_hand_made_key(path)}
    gone |= {path for path in known if path not in texts and path not in (source, key) and places.holds(path)}
    wanted += [WantedFile(path=path, kind="absent") for path in sorted(gone)]
    return wanted


def _deb822(repository: Repository, key: str) -> str:
    components = "" if repository.suite.endswith("/") else f"Components: {repository.component}\n"
    return (
        HEADER.format(role=repository.role)
        + f"Types: deb\nURIs: {repository.url}\nSuites: {repository.suite}\n{components}Signed-By: {key}\n"
    )


def _trusted_keys(repository: Repository, places: Places) -> set[str]:
    """Return the files among apt's own keys that hold the repository's key and no other."""
    try:
        ours = _openpgp.fingerprint(repository.key.encode())
    except _openpgp.KeyTextError:
        return set()
    found = set()
    for path in glob.glob(os.path.join(places.trusted, "*")):
        try:
            with open(path, "rb") as handle:
                theirs = _openpgp.fingerprint(handle.read())
        except (OSError, _openpgp.KeyTextError):
            continue
        if theirs == ours:
            found.add(path)
    return found


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _meaningful(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _without(path: str, text: str) -> WantedFile:
    """Return what stays of a file: nothing but comments is no file (apt's own sources.list may be empty)."""
    if not _meaningful(text):
        return WantedFile(path=path, kind="absent")
    info = os.stat(path)
    return WantedFile(
        path=path,
        content=text.encode(),
        mode=stat.S_IMODE(info.st_mode),
        owner=str(info.st_uid),
        group=str(info.st_gid),
    )


def _plain(uri: str) -> list[str]:
    """Return an address as the parts of its path; scheme and a closing slash make no difference to what apt finds."""
    return re.sub(r"^[a-z+]+://", "", uri.strip().lower()).rstrip("/").split("/")


def _same(left: t.Sequence[str], right: t.Sequence[str]) -> bool:
    """Compare parts; apt puts the machine's architecture in place of $(ARCH), so it is the same as any part."""
    return len(left) == len(right) and all(
        one == other or "$(arch)" in (one, other) for one, other in zip(left, right, strict=True)
    )


def same_address(left: str, right: str) -> bool:
    """Compare two repository addresses."""
    return _same(_plain(left), _plain(right))


def _is_below(uri: str, place: str) -> bool:
    """Tell whether an address is a place or below it, part by part: /deb is not below /de."""
    parts = _plain(place)
    return _same(_plain(uri)[: len(parts)], parts)


def strip(text: str, repository: Repository, former: Former, *, deb822: bool) -> str:
    """Return a source file's text without its entries for the repository; former is told what these said."""
    return (_strip_deb822 if deb822 else _strip_lines)(text, repository, former)


def _strip_lines(text: str, repository: Repository, former: Former) -> str:
    kept = []
    for line in text.splitlines(keepends=True):
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)", line)
        if match and repository.is_at(match["uri"]):
            signed_by = re.findall(r"signed-by=(\S+)", match["options"] or "", re.I)
            former.note(",".join(signed_by).split(","), signed=bool(signed_by))
        else:
            kept.append(line)
    return "".join(kept)


def _strip_deb822(text: str, repository: Repository, former: Former) -> str:
    stanzas = STANZAS.split(text)
    kept = [_strip_stanza(stanza, repository, former) for stanza in stanzas]
    return text if kept == stanzas else "\n\n".join(stanza for stanza in kept if stanza)


def _strip_stanza(stanza: str, repository: Repository, former: Former) -> str:
    field = URIS.search(stanza)
    if not field:
        return stanza
    uris = field[2].split()
    others = [uri for uri in uris if not repository.is_at(uri)]
    if others == uris:
        return stanza
    signed_by = re.search(r"^Signed-By:(.*)", stanza, re.M | re.I)
    former.note(re.findall(r"/[^\s,]+", signed_by[1]) if signed_by else (), signed=bool(signed_by))
    return stanza[: field.start(2)] + f" {' '.join(others)}" + stanza[field.end(2) :] if others else ""
