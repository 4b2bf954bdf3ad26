# SPDX-License-Identifier: GPL-3.0-or-later
"""Skopeo and registries for unit tests: images are bytes in memory, names are as on skopeo's command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OWN = "registry.corp.lab:6001"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def digest(data: bytes) -> str:
    """Return the digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclasses.dataclass
class FakeSkopeo:
    """Runs `skopeo inspect` and `skopeo copy`; calls holds the command lines, environments what came with them.

    tags: full name of each tag or digest to digest. blobs: all bytes by digest. fails: what skopeo says when a command
    line holds a text.
    """

    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    blobs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    calls: list[str] = dataclasses.field(default_factory=list)
    environments: list[Mapping[str, str]] = dataclasses.field(default_factory=list)
    fails: dict[str, str] = dataclasses.field(default_factory=dict)

    def blob(self, data: bytes) -> dict[str, Any]:
        """Keep bytes; return their descriptor."""
        self.blobs[digest(data)] = data
        return {"digest": digest(data), "size": len(data), "mediaType": "application/octet-stream"}

    def image(self, name: str, *layers: bytes, platforms: int = 2) -> str:
        """Push an image for some platforms; return its digest."""
        children = []
        for number in range(platforms):
            content = {"schemaVersion": 2, "mediaType": DOCKER, "config": self.blob(f"{name} {number}".encode())}
            parts = [self.blob(layer) for layer in layers or (name.encode(),)]
            data = json.dumps({**content, "layers": parts}).encode()
            children.append({**self.blob(data), "mediaType": DOCKER})
        if platforms == 1:
            return self.tag(name, children[0]["digest"])
        index = json.dumps({"schemaVersion": 2, "mediaType": LIST, "manifests": children}).encode()
        return self.tag(name, self.blob(index)["digest"])

    def tag(self, name: str, digest: str) -> str:
        """Give a digest a name."""
        self.tags[name] = digest
        self.tags[f"{name.rpartition(':')[0]}@{digest}"] = digest
        return digest

    def did(self, verb: str) -> list[str]:
        """Return the command lines with a verb."""
        return [call for call in self.calls if call.startswith(f"skopeo {verb} ")]

    def __call__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, str]:
        """Run a command: the protocol Command."""
        del timeout
        line = " ".join(argv)
        self.calls.append(line)
        self.environments.append(environment)
        for text, said in self.fails.items():
            if text in line:
                return 1, b"", f'time="2026-01-01T00:00:00Z" level=fatal msg="{said}"\n'
        if argv[1] == "inspect":
            return self._inspect(argv[-1].removeprefix("docker://"))
        return self._copy(argv[-2], argv[-1])

    def _inspect(self, name: str) -> tuple[int, bytes, str]:
        if name in self.tags:
            return 0, self.blobs[self.tags[name]], ""
        return 1, b"", 'level=fatal msg="Error parsing image name \\"docker://x\\": reading manifest: manifest unknown"'

    def _copy(self, source: str, target: str) -> tuple[int, bytes, str]:
        if source.startswith("dir:"):
            found = self._read(Path(source.removeprefix("dir:")))
        else:
            name = source.removeprefix("docker://")
            if name not in self.tags:
                return 1, b"", 'level=fatal msg="manifest unknown"'
            found = self.tags[name]
        if target.startswith("dir:"):
            self._write(Path(target.removeprefix("dir:")), found)
        elif "@" in target:
            self.tags[target.removeprefix("docker://")] = found
        else:
            self.tag(target.removeprefix("docker://"), found)
        return 0, b"", ""

    def _read(self, directory: Path) -> str:
        """Push a directory: only what is in it may be needed."""
        assert (directory / "version").read_text(encoding="utf-8") == "Directory Transport Version: 1.1\n"
        manifest = (directory / "manifest.json").read_bytes()
        content = json.loads(manifest)
        for child in content.get("manifests", [{"digest": digest(manifest)}]):
            path = directory / f"{child['digest'][7:]}.manifest.json"
            data = path.read_bytes() if "manifests" in content else manifest
            assert digest(data) == child["digest"]
            parts = json.loads(data)
            for part in [parts["config"], *parts["layers"]]:
                assert digest((directory / part["digest"][7:]).read_bytes()) == part["digest"]
        return digest(manifest)

    def _write(self, directory: Path, found: str) -> None:
        directory.mkdir()
        (directory / "version").write_text("Directory Transport Version: 1.1\n", encoding="utf-8")
        (directory / "manifest.json").write_bytes(self.blobs[found])
        content = json.loads(self.blobs[found])
        for child in content.get("manifests", []):
            (directory / f"{child['digest'][7:]}.manifest.json").write_bytes(self.blobs[child["digest"]])
        for data in [self.blobs[child["digest"]] for child in content.get("manifests", [])] or [self.blobs[found]]:
            parts = json.loads(data)
            for part in [parts["config"], *parts["layers"]]:
                (directory / part["digest"][7:]).write_bytes(self.blobs[part["digest"]])
