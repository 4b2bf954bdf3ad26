# SPDX-License-Identifier: GPL-3.0-or-later
"""The module nvidia_container_toolkit through its main()."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _nvidia
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import nvidia_container_toolkit


class Host:
    """Stands for NvidiaHost and keeps what it was asked for."""

    asked: tuple[Any, ...] = ()
    outcome = _nvidia.Outcome()
    error = ""

    def __init__(self, *, check: bool) -> None:
        self.check = check

    def present(self, settings: _nvidia.Settings) -> _nvidia.Outcome:
        Host.asked = (self.check, settings)
        if Host.error:
            raise HostError(Host.error)
        return Host.outcome

    def absent(self) -> _nvidia.Outcome:
        Host.asked = (self.check, "absent")
        return Host.outcome


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Host.outcome, Host.error, Host.asked = _nvidia.Outcome(), "", ()
    monkeypatch.setattr(_nvidia, "NvidiaHost", Host)


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        nvidia_container_toolkit.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_present(capsys: pytest.CaptureFixture[str], warned: list[str]) -> None:
    Host.outcome.act("start it")
    Host.outcome.warnings.append("no driver")
    Host.outcome.found.driver = "580.1"
    result = run(capsys, version="1.20.*", url="https://x", key="k", engines=["docker"], _ansible_check_mode=True)
    check, settings = Host.asked
    assert check is True
    assert settings == _nvidia.Settings(version="1.20.*", url="https://x", key="k", engines=("docker",))
    assert (result["changed"], result["actions"]) == (True, ["start it"])
    assert result["ansible_facts"]["slipway_nvidia"]["driver"] == "580.1"
    assert warned == ["no driver"]


def test_absent(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, state="absent")
    assert (result["changed"], result["ansible_facts"]) == (False, {})
    assert Host.asked == (False, "absent")


def test_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Host.error = "there is no GPU"
    result = run(capsys)
    assert (result["failed"], result["msg"]) == (True, "there is no GPU")
