# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters refuse what they do not know, and Ansible never evaluates what stands in a password."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.filter.proxy import FilterModule

from tests.unit.plugins.module_utils import proxy_consumers as consumers

ROOT = Path(__file__).resolve().parents[4]
FILTERS = FilterModule().filters()
SOURCES = {"environment": "lookup('ansible.builtin.env', 'HOSTILE')", "inventory": "hostile", "vault": "vaulted"}
TEMPLATE = "{{ 7 * 7 }}{% set x = 1 %}{# gone #}"


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_has_a_page(name: str) -> None:
    page = yaml.safe_load((ROOT / f"plugins/filter/{name}.yml").read_text(encoding="utf-8"))
    assert page["DOCUMENTATION"]["name"] == name
    assert page["EXAMPLES"] and page["RETURN"]["_value"]["description"]


def test_the_filters_encode() -> None:
    setting = {"http": {"url": "http://p:1", "user": "a@b", "password": "50%"}, "https": None, "no_proxy": ["x", ".y"]}
    variables = FILTERS["proxy_variables"](setting)
    assert variables["HTTP_PROXY"] == "http://a%40b:50%25@p:1"
    assert FILTERS["proxy_url"](setting["http"]) == variables["http_proxy"]
    assert FILTERS["no_proxy_string"](setting["no_proxy"]) == variables["NO_PROXY"] == ".y,x"
    assert "a%%40b" in FILTERS["systemd_environment"](variables)
    assert "a%40b" in FILTERS["systemd_environment_file"](variables)
    assert 'Acquire::http::Proxy::x "DIRECT"' in FILTERS["apt_proxy"](setting)
    files = FILTERS["proxy_drop_ins"](setting, units=["docker"], in_unit=False, header="#")
    assert [item["path"].rsplit("/", 1)[1] for item in files] == ["docker_proxy", "http.env", "http-proxy.conf"]
    assert FILTERS["proxy_url"]({}) == FILTERS["apt_proxy"]({"no_proxy": None}) == ""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("proxy_url", {"url": "http://p:1", "pass": "secret"}, "does not know pass: it takes url, user, password"),
        ("proxy_url", "http://u:secret@p:1", "needs a dictionary with url, user, password"),
        ("proxy_url", {"url": "http://u:secret@p:1"}, "nothing else"),
        ("proxy_variables", {"ftp": {}}, "does not know ftp: it takes http, https, no_proxy"),
        ("proxy_variables", {"http": {"username": "u"}}, "proxy_variables's http does not know username"),
        ("apt_proxy", {"http": {}, "no_proxy": "a,b"}, "no_proxy needs to be a list"),
        ("no_proxy_string", {"a": 1}, "no_proxy needs to be a list"),
        ("no_proxy_string", 5, "no_proxy needs to be a list"),
        ("systemd_environment", {"a b": "secret"}, "not the name of an environment variable"),
    ],
)
def test_errors_say_what_is_wanted_without_secrets(name: str, value: Any, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words) as caught:
        FILTERS[name](value)
    assert "secret" not in str(caught.value)


def test_braces_in_a_password_are_never_evaluated(tmp_path: Path) -> None:
    """Through a real ansible-playbook: from the environment, from a variable as !unsafe, and from an inline vault."""
    expression = (
        "{{ {'http': {'url': 'http://p:1', 'user': 'u', 'password': PASSWORD}}"
        " | slipway.platform.proxy_variables | slipway.platform.systemd_environment_file }}"
    )
    tasks = [
        {
            "name": f"Write {name}",
            "ansible.builtin.copy": {
                "dest": str(tmp_path / name),
                "mode": "0600",
                "content": expression.replace("PASSWORD", source),
            },
        }
        for name, source in SOURCES.items()
    ]
    playbook = tmp_path / "play.yml"
    text = yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}])
    playbook.write_text(text, encoding="utf-8")
    variables = tmp_path / "vars.yml"
    key = tmp_path / "key"
    key.write_text("key of the vault", encoding="utf-8")
    programs = Path(sys.executable).parent
    vaulted = subprocess.run(
        [programs / "ansible-vault", "encrypt_string", "--vault-password-file", key, "--stdin-name", "vaulted"],
        input=TEMPLATE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    variables.write_text(f"hostile: !unsafe {json.dumps(TEMPLATE)}\n{vaulted}\n", encoding="utf-8")
    done = subprocess.run(
        [programs / "ansible-playbook", "--vault-password-file", key, "-i", "localhost,", "-c", "local",
         "-vvv", "--diff", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}", "-e", f"@{variables}",
         playbook],
        cwd=ROOT,
        env={**os.environ, "HOSTILE": TEMPLATE, "ANSIBLE_LOCALHOST_WARNING": "0"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for name in SOURCES:
        found = consumers.read_environment_file((tmp_path / name).read_text(encoding="utf-8"))
        assert consumers.credentials_of(found["HTTP_PROXY"]) == ("u", TEMPLATE)
