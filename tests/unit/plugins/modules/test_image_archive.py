# SPDX-License-Identifier: GPL-3.0-or-later
"""The module through its main(): out of one registry, into another."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.modules import image_archive

from tests.unit.plugins.skopeo import OWN, FakeSkopeo


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSkopeo]:
    made = FakeSkopeo()
    monkeypatch.setattr(_images, "Skopeo", functools.partial(_images.Skopeo, command=made))
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda _self, name: f"/usr/bin/{name}")
    before = os.umask(0o022)
    yield made
    os.umask(before)


def call(capsys: pytest.CaptureFixture[str], path: Path, state: str, **arguments: Any) -> dict[str, Any]:
    given = {"registry": OWN, "directory": str(path.parent), "path": str(path), "state": state, **arguments}
    with patch_module_args(given), pytest.raises(SystemExit):
        image_archive.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_carried(capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    images = [{"name": name, "digest": fake.image(f"{OWN}/{name}")} for name in ("a:1", "b:1")]
    predicted = call(capsys, path, "exported", images=images, _ansible_check_mode=True)
    assert (predicted["changed"], [item["name"] for item in predicted["missing"]]) == (True, ["a:1", "b:1"])
    assert not list(tmp_path.iterdir())
    call(capsys, path, "exported", images=images[:1], finish=False)
    assert not path.exists()
    done = call(capsys, path, "exported", images=images)
    assert [item["name"] for item in done["missing"]] == ["b:1"]
    assert path.stat().st_mode & 0o077 == 0
    assert call(capsys, path, "exported", images=images)["changed"] is False
    fake.tags.clear()
    predicted = call(capsys, path, "imported", _ansible_check_mode=True)
    assert [item["name"] for item in predicted["missing"]] == ["a:1", "b:1"]
    assert predicted["verified"] > 0
    assert fake.tags == {}
    one = call(capsys, path, "imported", images=images[:1], finish=False)
    assert (len(one["images"]), one["verified"]) == (1, 0)
    done = call(capsys, path, "imported")
    assert [item["name"] for item in done["missing"]] == ["b:1"]
    assert call(capsys, path, "imported")["changed"] is False


def test_check_mode_before_skopeo_is_there(
    capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [{"name": "a:1", "digest": fake.image(f"{OWN}/a:1")}]
    call(capsys, tmp_path / "images", "exported", images=images)
    fake.calls.clear()
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda _self, name: None)
    done = call(capsys, tmp_path / "images", "imported", _ansible_check_mode=True)
    assert (len(done["missing"]), fake.calls) == (1, [])


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path) -> None:
    assert call(capsys, tmp_path / "nowhere", "imported")["msg"].startswith(f"{tmp_path}/nowhere is not there")
    (tmp_path / "file").touch()
    images = [{"name": "a:1", "digest": fake.image(f"{OWN}/a:1")}]
    failed = call(capsys, tmp_path / "file/images", "exported", images=images)
    assert failed["msg"].startswith(f"{tmp_path}/file/images cannot be used: ")
