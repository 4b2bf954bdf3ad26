# SPDX-License-Identifier: GPL-3.0-or-later
"""Fragments become one daemon.json, or a sentence that names the two that contradict each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _daemon_json as dj
from hypothesis import given
from hypothesis import strategies as st

SCALARS = st.one_of(st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False))
CONFIGS = st.recursive(
    st.dictionaries(st.text(min_size=1), SCALARS, max_size=4),
    lambda inner: st.dictionaries(st.text(min_size=1), st.one_of(SCALARS, inner), max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        ({}, {}),
        ({"a": {"debug": True}}, {"debug": True}),
        ({"a": {"log-opts": {"max-size": "1m"}}, "b": {"log-opts": {"max-file": "2"}}},
         {"log-opts": {"max-size": "1m", "max-file": "2"}}),
        ({"b": {"registry-mirrors": ["2", "1"]}, "a": {"registry-mirrors": ["1"]}}, {"registry-mirrors": ["1", "2"]}),
        ({"a": {"dns": ["1"]}, "b": {"dns": ["2"]}}, {"dns": ["2"]}),
        ({"a": {"debug": True}, "b": {"debug": True}}, {"debug": True}),
        ({"a": {"runtimes": {"x": {"runtimeArgs": ["1"]}}}, "b": {"runtimes": {"x": {"runtimeArgs": ["1"]}}}},
         {"runtimes": {"x": {"runtimeArgs": ["1"]}}}),
    ],
)  # fmt: skip
def test_fragments_merge(fragments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert dj.merge(fragments) == expected


@pytest.mark.parametrize(
    ("fragments", "parts"),
    [
        ({"a": {"debug": True}, "b": {"debug": False}}, ["'a' and 'b'", "debug is true", "false in the second"]),
        ({"a": {"mtu": 1}, "b": {"mtu": True}}, ["'a' and 'b'", "mtu is 1", "true"]),
        ({"a": {"mtu": 1}, "b": {"mtu": 1.0}}, ["mtu is 1 in", "1.0"]),
        ({"a": {"log-opts": {"x": "1"}}, "b": {"log-opts": "none"}}, ["'a' and 'b'", "log-opts"]),
        ({"a": {"log-opts": {"x": "1"}}, "c": {"log-opts": {"x": "2"}}}, ["'a' and 'c'", "log-opts.x"]),
        ({"a": {"runtimes": {"x": {"runtimeArgs": ["1"]}}}, "b": {"runtimes": {"x": {"runtimeArgs": ["2"]}}}},
         ["'a' and 'b'", "runtimes.x.runtimeArgs"]),
        ({"a": {"dns": None}}, ["'a' sets dns to null"]),
        ({"a": {"x": {"y": None}}}, ["'a' sets x.y to null"]),
    ],
)  # fmt: skip
def test_a_contradiction_names_both(fragments: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(dj.MergeError) as error:
        dj.merge(fragments)
    assert [part for part in parts if part not in str(error.value)] == []


def test_merging_leaves_the_fragments_alone() -> None:
    fragments: dict[str, Any] = {
        "a": {"labels": ["1"], "log-opts": {"x": "1"}},
        "b": {"labels": ["2"], "log-opts": {"y": "2"}},
    }
    before = json.dumps(fragments)
    merged = dj.merge(fragments)
    merged["labels"].append("3")
    assert json.dumps(fragments) == before


@given(CONFIGS)
def test_one_fragment_alone_is_the_result(config: dict[str, Any]) -> None:
    assert dj.same(dj.merge({"a": config, "b": config}), config)
    assert dj.same(dj.parse(dj.render(config)), config)


@given(CONFIGS)
def test_a_file_made_by_fragments_has_no_foreign_key(config: dict[str, Any]) -> None:
    composed = dj.compose({"a": config}, config, [], "fail")
    assert (dj.same(composed.config, config), composed.unknown) == (True, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", {}), (" \n", {}), ('{"a": 1}', {"a": 1})],
)
def test_parse(text: str, expected: dict[str, Any]) -> None:
    assert dj.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{x", "line 1, column 2"),
        ("[]", "no JSON object"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("\n{,}", "line 2"),
    ],
)
def test_a_broken_file_says_where(text: str, part: str) -> None:
    with pytest.raises(dj.BrokenJsonError, match=part):
        dj.parse(text)


@pytest.mark.parametrize(
    ("current", "before", "policy", "config", "unknown"),
    [
        ({"data-root": "/x"}, [], "keep", {"debug": True, "data-root": "/x"}, ("data-root",)),
        ({"data-root": "/x"}, [], "remove", {"debug": True}, ("data-root",)),
        ({"mtu": 9}, [("mtu",)], "keep", {"debug": True}, ()),
        ({"debug": False}, [], "keep", {"debug": True}, ()),
        ({"log-opts": {"tag": "t"}}, [("log-opts", "max-size")], "keep",
         {"debug": True, "log-opts": {"tag": "t"}}, ("log-opts.tag",)),
        ({"debug": {"odd": 1}}, [], "keep", {"debug": True}, ()),
        ({"proxies": {}}, [], "keep", {"debug": True, "proxies": {}}, ("proxies",)),
    ],
)  # fmt: skip
def test_keys_that_nobody_owns(
    current: dict[str, Any], before: list[dj.Path], policy: str, config: dict[str, Any], unknown: tuple[str, ...]
) -> None:
    composed = dj.compose({"a": {"debug": True}}, current, before, policy)
    assert (composed.config, composed.unknown) == (config, unknown)
    assert composed.owned == {("debug",)}


def test_keys_that_nobody_owns_can_be_refused() -> None:
    with pytest.raises(dj.MergeError, match=r"no role owns \(data-root\)"):
        dj.compose({}, {"data-root": "/x"}, [], "fail")


def test_a_foreign_leaf_does_not_displace_an_owned_map() -> None:
    composed = dj.compose({"a": {"log-opts": {"max-size": "1"}}}, {"log-opts": "text"}, [], "keep")
    assert composed.config == {"log-opts": {"max-size": "1"}}


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": {"x": 1, "y": 1}}, {"a": {"x": 2}}, {"a": {"x": 2, "y": 1}}),
        ({"a": {"x": 1}}, {"a": []}, {"a": []}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
    ],
)
def test_options_win_over_defaults(base: dict[str, Any], over: dict[str, Any], expected: dict[str, Any]) -> None:
    assert dj.overlay(base, over) == expected


@pytest.mark.parametrize(
    ("old", "new", "enough"),
    [
        ({}, {}, True),
        ({}, {"registry-mirrors": ["1"]}, True),
        ({"registry-mirrors": ["1"]}, {"registry-mirrors": []}, True),
        ({"registry-mirrors": ["1"]}, {}, False),
        ({"debug": True}, {"debug": False, "dns": ["1"]}, False),
        ({"log-opts": {"max-size": "1"}}, {"log-opts": {"max-size": "2"}}, False),
    ],
)
def test_when_sighup_is_enough(old: dict[str, Any], new: dict[str, Any], enough: bool) -> None:
    assert dj.reload_is_enough(old, new) is enough


def test_changed_keys_compare_as_json() -> None:
    assert dj.changed_keys({"a": 1, "b": 1, "c": 0}, {"a": True, "b": 1, "d": 0}) == ["a", "c", "d"]


def test_nested() -> None:
    assert dj.nested(("a", "b"), 1) == {"a": {"b": 1}}
