#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module hdfs_cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hdfs_cluster
short_description: Lets DataNodes come and go, and keeps directories in HDFS
description:
  - With O(state=listed), writes the NameNode's lists of DataNodes and has it read them again. Refuses to drop a
    DataNode that still has blocks.
  - With O(state=settled), waits until files can be written, makes directories, and waits for DataNodes that are being
    decommissioned. An action plugin on the controller shows how many blocks they still have to hand over.
  - Runs on the NameNode's machine and asks it over HTTP.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: Whether to write the lists, or to settle what is in the file system.
    type: str
    choices: [listed, settled]
    required: true
  address:
    description: Host and port of the NameNode's pages.
    type: str
    required: true
  others:
    description: The same of further NameNodes. With O(state=settled), that one is asked which is active.
    type: list
    elements: str
    default: []
  user:
    description: HDFS' superuser.
    type: str
    default: hdfs
  datanodes:
    description: The DataNodes.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name that all machines resolve.
        type: str
        required: true
      machine:
        description: Name in the inventory; of no use here.
        type: str
      rack:
        description: Where it stands, such as V(/room1/rack3).
        type: str
        default: ""
      decommission:
        description: Whether its blocks move to the others, so that it can leave.
        type: bool
        default: false
  refresh:
    description: Command that has the NameNode read its lists again, with O(state=listed).
    type: list
    elements: str
    default: []
  users:
    description: Who gets C(/user/NAME). C(/user) and C(/tmp) are made in any case.
    type: list
    elements: str
    default: []
  directories:
    description: Directories in HDFS.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      owner:
        description: Owner. Empty takes the superuser.
        type: str
        default: ""
      group:
        description: Group. Empty takes the owner's name.
        type: str
        default: ""
      mode:
        description: Permissions in octal digits.
        type: str
        default: "0755"
  timeout:
    description: Seconds until safe mode is an error.
    type: int
    default: 600
  decommission_timeout:
    description: Seconds until DataNodes that do not get rid of their blocks are an error.
    type: int
    default: 43200
  slice:
    description: Seconds that one call waits for them; the action plugin calls again.
    type: int
    default: 10
attributes:
  check_mode:
    description: Predicts; where no NameNode answers, only its files.
    support: full
  diff_mode:
    description: Shows the lists.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Make home directories, and wait for DataNodes that leave
  slipway.platform.hdfs_cluster:
    state: settled
    address: control.corp.lab:9870
    datanodes:
      - {name: node1.corp.lab, rack: /rack1}
      - {name: node2.corp.lab, rack: /rack2, decommission: true}
    directories:
      - {path: /user/ada, owner: ada, mode: "0750"}
"""

RETURN = r"""
actions:
  description: What was done.
  returned: success
  type: list
  elements: str
  sample: [make /user/ada]
leaving:
  description: DataNodes that still have blocks to hand over, with how many.
  returned: state is settled
  type: dict
  sample: {}
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_cluster, _hdfs_web
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["listed", "settled"], "required": True},
    "address": {"type": "str", "required": True},
    "others": {"type": "list", "elements": "str", "default": []},
    "user": {"type": "str", "default": "hdfs"},
    "datanodes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "machine": {"type": "str"},
            "rack": {"type": "str", "default": ""},
            "decommission": {"type": "bool", "default": False},
        },
    },
    "refresh": {"type": "list", "elements": "str", "default": []},
    "users": {"type": "list", "elements": "str", "default": []},
    "directories": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "owner": {"type": "str", "default": ""},
            "group": {"type": "str", "default": ""},
            "mode": {"type": "str", "default": "0755"},
        },
    },
    "timeout": {"type": "int", "default": 600},
    "decommission_timeout": {"type": "int", "default": 43200},
    "slice": {"type": "int", "default": 10},
}


def _members(params: t.Mapping[str, t.Any]) -> list[_hdfs_cluster.Member]:
    return [
        _hdfs_cluster.Member(name=item["name"], rack=item["rack"], decommission=item["decommission"])
        for item in params["datanodes"]
    ]


def _directories(params: t.Mapping[str, t.Any]) -> list[_hdfs_cluster.Directory]:
    homes = [{"path": f"/user/{name}", "owner": name, "mode": "0750"} for name in params["users"]]
    common = [{"path": "/user", "mode": "0755"}, {"path": "/tmp", "mode": "1777"}]
    found = []
    for item in [*common, *homes, *params["directories"]]:
        owner = item.get("owner") or params["user"]
        group = item.get("group") or owner
        found.append(_hdfs_cluster.Directory(path=item["path"], owner=owner, group=group, mode=item["mode"]))
    return found


def _settled(cluster: _hdfs_cluster.Cluster, module: Module) -> dict[str, t.Any]:
    params, members = module.params, _members(module.params)
    addresses = [params["address"], *params["others"]]
    if module.check_mode and _hdfs_web.active_view(addresses) is None:
        return {"changed": False, "actions": [], "leaving": {}}
    if params["others"]:
        cluster.serve_from(_hdfs_web.wait_for_active(addresses, seconds=params["timeout"]))
    view = cluster.out_of_safe_mode(params["timeout"])
    actions = cluster.directories(_directories(params))
    for sentence in _hdfs_cluster.problems(members, view):
        module.warn(sentence)
    leaving = cluster.leaving(members, 0 if module.check_mode else params["slice"])
    return {"changed": bool(actions), "actions": actions, "leaving": leaving}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    cluster = _hdfs_cluster.Cluster(module.params["address"], module.params["user"], check=module.check_mode)
    try:
        if module.params["state"] == "listed":
            outcome = cluster.listed(_members(module.params), module.params["refresh"])
            result = {"changed": outcome.changed, "diff": outcome.diffs, "actions": outcome.actions}
        else:
            result = _settled(cluster, module)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
