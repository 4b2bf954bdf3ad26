# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role registry_mirror, for the action plugin validate."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict


def _image(item: t.Any, path: str) -> tuple[Problem | None, _images.Name | None, str]:
    """Return what is wrong with an image, or its name upstream and its name in the private registry."""
    entry = item if isinstance(item, dict) else {"name": item}
    unknown = sorted(str(key) for key in entry if key not in ("name", "target"))
    if unknown or not isinstance(entry.get("name"), str):
        return Problem("a name, or a dictionary with name and target", path, _rules.shown(item)), None, ""
    try:
        source = _images.parse(entry["name"])
    except ValueError as exc:
        return Problem(str(exc), path, _rules.shown(entry["name"])), None, ""
    try:
        target = _images.parse_target(str(entry.get("target") or source.own))
    except ValueError as exc:
        return Problem(str(exc), f"{path}.target", _rules.shown(entry.get("target"))), None, ""
    return None, source, str(target)


def mirror_images(value: t.Any) -> Verdict:
    """Accept images with tag or digest of which no two have one name in the private registry."""
    problems = []
    taken: dict[str, _images.Name] = {}
    for index, item in enumerate(value if isinstance(value, list) else []):
        problem, source, target = _image(item, f"[{index}]")
        if problem is None and source is not None:
            other = taken.setdefault(target, source)
            if other != source:
                problem = Problem(f"another target, because {target} is {other} already", f"[{index}]", str(source))
        problems += [problem] if problem else []
    return problems


def mirror_registry(value: t.Any) -> Verdict:
    """Accept host:port."""
    host, _, port = str(value).rpartition(":")
    if host and not _rules.host_name(host) and not _rules.port(port):
        return None
    return "host:port of the private registry"


def mirror_upstreams(value: t.Any) -> Verdict:
    """Accept logins, at most one for each registry."""
    problems = []
    seen = set()
    for index, item in enumerate(value if isinstance(value, list) else []):
        name = str(item.get("registry")) if isinstance(item, dict) else ""
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?", name) or _rules.host_name(name.partition(":")[0]):
            problems.append(
                Problem("a host, with a port where it is not 443", f"[{index}].registry", _rules.shown(name))
            )
        elif name in seen:
            problems.append(Problem("one login for each registry", f"[{index}].registry", _rules.shown(name)))
        seen.add(name)
    return problems


def mirror_host(value: t.Any) -> Verdict:
    """Accept {host, machines}: no host at all, or a machine of the inventory."""
    host = value.get("host") or ""
    if host and host not in (value.get("machines") or []):
        return Problem("the name of a machine of the inventory", ".host", _rules.shown(host))
    return None


def mirror_login(value: t.Any) -> Verdict:
    """Accept {user, password}: both or none."""
    if bool(value.get("user")) != bool(value.get("password")):
        missing = "password" if value.get("user") else "user"
        return Problem("a value, because the other one is set", f".{missing}", "empty")
    return None


RULES: dict[str, Rule] = {
    "mirror_images": mirror_images,
    "mirror_registry": mirror_registry,
    "mirror_upstreams": mirror_upstreams,
    "mirror_host": mirror_host,
    "mirror_login": mirror_login,
}
