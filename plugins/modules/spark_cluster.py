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
    description:
      - V(absent) deletes the namespace, and every application in it.
      - V(swept) deletes what is left of a shuffle service that is wanted no more. It is called after no node has data
        of it any more (M(slipway.platform.spark_node)), so that the next run finishes one that was interrupted.
    type: str
    choices: [present, absent, swept]
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
  shuffle:
    description:
      - A shuffle service on every node that may run executors, in a namespace of its own, and an admission policy that
        leaves executors no more than it needs. Without it, one that is there goes; where applications that run use it,
        that is refused.
    type: dict
    suboptions:
      image:
        description: Image with Spark and Python, as executors have it.
        type: str
        required: true
      janitor:
        description: Text of the program that removes the files of applications that are gone.
        type: str
        required: true
      directory:
        description: The nodes' directory, as M(slipway.platform.spark_node) made it.
        type: path
        required: true
      port:
        description: The service's port on every node.
        type: int
        default: 7337
      user:
        description: Number of the user whom service and executors run as.
        type: int
        default: 185
      memory:
        description: Heap of the service, as Java writes it.
        type: str
        default: 512m
      janitor_seconds:
        description: How often the janitor looks.
        type: int
        default: 60
      node_selector:
        description: Labels of the nodes on which executors run.
        type: dict
        default: {}
      tolerations:
        description: Tolerations of executors.
        type: list
        elements: dict
        default: []
  history:
    description: The history server, which shows applications after their end. Without it, one that is there goes.
    type: dict
    suboptions:
      image:
        description: Image with Spark.
        type: str
        required: true
      directory:
        description: Address of the directory of event logs. It has to be there.
        type: str
        required: true
      memory:
        description: Heap of the server, as Java writes it.
        type: str
        default: 1g
      days:
        description: How long event logs are kept.
        type: int
        default: 30
      node_port:
        description: Port on every node of the cluster; V(0) for an address within the cluster only.
        type: int
        default: 0
      hadoop:
        description: Hadoop's client configuration, from the name of a file to its text.
        type: dict
        default: {}
      node_selector:
        description: Labels of the nodes on which it may run.
        type: dict
        default: {}
      tolerations:
        description: Its tolerations.
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
leaving:
  description: Whether nodes may hold data of a shuffle service that is gone.
  returned: always
  type: bool
actions:
  description: What was done.
  returned: always
  type: list
  elements: str
  sample: [created namespace/spark]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark, _spark_history, _spark_shuffle
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

REGISTRY_SPEC: dict[str, t.Any] = {
    "host": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
}
SHUFFLE_SPEC: dict[str, t.Any] = {
    "image": {"type": "str", "required": True},
    "janitor": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "port": {"type": "int", "default": 7337},
    "user": {"type": "int", "default": 185},
    "memory": {"type": "str", "default": "512m"},
    "janitor_seconds": {"type": "int", "default": 60},
    "node_selector": {"type": "dict", "default": {}},
    "tolerations": {"type": "list", "elements": "dict", "default": []},
}
HISTORY_SPEC: dict[str, t.Any] = {
    "image": {"type": "str", "required": True},
    "directory": {"type": "str", "required": True},
    "memory": {"type": "str", "default": "1g"},
    "days": {"type": "int", "default": 30},
    "node_port": {"type": "int", "default": 0},
    "hadoop": {"type": "dict", "default": {}},
    "node_selector": {"type": "dict", "default": {}},
    "tolerations": {"type": "list", "elements": "dict", "default": []},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent", "swept"], "default": "present"},
    "namespace": {"type": "str", "required": True},
    "registry": {"type": "dict", "options": REGISTRY_SPEC},
    "quota": {"type": "dict", "default": {}},
    "limits": {"type": "list", "elements": "dict", "default": []},
    "shuffle": {"type": "dict", "options": SHUFFLE_SPEC},
    "history": {"type": "dict", "options": HISTORY_SPEC},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    cluster, params = _spark.SparkCluster(check=module.check_mode), module.params
    try:
        if params["state"] == "absent":
            outcome = cluster.absent(params["namespace"])
        elif params["state"] == "swept":
            outcome = cluster.swept(params["namespace"])
        else:
            settings = _spark.Settings(
                namespace=params["namespace"],
                registry=params["registry"] or {},
                quota={name: str(value) for name, value in params["quota"].items()},
                limits=tuple(params["limits"]),
                shuffle=_shuffle(params),
                history=_history(params),
            )
            outcome = cluster.present(settings)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    told = {"told": outcome.told, "leaving": outcome.leaving, "actions": outcome.actions}
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, **told)


SHUFFLE_PLAIN = "image janitor directory port user memory janitor_seconds"
HISTORY_PLAIN = "image directory memory days node_port hadoop"


def _shuffle(params: t.Mapping[str, t.Any]) -> _spark_shuffle.Settings | None:
    found = params["shuffle"]
    return _spark_shuffle.Settings(**_common(params, found, SHUFFLE_PLAIN)) if found else None


def _history(params: t.Mapping[str, t.Any]) -> _spark_history.Settings | None:
    found = params["history"]
    return _spark_history.Settings(**_common(params, found, HISTORY_PLAIN)) if found else None


def _common(params: t.Mapping[str, t.Any], found: t.Mapping[str, t.Any], plain: str) -> dict[str, t.Any]:
    return {
        **{name: found[name] for name in plain.split()},
        "pull_secret": _spark.PULL if params["registry"] else "",
        "node_selector": {name: str(value) for name, value in found["node_selector"].items()},
        "tolerations": tuple(found["tolerations"]),
    }


if __name__ == "__main__":
    main()
