# SPDX-License-Identifier: GPL-3.0-or-later
"""The module engine_apply through its main()."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _engines
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import engine_apply


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        engine_apply.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize(
    ("applied", "words"),
    [
        (_engines.Applied(started=True, reason="x"), "started: x"),
        (_engines.Applied(restarted=True, reason="y"), "restarted: y"),
        (_engines.Applied(reloaded=True, reason="z"), "reloaded: z"),
    ],
)
def test_what_was_done_is_told(
    applied: _engines.Applied, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        _engines, "apply", lambda _run, name, check: applied if name == "docker" else _engines.Applied()
    )
    result = run(capsys, engines=["containerd", "docker"])
    assert result["changed"] is True
    assert result["applied"] == {"docker": words}
    assert result["diff"]["after"] == f"docker {words}\n"


def test_nothing_to_do_in_check_mode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def apply(_run: object, name: str, check: bool) -> _engines.Applied:
        seen.append((name, check))
        return _engines.Applied()

    monkeypatch.setattr(_engines, "apply", apply)
    result = run(capsys, engines=["docker"], _ansible_check_mode=True)
    assert result["changed"] is False
    assert seen == [("docker", True)]


def test_a_refusal_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_run: object, _name: str, check: bool) -> _engines.Applied:
        raise HostError("docker refuses it")

    monkeypatch.setattr(_engines, "apply", refuse)
    result = run(capsys, engines=["docker"])
    assert result["failed"] is True
    assert result["msg"] == "docker refuses it"
