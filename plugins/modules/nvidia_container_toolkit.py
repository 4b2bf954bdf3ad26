#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module nvidia_container_toolkit."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: nvidia_container_toolkit
short_description: Installs NVIDIA's container toolkit and registers its runtime with Docker and containerd
description:
  - Brings NVIDIA's package source, the toolkit at a version, the refresh of its CDI specs and the runtime C(nvidia) in
    C(daemon.json) and containerd's C(config.toml) to their wanted state. The running engines are left alone;
    M(slipway.platform.engine_apply) or the engines' own roles make them take their files over.
  - Never calls C(nvidia-ctk runtime configure), which edits files that other roles own.
  - Tells what GPUs the machine has, as the fact C(slipway_nvidia). Installs no driver.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) undoes everything; both engines get the configuration back that they had without it.
    type: str
    choices: [present, absent]
    default: present
  version:
    description: Shell pattern that the version of all four packages has to match; the newest match is installed.
    type: str
    default: "*"
  url:
    description: Address of NVIDIA's repository, without the architecture. Needed with O(state=present).
    type: str
    default: ""
  key:
    description: The armoured public key itself that signs the repository. Needed with O(state=present).
    type: str
    default: ""
  engines:
    description: Engines that get the runtime C(nvidia).
    type: list
    elements: str
    choices: [docker, containerd]
    default: [docker, containerd]
  default_runtime:
    description: Whether the runtime C(nvidia) is the engines' default one, on machines that have a GPU.
    type: bool
    default: false
  gpu:
    description: Whether the machine has a GPU. V(auto) looks for NVIDIA's display controllers on the PCI bus.
    type: str
    choices: [auto, present, absent]
    default: auto
  require_gpu:
    description: Fail before anything changes where there is no GPU, or no driver that answers.
    type: bool
    default: false
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
- name: Give containers the GPUs of this machine
  slipway.platform.nvidia_container_toolkit:
    version: 1.20.*
    url: https://nvidia.github.io/libnvidia-container/stable/deb
    key: "{{ lookup('file', 'nvidia.asc') }}"
"""

RETURN = r"""
ansible_facts:
  description: What the machine has, whether or not the toolkit can use it.
  returned: with O(state=present)
  type: dict
  contains:
    slipway_nvidia:
      description: The driver's version (empty without one), its GPUs, their PCI addresses and the CDI devices.
      type: dict
      sample:
        driver: 580.105.08
        gpus: [{index: 0, uuid: GPU-00000000-0000-0000-0000-000000000000, name: NVIDIA L4, minor: 0}]
        pci: ["0000:01:00.0"]
        cdi_devices: [nvidia.com/gpu=0, nvidia.com/gpu=all]
changed_paths:
  description: Paths that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/apt/sources.list.d/slipway-nvidia.sources]
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
  sample: [install nvidia-container-toolkit 1.20.*, hold nvidia-container-toolkit]
actions:
  description: What was done besides, with the reason.
  returned: always
  type: list
  elements: str
  sample: ["start nvidia-cdi-refresh.service: /var/run/cdi/nvidia.yaml is not what the driver gives now"]
"""

from ansible_collections.slipway.platform.plugins.module_utils import _nvidia
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ENGINES = ["docker", "containerd"]
ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "version": {"type": "str", "default": "*"},
    "url": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": False},
    "engines": {"type": "list", "elements": "str", "choices": ENGINES, "default": ENGINES},
    "default_runtime": {"type": "bool", "default": False},
    "gpu": {"type": "str", "choices": ["auto", "present", "absent"], "default": "auto"},
    "require_gpu": {"type": "bool", "default": False},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    host = _nvidia.NvidiaHost(check=module.check_mode)
    settings = {name: value for name, value in module.params.items() if name != "state"}
    try:
        if module.params["state"] == "present":
            outcome = host.present(_nvidia.Settings(**{**settings, "engines": tuple(settings["engines"])}))
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
        ansible_facts={"slipway_nvidia": outcome.found.facts()} if module.params["state"] == "present" else {},
    )


if __name__ == "__main__":
    main()
