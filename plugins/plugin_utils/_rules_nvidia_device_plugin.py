# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of nvidia_device_plugin."""

from __future__ import annotations

import typing as t

from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, shown
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_kubernetes import is_label

# What NVIDIA's configuration file has at its top.
PARTS = ("version", "flags", "imex", "resources", "sharing")
# Those that the role's own variables, which the plugin takes for more, would undo without a word.
OURS = ("deviceListStrategy", "deviceIDStrategy")


def device_plugin_strategies(value: t.Any) -> Verdict:
    """Accept at least one strategy, and one way of CDI only."""
    if not value:
        return "at least one of cdi-cri, cdi-annotations, envvar"
    if {"cdi-cri", "cdi-annotations"} <= set(value):
        return "cdi-cri or cdi-annotations, not both (the kubelet makes annotations of cdi-cri itself)"
    return None


def device_plugin_labels(value: t.Any) -> Verdict:
    """Accept at least one label."""
    if not value:
        return "at least one label: without one the plugin would run, and fail, on nodes without a GPU"
    return [
        Problem("a label such as nvidia.com/gpu.present", f"[{index}]", shown(label))
        for index, label in enumerate(value)
        if not is_label(str(label))
    ]


def device_plugin_config(value: t.Any) -> Verdict:
    """Accept NVIDIA's configuration file as far as this role knows it: shares of GPUs by time slicing."""
    problems = [Problem(f"one of {', '.join(PARTS)}", f".{key}", "a part") for key in value if key not in PARTS]
    if value.get("version", "v1") != "v1":
        problems.append(Problem("v1", ".version", shown(value["version"])))
    plugin = (value.get("flags") or {}).get("plugin") or {}
    problems += [
        Problem("to go: nvidia_device_plugin_strategies says it", f".flags.plugin.{key}", shown(plugin[key]))
        for key in OURS
        if key in plugin
    ]
    sharing = value.get("sharing") or {}
    if "mps" in sharing:
        needs = "to go: the daemon that MPS needs is not part of this role; timeSlicing is"
        problems.append(Problem(needs, ".sharing.mps", "set"))
    for index, resource in enumerate((sharing.get("timeSlicing") or {}).get("resources") or []):
        replicas = resource.get("replicas")
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 2:
            where = f".sharing.timeSlicing.resources[{index}].replicas"
            problems.append(Problem("a whole number from 2 on", where, shown(replicas)))
    return problems


RULES: dict[str, Rule] = {
    "device_plugin_config": device_plugin_config,
    "device_plugin_labels": device_plugin_labels,
    "device_plugin_strategies": device_plugin_strategies,
}
