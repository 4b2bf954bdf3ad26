#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module kubernetes_control_plane."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_control_plane
short_description: Brings a single control plane up by kubeadm, with flannel and CoreDNS
description:
  - Runs C(kubeadm init) once, on a machine that M(slipway.platform.kubernetes_node) has made ready, with an environment
    that holds no proxy. The token that every init makes is deleted.
  - Keeps flannel's objects and CoreDNS' configuration as wanted.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  name:
    description: Name of the machine's node.
    type: str
    required: true
  endpoint:
    description: Host and port of the API server, as every node reaches it.
    type: str
    required: true
  pod_subnet:
    description: Network of the pods.
    type: str
    required: true
  service_subnet:
    description: Network of the services.
    type: str
    required: true
  dns_domain:
    description: Domain of the services.
    type: str
    default: cluster.local
  image_repository:
    description: Where the images of the control plane come from.
    type: str
    default: registry.k8s.io
  version:
    description: Version of the control plane, such as V(v1.34.3). Empty takes kubeadm's own; kubeadm asks nobody then.
    type: str
    default: ""
  kubelet:
    description: Keys of C(KubeletConfiguration) for all nodes.
    type: dict
    default: {}
  kube_proxy:
    description: Keys of C(KubeProxyConfiguration).
    type: dict
    default: {}
  taints:
    description: Taints of the machine's node; without one it runs everybody's pods.
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
  flannel_image:
    description: Image of flannel. Empty leaves the pod network to somebody else.
    type: str
    default: ""
  flannel_plugin_image:
    description: Image of flannel's CNI plugin.
    type: str
    default: ""
  flannel_backend:
    description: How packets travel between nodes.
    type: str
    choices: [vxlan, host-gw]
    default: vxlan
  dns_servers:
    description: Servers that CoreDNS asks for names outside of the cluster. None takes the machine's own.
    type: list
    elements: str
    default: []
  ignore_preflight_errors:
    description: Checks of kubeadm that may fail.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Predicts; on a machine without a control plane only that it would be made.
    support: full
  diff_mode:
    description: Shows actions.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Have a control plane
  slipway.platform.kubernetes_control_plane:
    name: control
    endpoint: control.corp.lab:6443
    pod_subnet: 10.244.0.0/16
    service_subnet: 10.96.0.0/12
"""

RETURN = r"""
actions:
  description: What was done besides.
  returned: always
  type: list
  elements: str
  sample: [kubeadm init]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes_control_plane
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
TAINT_SPEC: dict[str, t.Any] = {
    "key": {"type": "str", "required": True, "no_log": False},
    "value": {"type": "str", "default": ""},
    "effect": {"type": "str", "choices": EFFECTS, "required": True},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "endpoint": {"type": "str", "required": True},
    "pod_subnet": {"type": "str", "required": True},
    "service_subnet": {"type": "str", "required": True},
    "dns_domain": {"type": "str", "default": "cluster.local"},
    "image_repository": {"type": "str", "default": "registry.k8s.io"},
    "version": {"type": "str", "default": ""},
    "kubelet": {"type": "dict", "default": {}},
    "kube_proxy": {"type": "dict", "default": {}},
    "taints": {"type": "list", "elements": "dict", "default": [], "options": TAINT_SPEC},
    "flannel_image": {"type": "str", "default": ""},
    "flannel_plugin_image": {"type": "str", "default": ""},
    "flannel_backend": {"type": "str", "choices": ["vxlan", "host-gw"], "default": "vxlan"},
    "dns_servers": {"type": "list", "elements": "str", "default": []},
    "ignore_preflight_errors": {"type": "list", "elements": "str", "default": []},
}


def _settings(params: t.Mapping[str, t.Any]) -> _kubernetes_control_plane.Settings:
    values: dict[str, t.Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in params.items()
    }
    values["ignored"] = values.pop("ignore_preflight_errors")
    return _kubernetes_control_plane.Settings(**values)


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    host = _kubernetes_control_plane.ControlPlaneHost(check=module.check_mode)
    try:
        outcome = host.present(_settings({name: module.params[name] for name in ARGUMENT_SPEC}))
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, actions=outcome.actions)


if __name__ == "__main__":
    main()
