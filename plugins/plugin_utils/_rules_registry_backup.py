# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role registry_backup, for the action plugin validate."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict

# What the program calls its backups.
SNAPSHOT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z")
# The characters of systemd.time(7)'s calendar events.
CALENDAR = re.compile(r"[A-Za-z0-9*][A-Za-z0-9 *,./:~_+-]*")


def backup_account(value: t.Any) -> Verdict:
    """Accept a name for an account that is made for the backups (useradd's names)."""
    if value == "root" or not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", str(value)):
        return "a name of a-z, 0-9, dash and underscore for an account of its own, not root"
    return None


def backup_path(value: t.Any) -> Verdict:
    """Accept a path that needs no quotes in a shell, in tmpfiles.d and in authorized_keys."""
    if _rules.absolute_path(value) or not re.fullmatch(r"[A-Za-z0-9/._+-]+", value):
        return "an absolute path of letters, digits and . _ + - below /, without .. and without a slash at the end"
    return None


def backup_calendar(value: t.Any) -> Verdict:
    """Accept a text of one line that may be a calendar event of systemd; empty means never."""
    if value == "" or CALENDAR.fullmatch(str(value)):
        return None
    return "a time of systemd's OnCalendar, such as *-*-* 02:30:00 or Sat 04:00"


def backup_number(value: t.Any) -> Verdict:
    """Accept a whole number from 1."""
    return None if re.fullmatch(r"[1-9][0-9]{0,5}", str(value)) else "a whole number from 1"


def backup_name(value: t.Any) -> Verdict:
    """Accept the name of a backup, or latest."""
    if value == "latest" or SNAPSHOT.fullmatch(str(value)):
        return None
    return "latest or the name of a backup, such as 2026-01-31T023000Z"


def registry_backup_host(value: t.Any) -> Verdict:
    """Accept {host, here, machines, address}: no host at all, or another machine of the inventory."""
    host, address = value.get("host") or "", value.get("address") or ""
    if not host:
        return (
            Problem("to be empty while registry_backup_host is", ".address", _rules.shown(address)) if address else None
        )
    if value.get("storage") == "s3":
        needs = "to be empty with registry_storage s3: have the bucket keep versions, or copy it by its own means"
        return Problem(needs, ".host", _rules.shown(host))
    if host == value.get("here"):
        return Problem("another machine than the registry's own", ".host", _rules.shown(host))
    if host not in (value.get("machines") or []):
        return Problem("the name of a machine of the inventory", ".host", _rules.shown(host))
    if address and _rules.host_name(address):
        return Problem("a host name or an IP address", ".address", _rules.shown(address))
    return None


RULES: dict[str, Rule] = {
    "backup_account": backup_account,
    "backup_path": backup_path,
    "backup_calendar": backup_calendar,
    "backup_number": backup_number,
    "registry_backup_host": registry_backup_host,
    "backup_name": backup_name,
}
