# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written as TOML is read back as it was, whatever it holds."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _toml
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), TEXT, st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.lists(st.dictionaries(TEXT, SCALARS, max_size=2), max_size=2)
)
TABLES = st.recursive(
    st.dictionaries(TEXT, VALUES, max_size=3),
    lambda inner: st.dictionaries(TEXT, st.one_of(VALUES, inner), max_size=3),
    max_leaves=10,
)


@given(TABLES)
def test_every_table_is_read_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(_toml.render(table)) == table


def test_layout() -> None:
    text = _toml.render({"version": 2, "plugins": {"io.x": {"on": True, "list": ["a", 1]}}})
    assert text == 'version = 2\n\n[plugins."io.x"]\non = true\nlist = ["a", 1]\n'


def test_null_has_no_form() -> None:
    with pytest.raises(TypeError, match="None"):
        _toml.render({"a": None})
