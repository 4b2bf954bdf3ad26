# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of docker_engine."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, shown, web_address

# useradd(8) of Debian: what a user name may look like.
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]*\$?")


def docker_log_files(value: t.Any) -> Verdict:
    """Accept the number of log files that docker keeps, at least one."""
    if isinstance(value, bool) or not re.fullmatch(r"[1-9]\d*", str(value)):
        return "a number of files, at least 1"
    return None


def docker_options(value: t.Any) -> Verdict:
    """Accept keys of daemon.json: no null, no key with the dashes of a command line, and a bip that is one.

    With live-restore and a running container dockerd ignores a wrong bip, and does not start at the next boot.
    """
    problems = []
    for key, item in (value or {}).items():
        if str(key).startswith("-"):
            problems.append(Problem(f"daemon.json's name for it, without dashes: {str(key).lstrip('-')}", f".{key}"))
        elif item is None:
            problems.append(Problem("a value; leave the key out to have dockerd's default", f".{key}", "null"))
        elif key == "bip" and not _is_interface(item):
            problems.append(Problem("an address with its prefix, such as 172.30.0.1/16", ".bip", shown(item)))
    return problems


def _is_interface(value: t.Any) -> bool:
    try:
        ipaddress.ip_interface(str(value))
    except ValueError:
        return False
    return "/" in str(value)


def docker_users(value: t.Any) -> Verdict:
    """Accept names that a Linux user can have."""
    return [
        Problem("a user name", f"[{number}]", shown(name))
        for number, name in enumerate(value or [])
        if not isinstance(name, str) or not USER_NAME.fullmatch(name)
    ]


def docker_repository(value: t.Any) -> Verdict:
    """Accept {source, url, key}: Docker's packages need the address of a repository and the key that signs it."""
    if value.get("source") != "docker":
        return None
    address = web_address(str(value.get("url") or ""), ".url")
    problems = [address] if address else []
    if "BEGIN PGP PUBLIC KEY BLOCK" not in str(value.get("key") or ""):
        got = "empty" if not value.get("key") else "not an armoured key"
        problems.append(Problem("the text of the public key that signs Docker's repository", ".key", got))
    return problems


RULES: dict[str, Rule] = {
    "docker_log_files": docker_log_files,
    "docker_options": docker_options,
    "docker_repository": docker_repository,
    "docker_users": docker_users,
}
