# SPDX-License-Identifier: GPL-3.0-or-later
"""What unit tests share. The collection is importable because pyproject.toml puts .dev on pytest's path."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import hypothesis
import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.slipway.platform.plugins.module_utils import _host_state, _packages, _units

from tests.unit.fakes import FakeHost

# A busy machine is no fault of the code: 200 ms are hypothesis' own idea of what an example may take.
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000)
# `make test` has the same examples each time: a change is refused for what it does, and not for what chance finds.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("long" if os.environ.get("SLIPWAY_LONG") else "same")


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the warnings of modules. Where a test has imported the controller's side, they are not in the result."""
    said: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: said.append(text))
    return said


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Return a host on which HostState, also the module's, runs without touching the machine of the tests."""
    fake = FakeHost(tmp_path)
    read, apply = _packages.read_installed, _units.apply
    monkeypatch.setattr(_packages, "read_installed", lambda names: read(names, status_path=fake.status_path))
    monkeypatch.setattr(_packages, "index_is_fresh", lambda: True)
    monkeypatch.setattr(_units, "apply", functools.partial(apply, run_dir=fake.run_dir))
    monkeypatch.setattr(_host_state, "UNIT_DIR", fake.unit_dir)
    monkeypatch.setattr(
        _host_state,
        "HostState",
        functools.partial(_host_state.HostState, runner=fake, state_dir=fake.state_dir),
    )
    return fake
