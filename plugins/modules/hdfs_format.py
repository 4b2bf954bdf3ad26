#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module hdfs_format."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hdfs_format
short_description: Formats the directories of a NameNode exactly once, and refuses where something would be lost
description:
  - With O(state=looked), says which file systems the directories of any daemon belong to.
  - With O(state=present), formats a NameNode's directories when neither they, nor this machine's mark, nor a DataNode
    know of a file system. Directories that were lost are refused; they come back by a restore.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: Whether to look, to say what would have to be done (V(planned)), or to format.
    type: str
    choices: [looked, planned, present]
    default: present
  directories:
    description: Directories of the daemon.
    type: list
    elements: path
    required: true
  checkpoints:
    description: Directories with checkpoints on this machine; one with a file system forbids to format.
    type: list
    elements: path
    default: []
  command:
    description: What starts the NameNode's program as its user.
    type: list
    elements: str
    default: []
  holders:
    description: IDs that were found on other machines, by a name for messages; any ID forbids to format.
    type: dict
    default: {}
  failover:
    description: Whether this is one of two NameNodes.
    type: bool
    default: false
  other:
    description: Whether the other NameNode has the file system and runs. Directories without one get it from there.
    type: bool
    default: false
  journals:
    description: IDs that were found on JournalNodes, by their names. They forbid to format, too.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Predicts, and refuses as always.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Format the NameNode, once
  slipway.platform.hdfs_format:
    directories: [/srv/hdfs/name]
    command: [runuser, -u, hdfs, --, /usr/bin/java, -cp, "{{ classpath }}", "{{ class }}"]
"""

RETURN = r"""
clusters:
  description: IDs of the file systems that the directories belong to.
  returned: success
  type: list
  elements: str
  sample: [CID-5d4e2a3c-7b1c-4b1e-9d1a-0c7d6f6f2c11]
new:
  description: Whether there is no file system yet.
  returned: success
  type: bool
  sample: false
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_format, _hdfs_service
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["looked", "planned", "present"], "default": "present"},
    "directories": {"type": "list", "elements": "path", "required": True},
    "checkpoints": {"type": "list", "elements": "path", "default": []},
    "command": {"type": "list", "elements": "str", "default": []},
    "holders": {"type": "dict", "default": {}},
    "failover": {"type": "bool", "default": False},
    "other": {"type": "bool", "default": False},
    "journals": {"type": "dict", "default": {}},
}


def _present(params: t.Mapping[str, t.Any], *, check: bool) -> dict[str, t.Any]:
    formatter = _hdfs_format.Formatter(
        **{name: params[name] for name in ("directories", "command", "checkpoints", "failover", "other")}
    )
    state, cluster = formatter.state()
    if state == "formatted":
        changed = params["state"] == "present" and _settled(formatter, cluster, params, check=check)
        return {"changed": changed, "clusters": [cluster], "new": False}
    if params["state"] == "planned":
        return {"changed": False, "clusters": [], "new": True}
    if not params["other"]:
        formatter.refuse_over(params["holders"], params["journals"])
    if check:
        return {"changed": True, "clusters": [], "new": True}
    made = formatter.take_over(_hdfs_service.UNITS["namenode"]) if params["other"] else formatter.format()
    return {"changed": True, "clusters": [made], "new": False}


def _settled(formatter: _hdfs_format.Formatter, cluster: str, params: t.Mapping[str, t.Any], *, check: bool) -> bool:
    """Share and remember a file system that is there; tell whether that was anything new."""
    shares = params["failover"] and formatter.shares(params["journals"])
    if shares and not check:
        formatter.share(_hdfs_service.UNITS["namenode"])
    return formatter.adopt(cluster, check=check) or shares


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        if module.params["state"] == "looked":
            found = sorted(set(_hdfs_format.cluster_ids(module.params["directories"]).values()))
            module.exit_json(changed=False, clusters=found, new=not found)
        result = _present(module.params, check=module.check_mode)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
