# SPDX-License-Identifier: GPL-3.0-or-later
"""The module through its main()."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _spark_images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import spark_images

GIVEN = {
    "version": "3.5.9",
    "checksum": "00",
    "model": "registry.corp.lab:6001/torch:2.6",
    "registry": "registry.corp.lab:6001",
    "user": "ci",
    "password": "s3cret pass",
    "proxies": {"http": "", "https": "http://svc:other-s3cret@proxy:8080"},
    "no_proxy": [".corp.lab"],
    "files": {"b": "2", "a": "1"},
}


class Played:
    """Stands for the logic: keeps what it was given."""

    outcome = _spark_images.Outcome()
    error = ""
    made: list[tuple[_spark_images.Wanted, bool]]

    def __init__(self, wanted: _spark_images.Wanted, *, check: bool) -> None:
        Played.made.append((wanted, check))

    def present(self) -> _spark_images.Outcome:
        """Return what the test says."""
        if self.error:
            raise HostError(self.error)
        return self.outcome

    absent = present


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    Played.made, Played.error, Played.outcome = [], "", _spark_images.Outcome()
    monkeypatch.setattr(_spark_images, "Images", Played)


def call(capsys: pytest.CaptureFixture[str], **arguments: Any) -> tuple[dict[str, Any], str]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        spark_images.main()
    said = capsys.readouterr().out
    return json.loads(said), said


def test_what_the_logic_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    Played.outcome = _spark_images.Outcome(images={"driver": "d", "executor": "e"}, actions=["push d anew"])
    result, said = call(capsys, **GIVEN, _ansible_check_mode=True)
    wanted, check = Played.made[0]
    assert check and wanted.model_name == "torch-2.6" and wanted.files == (("a", "1"), ("b", "2"))
    assert wanted.proxies == (("https", "http://svc:other-s3cret@proxy:8080"),) and wanted.no_proxy == (".corp.lab",)
    assert (result["changed"], result["driver"], result["executor"]) == (True, "d", "e")
    assert "s3cret" not in said


def test_a_name_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, **GIVEN, model_name="ours")[0]["changed"] is False
    assert Played.made[0][0].model_name == "ours"


def test_one_sentence_when_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    Played.error = "the registry cannot be asked"
    result, _ = call(capsys, **GIVEN)
    assert result["failed"] and result["msg"] == "the registry cannot be asked"


def test_removal_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Played.outcome = _spark_images.Outcome(actions=["remove /var/cache/slipway/spark_images"])
    assert call(capsys, state="absent")[0]["actions"] == ["remove /var/cache/slipway/spark_images"]
