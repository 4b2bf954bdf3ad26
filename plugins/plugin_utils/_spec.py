# SPDX-License-Identifier: GPL-3.0-or-later
"""Check variables against a role's argument_specs, with one sentence per mistake.

ansible-core checks the same when a role starts; this check also runs for the whole site before the first change, and
says what it got and what it needs.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.common.validation import (
    check_type_bool,
    check_type_dict,
    check_type_float,
    check_type_int,
    check_type_list,
)
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import shown

Spec = t.Mapping[str, t.Mapping[str, t.Any]]
_CHECKS: dict[str, tuple[t.Callable[[t.Any], t.Any], str]] = {
    "bool": (check_type_bool, "true or false"),
    "dict": (check_type_dict, "a dictionary"),
    "float": (check_type_float, "a number"),
    "int": (check_type_int, "a whole number"),
    "list": (check_type_list, "a list"),
}


def check(options: Spec, values: t.Mapping[str, t.Any], *, prefix: str = "") -> list[str]:
    """Return a sentence for each value that does not fit its option; values hold only what is set.

    At the top (prefix empty) names that are no option are other roles' variables; below, they are mistakes.
    """
    errors = []
    if prefix:
        for name in values:
            if name not in options:
                errors.append(f"{prefix}{name} is not an option: it needs to be one of {', '.join(sorted(options))}.")
    for name, option in options.items():
        value = values.get(name)
        if value is None:
            if option.get("required"):
                errors.append(f"{prefix}{name} is not set: it needs a value ({_first_line(option)}).")
        else:
            errors += _check_value(f"{prefix}{name}", option, value)
    return errors


def _first_line(option: t.Mapping[str, t.Any]) -> str:
    description = option.get("description", "")
    text = description[0] if isinstance(description, list) else description
    return str(text).strip().rstrip(".")


def _check_value(name: str, option: t.Mapping[str, t.Any], value: t.Any) -> list[str]:
    kind = option.get("type", "str")
    got = "a value that may be secret" if _may_be_secret(option) else shown(value)
    if not _fits(kind, value):
        return [f"{name} is {got}: it needs {_CHECKS[kind][1] if kind in _CHECKS else 'a text'}."]
    choices = option.get("choices")
    if choices and kind != "list" and value not in choices and str(value) not in map(str, choices):
        return [f"{name} is {got}: it needs one of {', '.join(map(str, choices))}."]
    if kind == "list":
        return _check_elements(name, option, value)
    if kind == "dict" and "options" in option:
        return check(option["options"], value, prefix=f"{name}.")
    return []


def _may_be_secret(option: t.Mapping[str, t.Any]) -> bool:
    """Tell whether a value, or what was meant to be a part of it, must not be shown."""
    return bool(option.get("no_log")) or any(_may_be_secret(part) for part in option.get("options", {}).values())


def _fits(kind: str, value: t.Any) -> bool:
    if kind in ("str", "path"):
        return not isinstance(value, (dict, list))
    if kind in ("list", "dict"):  # a string that could be split into one is a mistake more often than a wish
        return isinstance(value, list if kind == "list" else dict)
    if kind not in _CHECKS:
        return True
    # Ansible takes a list of three for sign, digits and exponent, as decimal.Decimal does.
    if kind in ("int", "float") and isinstance(value, (bool, list, dict)):
        return False
    try:
        _CHECKS[kind][0](value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _check_elements(name: str, option: t.Mapping[str, t.Any], values: list[t.Any]) -> list[str]:
    element = {key: option[key] for key in ("options", "choices", "no_log") if key in option}
    element["type"] = option.get("elements", "raw")
    return [error for index, value in enumerate(values) for error in _check_value(f"{name}[{index}]", element, value)]
