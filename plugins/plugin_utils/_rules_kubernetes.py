# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of kubernetes_node and kubernetes_control_plane."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _openpgp
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import (
    Problem,
    Rule,
    Verdict,
    host_name,
    port,
    shown,
    web_address,
)

# The first release with a drop-in directory for the kubelet's configuration that needs no feature gate, and v1beta4.
OLDEST = (1, 31)
# The API's "Names and IDs" and "Labels and Selectors".
NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
KEY = re.compile(r"(?:([^/]{1,253})/)?([A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)\Z")
VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")


def kubernetes_name(value: t.Any) -> Verdict:
    """Accept the name of an object: lower case letters, digits, dashes and dots."""
    return (
        None
        if NAME.match(str(value))
        else "a name of a-z, 0-9, dash and dot that begins and ends with a letter or digit"
    )


def kubernetes_version(value: t.Any) -> Verdict:
    """Accept a version or shell pattern of one minor release that this collection knows."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\*|[0-9][0-9A-Za-z.+~*?-]*)", str(value))
    if match and (int(match[1]), int(match[2])) >= OLDEST:
        return None
    return "a version or pattern of one minor release from 1.31 on, such as 1.34.* or 1.34.3-*"


def kubernetes_repository_url(value: t.Any) -> Verdict:
    """Accept an http or https address without credentials."""
    return web_address(value)


def kubernetes_endpoint(value: t.Any) -> Verdict:
    """Accept host:port of an API server."""
    host, colon, number = str(value).rpartition(":")
    if colon and not host_name(host.strip("[]")) and not port(number):
        return None
    return "a host name and a port, such as control.example.com:6443"


def is_label(text: str) -> bool:
    """Tell whether a text is the key of a label or a taint."""
    match = KEY.match(text)
    return bool(match and (match[1] is None or NAME.match(match[1])))


def kubernetes_labels(value: t.Any) -> Verdict:
    """Accept a dictionary of labels."""
    if not isinstance(value, dict):
        return "a dictionary from a label to its value"
    problems = []
    for key, text in value.items():
        if not is_label(str(key)):
            problems.append(Problem("a label such as team or example.com/team", "", f"the label {shown(str(key))}"))
        elif isinstance(text, bool) or not VALUE.match(str(text)):
            needs = "a text of at most 63 letters, digits, -, _ and . (true and numbers in quotes)"
            problems.append(Problem(needs, f".{key}", shown(text)))
    return problems


def kubernetes_taints(value: t.Any) -> Verdict:
    """Accept a list of {key, value, effect}, each key and effect once."""
    problems, seen = [], set()
    for index, taint in enumerate(value or []):
        if not is_label(str(taint.get("key"))):
            problems.append(Problem("a key such as gpu or example.com/gpu", f"[{index}].key", shown(taint.get("key"))))
        pair = (taint.get("key"), taint.get("effect"))
        if pair in seen:
            problems.append(Problem("each key and effect once", f"[{index}]", shown(f"{pair[0]}:{pair[1]}")))
        seen.add(pair)
    return problems


def kubernetes_key(value: t.Any) -> Verdict:
    """Accept {key, fingerprint}: the public key that has the pinned fingerprint."""
    text = str(value.get("key") or "")
    if not text.strip():
        needs = "the text of the public key that signs Kubernetes' packages, Release.key in the repository"
        return Problem(needs, ".key", "empty")
    wanted = "".join(str(value.get("fingerprint")).split()).upper()
    try:
        found = _openpgp.fingerprint(text.encode())
    except _openpgp.KeyTextError as exc:
        return Problem(f"the armoured public key with the fingerprint {wanted}", ".key", str(exc))
    if found == wanted:
        return None
    needs = f"the key that kubernetes_node_repository_fingerprint names, {wanted}"
    return Problem(needs, ".key", f"the key {found}")


def kubernetes_subnets(value: t.Any) -> Verdict:
    """Accept {pods, services}: two networks that have no address in common."""
    found: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network] = {}
    problems = []
    for part in ("pods", "services"):
        try:
            found[part] = ipaddress.ip_network(str(value.get(part)))
        except ValueError:
            problems.append(Problem("a network such as 10.244.0.0/16", f".{part}", shown(value.get(part))))
    if (
        len(found) == 2
        and found["pods"].version == found["services"].version
        and found["pods"].overlaps(found["services"])
    ):
        needs = f"a network apart from that of the pods, {found['pods']}"
        problems.append(Problem(needs, ".services", shown(value.get("services"))))
    return problems


RULES: dict[str, Rule] = {
    "kubernetes_endpoint": kubernetes_endpoint,
    "kubernetes_key": kubernetes_key,
    "kubernetes_labels": kubernetes_labels,
    "kubernetes_name": kubernetes_name,
    "kubernetes_repository_url": kubernetes_repository_url,
    "kubernetes_subnets": kubernetes_subnets,
    "kubernetes_taints": kubernetes_taints,
    "kubernetes_version": kubernetes_version,
}
