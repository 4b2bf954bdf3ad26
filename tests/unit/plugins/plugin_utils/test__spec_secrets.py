# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused may hold a password: it is not shown then."""

from __future__ import annotations

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules, _spec

PROXY = {"type": "dict", "options": {"url": {"type": "str"}, "password": {"type": "str", "no_log": True}}}


@pytest.mark.parametrize(
    "url", ["http://u:sec/ret@proxy:1", "u:sec/ret@proxy:1", "ftp://u:sec/ret@proxy", "//sec/ret@p"]
)
def test_a_refused_url_is_shown_without_its_credentials(url: str) -> None:
    problems = _rules.proxy({"url": url})
    assert isinstance(problems, list) and problems
    assert all("sec" not in str(problem.got) for problem in problems if isinstance(problem, _rules.Problem))


def test_a_url_in_place_of_a_proxy_is_not_shown() -> None:
    errors = _spec.check({"docker_proxy_http": PROXY}, {"docker_proxy_http": "http://u:secret@proxy:1"})
    assert errors == ["docker_proxy_http is a value that may be secret: it needs a dictionary."]


def test_choices_hold_for_the_elements_of_a_list() -> None:
    option = {"type": "list", "elements": "str", "choices": ["docker", "containerd"]}
    assert _spec.check({"engines": option}, {"engines": ["docker", "containerd"]}) == []
    assert _spec.check({"engines": option}, {"engines": ["podman"]}) == [
        "engines[0] is 'podman': it needs one of docker, containerd."
    ]
