#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module kubernetes_cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_cluster
short_description: Asks and changes a cluster about one node, on a machine of its control plane
description:
  - Makes and deletes tokens, labels and taints a node, waits until it is ready, drains it, deletes it, and runs a pod
    on it. Runs where C(/etc/kubernetes/admin.conf) is, so a play delegates it to the control plane.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  action:
    description: What to do.
    type: str
    required: true
    choices:
      - info
      - nodes
      - make_token
      - forget_token
      - settle
      - cordon
      - uncordon
      - upgrade_begin
      - upgrade_end
      - await_version
      - drain
      - delete
      - smoke
  name:
    description: Name of the node. Needed by all but O(action=info) and O(action=nodes).
    type: str
    default: ""
  token:
    description: The token to delete, with O(action=forget_token); only its public half goes to kubeadm.
    type: str
    default: ""
  labels:
    description: Labels of the node, with O(action=settle). Those of an earlier call that are not listed go.
    type: dict
    default: {}
  taints:
    description: Taints of the node, with O(action=settle). Those of an earlier call that are not listed go.
    type: list
    elements: dict
    default: []
    suboptions:
      key:
        description: Key of the taint.
        type: str
        required: true
      value:
        description: Its value.
        type: str
        default: ""
      effect:
        description: What it does to pods that do not tolerate it.
        type: str
        choices: [NoSchedule, PreferNoSchedule, NoExecute]
        required: true
  image:
    description: Image of the pod, with O(action=smoke). It needs C(/bin/sh).
    type: str
    default: ""
  version:
    description: Version of the kubelet, such as V(v1.34.3), with O(action=upgrade_begin) and O(action=await_version).
    type: str
    default: ""
  cordon:
    description: Whether O(action=upgrade_begin) cordons the node. O(action=upgrade_end) undoes just that.
    type: bool
    default: false
  lose:
    description:
      - With O(action=drain), whether pods that nothing makes anew, and what lies in emptyDir volumes, may be lost.
    type: bool
    default: false
  seconds:
    description: How long to wait, with those actions that wait for something.
    type: float
    default: 0
attributes:
  check_mode:
    description: Asks, and changes nothing.
    support: full
  diff_mode:
    description: Shows actions.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Wait until a node is ready
  slipway.platform.kubernetes_cluster:
    action: settle
    name: node7
    seconds: 120
  delegate_to: control
"""

RETURN = r"""
told:
  description: What the cluster said. A token, with O(action=make_token); such a task needs C(no_log).
  returned: always
  type: dict
  sample: {version: v1.34.3}
actions:
  description: What was done besides.
  returned: always
  type: list
  elements: str
  sample: [drain node node7]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes_cluster
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
TAINT_SPEC: dict[str, t.Any] = {
    "key": {"type": "str", "required": True, "no_log": False},
    "value": {"type": "str", "default": ""},
    "effect": {"type": "str", "choices": EFFECTS, "required": True},
}
ACTIONS: dict[str, t.Callable[[_kubernetes_cluster.Cluster, t.Mapping[str, t.Any]], _kubernetes_cluster.Outcome]] = {
    "info": lambda cluster, _: cluster.info(),
    "make_token": lambda cluster, params: cluster.make_token(params["name"]),
    "forget_token": lambda cluster, params: cluster.forget_token(params["token"]),
    "settle": lambda cluster, params: cluster.settle(
        _kubernetes_cluster.Node(
            name=params["name"],
            labels={name: str(value) for name, value in params["labels"].items()},
            taints=tuple(params["taints"]),
            seconds=params["seconds"],
        )
    ),
    "cordon": lambda cluster, params: cluster.cordon(params["name"], on=True),
    "uncordon": lambda cluster, params: cluster.cordon(params["name"], on=False),
    "drain": lambda cluster, params: cluster.drain(params["name"], seconds=params["seconds"], lose=params["lose"]),
    "nodes": lambda cluster, params: cluster.nodes(seconds=params["seconds"]),
    "upgrade_begin": lambda cluster, params: cluster.upgrade_begin(
        params["name"], version=params["version"], cordon=params["cordon"]
    ),
    "upgrade_end": lambda cluster, params: cluster.upgrade_end(params["name"]),
    "await_version": lambda cluster, params: cluster.await_version(
        params["name"], version=params["version"], seconds=params["seconds"]
    ),
    "delete": lambda cluster, params: cluster.delete(params["name"]),
    "smoke": lambda cluster, params: cluster.smoke(params["name"], params["image"], seconds=params["seconds"]),
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "action": {"type": "str", "required": True, "choices": list(ACTIONS)},
    "name": {"type": "str", "default": ""},
    "token": {"type": "str", "default": "", "no_log": True},
    "labels": {"type": "dict", "default": {}},
    "taints": {"type": "list", "elements": "dict", "default": [], "options": TAINT_SPEC},
    "image": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "cordon": {"type": "bool", "default": False},
    "lose": {"type": "bool", "default": False},
    "seconds": {"type": "float", "default": 0},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    cluster = _kubernetes_cluster.Cluster(check=module.check_mode)
    try:
        outcome = ACTIONS[module.params["action"]](cluster, module.params)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, told=outcome.told, actions=outcome.actions)


if __name__ == "__main__":
    main()
