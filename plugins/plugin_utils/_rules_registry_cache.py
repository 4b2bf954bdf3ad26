# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role registry_cache, for the action plugin validate."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _registry_cache
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict

_URL = re.compile(r"https?://([^/:@?#\s]+)(?::([0-9]+))?/?\Z")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*\Z")


def registry_cache_upstreams(value: t.Any) -> Verdict:
    """Accept upstreams whose names, ports, addresses and logins can work; the spec has looked at their types."""
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    problems = []
    for index, item in enumerate(items):
        found = [*_name(item), *_repeated(item, items[:index]), *_address(item), *_login(item), *_rest(item)]
        problems += [dataclasses.replace(problem, path=f"[{index}]{problem.path}") for problem in found]
    return problems


def _name(item: dict[str, t.Any]) -> list[Problem]:
    name, problems = item.get("name"), []
    host, colon, number = str(name).partition(":")
    if _rules.host_name(host) or (colon and _rules.port(number)) or not re.search(r"[a-z0-9]", str(name)):
        needs = "a registry's name as in image names, such as docker.io, in small letters, without scheme and path"
        problems.append(Problem(needs, ".name", _rules.shown(name)))
    if wrong := _rules.port(item.get("port")):
        problems.append(Problem(str(wrong), ".port", _rules.shown(item.get("port"))))
    return problems


def _repeated(item: dict[str, t.Any], before: list[dict[str, t.Any]]) -> list[Problem]:
    problems = []
    key = _registry_cache.key(str(item.get("name")))
    twin = [str(other.get("name")) for other in before if _registry_cache.key(str(other.get("name"))) == key]
    if twin:
        needs = f"a name that differs from {twin[0]} in more than signs, or their containers had one name"
        problems.append(Problem(needs, ".name", _rules.shown(item.get("name"))))
    if str(item.get("port")) in [str(other.get("port")) for other in before]:
        problems.append(Problem("a port that no other cache has", ".port", _rules.shown(item.get("port"))))
    return problems


def _address(item: dict[str, t.Any]) -> list[Problem]:
    url = item.get("url")
    if not url:
        return []
    match = _URL.match(str(url))
    if match is None or _rules.host_name(match[1]) or (match[2] and _rules.port(match[2])):
        needs = "http:// or https://, a host and maybe a port, nothing else, such as https://registry-1.docker.io"
        return [Problem(needs, ".url", _rules.shown(url))]
    return []


def _login(item: dict[str, t.Any]) -> list[Problem]:
    user, password = str(item.get("user") or ""), str(item.get("password") or "")
    problems = []
    if bool(user) != bool(password):
        missing, given = ("password", "user") if user else ("user", "password")
        problems.append(Problem(f"a value, because {given} is set", f".{missing}", "empty"))
    if ":" in user or re.search(r"[\x00-\x1f\x7f]", user):
        problems.append(Problem("a name without colon and control characters", ".user", _rules.shown(user)))
    if re.search(r"[\x00-\x1f\x7f]", password):
        problems.append(Problem("a password without control characters", ".password", "a secret value"))
    return problems


def _rest(item: dict[str, t.Any]) -> list[Problem]:
    problems = []
    verdict = _rules.proxy(item.get("proxy") or {})
    for found in verdict if isinstance(verdict, list) else [verdict] if isinstance(verdict, Problem) else []:
        problems.append(dataclasses.replace(found, path=f".proxy{found.path}"))
    if item.get("max_size") and _rules.size(item["max_size"]):
        problems.append(Problem("a size such as 50g", ".max_size", _rules.shown(item["max_size"])))
    if item.get("probe") and not _REPOSITORY.match(str(item["probe"])):
        problems.append(Problem("a repository without registry and tag", ".probe", _rules.shown(item["probe"])))
    return problems


def registry_cache_together(value: t.Any) -> Verdict:
    """Accept {host, upstreams, version, tls, certificate, private_key} that make caches together, or none."""
    if not value.get("upstreams"):
        return None
    problems = []
    host = str(value.get("host") or "")
    if not host or _rules.is_ip(host) or _rules.host_name(host):
        problems.append(Problem("a host name, because registry_cache_upstreams is set", ".host", _rules.shown(host)))
    if not re.match(r"3\.[1-9]|[4-9]\.|[1-9][0-9]+\.", str(value.get("version"))):
        needs = "3.1 or later: version 2 does not start while its upstream is out of reach"
        problems.append(Problem(needs, ".version", _rules.shown(value.get("version"))))
    if value.get("tls") == "files":
        verdict = _rules.certificate(value)
        problems += verdict if isinstance(verdict, list) else [verdict] if isinstance(verdict, Problem) else []
    return problems


RULES: dict[str, Rule] = {
    "registry_cache_together": registry_cache_together,
    "registry_cache_upstreams": registry_cache_upstreams,
}
