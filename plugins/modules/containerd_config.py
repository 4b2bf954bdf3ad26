#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module containerd_config."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: containerd_config
short_description: Installs and configures containerd with a CRI plugin that answers
description:
  - Brings the package, C(/etc/containerd/config.toml) in the format of the installed version, and the unit to the
    wanted state, restarts containerd if it runs with something else, and asks it whether its CRI plugin works.
  - A configuration that containerd refuses is replaced by the last good one.
  - Registries in a configuration that was there before move to C(/etc/containerd/certs.d).
  - What other roles want of CRI's runtime table (C(/etc/slipway/containerd/config.toml.d)) is merged in.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description:
      - V(absent) gives back what was there before. The package stays where Docker needs it; data stays always.
    type: str
    choices: [present, absent]
    default: present
  version:
    description: Shell pattern that the package's version has to match; its first number chooses the format.
    type: str
    default: "*"
  sandbox_image:
    description: Image of the container that holds a pod's namespaces.
    type: str
    default: registry.k8s.io/pause:3.10
  systemd_cgroup:
    description: Whether containers get their cgroups from systemd, which has to agree with the kubelet.
    type: bool
    default: true
  restrict_oom_score_adj:
    description: Whether containerd keeps to its own OOM score where it may not lower it.
    type: bool
    default: false
  cni_bin_dir:
    description: Where CNI plugins are.
    type: path
    default: /opt/cni/bin
  options:
    description: More keys of config.toml as nested maps; they win over the rest.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Can run in check mode, also on a host where nothing is installed yet.
    support: full
  diff_mode:
    description: Shows files, packages and actions.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Run containerd for Kubernetes
  slipway.platform.containerd_config:
    version: 1.7.*
    sandbox_image: registry.example.net:6001/pause:3.10
"""

RETURN = r"""
changed_paths:
  description: Paths that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/containerd/config.toml]
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
  sample: [hold containerd]
actions:
  description: What was done besides, such as a restart, with the reason.
  returned: always
  type: list
  elements: str
  sample: ["restarted containerd: /etc/containerd/config.toml changed"]
"""

from ansible_collections.slipway.platform.plugins.module_utils import _containerd
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "version": {"type": "str", "default": "*"},
    "sandbox_image": {"type": "str", "default": "registry.k8s.io/pause:3.10"},
    "systemd_cgroup": {"type": "bool", "default": True},
    "restrict_oom_score_adj": {"type": "bool", "default": False},
    "cni_bin_dir": {"type": "path", "default": "/opt/cni/bin"},
    "options": {"type": "dict", "default": {}},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    host = _containerd.ContainerdHost(check=module.check_mode)
    settings = {name: value for name, value in module.params.items() if name != "state"}
    try:
        if module.params["state"] == "present":
            outcome = host.present(_containerd.Settings(**settings))
        else:
            outcome = host.absent()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(
        changed=outcome.changed,
        diff=outcome.diffs,
        changed_paths=outcome.changed_paths,
        removed_paths=outcome.removed_paths,
        packages=outcome.packages,
        actions=outcome.actions,
    )


if __name__ == "__main__":
    main()
