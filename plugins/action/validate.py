# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin validate: refuse input that cannot work, on the controller, before anything changes."""

from __future__ import annotations

import importlib
import os
import pkgutil
import typing as t

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.slipway.platform.plugins import plugin_utils
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules, _spec

ROLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "roles")
TESTED = {"Debian": ("12", "13")}
UNTESTED = {"Ubuntu": ("24.04",)}


def all_rules() -> dict[str, _rules.Rule]:
    """Return the rules of plugin_utils/_rules.py and of every role's _rules_<role>.py."""
    rules = dict(_rules.RULES)
    for info in pkgutil.iter_modules(plugin_utils.__path__):
        if info.name.startswith("_rules_"):
            rules.update(importlib.import_module(f"{plugin_utils.__name__}.{info.name}").RULES)
    return rules


# Read when the plugin is loaded, which ansible-core does once in the parent of all workers.
RULES = all_rules()


def check_os(facts: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """Return an error and a notice (each may be empty) for the facts of a host."""
    name = facts.get("distribution")
    if not name:
        return "ansible_facts has no distribution: it needs gather_facts or slipway.platform.preflight first.", ""
    major, version = str(facts.get("distribution_major_version")), str(facts.get("distribution_version"))
    if major in TESTED.get(name, ()):
        return "", ""
    if version in UNTESTED.get(name, ()):
        return "", f"{name} {version} is accepted, but these roles are not tested on it."
    both = {**TESTED, **UNTESTED}
    supported = ", ".join(f"{system} {release}" for system, releases in both.items() for release in releases)
    return (
        f"ansible_facts.distribution is {name} {version}: it needs to be one of {supported} (Ubuntu is untested).",
        "",
    )


def sentences(name: str, value: t.Any, verdict: _rules.Verdict) -> list[str]:
    """Turn a rule's verdict on a variable into sentences: the name, what it got, what it needs."""
    if not verdict:
        return []
    problems = verdict if isinstance(verdict, list) else [verdict]
    result = []
    for item in problems:
        problem = _rules.Problem(item) if isinstance(item, str) else item
        got = problem.got if problem.got is not None else _rules.shown(value)
        result.append(f"{name}{problem.path} is {got}: it needs {problem.needs}.")
    return result


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the documentation in plugins/modules/validate.py."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Check the role's variables; fail with one sentence per mistake."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "role": {"type": "str", "required": True},
                "rules": {"type": "dict", "default": {}},
                "together": {"type": "list", "elements": "dict", "default": []},
            }
        )
        options = self._options(arguments["role"])
        names = {*options, *arguments["rules"], *(n for item in arguments["together"] for n in item["vars"].values())}
        values = self._templar.template({name: variables[name] for name in names if name in variables})
        error, notice = check_os(variables.get("ansible_facts", {}))
        errors = [error] if error else []
        errors += _spec.check(options, values)
        if not errors:
            errors += self._apply_rules(arguments, values)
        if errors:
            raise AnsibleActionFail("\n".join(errors), result={"errors": errors})
        result: dict[str, t.Any] = {"changed": False}
        if notice:
            result["warnings"] = [notice]
        return result

    @staticmethod
    def _options(role: str) -> dict[str, t.Any]:
        path = os.path.join(ROLES, role, "meta", "argument_specs.yml")
        with open(path, encoding="utf-8") as handle:
            specs = yaml.load(handle, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return t.cast("dict[str, t.Any]", specs["argument_specs"]["main"].get("options", {}))

    @staticmethod
    def _apply_rules(arguments: dict[str, t.Any], values: dict[str, t.Any]) -> list[str]:
        errors = []
        for name, wanted in arguments["rules"].items():
            for rule in [wanted] if isinstance(wanted, str) else wanted:
                errors += sentences(name, values.get(name), RULES[rule](values.get(name)))
        for item in arguments["together"]:
            parts = {part: values.get(name) for part, name in item["vars"].items()}
            for sentence in sentences("", "", RULES[item["rule"]](parts)):
                errors.append(_named(sentence, item["vars"]))
        return errors


def _named(sentence: str, names: t.Mapping[str, str]) -> str:
    """Replace the part that a rule over several variables names (`.private_key is …`) by the variable's name."""
    part, _, rest = sentence.removeprefix(".").partition(" ")
    return f"{names.get(part, part)} {rest}"
