# SPDX-License-Identifier: GPL-3.0-or-later
"""A module says in the host's journal that it was called, never with what."""

from __future__ import annotations

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils._module import Module


def test_arguments_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Module, "log", lambda _self, text, **_more: said.append(text))
    options = {"url": {"type": "str"}, "password": {"type": "str", "no_log": True}}
    with patch_module_args({"proxies": [{"url": "http://proxy:1", "password": "p@ss%20#:/w0rd!"}]}):
        Module(argument_spec={"proxies": {"type": "list", "elements": "dict", "options": options}})
    assert len(said) == 1
    assert "was called" in said[0] and "w0rd" not in said[0] and "proxy" not in said[0]
