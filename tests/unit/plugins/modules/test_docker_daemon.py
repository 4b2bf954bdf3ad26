# SPDX-License-Identifier: GPL-3.0-or-later
"""The module docker_daemon through its main()."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _docker_daemon
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import docker_daemon


class Host:
    """Stands for DockerHost and keeps what it was asked for."""

    asked: tuple[Any, ...] = ()
    outcome = _docker_daemon.Outcome()
    error = ""

    def __init__(self, *, check: bool) -> None:
        self.check = check

    def _answer(self, *asked: Any) -> _docker_daemon.Outcome:
        Host.asked = (self.check, *asked)
        if Host.error:
            raise HostError(Host.error)
        return Host.outcome

    def fragment(self, name: str, config: dict[str, Any]) -> _docker_daemon.Outcome:
        return self._answer("fragment", name, config)

    def present(self, wanted: _docker_daemon.WantedEngine) -> _docker_daemon.Outcome:
        return self._answer("present", wanted)

    def absent(self) -> _docker_daemon.Outcome:
        return self._answer("absent")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Host.outcome, Host.error, Host.asked = _docker_daemon.Outcome(), "", ()
    monkeypatch.setattr(_docker_daemon, "DockerHost", Host)


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        docker_daemon.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_fragment(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, fragment={"name": "a", "config": {"debug": True}}, _ansible_check_mode=True)
    assert result["changed"] is False
    assert Host.asked == (True, "fragment", "a", {"debug": True})


def test_removal_of_a_fragment_is_no_engine_run(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, fragment={"name": "a", "config": {}})
    assert Host.asked == (False, "fragment", "a", {})


def test_engine(capsys: pytest.CaptureFixture[str]) -> None:
    Host.outcome.act("restarted docker: x")
    result = run(
        capsys,
        packages=[{"name": "docker.io", "version": "26.*", "hold": True}, {"name": "docker-ce", "state": "absent"}],
        repository={"url": "u", "suite": "s", "key": "k"},
        options={"mtu": 1},
        users=["ops"],
    )
    wanted = Host.asked[2]
    assert [(package.name, package.present) for package in wanted.packages] == [
        ("docker.io", True),
        ("docker-ce", False),
    ]
    assert (wanted.repository.name, wanted.repository.component) == ("docker", "stable")
    assert (wanted.options, wanted.users, wanted.unknown_keys) == ({"mtu": 1}, ("ops",), "keep")
    assert (result["changed"], result["actions"]) == (True, ["restarted docker: x"])


def test_absent(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, state="absent")
    assert Host.asked == (False, "absent")


def test_foreign_keys_are_a_warning(capsys: pytest.CaptureFixture[str], warned: list[str]) -> None:
    Host.outcome.unknown_keys = ("data-root",)
    Host.outcome.warnings.append("live-restore is off")
    result = run(capsys)
    assert result["unknown_keys"] == ["data-root"]
    assert [part for part in ("data-root", "live-restore") if part not in str(warned)] == []


def test_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Host.error = "docker refuses it"
    result = run(capsys)
    assert (result["failed"], result["msg"]) == (True, "docker refuses it")
