#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module converged."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: converged
short_description: Tells whether a machine is still as the last good run with the same input left it
description:
  - With O(record=false), compares packages, files, units, group members and the containers of
    M(slipway.platform.container_stack) with what the last good run recorded.
    A play can end early for a machine where nothing differs; every other machine gets the roles as always.
  - With O(record=true), records them. A play does so after its last role and its handlers.
  - The record is C(/var/lib/slipway/converged.json), readable by root only. It is about this collection's own work;
    deleting it costs one full run.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  key:
    description: Name of what has been converged, one per play.
    type: str
    required: true
  digest:
    description: Digest of the input, as M(slipway.platform.validate) returns it.
    type: str
    required: true
  record:
    description: Whether to record the present state instead of comparing it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Compares in check mode as always; records nothing then.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Never reports a change, since the record is about the machine and not of it.
    support: full
"""

EXAMPLES = r"""
- name: See whether this machine is as the last run left it
  slipway.platform.converged:
    key: nodes
    digest: "{{ slipway_input.digest }}"
  register: slipway_converged

- name: Leave it alone then
  ansible.builtin.meta: end_host
  when: slipway_converged.unchanged
"""

RETURN = r"""
unchanged:
  description: Whether the machine is as recorded, for the same input.
  returned: always
  type: bool
  sample: true
reasons:
  description: What differs, by name; never by content.
  returned: always
  type: list
  elements: str
  sample: [/etc/docker/daemon.json, unit docker.service]
owners:
  description: Roles that have something on the machine, so that a play asks only those to take it back.
  returned: always
  type: list
  elements: str
  sample: [docker_engine, registry]
"""

from ansible_collections.slipway.platform.plugins.module_utils import _converged
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module


def main() -> None:
    """Run the module."""
    module = Module(
        argument_spec={
            "key": {"type": "str", "required": True, "no_log": False},
            "digest": {"type": "str", "required": True},
            "record": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    key, digest = module.params["key"], module.params["digest"]
    reasons: list[str] = []
    try:
        if not module.params["record"]:
            reasons = _converged.check(key, digest)
        elif not module.check_mode:
            _converged.record(key, digest)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, unchanged=not reasons, reasons=reasons, owners=_converged.owners())


if __name__ == "__main__":
    main()
