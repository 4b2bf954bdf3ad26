"""Where Debian's packages come from: whatever the host itself uses, found at run time."""

from __future__ import annotations

import re
from pathlib import Path

APT = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def host_archives(directory: Path = APT) -> dict[str, str]:
    """Debian's archives in a host's apt configuration.

    Args:
        directory: Its /etc/apt.

    Returns:
        At most two entries, "debian" and "debian-security", each the first URI that ends so.
    """
    archives: dict[str, str] = {}
    for file in [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]:
        if file.suffix not in (".list", ".sources") or not file.is_file():
            continue
        for uri in _uris(file.read_text(encoding="utf-8", errors="replace")):
            archives.setdefault(uri.rstrip("/").rsplit("/", 1)[-1], uri.rstrip("/"))
    return {name: uri for name, uri in archives.items() if name in ("debian", "debian-security")}


def lines(suite: str, archives: dict[str, str]) -> list[str]:
    """One-line apt sources of a suite.

    Returns:
        Nothing when the host has no archive of Debian's: mmdebstrap then uses its own default.
    """
    if "debian" not in archives:
        return []
    found = [f"deb [signed-by={KEYRING}] {archives['debian']} {name} main" for name in (suite, f"{suite}-updates")]
    if "debian-security" in archives:
        found.append(f"deb [signed-by={KEYRING}] {archives['debian-security']} {suite}-security main")
    return found


def hosts_of(archives: dict[str, str]) -> list[str]:
    """Host names of the archives: squid lets the machines reach them even where they are private addresses."""
    names = (re.sub(r"^\w+://(?:[^/@]*@)?", "", uri).split("/")[0].split(":")[0] for uri in archives.values())
    return sorted(set(names))


def _uris(text: str) -> list[str]:
    """URIs in a file of either format."""
    found = []
    for line in text.splitlines():
        if match := re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s", line):
            found.append(match.group(1))
        elif line.startswith("URIs:"):
            found.extend(line.removeprefix("URIs:").split())
    return [uri for uri in found if re.match(r"https?://", uri)]
