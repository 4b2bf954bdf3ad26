# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program is told by environment variables; secrets come from files."""

from __future__ import annotations

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
        state_dir: Directory where the machine says how the registry is: health.json, read-only, gc.json, backup.json.
        scan_interval: Seconds between two scans.
    """

    registry_url: str
    registry_name: str
    data_dir: Path
    gate: str = dataclasses.field(repr=False)
    registry_version: str = ""
    login: tuple[str, str] | None = dataclasses.field(default=None, repr=False)
    ca: str = ""
    state_dir: Path | None = None
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
        state = environment.get("REGISTRY_UI_STATE_DIR")
        return cls(
            registry_url=needed("REGISTRY_URL"),
            registry_name=needed("REGISTRY_NAME"),
            registry_version=environment.get("REGISTRY_UI_REGISTRY_VERSION", ""),
            data_dir=Path(environment.get("REGISTRY_UI_DATA_DIR", "/var/lib/registry-ui")),
            gate=gate,
            login=(user, password) if login else None,
            ca=environment.get("REGISTRY_UI_CA_FILE", ""),
            state_dir=Path(state) if state else None,
            scan_interval=float(environment.get("REGISTRY_UI_SCAN_INTERVAL", str(cls.scan_interval))),
        )


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the registry's machine says of itself in files; nothing where it says nothing."""

    directory: Path | None

    def read_only(self) -> bool:
        """Tell whether nobody may write now: the disk is nearly full, or a garbage collection runs."""
        return self.directory is not None and (self.directory / "read-only").exists()

    def said(self, name: str) -> dict[str, t.Any]:
        """Return what stands in NAME.json; empty when there is none or it cannot be read."""
        if self.directory is None:
            return {}
        try:
            found = json.loads((self.directory / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def last(self, name: str) -> float | None:
        """Return when a job last ended well."""
        stamp = self.said(name).get("ended")
        return float(stamp) if isinstance(stamp, int | float) and 0 < stamp < time.time() + 86400 else None
