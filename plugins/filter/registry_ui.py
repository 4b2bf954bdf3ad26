# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role registry_ui; each has its page beside this file."""

from __future__ import annotations

import hashlib
import re
import typing as t
from pathlib import Path

from ansible.errors import AnsibleFilterError

LEFT_OUT = {"__pycache__", ".dockerignore"}


def image_context(directory: str, target: str, base: str) -> dict[str, t.Any]:
    """A directory with a Dockerfile to {digest, files}, the files as host_state takes them, below target, on base."""
    root = Path(directory)
    if not (root / "Dockerfile").is_file():
        raise AnsibleFilterError(f"{root} holds no Dockerfile")
    files = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not LEFT_OUT.intersection(path.relative_to(root).parts):
            content = path.read_text(encoding="utf-8")
            if path.name == "Dockerfile":
                content = re.sub(r"(?m)^ARG BASE=.*$", lambda _: f"ARG BASE={base}", content)
            files.append({"path": f"{target}/{path.relative_to(root)}", "content": content})
    said = "\0".join(f"{item['path']}\0{item['content']}" for item in files)
    return {"digest": hashlib.sha256(said.encode()).hexdigest()[:12], "files": files}


class FilterModule:
    """What ansible-core looks for in a filter file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"image_context": image_context}
