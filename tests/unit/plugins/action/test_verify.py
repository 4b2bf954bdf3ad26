# SPDX-License-Identifier: GPL-3.0-or-later
"""The action verify: what it hands to the checks, and what it makes of their verdict."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.slipway.platform.plugins.action import verify

PASSWORD = "s:cret"


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the run of the checks by one that keeps what it was given and writes the verdict in `counts`."""
    seen: dict[str, Any] = {"counts": {"passed": 3, "failed": 0, "skipped": 1}}

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        seen.update(command=command, options=options, site=json.loads(options["input"]))
        if seen["counts"]:
            verdict = {"ok": not seen["counts"]["failed"], "counts": seen["counts"]}
            Path(command[-1]).write_text(json.dumps(verdict), encoding="utf-8")
        return SimpleNamespace(stdout="the table\n", stderr=seen.get("stderr", ""))

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def act(verdict: Path) -> dict[str, Any]:
    """Run the action for a play of one machine."""
    node1 = {
        "group_names": ["nodes"],
        "ansible_host": "192.0.2.1",
        "ansible_ssh_private_key_file": "/key",
        "ansible_ssh_common_args": "-o A=b",
        "ansible_host_key_checking": False,
        "site_proxy": {"http": {"url": "http://p:1", "password": PASSWORD}},
        "site_dns": {},
        "unrelated": "x",
    }
    action = verify.ActionModule.__new__(verify.ActionModule)
    action._task = SimpleNamespace(args={"verdict": str(verdict)}, check_mode=False, async_val=0, diff=False)
    action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None), has_pipelining=False)
    action._templar = SimpleNamespace(template=lambda value: value)
    action._supports_check_mode = True
    action._supports_async = False
    return action.run(task_vars={"ansible_play_hosts_all": ["node1"], "hostvars": {"node1": node1}})


def test_hands_over_connection_and_site(handed: dict[str, Any], tmp_path: Path) -> None:
    result = act(tmp_path / "verdict.json")
    assert result["counts"]["passed"] == 3 and not result["changed"]
    (machine,) = handed["site"]["machines"]
    assert machine["groups"] == ["nodes"]
    assert machine["connection"]["address"] == "192.0.2.1"
    assert machine["connection"]["key"] == "/key"
    assert machine["connection"]["arguments"].startswith("-o A=b -o StrictHostKeyChecking=no")
    assert list(machine["site"]) == ["proxy"]


def test_a_machine_knows_where_its_cluster_can_be_asked() -> None:
    control = {"inventory_hostname": "control", "ansible_host": "192.0.2.9"}
    made = verify.machine("node1", {"kubernetes_node_name": "n1"}, control)
    assert (made["node"], made["control"]["name"], made["control"]["address"]) == ("n1", "control", "192.0.2.9")
    assert "control" not in verify.machine("node1", {})


def test_passwords_travel_by_standard_input_only(handed: dict[str, Any], tmp_path: Path) -> None:
    act(tmp_path / "verdict.json")
    assert not any(PASSWORD in argument for argument in handed["command"])
    assert "env" not in handed["options"]
    assert PASSWORD in handed["options"]["input"]


def test_fails_when_a_check_failed(handed: dict[str, Any], tmp_path: Path) -> None:
    handed["counts"] = {"passed": 3, "failed": 2, "skipped": 1}
    with pytest.raises(AnsibleActionFail, match="3 ok, 2 failed, 1 not checked"):
        act(tmp_path / "verdict.json")


def test_an_old_verdict_does_not_pass_for_a_new_one(handed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text('{"ok": true, "counts": {}}', encoding="utf-8")
    handed.update(counts=None, stderr="No module named pytest")
    with pytest.raises(AnsibleActionFail, match="did not run: No module named pytest"):
        act(tmp_path / "verdict.json")
