# SPDX-License-Identifier: GPL-3.0-or-later
"""The action spark_application: follows to the end, shows what changes, gives up when told to."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.slipway.platform.plugins.action import spark_application


def answer(state: str, *, changed: bool = False, **more: Any) -> dict[str, Any]:
    return {"changed": changed, "application": {"state": state, **more}, "log": []}


class Follows(spark_application.ActionModule):  # type: ignore[misc]
    """The action with a module that gives the listed answers; calls holds the arguments and whether it only looked."""

    def __init__(self, *answers: Any, check: bool = False, **arguments: Any) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[dict[str, Any], bool]] = []
        self._task = SimpleNamespace(
            args={"name": "words", "application": "x", **arguments}, check_mode=check, async_val=0, diff=False
        )
        self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None), has_pipelining=False)
        self._supports_check_mode = True
        self._supports_async = False

    def _execute_module(self, *, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.calls.append((module_args, self._task.check_mode))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(found):
            return dict(found())
        return dict(found)


@pytest.fixture(autouse=True)
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shown: list[str] = []
    monkeypatch.setattr(spark_application.display, "display", shown.append)
    monkeypatch.setattr(spark_application, "POLL_SECONDS", 0.0)
    return shown


def test_followed_to_its_end(lines: list[str]) -> None:
    running = answer("running", progress="1 stages done")
    action = Follows(answer("pending", changed=True, reason="pulling"), running, running, answer("succeeded"))
    result = action.run(task_vars={})
    assert result["changed"] and result["application"]["state"] == "succeeded"
    assert lines == ["words: pending: pulling", "words: running: 1 stages done", "words: succeeded"]
    # What looks never submits, and never runs again what has ended.
    assert [check for _, check in action.calls] == [False, True, True, True]
    assert {arguments["rerun"] for arguments, _ in action.calls[1:]} == {"never"}
    assert action._task.check_mode is False


@pytest.mark.parametrize("arguments", [{"wait": False}, {"state": "absent"}])
def test_not_followed(arguments: dict[str, Any]) -> None:
    action = Follows(answer("pending", changed=True), **arguments)
    assert action.run(task_vars={})["application"]["state"] == "pending"
    assert len(action.calls) == 1


def test_check_mode() -> None:
    assert Follows(answer("absent", changed=True), check=True).run(task_vars={})["changed"]


def test_a_failure_of_the_module() -> None:
    assert Follows({"failed": True, "msg": "no"}).run(task_vars={})["msg"] == "no"


def test_a_failure_of_the_application() -> None:
    result = Follows(answer("failed", exit_code=1)).run(task_vars={})
    assert result["failed"]
    assert result["msg"] == "words failed with exit code 1: the log says why (rerun: failed submits it again)"


def test_deleted_meanwhile() -> None:
    result = Follows(answer("running"), answer("absent", changed=True)).run(task_vars={})
    assert result["failed"] and result["msg"] == "words is gone: somebody deleted its driver"


def test_an_api_server_that_is_away_for_a_moment() -> None:
    away = {"failed": True, "msg": "does not answer"}
    assert "failed" not in Follows(answer("running"), away, away, answer("succeeded")).run(task_vars={})


def test_an_api_server_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_application, "PATIENCE_SECONDS", -1.0)
    assert Follows(answer("running"), {"failed": True, "msg": "gone"}).run(task_vars={})["msg"] == "gone"


@pytest.mark.parametrize(("choice", "killed"), [("leave", False), ("kill", True)])
def test_the_time_is_over(choice: str, killed: bool) -> None:
    action = Follows(answer("running", progress="0 stages done"), seconds=0, on_interrupt=choice)
    with pytest.raises(
        AnsibleActionFail, match="words was given up: it has not ended within 0 seconds; words: running"
    ):
        action.run(task_vars={})
    assert ({"name": "words", "state": "absent"} in [arguments for arguments, _ in action.calls]) == killed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals) -> None:
    def interrupt() -> dict[str, Any]:
        os.kill(os.getpid(), number)
        return answer("running")

    before = signal.getsignal(number)
    action = Follows(answer("running"), interrupt, answer("absent"), on_interrupt="kill")
    with pytest.raises(AnsibleActionFail, match=f"words was given up: {number.name}"):
        action.run(task_vars={})
    assert action.calls[-1][0] == {"name": "words", "state": "absent"}
    assert signal.getsignal(number) is before
