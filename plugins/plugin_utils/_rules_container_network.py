# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role container_network: its switches together, and what the forwarder's squid can do."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._container_network import refused_login
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, shown


def container_network_switches(value: t.Any) -> Verdict:
    """Accept switches that Docker's client can follow, and a proxy that the forwarder can reach."""
    containers, builds = bool(value.get("containers")), bool(value.get("builds"))
    if not (containers or builds):
        return None
    problems = []
    if containers and not builds:
        problems.append(
            Problem(
                "to be true as well, because Docker's client has one setting for containers and builds",
                ".builds",
                "false",
            )
        )
    proxies = {name: value.get(name) or {} for name in ("http", "https")}
    if not any(proxy.get("url") for proxy in proxies.values()):
        problems.append(Problem("a url, because containers or builds shall have a proxy", ".http", "without one"))
    for name, proxy in proxies.items():
        problems += _peer(name, proxy)
    return problems


def _peer(name: str, proxy: t.Mapping[str, t.Any]) -> list[Problem]:
    url = str(proxy.get("url") or "")
    problems = []
    if url and not url.lower().startswith("http://"):
        problems.append(
            Problem("http://, because the forwarder speaks plain HTTP to the proxy", f".{name}", shown(url))
        )
    login = refused_login(str(proxy.get("user") or ""), str(proxy.get("password") or ""))
    if login:
        problems.append(Problem(login, f".{name}", "a proxy with credentials"))
    return problems


def ipv4_networks(value: t.Any) -> Verdict:
    """Accept a list of one or more IPv4 networks."""
    if not isinstance(value, list) or not value:
        return "a list of networks such as 172.16.0.0/12"
    return [
        Problem("an IPv4 network such as 172.16.0.0/12", f"[{index}]", shown(network))
        for index, network in enumerate(value)
        if not _is_network(network)
    ]


def _is_network(text: t.Any) -> bool:
    try:
        ipaddress.IPv4Network(str(text))
    except ValueError:
        return False
    return "/" in str(text)


def ipv4_address(value: t.Any) -> Verdict:
    """Accept an IPv4 address."""
    try:
        ipaddress.IPv4Address(str(value))
    except ValueError:
        return "an IPv4 address, docker0's"
    return None


def user_names(value: t.Any) -> Verdict:
    """Accept a list of different user names (useradd(8), with capitals and dots as directory services have them)."""
    if not isinstance(value, list):
        return "a list of user names"
    return [
        Problem("a user's name, once", f"[{index}]", shown(name))
        for index, name in enumerate(value)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", str(name)) or name in value[:index]
    ]


RULES: dict[str, Rule] = {
    "container_network_switches": container_network_switches,
    "ipv4_address": ipv4_address,
    "ipv4_networks": ipv4_networks,
    "user_names": user_names,
}
