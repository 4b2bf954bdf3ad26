# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role registry_trust: names of upstreams, and what the runtimes can do together."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.plugin_utils._rules import (
    Problem,
    Rule,
    Verdict,
    ca_certificate,
    host_name,
    port,
    shown,
)

HUB = "docker.io"


def upstream_names(value: t.Any) -> Verdict:
    """Accept a list of registries as they stand in image names: host or host:port, each once."""
    if not isinstance(value, list):
        return "a list of registries such as docker.io"
    problems = [
        Problem("a registry's name such as docker.io or quay.io, without scheme and path", f"[{index}]", shown(name))
        for index, name in enumerate(value)
        if not _is_registry(name)
    ]
    repeated = sorted({str(name) for name in value if value.count(name) > 1})
    return problems + [Problem("each name once", "", f"{shown(name)} twice") for name in repeated]


def _is_registry(name: t.Any) -> bool:
    host, colon, number = str(name).partition(":")
    return isinstance(name, str) and not host_name(host) and (not colon or not port(number))


def registry_trust_optional_host(value: t.Any) -> Verdict:
    """Accept a host name, or nothing: then there is no registry to trust."""
    return host_name(value) if value else None


def registry_trust_optional_ca(value: t.Any) -> Verdict:
    """Accept CA certificates, or nothing: then the systems trust the registry's CA already."""
    return ca_certificate(value) if value else None


def registry_trust_caches(value: t.Any) -> Verdict:
    """Accept caches as {upstream, host, port}, each upstream once; the spec has looked at their types."""
    caches = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    upstreams = [item.get("upstream") for item in caches]
    problems = []
    for index, item in enumerate(caches):
        if not _is_registry(item.get("upstream")):
            needs = "a registry's name such as docker.io or quay.io, without scheme and path"
            problems.append(Problem(needs, f"[{index}].upstream", shown(item.get("upstream"))))
        elif item["upstream"] in upstreams[:index]:
            problems.append(Problem("each upstream once", f"[{index}].upstream", f"{shown(item['upstream'])} again"))
        for part, rule in (("host", host_name), ("port", port)):
            needs = str(rule(item.get(part)) or "")
            problems += [Problem(needs, f"[{index}].{part}", shown(item.get(part)))] if needs else []
    return problems


def registry_trust_runtimes(value: t.Any) -> Verdict:
    """Accept what the settings ask of the runtimes together, where they can do it."""
    mirrors, runtimes = list(value.get("mirrors") or []), list(value.get("runtimes") or [])
    user, password = str(value.get("user") or ""), str(value.get("password") or "")
    problems = _login(user, password)
    itself = {value.get("host"), f"{value.get('host')}:{value.get('port')}"} & set(mirrors)
    if itself:
        problems.append(
            Problem("other registries only", ".mirrors", f"a list with the registry itself ({itself.pop()})")
        )
    if user and "docker" in runtimes and HUB in mirrors and value.get("docker_mirror"):
        problems.append(
            Problem(
                "to be empty, or registry_trust_docker_mirror to be false, because dockerd sends no credentials to a "
                "mirror",
                ".user",
                shown(user),
            )
        )
    return problems


def _login(user: str, password: str) -> list[Problem]:
    """RFC 7617: a user has no colon, and neither part has control characters."""
    problems = []
    if user and not password:
        problems.append(Problem("a value, because registry_trust_user is set", ".password", "empty"))
    if password and not user:
        problems.append(Problem("a value, because registry_trust_password is set", ".user", "empty"))
    if ":" in user or re.search(r"[\x00-\x1f\x7f]", user):
        problems.append(Problem("a name without colon and control characters", ".user", shown(user)))
    if re.search(r"[\x00-\x1f\x7f]", password):
        problems.append(Problem("a password without control characters", ".password", "a secret value"))
    return problems


RULES: dict[str, Rule] = {
    "registry_trust_caches": registry_trust_caches,
    "registry_trust_optional_ca": registry_trust_optional_ca,
    "registry_trust_optional_host": registry_trust_optional_host,
    "registry_trust_runtimes": registry_trust_runtimes,
    "upstream_names": upstream_names,
}
