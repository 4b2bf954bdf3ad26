# SPDX-License-Identifier: GPL-3.0-or-later
"""The module converged, driven through main()."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _converged
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import converged


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, str]]]:
    """Return what the module asked for; the machine differs in one unit."""
    made: list[tuple[str, str, str]] = []

    def check(key: str, digest: str) -> list[str]:
        made.append(("check", key, digest))
        return ["unit docker.service"] if digest == "old" else []

    monkeypatch.setattr(_converged, "check", check)
    monkeypatch.setattr(_converged, "record", lambda key, digest: made.append(("record", key, digest)))
    yield made


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args({"key": "nodes", **arguments}), pytest.raises(SystemExit):
        converged.main()
    return dict(json.loads(capsys.readouterr().out))


def test_compares(calls: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, digest="new")
    assert (result["changed"], result["unchanged"], result["reasons"]) == (False, True, [])
    assert run(capsys, digest="old")["reasons"] == ["unit docker.service"]
    assert [call[0] for call in calls] == ["check", "check"]


def test_records(calls: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, digest="new", record=True)["changed"] is False
    assert calls == [("record", "nodes", "new")]


def test_records_nothing_in_check_mode(calls: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, digest="new", record=True, _ansible_check_mode=True)
    assert calls == []


def test_fails_in_one_sentence(
    calls: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(key: str, digest: str) -> list[str]:
        raise HostError("systemd does not answer")

    monkeypatch.setattr(_converged, "check", broken)
    assert run(capsys, digest="new")["msg"] == "systemd does not answer"
