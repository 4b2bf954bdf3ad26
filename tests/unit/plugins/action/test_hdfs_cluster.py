# SPDX-License-Identifier: GPL-3.0-or-later
"""The action hdfs_cluster: it calls again while DataNodes leave, and shows how far they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.slipway.platform.plugins.action import hdfs_cluster


def act(
    monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, Any]], *, check: bool = False, **arguments: Any
) -> tuple[dict[str, Any], list[str]]:
    shown: list[str] = []
    action = hdfs_cluster.ActionModule.__new__(hdfs_cluster.ActionModule)
    action._task = SimpleNamespace(args={"state": "settled", **arguments}, check_mode=check)
    monkeypatch.setattr(ActionBase, "run", lambda *_, **__: {})
    monkeypatch.setattr(hdfs_cluster.display, "display", shown.append)
    monkeypatch.setattr(hdfs_cluster.ActionModule, "_execute_module", lambda *_, **__: answers.pop(0))
    return action.run(task_vars={}), shown


def test_it_ends_when_nobody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        {"changed": True, "actions": ["make /x"], "leaving": {"two": "4 of 9"}},
        {"changed": False, "actions": [], "leaving": {"two": "4 of 9"}},
        {"changed": False, "actions": [], "leaving": {}},
    ]
    result, shown = act(monkeypatch, answers)
    assert result["changed"] and result["actions"] == ["make /x"] and answers == []
    assert shown == ["    two: 4 of 9"], "each state is shown once"


def test_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = act(monkeypatch, [{"leaving": {"two": "4 of 9"}, "actions": []}], decommission_timeout=0)
    assert result["failed"] and result["msg"] == "after 0 seconds there are DataNodes that leave: two: 4 of 9"


def test_a_failure_and_check_mode_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert act(monkeypatch, [{"failed": True, "msg": "x"}])[0]["msg"] == "x"
    result, _ = act(monkeypatch, [{"leaving": {"two": "4"}, "actions": [], "changed": False}], check=True)
    assert result["changed"] is False
