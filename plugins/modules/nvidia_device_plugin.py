#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module nvidia_device_plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nvidia_device_plugin
short_description: Has NVIDIA's device plugin and the RuntimeClass nvidia in a cluster, or not
description:
  - Keeps a DaemonSet of NVIDIA's device plugin, its configuration, its namespace and the RuntimeClass V(nvidia) as
    wanted, and waits until every labelled node offers its GPUs.
  - Runs where C(/etc/kubernetes/admin.conf) and kubectl are.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) takes away what this module made, and nothing else.
    type: str
    choices: [present, absent]
    default: present
  image:
    description: The plugin's image, with tag or digest. Needed with O(state=present).
    type: str
    default: ""
  namespace:
    description: Where the plugin runs. It is made if it is not there, and goes with O(state=absent) only then.
    type: str
    default: nvidia-device-plugin
  strategies:
    description: How the kubelet is told which GPUs a container gets, C(DEVICE_LIST_STRATEGY) of NVIDIA's documentation.
    type: list
    elements: str
    choices: [cdi-cri, cdi-annotations, envvar]
    default: [cdi-cri, envvar]
  node_labels:
    description: Labels, one of which has the value V(true) on every node with a GPU.
    type: list
    elements: str
    default: [nvidia.com/gpu.present]
  tolerations:
    description: Taints that do not keep the plugin away.
    type: list
    elements: dict
    default: []
    suboptions:
      key:
        description: Key of the taint. None tolerates every one, with O(tolerations[].operator=Exists).
        type: str
      operator:
        description: Whether the value counts.
        type: str
        choices: [Exists, Equal]
        default: Exists
      value:
        description: Value of the taint.
        type: str
      effect:
        description: Effect of the taint. None tolerates all.
        type: str
        choices: [NoSchedule, PreferNoSchedule, NoExecute]
  config:
    description: Content of the plugin's configuration file, such as C(sharing), passed on as it is.
    type: dict
    default: {}
  registry:
    description: The private registry, which has to have the image. Without it nobody is asked.
    type: dict
    default: {}
    suboptions:
      host:
        description: Its name. Empty for none.
        type: str
        default: ""
      port:
        description: Its port.
        type: int
        default: 443
      ca:
        description: PEM text of its authority. Empty for those that the machine trusts.
        type: str
        default: ""
      user:
        description: Who may pull, if it asks.
        type: str
        default: ""
      password:
        description: The password of O(registry.user).
        type: str
        default: ""
  seconds:
    description: How long nodes may take until they offer GPUs. 0 waits for none.
    type: float
    default: 180
attributes:
  check_mode:
    description: Asks the cluster what would change; where there is no cluster yet, says what would be made.
    support: full
  diff_mode:
    description: Shows actions.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Give pods the GPUs of their nodes
  slipway.platform.nvidia_device_plugin:
    image: nvcr.io/nvidia/k8s-device-plugin:v0.19.0
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [created daemonset.apps/nvidia-device-plugin]
gpus:
  description: How many GPUs each labelled node offers to pods; empty in check mode.
  returned: always
  type: dict
  sample: {node1: 2}
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _nvidia_device_plugin
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

TOLERATION_SPEC: dict[str, t.Any] = {
    "key": {"type": "str", "no_log": False},
    "operator": {"type": "str", "choices": ["Exists", "Equal"], "default": "Exists"},
    "value": {"type": "str"},
    "effect": {"type": "str", "choices": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
}
REGISTRY_SPEC: dict[str, t.Any] = {
    "host": {"type": "str", "default": ""},
    "port": {"type": "int", "default": 443},
    "ca": {"type": "str", "default": ""},
    "user": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "image": {"type": "str", "default": ""},
    "namespace": {"type": "str", "default": "nvidia-device-plugin"},
    "strategies": {
        "type": "list",
        "elements": "str",
        "choices": ["cdi-cri", "cdi-annotations", "envvar"],
        "default": ["cdi-cri", "envvar"],
    },
    "node_labels": {"type": "list", "elements": "str", "default": ["nvidia.com/gpu.present"]},
    "tolerations": {"type": "list", "elements": "dict", "default": [], "options": TOLERATION_SPEC},
    "config": {"type": "dict", "default": {}},
    "registry": {"type": "dict", "default": {}, "options": REGISTRY_SPEC},
    "seconds": {"type": "float", "default": 180},
}


def _settings(params: t.Mapping[str, t.Any]) -> _nvidia_device_plugin.Settings:
    tolerations = [{name: value for name, value in one.items() if value is not None} for one in params["tolerations"]]
    return _nvidia_device_plugin.Settings(
        image=params["image"],
        namespace=params["namespace"],
        strategies=tuple(params["strategies"]),
        node_labels=tuple(params["node_labels"]),
        tolerations=tuple(tolerations),
        config=params["config"],
        registry=_nvidia_device_plugin.Registry(**params["registry"]),
        seconds=params["seconds"],
    )


def main() -> None:
    """Run the module."""
    module = Module(
        argument_spec=ARGUMENT_SPEC, required_if=[("state", "present", ["image"])], supports_check_mode=True
    )
    cluster = _nvidia_device_plugin.DevicePlugin(check=module.check_mode)
    try:
        present = module.params["state"] == "present"
        outcome = cluster.present(_settings(module.params)) if present else cluster.absent()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, actions=outcome.actions, gpus=outcome.gpus)


if __name__ == "__main__":
    main()
