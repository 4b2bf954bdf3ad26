#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module hdfs_checkpoint."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hdfs_checkpoint
short_description: Makes a checkpoint of HDFS' names, or brings a NameNode back from one
description:
  - With O(state=made), makes a checkpoint on the SecondaryNameNode's machine. Its daemon stands aside meanwhile.
  - With O(state=looked), says which checkpoint a directory holds.
  - With O(state=imported), imports a checkpoint into a NameNode's directories that hold no file system. A NameNode that
    has its directories is left alone.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: What to do.
    type: str
    choices: [made, looked, imported]
    required: true
  directory:
    description: Directory of checkpoints on this machine.
    type: path
    required: true
  command:
    description: What starts the program as the daemons' user; for O(state=imported) without the program.
    type: list
    elements: str
    default: []
  program:
    description: The NameNode's class.
    type: str
    default: ""
  checkpoint:
    description: What O(state=looked) returned.
    type: dict
  source:
    description: Host and port of the SecondaryNameNode's pages. Empty takes O(directory).
    type: str
    default: ""
  directories:
    description: The NameNode's directories.
    type: list
    elements: path
    default: []
  user:
    description: Account of the daemons.
    type: str
    default: hdfs
  address:
    description: Host and port of the NameNode's pages.
    type: str
    default: ""
  timeout:
    description: Seconds that the import may take.
    type: int
    default: 600
attributes:
  check_mode:
    description: Predicts.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: An import is; a checkpoint is made each time.
    support: partial
"""

EXAMPLES = r"""
- name: See which checkpoint there is
  slipway.platform.hdfs_checkpoint:
    state: looked
    directory: /srv/hdfs/checkpoint
"""

RETURN = r"""
checkpoint:
  description: The newest checkpoint of the directory, for O(checkpoint); none where there is none.
  returned: state is looked
  type: dict
cluster:
  description: ID of the file system.
  returned: state is made
  type: str
  sample: CID-5d4e2a3c-7b1c-4b1e-9d1a-0c7d6f6f2c11
transaction:
  description: Last transaction that the checkpoint holds.
  returned: state is made
  type: int
  sample: 4711
"""

import dataclasses
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_checkpoint
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["made", "looked", "imported"], "required": True},
    "directory": {"type": "path", "required": True},
    "command": {"type": "list", "elements": "str", "default": []},
    "program": {"type": "str", "default": ""},
    "checkpoint": {"type": "dict"},
    "source": {"type": "str", "default": ""},
    "directories": {"type": "list", "elements": "path", "default": []},
    "user": {"type": "str", "default": "hdfs"},
    "address": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 600},
}


def _made(params: t.Mapping[str, t.Any], *, check: bool) -> dict[str, t.Any]:
    if check:
        return {"changed": True}
    found = _hdfs_checkpoint.make(params["directory"], params["command"])
    return {"changed": True, "cluster": found.cluster, "transaction": found.transaction}


def _looked(params: t.Mapping[str, t.Any], *, check: bool) -> dict[str, t.Any]:
    del check
    found = _hdfs_checkpoint.look(params["directory"])
    return {"changed": False, "checkpoint": dataclasses.asdict(found) if found else None}


def _imported(params: t.Mapping[str, t.Any], *, check: bool) -> dict[str, t.Any]:
    given = params["checkpoint"]
    checkpoint = _hdfs_checkpoint.Checkpoint(**given) if given else None
    importer = _hdfs_checkpoint.Importer(
        seconds=params["timeout"],
        **{name: params[name] for name in ("directories", "user", "command", "program", "address")},
    )
    if not importer.needed(checkpoint):
        return {"changed": False}
    if checkpoint and not check:
        importer.restore(checkpoint, source=params["source"], directory=params["directory"])
    return {"changed": True}


STATES = {"made": _made, "looked": _looked, "imported": _imported}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        result = STATES[module.params["state"]](module.params, check=module.check_mode)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
