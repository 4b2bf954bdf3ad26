# SPDX-License-Identifier: GPL-3.0-or-later
"""The module says what it found, or fails with the sentence."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _resolvers
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import upstream_resolvers


def run(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    with patch_module_args({"_ansible_check_mode": True}), pytest.raises(SystemExit):
        upstream_resolvers.main()
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return result


def test_says_what_it_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_resolvers, "find", lambda: _resolvers.Resolvers(["10.0.0.1"], "/etc/resolv.conf"))
    result = run(capsys)
    assert (result["changed"], result["servers"], result["source"]) == (False, ["10.0.0.1"], "/etc/resolv.conf")


def test_fails_with_the_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise HostError("no server")

    monkeypatch.setattr(_resolvers, "find", fail)
    assert run(capsys)["msg"] == "no server"
