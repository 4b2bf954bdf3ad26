#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module kubernetes_upgrade."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_upgrade
short_description: Finds out whether a machine of a cluster can be upgraded, and does kubeadm's part of it
description:
  - C(plan) finds the newest version that matches, judges it by Kubernetes' version skew policy, asks that version's own
    kubeadm which images it needs, and the private registry whether it has them. It changes nothing on the machine.
  - C(apply), C(node) and C(restart) are the steps that kubeadm and the kubelet take. Packages are the business of
    M(slipway.platform.kubernetes_node), draining that of M(slipway.platform.kubernetes_cluster).
version_added: 0.1.0
author:
  - Slipway contributors
options:
  action:
    description: What to do.
    type: str
    required: true
    choices: [plan, apply, node, restart]
  name:
    description: Name of the node, with O(action=plan).
    type: str
    default: ""
  version:
    description: Shell pattern of the packages' version with O(action=plan), the version itself with O(action=apply).
    type: str
    default: ""
  url:
    description: Address of the flat package repository, with O(action=plan).
    type: str
    default: ""
  key:
    description: The armoured public key that signs the repository, with O(action=plan).
    type: str
    default: ""
  api:
    description: Version of the API server, with O(action=plan).
    type: str
    default: ""
  nodes:
    description: All nodes of the cluster as M(slipway.platform.kubernetes_cluster) tells them, with O(action=plan).
    type: list
    elements: dict
    default: []
  together:
    description: Whether the control plane is upgraded in the same run.
    type: bool
    default: false
  registry:
    description: The private registry that has the images, with O(action=plan). Without it nobody is asked.
    type: dict
    default: {}
    suboptions:
      address:
        description: Host and port.
        type: str
        default: ""
      mirrors:
        description: Registries whose images it has under the same paths.
        type: list
        elements: str
        default: []
      ca_certificate:
        description: PEM text of the authority that signed for it.
        type: str
        default: ""
      user:
        description: Who may pull; empty for everybody.
        type: str
        default: ""
      password:
        description: The password.
        type: str
        default: ""
  ignore_preflight_errors:
    description: Checks of kubeadm that may fail.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Plans, and says what would be done.
    support: full
  diff_mode:
    description: Shows actions.
    support: full
  idempotent:
    description: A plan changes nothing; C(apply) does nothing where the control plane has the version.
    support: partial
"""

EXAMPLES = r"""
- name: Upgrade the control plane
  slipway.platform.kubernetes_upgrade:
    action: apply
    version: 1.34.3-1.1
"""

RETURN = r"""
told:
  description: What a plan found - target (of the packages), version (of the release), before, control_plane and due.
  returned: always
  type: dict
  sample: {target: 1.34.3-1.1, version: v1.34.3, before: v1.33.4, control_plane: false, due: true}
actions:
  description: What was done.
  returned: always
  type: list
  elements: str
  sample: [kubeadm upgrade apply v1.34.3]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes_upgrade, _registry_lookup
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

REGISTRY_SPEC: dict[str, t.Any] = {
    "address": {"type": "str", "default": ""},
    "mirrors": {"type": "list", "elements": "str", "default": []},
    "ca_certificate": {"type": "str", "default": ""},
    "user": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "action": {"type": "str", "required": True, "choices": ["plan", "apply", "node", "restart"]},
    "name": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "url": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": False},
    "api": {"type": "str", "default": ""},
    "nodes": {"type": "list", "elements": "dict", "default": []},
    "together": {"type": "bool", "default": False},
    "registry": {"type": "dict", "default": {}, "options": REGISTRY_SPEC},
    "ignore_preflight_errors": {"type": "list", "elements": "str", "default": []},
}


def _settings(params: t.Mapping[str, t.Any]) -> _kubernetes_upgrade.Settings:
    values: dict[str, t.Any] = {name: params[name] for name in ("name", "version", "url", "key", "api", "together")}
    registry: dict[str, t.Any] = {name: value for name, value in params["registry"].items() if value}
    registry["mirrors"] = tuple(registry.get("mirrors", ()))
    return _kubernetes_upgrade.Settings(
        **values,
        nodes=tuple(params["nodes"]),
        ignored=tuple(params["ignore_preflight_errors"]),
        registry=_registry_lookup.Registry(**registry),
    )


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    host = _kubernetes_upgrade.UpgradeHost(check=module.check_mode)
    try:
        if params["action"] == "plan":
            outcome = host.plan(_settings(params))
        elif params["action"] == "apply":
            outcome = host.apply(params["version"], ignored=params["ignore_preflight_errors"])
        elif params["action"] == "node":
            outcome = host.node(ignored=params["ignore_preflight_errors"])
        else:
            outcome = host.restart()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, told=outcome.told, actions=outcome.actions)


if __name__ == "__main__":
    main()
