# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role registry_mirror."""

from __future__ import annotations

import base64
import json

from ansible_collections.slipway.platform.plugins.filter import registry_mirror

FILTERS = registry_mirror.FilterModule().filters()


def test_logins_become_an_auth_file() -> None:
    logins = [
        {"registry": "registry-1.docker.io", "user": "u", "password": "p:ä"},
        {"registry": "r.corp.lab:6001", "user": "v", "password": "w"},
    ]
    auths = json.loads(FILTERS["registry_auths"](logins))["auths"]
    assert {name: base64.b64decode(entry["auth"]).decode() for name, entry in auths.items()} == {
        "docker.io": "u:p:ä",
        "r.corp.lab:6001": "v:w",
    }


def test_names_and_dictionaries_become_wishes() -> None:
    assert FILTERS["image_wishes"](["a:1", {"name": "b:1", "target": "c/b:1"}, {"name": "d:1"}]) == [
        {"name": "a:1", "target": ""},
        {"name": "b:1", "target": "c/b:1"},
        {"name": "d:1", "target": ""},
    ]


def test_what_was_mirrored_can_be_carried() -> None:
    image = {"name": "docker.io/library/a:1", "target": "a:1", "digest": "sha256:1", "before": "", "missing": True}
    assert FILTERS["image_carried"](image) == {"name": "a:1", "digest": "sha256:1", "source": "docker.io/library/a:1"}
