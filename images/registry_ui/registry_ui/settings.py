# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program is told by environment variables; secrets come from files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import typing as t
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a site may choose.

    Attributes:
        registry_url: Where this program reaches the registry.
        registry_name: What people write before an image's name, HOST:PORT.
        registry_version: What the registry is, because it does not say so itself.
        data_dir: Directory of the index.
        gate: Secret that the proxy in front, and the registry with its notifications, have to know.
        login: User and password of this program's own at the registry, where that wants one.
        ca: PEM file of the authority that signed for the registry.
        state_dirs: Where the machine says how the registry is: health.json, gc.json, backup.json and flags.
        scan_interval: Seconds between two scans.
    """

    registry_url: str
    registry_name: str
    data_dir: Path
    gate: str = dataclasses.field(repr=False)
    registry_version: str = ""
    login: tuple[str, str] | None = dataclasses.field(default=None, repr=False)
    ca: str = ""
    state_dirs: tuple[Path, ...] = ()
    scan_interval: float = 6 * 3600

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Return the settings of an environment; raises ValueError with what is missing."""

        def needed(name: str) -> str:
            if not environment.get(f"REGISTRY_UI_{name}"):
                raise ValueError(f"REGISTRY_UI_{name} is not set")
            return environment[f"REGISTRY_UI_{name}"]

        def secret(path: str) -> str:
            return Path(path).read_text(encoding="utf-8").strip()

        gate = secret(needed("SECRET_FILE"))
        if len(gate) < 16:
            raise ValueError("the secret in REGISTRY_UI_SECRET_FILE is shorter than 16 characters")
        login = environment.get("REGISTRY_UI_LOGIN_FILE")
        user, _, password = secret(login).partition(":") if login else ("", "", "")
        states = environment.get("REGISTRY_UI_STATE_DIRS", "").split(":")
        return cls(
            registry_url=needed("REGISTRY_URL"),
            registry_name=needed("REGISTRY_NAME"),
            registry_version=environment.get("REGISTRY_UI_REGISTRY_VERSION", ""),
            data_dir=Path(environment.get("REGISTRY_UI_DATA_DIR", "/var/lib/registry-ui")),
            gate=gate,
            login=(user, password) if login else None,
            ca=environment.get("REGISTRY_UI_CA_FILE", ""),
            state_dirs=tuple(Path(state) for state in states if state),
            scan_interval=float(environment.get("REGISTRY_UI_SCAN_INTERVAL", str(cls.scan_interval))),
        )


# Files whose presence means that nobody may write: the disk is nearly full, a garbage collection is under way.
FLAGS = ("read-only", "collecting")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the registry's machine says of itself in files; nothing where it says nothing."""

    directories: tuple[Path, ...] = ()

    def read_only(self) -> bool:
        """Tell whether nobody may write now."""
        return any((directory / flag).exists() for directory in self.directories for flag in FLAGS)

    def said(self, name: str) -> dict[str, t.Any]:
        """Return what stands in NAME.json; empty when there is none or it cannot be read."""
        for directory in self.directories:
            with contextlib.suppress(OSError, ValueError):
                found = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
                return found if isinstance(found, dict) else {}
        return {}

    def last(self, name: str) -> float | None:
        """Return when a job last ended well: {"last_good": …}, or {"time": …, "ok": true}."""
        said = self.said(name)
        stamp = said.get("last_good", said.get("time") if said.get("ok") is True else None)
        if not isinstance(stamp, int | float) or isinstance(stamp, bool):
            return None
        return float(stamp) if 0 < stamp < time.time() + 86400 else None
