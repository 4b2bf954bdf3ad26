# SPDX-License-Identifier: GPL-3.0-or-later
"""The action validate: every mistake is one sentence, all at once, and no secret in them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.slipway.platform.plugins.action import validate
from ansible_collections.slipway.platform.plugins.modules import validate as documentation
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules

ROOT = Path(__file__).resolve().parents[4]
ROLES = sorted(path.parents[1] for path in ROOT.glob("roles/*/tasks/validate.yml"))
DEBIAN = {"distribution": "Debian", "distribution_major_version": "13", "distribution_version": "13.1"}
SPEC = """
argument_specs:
  main:
    options:
      web_port: {type: int, required: true, description: Port of the server.}
      web_proxy:
        type: dict
        options: {url: {type: str}, user: {type: str}, password: {type: str, no_log: true}}
      web_key: {type: str, no_log: true}
      web_size: {type: str}
"""
TASKS = """
- name: Refuse input that cannot work
  slipway.platform.validate:
    role: web
    rules: {web_port: port, web_size: [size]}
    together:
      - rule: certificate
        vars: {certificate: web_certificate, private_key: web_key}
"""


@pytest.fixture
def role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a role `web`, the only one there is."""
    path = tmp_path / "web"
    for name, text in {
        "meta/argument_specs.yml": SPEC,
        "tasks/validate.yml": TASKS,
        "defaults/main.yml": "web_port: 80\nweb_size: '{{ __web_size }}'\n",
        "vars/main.yml": "__web_size: 10m\n",
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    monkeypatch.setattr(validate, "ROLES", str(tmp_path))
    return path


def act(arguments: dict[str, Any], variables: dict[str, Any], facts: dict[str, str] = DEBIAN) -> dict[str, Any]:
    """Run the action as a task of a play with these variables."""
    variables = {"ansible_facts": facts, **variables}
    loader = DataLoader()
    action = validate.ActionModule(
        task=SimpleNamespace(args=arguments, check_mode=False, async_val=0, diff=False),
        connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir=None), has_pipelining=False),
        play_context=None,
        loader=loader,
        templar=Templar(loader=loader, variables=variables),
        shared_loader_obj=None,
    )
    result = action.run(task_vars=variables)
    assert isinstance(result, dict)
    return result


def refused(arguments: dict[str, Any], variables: dict[str, Any], facts: dict[str, str] = DEBIAN) -> list[str]:
    """Return the sentences with which the action fails."""
    with pytest.raises(AnsibleActionFail) as caught:
        act(arguments, variables, facts)
    errors = caught.value.result["errors"]
    assert caught.value.message == "\n".join(errors)
    assert isinstance(errors, list)
    return errors


# --- operating systems ---


@pytest.mark.parametrize(
    ("name", "version", "notice"),
    [
        ("Debian", "12.5", ""),
        ("Debian", "13", ""),
        ("Ubuntu", "24.04", "Ubuntu 24.04 is accepted, but these roles are not tested on it."),
    ],
)
def test_supported_systems(role: Path, name: str, version: str, notice: str) -> None:
    facts = {"distribution": name, "distribution_major_version": version.split(".")[0], "distribution_version": version}
    assert validate.check_os(facts) == ("", notice)
    result = act({"role": "web"}, {"web_port": 1}, facts)
    assert (result["changed"], result.get("warnings", [])) == (False, [notice] if notice else [])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "ansible_facts has no distribution: it needs gather_facts or slipway.platform.preflight first."),
        (
            {"distribution": "Debian", "distribution_major_version": "11", "distribution_version": "11.9"},
            "ansible_facts.distribution is Debian 11.9: it needs to be one of Debian 12, Debian 13, Ubuntu 24.04 "
            "(Ubuntu is untested).",
        ),
        (
            {"distribution": "Ubuntu", "distribution_major_version": "24", "distribution_version": "24.10"},
            "ansible_facts.distribution is Ubuntu 24.10: it needs to be one of Debian 12, Debian 13, Ubuntu 24.04 "
            "(Ubuntu is untested).",
        ),
        ({"distribution": "Rocky", "distribution_version": "9.4"}, "ansible_facts.distribution is Rocky 9.4: "),
    ],
)
def test_other_systems_are_refused(role: Path, facts: dict[str, str], words: str) -> None:
    (error,) = refused({"role": "web"}, {"web_port": 1}, facts)
    assert error.startswith(words)


# --- sentences ---


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("a port", ["x is 'v': it needs a port."]),
        (_rules.Problem("a port", ".port"), ["x.port is 'v': it needs a port."]),
        (_rules.Problem("a port", "[1]", "empty"), ["x[1] is empty: it needs a port."]),
        (
            [_rules.Problem("a", "", ""), _rules.Problem("b", ".b", "c")],
            ["x is : it needs a.", "x.b is c: it needs b."],
        ),
    ],
)
def test_a_verdict_becomes_sentences(verdict: _rules.Verdict, expected: list[str]) -> None:
    assert validate.sentences("x", "v", verdict) == expected


# --- one role ---


def test_good_input_passes(role: Path) -> None:
    variables = {"web_port": "6001", "web_size": "10m", "other_role_port": []}
    assert act({"role": "web", "rules": {"web_port": "port"}}, variables)["changed"] is False


def test_the_system_can_be_checked_later(role: Path) -> None:
    assert act({"role": "web", "system": False}, {"web_port": 1}, {})["changed"] is False


def test_the_digest_changes_with_the_input_alone(role: Path) -> None:
    digests = [
        act({"role": "web"}, variables)["digest"] for variables in ({"web_port": 1}, {"web_port": 1}, {"web_port": 2})
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_is_of_the_roles_own_variables(role: Path) -> None:
    assert (
        act({"role": "web"}, {"web_port": 1, "other": 5})["digest"] == act({"role": "web"}, {"web_port": 1})["digest"]
    )


def test_all_mistakes_of_a_kind_come_at_once(role: Path) -> None:
    errors = refused(
        {"role": "web", "rules": {"web_port": "port"}},
        {"web_port": "http", "web_proxy": {"pass": "hunter2"}, "web_size": ["1"]},
        {},
    )
    assert [error.split(" ")[0] for error in errors] == ["ansible_facts", "web_port", "web_proxy.pass", "web_size"]
    assert "hunter2" not in "".join(errors)


def test_rules_come_after_types(role: Path) -> None:
    rules = {"web_port": "port", "web_size": ["size", "duration"], "web_proxy": "proxy", "web_unset": "port"}
    errors = refused(
        {"role": "web", "rules": rules},
        {"web_port": 0, "web_size": "big", "web_proxy": {"url": "u:hunter2@p", "user": "u"}},
    )
    assert errors == [
        "web_port is 0: it needs a port number from 1 to 65535.",
        "web_size is 'big': it needs a size such as 10m or 2g.",
        "web_size is 'big': it needs a duration such as 30s, 15m, 12h or 30d.",
        "web_proxy.url is '***@p': it needs no user or password inside: give them as .user and .password, raw.",
        "web_proxy.password is empty: it needs a value, because user is set.",
    ]


def test_a_rule_over_several_variables_names_the_right_one(role: Path) -> None:
    together = [{"rule": "certificate", "vars": {"certificate": "web_certificate", "private_key": "web_key"}}]
    errors = refused(
        {"role": "web", "together": together}, {"web_port": 1, "web_certificate": "x", "web_key": "hunter2"}
    )
    assert errors == ["web_certificate is a text that is no certificate: it needs PEM text of a certificate."]


def test_values_are_templated_before_they_are_checked(role: Path) -> None:
    variables = {"web_port": trust_as_template("{{ base + 1 }}"), "base": 79}
    assert act({"role": "web", "rules": {"web_port": "port"}}, variables)["changed"] is False
    variables["base"] = -5
    assert refused({"role": "web", "rules": {"web_port": "port"}}, variables)[0].startswith("web_port is -4: ")


@pytest.mark.parametrize(
    "arguments", [{}, {"role": "web", "roles": ["web"]}, {"roles": ["web"], "rules": {"a": "port"}}]
)
def test_a_role_or_roles_but_not_both(role: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"one of the following|mutually exclusive"):
        act(arguments, {})


# --- several roles ---


def test_several_roles_bring_their_own_rules_and_defaults(role: Path) -> None:
    roles = {"roles": ["web"]}
    good = {"web_certificate": "x"}
    errors = refused(roles, {**good, "web_size": "big", "web_port": 0})
    assert [error.split(" ")[0] for error in errors] == ["web_port", "web_size", "web_certificate"]
    (error,) = refused(roles, good)  # the defaults fit, also the one that is made of a private variable
    assert error.startswith("web_certificate is a text that is no certificate")


def test_a_role_without_defaults_and_private_variables(role: Path) -> None:
    (role / "defaults/main.yml").unlink()
    (role / "vars/main.yml").write_text("")
    assert refused({"roles": ["web"]}, {}) == ["web_port is not set: it needs a value (Port of the server)."]


# --- the collection's own roles and rules ---


def test_every_roles_rules_are_loaded() -> None:
    assert set(_rules.RULES) < set(validate.RULES)
    files = {path.stem for path in (ROOT / "plugins/plugin_utils").glob("_rules_*.py")}
    assert files <= {rule.__module__.rpartition(".")[2] for rule in validate.RULES.values()}


@pytest.mark.parametrize("path", ROLES, ids=lambda path: path.name)
def test_a_role_asks_for_rules_and_variables_that_there_are(path: Path) -> None:
    arguments = validate.own_arguments(path.name)
    together = arguments.get("together", [])
    rules = [
        item for rule in arguments.get("rules", {}).values() for item in ([rule] if isinstance(rule, str) else rule)
    ]
    assert [rule for rule in [*rules, *(item["rule"] for item in together)] if rule not in validate.RULES] == []
    known = {**validate.read_options(path.name)}
    private = path / "vars/main.yml"
    known |= yaml.safe_load(private.read_text()) or {} if private.exists() else {}
    named = [*arguments.get("rules", {}), *(name for item in together for name in item["vars"].values())]
    assert [name for name in named if name not in known] == []
    assert arguments["role"] == path.name


def test_the_documentation_knows_the_options() -> None:
    options = yaml.safe_load(documentation.DOCUMENTATION)["options"]
    assert set(options) == {"role", "roles", "rules", "system", "together"}
