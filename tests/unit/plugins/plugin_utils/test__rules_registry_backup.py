# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role registry_backup refuses, beyond the common rules."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_registry_backup import RULES


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("backup_account", "slipway-backup"),
        ("backup_path", "/srv/registry-backup"),
        ("backup_path", "/mnt/disk_1/b.1+2"),
        ("backup_calendar", ""),
        ("backup_calendar", "*-*-* 02:30:00"),
        ("backup_calendar", "Mon..Fri *-*~01 4/2:00 Europe/Berlin"),
        ("backup_number", 1),
        ("backup_number", "14"),
        ("backup_name", "latest"),
        ("backup_name", "2026-01-31T023000Z"),
    ],
)
def test_what_can_work_is_taken(rule: str, value: Any) -> None:
    assert RULES[rule](value) is None


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("backup_account", "root"),
        ("backup_account", "a b"),
        ("backup_account", "Backup"),
        ("backup_account", ""),
        ("backup_path", "srv"),
        ("backup_path", "/srv/a b"),
        ("backup_path", '/srv/"; rm'),
        ("backup_path", "/srv/$(id)"),
        ("backup_path", "/srv/%h"),
        ("backup_path", 3),
        ("backup_calendar", "daily\nOnBootSec=1"),
        ("backup_calendar", " "),
        ("backup_number", 0),
        ("backup_number", "-1"),
        ("backup_number", "two"),
        ("backup_number", True),
        ("backup_name", "yesterday"),
        ("backup_name", "../../etc/passwd"),
        ("backup_name", "--overwrite"),
    ],
)
def test_what_cannot_work_is_refused(rule: str, value: Any) -> None:
    assert RULES[rule](value)


def hosts(**changes: Any) -> dict[str, Any]:
    """Return what registry_backup_host is given."""
    return {"host": "vault", "here": "registry", "machines": ["registry", "vault"], "address": ""} | changes


@pytest.mark.parametrize("changes", [{}, {"host": ""}, {"host": "", "storage": "s3"}, {"address": "10.0.0.1"}])
def test_another_machine_is_taken(changes: dict[str, Any]) -> None:
    assert RULES["registry_backup_host"](hosts(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"host": "registry"}, ".host", "another machine"),
        ({"host": "vualt"}, ".host", "of the inventory"),
        ({"host": "", "address": "10.0.0.1"}, ".address", "to be empty"),
        ({"storage": "s3"}, ".host", "have the bucket keep versions"),
        ({"address": "a b"}, ".address", "host name or an IP address"),
        ({"address": "-oProxyCommand=id"}, ".address", "host name or an IP address"),
    ],
)
def test_a_machine_that_cannot_be_backed_up_to(changes: dict[str, Any], path: str, words: str) -> None:
    verdict = RULES["registry_backup_host"](hosts(**changes))
    assert isinstance(verdict, Problem)
    assert verdict.path == path
    assert words in verdict.needs
