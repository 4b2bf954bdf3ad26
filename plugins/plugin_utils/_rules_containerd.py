# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of containerd."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, shown

# An image reference with a tag, a digest or both (distribution's reference grammar, without its rarer forms).
IMAGE = re.compile(
    r"[a-z0-9][\w.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*(?=[:@])(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)


def pinned_image(value: t.Any) -> Verdict:
    """Accept an image with a tag other than latest, or a digest."""
    if not isinstance(value, str) or not IMAGE.fullmatch(value) or value.endswith(":latest"):
        return "an image with a tag (not latest) or a digest, such as registry.example.net/pause:3.10"
    return None


def containerd_options(value: t.Any) -> Verdict:
    """Accept nested keys of config.toml that leave registries to certs.d and hold no null, which TOML cannot say."""
    problems: list[Problem] = []
    for path, item in _walk(value or {}):
        if item is None:
            problems.append(
                Problem("a value; leave the key out to have containerd's default", "." + ".".join(path), "null")
            )
        elif "registry" in path and {"mirrors", "configs", "auths"} & {*path}:
            problems.append(
                Problem(
                    "to go: registries stand in /etc/containerd/certs.d (role registry_trust), and with both the CRI "
                    "plugin does not load",
                    "." + ".".join(path),
                    shown(item) if "auth" not in path else "not empty",
                )
            )
    return problems


def _walk(value: t.Mapping[str, t.Any], path: tuple[str, ...] = ()) -> t.Iterator[tuple[tuple[str, ...], t.Any]]:
    for key, item in value.items():
        here = (*path, str(key))
        if isinstance(item, dict):
            yield from _walk(item, here)
        else:
            yield here, item


RULES: dict[str, Rule] = {"containerd_options": containerd_options, "pinned_image": pinned_image}
