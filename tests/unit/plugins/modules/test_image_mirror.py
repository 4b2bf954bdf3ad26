# SPDX-License-Identifier: GPL-3.0-or-later
"""The module through its main()."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.modules import image_mirror

from tests.unit.plugins.skopeo import OWN, FakeSkopeo


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSkopeo:
    made = FakeSkopeo()
    monkeypatch.setattr(_images, "Skopeo", functools.partial(_images.Skopeo, command=made))
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda _self, name: f"/usr/bin/{name}")
    return made


def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    with patch_module_args({"registry": OWN, "directory": str(tmp_path), **arguments}), pytest.raises(SystemExit):
        image_mirror.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_copied_once(capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path) -> None:
    wanted = fake.image("docker.io/library/a:1")
    images = [{"name": "a:1"}]
    predicted = call(capsys, tmp_path, images=images, _ansible_check_mode=True)
    assert predicted["changed"] is True
    assert fake.did("copy") == []
    done = call(capsys, tmp_path, images=images)
    assert (done["changed"], done["missing"], done["lock"]) == (True, predicted["missing"], predicted["lock"])
    assert (
        done["diff"]
        == predicted["diff"]
        == [{"before_header": "a:1", "after_header": "a:1", "before": "", "after": f"{wanted}\n"}]
    )
    again = call(capsys, tmp_path, images=images, lock=done["lock"])
    assert (again["changed"], again["missing"], again["lock"]) == (False, [], done["lock"])
    assert len(fake.did("copy")) == 1


def test_a_tag_that_moved_upstream_waits_for_an_update(
    capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path
) -> None:
    images = [{"name": "a:1"}]
    fake.image("docker.io/library/a:1")
    lock = call(capsys, tmp_path, images=images)["lock"]
    new = fake.image("docker.io/library/a:1", b"new")
    assert call(capsys, tmp_path, images=images, lock=lock)["changed"] is False
    done = call(
        capsys, tmp_path, images=images, lock=f"{lock}docker.io/library/other:1 sha256:{'b' * 64}\n", update=True
    )
    assert done["changed"] is True
    assert done["lock"].splitlines()[1:] == [
        f"docker.io/library/a:1 {new}",
        f"docker.io/library/other:1 sha256:{'b' * 64}",
    ]


def test_every_fault_is_told_and_nothing_is_copied(
    capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path
) -> None:
    fake.image("docker.io/library/a:1")
    failed = call(capsys, tmp_path, images=[{"name": "a:1"}, {"name": "b:1"}, {"name": "c:1"}])
    assert failed["failed"] is True
    assert [text.split(" ")[0] for text in failed["faults"]] == ["docker.io/library/b:1", "docker.io/library/c:1"]
    assert fake.did("copy") == []


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path) -> None:
    assert call(capsys, tmp_path, images=[{"name": "a"}])["msg"].startswith("image 'a' cannot be mirrored")


def test_check_mode_before_skopeo_is_there(
    capsys: pytest.CaptureFixture[str], fake: FakeSkopeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda _self, name: None)
    done = call(capsys, tmp_path, images=[{"name": "a:1"}], _ansible_check_mode=True)
    assert (done["changed"], fake.calls) == (True, [])
    assert done["diff"][0]["after"] == "(not looked up)\n"
