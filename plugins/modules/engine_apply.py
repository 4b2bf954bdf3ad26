#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module engine_apply."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: engine_apply
short_description: Restarts a container engine only if it runs with other inputs than those on disk
description:
  - Compares what the running Docker or containerd was started with (configuration, systemd drop-ins, proxy
    environment files, the trust store) with what is on disk, and reloads or restarts it where they differ.
  - An engine that refuses its configuration gets the last good one back and keeps running; the module then fails with
    the engine's own reason. An engine that is not installed or does not run is left alone.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  engines:
    description: Engines to look at, in this order.
    type: list
    elements: str
    choices: [containerd, docker]
    required: true
attributes:
  check_mode:
    description: Can run in check mode and predict restarts for files that are already on disk.
    support: full
  diff_mode:
    description: Shows which engine is restarted or reloaded, and why.
    support: full
  idempotent:
    description: A second run restarts nothing.
    support: full
"""

EXAMPLES = r"""
- name: Let the engines take over a new proxy
  slipway.platform.engine_apply:
    engines: [containerd, docker]
"""

RETURN = r"""
applied:
  description: What was done to each engine that was touched, and why.
  returned: always
  type: dict
  sample: {docker: "restarted: /etc/docker/daemon.json changed"}
"""

from ansible_collections.slipway.platform.plugins.module_utils import _engines
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module
from ansible_collections.slipway.platform.plugins.module_utils._run import run


def _words(applied: _engines.Applied) -> str:
    verb = "started" if applied.started else "restarted" if applied.restarted else "reloaded"
    return f"{verb}: {applied.reason}"


def main() -> None:
    """Run the module."""
    module = Module(
        argument_spec={
            "engines": {"type": "list", "elements": "str", "choices": ["containerd", "docker"], "required": True}
        },
        supports_check_mode=True,
    )
    done = {}
    try:
        for name in module.params["engines"]:
            applied = _engines.apply(run, name, check=module.check_mode)
            if applied.changed:
                done[name] = _words(applied)
    except HostError as exc:
        module.fail_json(msg=str(exc), applied=done)
    after = "".join(f"{name} {words}\n" for name, words in done.items())
    module.exit_json(changed=bool(done), applied=done, diff={"before": "", "after": after})


if __name__ == "__main__":
    main()
