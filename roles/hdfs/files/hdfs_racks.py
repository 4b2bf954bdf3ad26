#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the rack of each DataNode that the NameNode asks for, by name or address (net.topology.script.file.name)."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

TABLE = Path("/etc/slipway/hdfs/racks")
DEFAULT = "/default-rack"


def table(text: str) -> dict[str, str]:
    """Return the rack by name."""
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {words[0]: words[1] for words in lines if len(words) == 2}


def addresses(name: str) -> set[str]:
    """Return all addresses of a name; none where it does not resolve."""
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def racks(nodes: list[str], known: dict[str, str]) -> list[str]:
    """Return the rack of each node; those that are no name of the table are looked for among its addresses."""
    wanted = {node for node in nodes if node not in known}
    found = dict(known)
    for name, rack in known.items():
        if not wanted - set(found):
            break
        found.update(dict.fromkeys(addresses(name), rack))
    return [found.get(node, DEFAULT) for node in nodes]


if __name__ == "__main__":
    print("\n".join(racks(sys.argv[1:], table(TABLE.read_text(encoding="utf-8")))))
