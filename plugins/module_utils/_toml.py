# SPDX-License-Identifier: GPL-3.0-or-later
"""Write TOML 1.0 (https://toml.io/en/v1.0.0); Python's standard library only reads it."""

from __future__ import annotations

import json
import re
import typing as t

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def key(name: str) -> str:
    """Return a key as TOML has it: bare where that is allowed, else quoted."""
    return name if BARE_KEY.fullmatch(name) else value(name)


def value(item: t.Any) -> str:
    """Return a value in one line; TypeError for what TOML has no form for (null, dates are not used here)."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, (int, float)):
        return repr(item)
    if isinstance(item, str):
        # A basic string escapes what JSON escapes, and DEL.
        return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(item, (list, tuple)):
        return f"[{', '.join(value(part) for part in item)}]"
    if isinstance(item, dict):
        return "{" + ", ".join(f"{key(name)} = {value(part)}" for name, part in item.items()) + "}"
    raise TypeError(f"TOML has no form for {item!r}")


def render(table: t.Mapping[str, t.Any], path: tuple[str, ...] = ()) -> str:
    """Return a table as text: its own values first, then its subtables, each under its full name."""
    own = [f"{key(name)} = {value(item)}" for name, item in table.items() if not isinstance(item, dict)]
    below = [render(item, (*path, name)) for name, item in table.items() if isinstance(item, dict)]
    head = [f"[{'.'.join(key(part) for part in path)}]"] if path and (own or not below) else []
    block = "\n".join(head + own)
    return "\n\n".join(part.strip("\n") for part in [block, *below] if part) + "\n"
