# SPDX-License-Identifier: GPL-3.0-or-later
"""The module through its main(): options to a stack, the outcome to a result."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _containers
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import container_stack

CONTAINER = {"name": "web", "image": "web:1", "environment": {"B": 2, "A": "1"}, "networks": ["n"]}


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, _containers.Stack]]:
    """Stand in for the host: what main() asked for, and a change each time."""
    asked: list[tuple[str, _containers.Stack]] = []

    def outcome(verb: str) -> Any:
        def answer(state: _containers.StackState) -> _containers.Outcome:
            asked.append((verb, state.stack))
            if state.stack.name == "broken":
                raise HostError("docker is not installed on this host")
            done = _containers.Outcome(pulled=["web:1"])
            done.note(f"{verb} web", header="web", after="present\n")
            return done if state.stack.name != "same" else _containers.Outcome()

        return answer

    monkeypatch.setattr(_containers.StackState, "present", outcome("create"))
    monkeypatch.setattr(_containers.StackState, "absent", outcome("remove"))
    monkeypatch.setattr(_containers, "locked", lambda name: contextlib.nullcontext())
    return asked


def call(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        container_stack.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_options_become_a_stack(capsys: pytest.CaptureFixture[str], stacks: list[tuple[str, Any]]) -> None:
    result = call(capsys, name="s", containers=[CONTAINER], networks=[{"name": "n", "internal": True}], ready=["true"])
    assert (result["changed"], result["actions"], result["pulled"]) == (True, ["create web"], ["web:1"])
    assert result["diff"][0]["after"] == "present\n"
    verb, stack = stacks[0]
    assert verb == "create"
    assert stack.networks == (_containers.Network(name="n", internal=True),)
    assert stack.containers[0].environment == (("A", "1"), ("B", "2"))
    assert stack.containers[0].restart == "always"
    assert stack.ready == ("true",)


def test_nothing_to_change(capsys: pytest.CaptureFixture[str], stacks: list[tuple[str, Any]]) -> None:
    assert call(capsys, name="same", containers=[CONTAINER])["changed"] is False


def test_absent_in_check_mode(capsys: pytest.CaptureFixture[str], stacks: list[tuple[str, Any]]) -> None:
    result = call(capsys, name="s", state="absent", _ansible_check_mode=True)
    assert (result["changed"], result["actions"]) == (True, ["remove web"])


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], stacks: list[tuple[str, Any]]) -> None:
    result = call(capsys, name="broken")
    assert result["failed"] is True
    assert result["msg"] == "docker is not installed on this host"


def test_the_defaults_of_options_are_those_of_a_container() -> None:
    """What the documentation promises is what the code does."""
    built = _containers.Container(name="web", image="web:1")
    for name, option in container_stack.CONTAINER_SPEC.items():
        if name in ("log_options", "name", "image"):
            continue
        default = option["default"]
        plain = tuple(default) if isinstance(default, (list, dict)) else default
        assert getattr(built, name) == plain, name
