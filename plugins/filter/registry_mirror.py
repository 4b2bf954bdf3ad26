# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role registry_mirror; each has its page beside this file."""

from __future__ import annotations

import base64
import json
import typing as t

HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


def registry_auths(logins: t.Iterable[t.Mapping[str, t.Any]]) -> str:
    """A list of {registry, user, password} to the text of an auth.json (containers-auth.json(5))."""
    auths = {}
    for login in logins:
        name = "docker.io" if login["registry"] in HUB else str(login["registry"])
        auths[name] = {"auth": base64.b64encode(f"{login['user']}:{login['password']}".encode()).decode()}
    return json.dumps({"auths": auths}, indent=1, sort_keys=True) + "\n"


def image_wishes(images: t.Iterable[t.Any]) -> list[dict[str, str]]:
    """A list of names and of {name, target} to a list of {name, target}."""
    return [
        {"name": str(item["name"]), "target": str(item.get("target") or "")}
        if isinstance(item, t.Mapping)
        else {"name": str(item), "target": ""}
        for item in images
    ]


def image_carried(image: t.Mapping[str, t.Any]) -> dict[str, str]:
    """An image as image_mirror returns it to one as image_archive takes it."""
    return {"name": str(image["target"]), "digest": str(image["digest"]), "source": str(image["name"])}


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {function.__name__: function for function in (registry_auths, image_wishes, image_carried)}
