# SPDX-License-Identifier: GPL-3.0-or-later
"""The module nvidia_device_plugin through its main()."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _nvidia_device_plugin
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import nvidia_device_plugin


class Stand:
    """Stands for the cluster: keeps what it was asked."""

    asked: tuple[Any, ...] = ()
    error = ""

    def __init__(self, *, check: bool) -> None:
        self.check = check

    def present(self, settings: Any) -> _nvidia_device_plugin.Outcome:
        Stand.asked = (self.check, settings)
        if Stand.error:
            raise HostError(Stand.error)
        outcome = _nvidia_device_plugin.Outcome(gpus={"node1": 2})
        outcome.act("created x")
        return outcome

    def absent(self) -> _nvidia_device_plugin.Outcome:
        Stand.asked = (self.check,)
        return _nvidia_device_plugin.Outcome()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand.asked, Stand.error = (), ""
    monkeypatch.setattr(_nvidia_device_plugin, "DevicePlugin", Stand)


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        nvidia_device_plugin.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_present(capsys: pytest.CaptureFixture[str]) -> None:
    registry = {"host": "reg", "port": 6001, "user": "u", "password": "s:cret"}
    tolerations = [{"key": "gpu"}]
    result = run(capsys, image="i:1", registry=registry, tolerations=tolerations, seconds=5)
    assert (result["changed"], result["actions"], result["gpus"]) == (True, ["created x"], {"node1": 2})
    assert "s:cret" not in json.dumps({**result, "invocation": None})
    wanted = _nvidia_device_plugin.Settings(
        image="i:1",
        tolerations=({"key": "gpu", "operator": "Exists"},),
        registry=_nvidia_device_plugin.Registry(host="reg", port=6001, user="u", password="s:cret"),
        seconds=5.0,
    )
    assert Stand.asked == (False, wanted)


def test_absent_in_check_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, state="absent", _ansible_check_mode=True)["changed"] is False
    assert Stand.asked == (True,)


def test_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.error = "no image"
    assert run(capsys, image="i:1")["msg"] == "no image"
    assert "image" in run(capsys)["msg"]
