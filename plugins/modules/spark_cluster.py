#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module spark_cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: spark_cluster
short_description: Makes the namespace of a cluster in which Spark's applications run
description:
  - Keeps a namespace under Pod Security V(restricted) with the accounts of drivers and of those who submit, their
    rights, quotas and limits, and the secret for pulls. What an earlier call made and this one does not want goes.
    Runs where C(/etc/kubernetes/admin.conf) is.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) deletes the namespace, and every application in it.
    type: str
    choices: [present, absent]
    default: present
  namespace:
    description: Name of the namespace. One that is there already and was not made by this module is refused.
    type: str
    required: true
  registry:
    description: Where images come from, if that needs a login.
    type: dict
    suboptions:
      host:
        description: Host and port, as images begin.
        type: str
        required: true
      user:
        description: Who pulls.
        type: str
        required: true
      password:
        description: Its password.
        type: str
        required: true
  quota:
    description: C(hard) of a ResourceQuota; empty for none.
    type: dict
    default: {}
  limits:
    description: C(limits) of a LimitRange; empty for none.
    type: list
    elements: dict
    default: []
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
- name: Have a place for applications
  slipway.platform.spark_cluster:
    namespace: spark
    quota:
      limits.memory: 64Gi
  delegate_to: control
  no_log: true
"""

RETURN = r"""
told:
  description: C(token) and C(authority) of the account that submits. A task that keeps them needs C(no_log).
  returned: with O(state=present)
  type: dict
  sample: {}
actions:
  description: What was done.
  returned: always
  type: list
  elements: str
  sample: [created namespace/spark]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

REGISTRY_SPEC: dict[str, t.Any] = {
    "host": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "namespace": {"type": "str", "required": True},
    "registry": {"type": "dict", "options": REGISTRY_SPEC},
    "quota": {"type": "dict", "default": {}},
    "limits": {"type": "list", "elements": "dict", "default": []},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    cluster, params = _spark.SparkCluster(check=module.check_mode), module.params
    try:
        if params["state"] == "absent":
            outcome = cluster.absent(params["namespace"])
        else:
            settings = _spark.Settings(
                namespace=params["namespace"],
                registry=params["registry"] or {},
                quota={name: str(value) for name, value in params["quota"].items()},
                limits=tuple(params["limits"]),
            )
            outcome = cluster.present(settings)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, told=outcome.told, actions=outcome.actions)


if __name__ == "__main__":
    main()
