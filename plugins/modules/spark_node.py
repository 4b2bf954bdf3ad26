#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module spark_node."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: spark_node
short_description: Gives a node of a cluster its directory for shuffle data that outlives Spark's executors
description:
  - Makes the directory for the user that executors and the shuffle service run as, and for nobody else. One that holds
    anything that is not Spark's is refused.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) removes what Spark wrote there, and the directory if this module made it.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description: The directory, on a file system with room for all shuffle data of the node.
    type: path
    required: true
  user:
    description: Number of the user whose it is.
    type: int
    default: 185
attributes:
  check_mode:
    description: Can run in check mode and predict what would change.
    support: full
  diff_mode:
    description: Shows the directory and actions.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Have a directory for shuffle data
  slipway.platform.spark_node:
    directory: /var/lib/spark-shuffle
"""

RETURN = r"""
actions:
  description: What was done besides the directory itself.
  returned: always
  type: list
  elements: str
  sample: []
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark_node
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "directory": {"type": "path", "required": True},
    "user": {"type": "int", "default": 185},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    node, params = _spark_node.SparkNode(check=module.check_mode), module.params
    try:
        if params["state"] == "absent":
            outcome = node.absent(params["directory"])
        else:
            outcome = node.present(params["directory"], params["user"])
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, actions=outcome.actions)


if __name__ == "__main__":
    main()
