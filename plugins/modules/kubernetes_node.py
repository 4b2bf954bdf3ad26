#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module kubernetes_node."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_node
short_description: Makes a machine ready for Kubernetes, lets it join a cluster, and lets it leave again
description:
  - Brings the kernel's modules and settings, the package source, kubeadm, kubelet and kubectl at a version, and this
    machine's part of the kubelet's configuration to their wanted state.
  - With O(join), joins the cluster. A machine that has joined is left alone; one of another cluster, a clone, and one
    with leftovers of a cluster are refused before anything changes. Nothing is ever reset with O(state=present).
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) leaves the cluster if it was this module that joined it, and undoes everything.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the node in the cluster. Needed with O(state=present).
    type: str
    default: ""
  version:
    description: Shell pattern that the version of the packages has to match; the newest match is installed and held.
    type: str
    default: "*"
  url:
    description: Address of the flat package repository of one minor version. Needed with O(state=present).
    type: str
    default: ""
  key:
    description: The armoured public key itself that signs the repository. Needed with O(state=present).
    type: str
    default: ""
  authority:
    description: SHA-256 of the cluster's CA certificate, as M(slipway.platform.kubernetes_cluster) tells it.
    type: str
    default: ""
  cluster:
    description: The cluster's version, as M(slipway.platform.kubernetes_cluster) tells it; O(version) has to fit.
    type: str
    default: ""
  upgrade:
    description:
      - Packages that may change their version on a machine that has joined. The others stay, held, at the version that
        they have, whatever O(version) says, and a warning says so.
    type: list
    elements: str
    choices: [kubeadm, kubectl, kubelet]
    default: []
  kubelet:
    description: Keys of C(KubeletConfiguration) for this machine; they win over those of the cluster.
    type: dict
    default: {}
  dns_servers:
    description: DNS servers for pods that ask for the node's own, such as CoreDNS. None leaves it to the machine's.
    type: list
    elements: str
    default: []
  dns_search:
    description: Search domains beside O(dns_servers).
    type: list
    elements: str
    default: []
  dns_options:
    description: Options of resolv.conf(5) beside O(dns_servers).
    type: list
    elements: str
    default: []
  join:
    description: How to join the cluster. Without it the machine is only made ready.
    type: dict
    suboptions:
      token:
        description: Bootstrap token. It stands in a file for root only while kubeadm runs.
        type: str
        required: true
      endpoint:
        description: Host and port of the API server.
        type: str
        required: true
      hashes:
        description: Hashes of the CA's public key, which pin it (C(sha256:) and 64 hex digits).
        type: list
        elements: str
        required: true
      taints:
        description: Taints that the node has from its first moment.
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
      ignore_preflight_errors:
        description: Checks of kubeadm that may fail.
        type: list
        elements: str
        default: []
attributes:
  check_mode:
    description: Can run in check mode, also on a host where nothing is installed yet.
    support: full
  diff_mode:
    description: Shows files, packages and actions; the token never.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Make a machine ready for Kubernetes
  slipway.platform.kubernetes_node:
    name: node7
    version: 1.34.*
    url: https://pkgs.k8s.io/core:/stable:/v1.34/deb
    key: "{{ lookup('file', 'kubernetes.asc') }}"
"""

RETURN = r"""
joined:
  description: Whether the machine is a node now.
  returned: always
  type: bool
  sample: true
gpu:
  description: Whether an NVIDIA GPU is on the machine's PCI bus, with a driver or without.
  returned: always
  type: bool
  sample: false
changed_paths:
  description: Paths that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/default/kubelet]
removed_paths:
  description: Paths that were removed or given back what was there before.
  returned: always
  type: list
  elements: str
  sample: []
packages:
  description: What was done to packages.
  returned: always
  type: list
  elements: str
  sample: [install kubelet 1.34.*, hold kubelet]
actions:
  description: What was done besides.
  returned: always
  type: list
  elements: str
  sample: ["join the cluster at control.corp.lab:6443"]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes_node
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
TAINT_SPEC: dict[str, t.Any] = {
    "key": {"type": "str", "required": True, "no_log": False},
    "value": {"type": "str", "default": ""},
    "effect": {"type": "str", "choices": EFFECTS, "required": True},
}
JOIN_SPEC: dict[str, t.Any] = {
    "token": {"type": "str", "required": True, "no_log": True},
    "endpoint": {"type": "str", "required": True},
    "hashes": {"type": "list", "elements": "str", "required": True},
    "taints": {"type": "list", "elements": "dict", "default": [], "options": TAINT_SPEC},
    "ignore_preflight_errors": {"type": "list", "elements": "str", "default": []},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "name": {"type": "str", "default": ""},
    "version": {"type": "str", "default": "*"},
    "url": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": False},
    "authority": {"type": "str", "default": ""},
    "cluster": {"type": "str", "default": ""},
    "upgrade": {
        "type": "list",
        "elements": "str",
        "choices": list(_kubernetes_node.PACKAGES),
        "default": [],
    },
    "kubelet": {"type": "dict", "default": {}},
    "dns_servers": {"type": "list", "elements": "str", "default": []},
    "dns_search": {"type": "list", "elements": "str", "default": []},
    "dns_options": {"type": "list", "elements": "str", "default": []},
    "join": {"type": "dict", "options": JOIN_SPEC},
}


def _settings(params: t.Mapping[str, t.Any]) -> _kubernetes_node.Settings:
    values: dict[str, t.Any] = {
        name: params[name] for name in ("name", "version", "url", "key", "authority", "cluster", "kubelet")
    }
    values |= {name: tuple(params[name]) for name in ("upgrade", "dns_servers", "dns_search", "dns_options")}
    return _kubernetes_node.Settings(**values)


def _join(params: t.Mapping[str, t.Any] | None) -> _kubernetes_node.Join | None:
    if params is None:
        return None
    return _kubernetes_node.Join(
        token=params["token"],
        endpoint=params["endpoint"],
        hashes=tuple(params["hashes"]),
        taints=tuple(params["taints"]),
        ignored=tuple(params["ignore_preflight_errors"]),
    )


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    host = _kubernetes_node.NodeHost(check=module.check_mode)
    try:
        if module.params["state"] == "present":
            outcome = host.present(_settings(module.params), _join(module.params["join"]))
        else:
            outcome = host.absent()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    if outcome.kept:
        stays = ", ".join(f"{name} {version}" for name, version in sorted(outcome.kept.items()))
        module.warn(
            f"{module.params['name']} keeps {stays}, although kubernetes_node_version is {module.params['version']}: "
            "only playbooks/upgrade.yml changes the version of a node."
        )
    module.exit_json(
        changed=outcome.changed,
        diff=outcome.diffs,
        joined=outcome.joined,
        gpu=outcome.gpu,
        changed_paths=outcome.changed_paths,
        removed_paths=outcome.removed_paths,
        packages=outcome.packages,
        actions=outcome.actions,
    )


if __name__ == "__main__":
    main()
