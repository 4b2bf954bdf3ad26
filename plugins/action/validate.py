# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin validate: refuse input that cannot work, on the controller, before anything changes."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import typing as t
from pathlib import Path

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


def collection_digest() -> str:
    """Return a digest of what turns input into a machine's state: the roles, the plugins and our own images."""
    found = hashlib.sha256()
    top = Path(ROLES).parent
    for path in sorted(path for part in ("roles", "plugins", "images") for path in top.joinpath(part).rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            name = str(path.relative_to(top)).encode()
            found.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


COLLECTION = collection_digest()


def digest(values: t.Mapping[str, t.Any]) -> str:
    """Return a digest of the roles' input and the collection: the same means the same wanted state.

    It is salted with the collection's digest and expensive to compute (RFC 7914), because passwords are among the
    values and a digest may stand in a log.
    """
    text = json.dumps(values, sort_keys=True, default=str).encode()
    return hashlib.scrypt(text, salt=COLLECTION.encode(), n=2**13, r=8, p=1, dklen=32).hex()


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
        """Check variables of one role, or of several at once; fail with one sentence per mistake."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "role": {"type": "str"},
                "roles": {"type": "list", "elements": "str"},
                "rules": {"type": "dict", "default": {}},
                "together": {"type": "list", "elements": "dict", "default": []},
                "system": {"type": "bool", "default": True},
            },
            mutually_exclusive=[("role", "roles"), ("roles", "rules"), ("roles", "together")],
            required_one_of=[("role", "roles")],
        )
        error, notice = (
            check_os(self._templar.template(variables.get("ansible_facts", {}))) if arguments["system"] else ("", "")
        )
        errors = [error] if error else []
        values: dict[str, t.Any] = {}
        for role in arguments["roles"] or []:
            errors += self._check(own_arguments(role), {**self._role_variables(role), **variables}, values)
        if arguments["role"]:
            errors += self._check(arguments, variables, values)
        if errors:
            raise AnsibleActionFail("\n".join(errors), result={"errors": errors})
        result: dict[str, t.Any] = {"changed": False, "digest": digest(values)}
        if notice:
            result["warnings"] = [notice]
        return result

    def _check(
        self, arguments: dict[str, t.Any], variables: t.Mapping[str, t.Any], found: dict[str, t.Any]
    ) -> list[str]:
        """Return a sentence per mistake; adds the values that were checked to found."""
        options = read_options(arguments["role"])
        together = arguments.get("together") or []
        rules = arguments.get("rules") or {}
        names = {*options, *rules, *(name for item in together for name in item["vars"].values())}
        templar = self._templar.copy_with_new_env(available_variables=variables)
        values = templar.template({name: variables[name] for name in names if name in variables})
        found.update(values)
        return _spec.check(options, values) or apply_rules(rules, together, values)

    def _role_variables(self, role: str) -> dict[str, t.Any]:
        """Return a role's defaults and private maps, for a play that the role itself is not part of."""
        found: dict[str, t.Any] = {}
        for part in ("defaults", "vars"):
            path = os.path.join(ROLES, role, part, "main.yml")
            if os.path.exists(path):
                found.update(self._loader.load_from_file(path, trusted_as_template=True) or {})
        return found


def _load(*parts: str) -> t.Any:
    with open(os.path.join(ROLES, *parts), encoding="utf-8") as handle:
        return yaml.load(handle, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_options(role: str) -> dict[str, t.Any]:
    """Return the options of a role's entry point main, from its argument_specs."""
    specs = _load(role, "meta", "argument_specs.yml")
    return t.cast("dict[str, t.Any]", specs["argument_specs"]["main"].get("options") or {})


def own_arguments(role: str) -> dict[str, t.Any]:
    """Return what a role hands to this plugin itself: the arguments in its tasks/validate.yml."""
    return t.cast("dict[str, t.Any]", _load(role, "tasks", "validate.yml")[0]["slipway.platform.validate"])


def apply_rules(
    rules: t.Mapping[str, str | list[str]], together: t.Sequence[t.Mapping[str, t.Any]], values: t.Mapping[str, t.Any]
) -> list[str]:
    """Return a sentence per mistake in the variables that are set."""
    errors = []
    for name, wanted in rules.items():
        for rule in [wanted] if isinstance(wanted, str) else wanted:
            if name in values:
                errors += sentences(name, values[name], RULES[rule](values[name]))
    for item in together:
        parts = {part: values.get(name) for part, name in item["vars"].items()}
        for sentence in sentences("", "", RULES[item["rule"]](parts)):
            errors.append(_named(sentence, item["vars"]))
    return errors


def _named(sentence: str, names: t.Mapping[str, str]) -> str:
    """Replace the part that a rule over several variables names (`.private_key is …`) by the variable's name."""
    part, _, rest = sentence.removeprefix(".").partition(" ")
    return f"{names.get(part, part)} {rest}"
