# SPDX-License-Identifier: GPL-3.0-or-later
"""The module containerd_config through its main()."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _containerd
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import containerd_config


class Host:
    """Stands for ContainerdHost and keeps what it was asked for."""

    asked: tuple[Any, ...] = ()
    outcome = _containerd.Outcome()
    error = ""

    def __init__(self, *, check: bool) -> None:
        self.check = check

    def present(self, settings: _containerd.Settings) -> _containerd.Outcome:
        Host.asked = (self.check, settings)
        if Host.error:
            raise HostError(Host.error)
        return Host.outcome

    def absent(self) -> _containerd.Outcome:
        Host.asked = (self.check, "absent")
        return Host.outcome


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Host.outcome, Host.error, Host.asked = _containerd.Outcome(), "", ()
    monkeypatch.setattr(_containerd, "ContainerdHost", Host)


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        containerd_config.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_present(capsys: pytest.CaptureFixture[str], warned: list[str]) -> None:
    Host.outcome.act("restarted containerd: x")
    Host.outcome.warnings.append("moved")
    result = run(capsys, version="1.7.*", systemd_cgroup=False, _ansible_check_mode=True)
    check, settings = Host.asked
    assert check is True
    assert (settings.version, settings.systemd_cgroup, settings.cni_bin_dir) == ("1.7.*", False, "/opt/cni/bin")
    assert (result["changed"], result["actions"]) == (True, ["restarted containerd: x"])
    assert warned == ["moved"]


def test_absent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, state="absent")["changed"] is False
    assert Host.asked == (False, "absent")


def test_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Host.error = "containerd refuses it"
    result = run(capsys)
    assert (result["failed"], result["msg"]) == (True, "containerd refuses it")
