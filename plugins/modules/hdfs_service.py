#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module hdfs_service."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hdfs_service
short_description: Keeps one of HDFS' daemons running with its present configuration, and proves that it works
description:
  - Starts the daemon's unit, or restarts it where its files have changed since, and waits until the daemon itself says
    that it serves. A DataNode does when the NameNode has taken it in.
  - Refuses a name that is a loopback address on the machine, since the daemon would listen there only.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  component:
    description: The daemon.
    type: str
    choices: [namenode, secondary, datanode, journalnode, zookeeper, zkfc]
    required: true
  state:
    description:
      - V(retired) stops a DataNode once the NameNode calls it decommissioned, and until then leaves it alone.
    type: str
    choices: [started, retired]
    default: started
  host:
    description: Name of the machine, to which the daemon is bound.
    type: str
    required: true
  port:
    description: Port of the daemon's pages, or of its service where it has none.
    type: int
    required: true
  namenodes:
    description: Host and port of the pages of each NameNode, for O(state=retired).
    type: list
    elements: str
    default: []
  inputs:
    description: Globs of the files that the daemon reads when it starts.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds until a daemon that does not work is an error. A NameNode with many files takes minutes.
    type: int
    default: 300
attributes:
  check_mode:
    description: Predicts.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Run the DataNode
  slipway.platform.hdfs_service:
    component: datanode
    host: node1.corp.lab
    port: 9864
    inputs: [/etc/slipway/hdfs/datanode/*]
"""

RETURN = r"""
actions:
  description: What was done to the unit.
  returned: success
  type: list
  elements: str
  sample: [start slipway-hdfs-datanode.service]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_service, _hdfs_web
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "component": {"type": "str", "choices": list(_hdfs_service.COMPONENTS), "required": True},
    "state": {"type": "str", "choices": ["started", "retired"], "default": "started"},
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "namenodes": {"type": "list", "elements": "str", "default": []},
    "inputs": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 300},
}


def _retired(daemon: _hdfs_service.Daemon, params: t.Mapping[str, t.Any], *, check: bool) -> list[str]:
    view = _hdfs_web.active_view(params["namenodes"])
    if view is None:
        raise HostError(f"no NameNode serves at {' or '.join(params['namenodes'])}: {params['host']} was left running")
    node = view.nodes.get(params["host"])
    return daemon.stopped(check=check) if node is None or node.state == "Decommissioned" else []


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    daemon = _hdfs_service.Daemon(
        component=params["component"],
        address=f"{params['host']}:{params['port']}",
        inputs=tuple(params["inputs"]),
        seconds=params["timeout"],
    )
    try:
        if params["state"] == "retired":
            actions = _retired(daemon, params, check=module.check_mode)
        else:
            _hdfs_service.refuse_loopback(params["host"])
            actions = daemon.started(check=module.check_mode)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=bool(actions), actions=actions)


if __name__ == "__main__":
    main()
