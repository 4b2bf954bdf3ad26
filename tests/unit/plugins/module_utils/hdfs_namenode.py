# SPDX-License-Identifier: GPL-3.0-or-later
"""A NameNode for unit tests: its beans and its directories, as it answers over HTTP."""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from typing import Any


@dataclasses.dataclass
class NameNode:
    """Answers requests like a NameNode; asked holds the operations that change something."""

    up: bool = True
    state: str = "active"
    safe_mode: str = ""
    missing: int = 0
    live: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dead: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    leaving: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    paths: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    asked: list[str] = dataclasses.field(default_factory=list)
    refuses: str = ""

    def __call__(self, method: str, url: str) -> tuple[int, bytes]:
        """Answer one request: the protocol Fetch."""
        if not self.up:
            raise ConnectionRefusedError("refused")
        parts = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parts.query))
        if parts.path == "/jmx":
            return 200, json.dumps({"beans": self._beans()}).encode()
        path = urllib.parse.unquote(parts.path.removeprefix("/webhdfs/v1"))
        return self._directory(method, path, query)

    def _beans(self) -> list[dict[str, Any]]:
        prefix = "Hadoop:service=NameNode,name="
        info = {
            "name": f"{prefix}NameNodeInfo",
            "ClusterId": "CID-1",
            "Safemode": self.safe_mode,
            "LiveNodes": json.dumps({f"{name}:9866": value for name, value in self.live.items()}),
            "DeadNodes": json.dumps({f"{name}:9866": value for name, value in self.dead.items()}),
            "DecomNodes": json.dumps({f"{name}:9866": value for name, value in self.leaving.items()}),
        }
        status = {"name": f"{prefix}NameNodeStatus", "State": self.state}
        return [info, status, {"name": f"{prefix}FSNamesystem", "MissingBlocks": self.missing}]

    def _directory(self, method: str, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if self.refuses:
            return 403, json.dumps({"RemoteException": {"message": self.refuses + "\n\tat Java"}}).encode()
        if query["op"] == "GETFILESTATUS":
            found = self.paths.get(path)
            return (200, json.dumps({"FileStatus": found}).encode()) if found else (404, b"{}")
        assert method == "PUT" and query["user.name"] == "hdfs"
        self.asked.append(f"{query['op']} {path}")
        entry = self.paths.setdefault(
            path, {"type": "DIRECTORY", "owner": "hdfs", "group": "hdfs", "permission": "755"}
        )
        entry.update({key: query[key] for key in ("owner", "group", "permission") if key in query})
        return 200, b""


def live(state: str = "In Service", blocks: int = 0, rack: str = "/default-rack") -> dict[str, Any]:
    """Return a DataNode that lives, as it stands in LiveNodes."""
    return {"adminState": state, "numBlocks": blocks, "location": rack}
