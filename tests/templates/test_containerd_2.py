# SPDX-License-Identifier: GPL-3.0-or-later
"""containerd 2 makes of its own format what containerd 1 makes of the other. No Debian that is supported has it yet."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _containerd

from tests.lab import golang


@pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="make test-long builds containerd 2 for it")
def test_the_program_itself_has_the_settings_and_another_roles_runtime(tmp_path: Path) -> None:
    settings = _containerd.Settings(version="2.*", sandbox_image="registry.corp.lab:6001/pause:3.10")
    other = {"containerd": {"runtimes": {"other": {"options": {"BinaryName": "/usr/bin/other"}}}}}
    path = tmp_path / "config.toml"
    path.write_text(_containerd.render(_containerd.compose(_containerd.build(settings, version=3), {"x": other}, {})))
    command = [golang.program("containerd"), "--config", path, "config", "dump"]
    made = tomllib.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["plugins"]
    assert made["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == settings.sandbox_image
    assert made["io.containerd.cri.v1.images"]["registry"]["config_path"] == "/etc/containerd/certs.d"
    runtimes = made["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]
    assert {name: runtime["options"]["SystemdCgroup"] for name, runtime in runtimes.items()} == {
        "runc": True,
        "other": True,
    }
    assert runtimes["other"]["options"]["BinaryName"] == "/usr/bin/other"
