# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of an image go to the host as they are, and the tag changes with any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter.registry_ui import FilterModule

image_context = FilterModule().filters()["image_context"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return an image's directory."""
    (tmp_path / "app/__pycache__").mkdir(parents=True)
    (tmp_path / "app/__pycache__/x.pyc").write_bytes(b"\xff")
    (tmp_path / "Dockerfile").write_text("ARG BASE=debian\nFROM ${BASE}\n")
    (tmp_path / "app/main.py").write_text("print()\n")
    return tmp_path


def test_files_and_base(directory: Path) -> None:
    found = image_context(str(directory), "/srv/x", "mirror/debian:13\\1")
    assert found["files"] == [
        {"path": "/srv/x/Dockerfile", "content": "ARG BASE=mirror/debian:13\\1\nFROM ${BASE}\n"},
        {"path": "/srv/x/app/main.py", "content": "print()\n"},
    ]


def test_the_digest_is_of_all_of_it(directory: Path) -> None:
    before = image_context(str(directory), "/srv/x", "a")["digest"]
    assert before == image_context(str(directory), "/srv/x", "a")["digest"]
    assert before != image_context(str(directory), "/srv/x", "b")["digest"]
    (directory / "app/main.py").write_text("print(1)\n")
    assert before != image_context(str(directory), "/srv/x", "a")["digest"]


def test_a_directory_without_a_dockerfile(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match="holds no Dockerfile"):
        image_context(str(tmp_path), "/srv/x", "a")
