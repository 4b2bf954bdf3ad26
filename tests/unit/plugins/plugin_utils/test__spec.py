# SPDX-License-Identifier: GPL-3.0-or-later
"""A value that does not fit its option gives one sentence: the name, what it got, what it needs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils import _spec
from hypothesis import given
from hypothesis import strategies as st

PROXY = {"type": "dict", "options": {"url": {"type": "str"}, "password": {"type": "str", "no_log": True}}}
USERS = {
    "type": "list",
    "elements": "dict",
    "options": {"name": {"required": True, "description": ["Login name.", "More."]}, "password": {"no_log": True}},
}
SECRET = "a value that may be secret"


def check(option: dict[str, Any], value: Any) -> list[str]:
    return _spec.check({"x": option}, {"x": value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ({}, "text"),
        ({}, 5),
        ({}, None),
        ({"type": "str"}, ""),
        ({"type": "path"}, "/a"),
        ({"type": "bool"}, True),
        ({"type": "bool"}, "yes"),
        ({"type": "int"}, "6001"),
        ({"type": "float"}, "0.5"),
        ({"type": "raw"}, object()),
        ({"type": "bytes"}, "1k"),
        ({"type": "dict"}, {"anything": 1}),
        ({"type": "list"}, [1, "a", {}]),
        ({"type": "list", "elements": "int"}, [1, "2"]),
        ({"choices": ["a", "b"]}, "b"),
        ({"type": "int", "choices": [1, 2]}, "2"),
        ({"type": "list", "elements": "str", "choices": ["docker", "containerd"]}, ["docker", "containerd"]),
        (PROXY, {}),
        (PROXY, {"url": "http://p:1", "password": None}),
        (USERS, [{"name": "a", "password": "p"}]),
    ],
)
def test_what_fits_is_taken(option: dict[str, Any], value: Any) -> None:
    assert check(option, value) == []


@pytest.mark.parametrize(
    ("option", "value", "sentences"),
    [
        ({}, ["a"], ["x is ['a']: it needs a text."]),
        ({"type": "path"}, {"a": 1}, ["x is {'a': 1}: it needs a text."]),
        ({"type": "bool"}, "maybe", ["x is 'maybe': it needs true or false."]),
        ({"type": "int"}, "http", ["x is 'http': it needs a whole number."]),
        ({"type": "int"}, True, ["x is True: it needs a whole number."]),
        ({"type": "float"}, "x", ["x is 'x': it needs a number."]),
        ({"type": "list"}, "a,b", ["x is 'a,b': it needs a list."]),
        ({"type": "dict"}, "a=b", ["x is 'a=b': it needs a dictionary."]),
        ({"type": "list", "elements": "int"}, [1, "a"], ["x[1] is 'a': it needs a whole number."]),
        ({"choices": ["a", "b"]}, "c", ["x is 'c': it needs one of a, b."]),
        (
            {"type": "list", "elements": "str", "choices": ["docker", "containerd"]},
            ["docker", "podman"],
            ["x[1] is 'podman': it needs one of docker, containerd."],
        ),
        (PROXY, {"pass": "p"}, ["x.pass is not an option: it needs to be one of password, url."]),
        (PROXY, {"url": []}, ["x.url is []: it needs a text."]),
        (USERS, [{}], ["x[0].name is not set: it needs a value (Login name)."]),
        ({"no_log": True}, ["hunter2"], [f"x is {SECRET}: it needs a text."]),
        (PROXY, "http://u:hunter2@proxy:1", [f"x is {SECRET}: it needs a dictionary."]),
        (PROXY, {"password": ["hunter2"]}, [f"x.password is {SECRET}: it needs a text."]),
        (USERS, {"alice": "hunter2"}, [f"x is {SECRET}: it needs a list."]),
        (USERS, ["alice:hunter2"], [f"x[0] is {SECRET}: it needs a dictionary."]),
        (
            {"type": "list", "elements": "int", "no_log": True},
            ["hunter2"],
            [f"x[0] is {SECRET}: it needs a whole number."],
        ),
        ({"choices": ["a"], "no_log": True}, "hunter2", [f"x is {SECRET}: it needs one of a."]),
    ],
)
def test_what_does_not_fit_is_told(option: dict[str, Any], value: Any, sentences: list[str]) -> None:
    assert check(option, value) == sentences


def test_a_required_value_is_asked_for() -> None:
    options: dict[str, dict[str, Any]] = {
        "a": {"required": True, "description": "The address.\n"},
        "b": {"required": True},
    }
    assert _spec.check(options, {"a": None}) == [
        "a is not set: it needs a value (The address).",
        "b is not set: it needs a value ().",
    ]


def test_other_roles_variables_are_none_of_its_business() -> None:
    assert _spec.check({"a": {}}, {"other_role_thing": [1]}) == []


@pytest.mark.parametrize("value", [[0, [1], 0], [2**63, None, None], "inf", float("inf"), {}])
def test_a_number_is_nothing_else(value: Any) -> None:
    (sentence,) = check({"type": "int"}, value)
    assert "needs" in sentence


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "name", "z"]), inner, max_size=3)
    ),
)


@given(value=ANYTHING, option=st.sampled_from([PROXY, USERS, {"type": "int"}, {"type": "list", "elements": "bool"}]))
def test_any_value_gives_sentences_never_an_exception(value: Any, option: dict[str, Any]) -> None:
    for sentence in check(option, value):
        assert sentence.startswith("x") and sentence.endswith(".") and ": it needs " in sentence


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=3), option=st.sampled_from([PROXY, USERS]))
def test_no_value_of_a_secret_option_is_shown(secret: str, option: dict[str, Any]) -> None:
    secret = f"pw{secret}wp"
    shapes = [secret, [secret], [[secret]], {"password": [secret]}, [{"name": "a", "password": {"a": secret}}]]
    for value in shapes:
        assert secret not in "".join(check(option, value))
