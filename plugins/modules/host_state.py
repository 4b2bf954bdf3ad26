#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module host_state."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_state
short_description: Brings packages, files and units of one owner to their wanted state in one call
description:
  - Compares apt packages, files, directories, links and systemd units of a Debian host with what is wanted, and
    changes what differs. One call does what a list of package, template, file and service tasks would do.
  - Remembers under C(/var/lib/slipway/ledger) what an owner has written. A file that is no longer listed is removed,
    and what was there before is put back, so that switching a feature off undoes it.
  - A run that was interrupted is finished by the next one, with the restarts and commands that were still due.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  owner:
    description:
      - Name of the ledger, usually the role. All calls for one owner have to list everything it wants.
    type: str
    required: true
  state:
    description:
      - V(absent) undoes everything in the owner's ledger. Only O(refresh) and O(engines) are still used then.
    type: str
    choices: [present, absent]
    default: present
  packages:
    description: Debian packages, installed and removed in one transaction.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the package.
        type: str
        required: true
      version:
        description: Shell pattern that the version has to match; the newest match is installed. Empty takes any.
        type: str
        default: ""
      hold:
        description: Whether C(apt upgrade) leaves the package alone.
        type: bool
        default: false
      state:
        description: Whether the package is installed.
        type: str
        choices: [present, absent]
        default: present
      idle_units:
        description:
          - Units of the package that neither start nor stay enabled when it is this module that installs it. With a
            package that was there before, they are left alone.
        type: list
        elements: str
        default: []
  files:
    description: Files, directories and links.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      state:
        description: What has to be at the path.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description: Text of a file that may be shown in a diff.
        type: str
      secret_content:
        description: Text of a file that appears in no output, diff or log.
        type: str
      target:
        description: Where a link points.
        type: str
      mode:
        description:
          - Permissions, as a string of four octal digits. A directory is V(0755), a file with O(files[].secret_content)
            V(0600), any other file V(0644) unless given.
        type: str
      owner:
        description: User name or number.
        type: str
        default: root
      group:
        description: Group name or number.
        type: str
        default: root
  json_keys:
    description:
      - Single keys of JSON files in users' homes, such as Docker's C(config.json). The rest of the file is left alone.
        Everything is read and written with the user's own identity, and no link is followed.
    type: list
    elements: dict
    default: []
    suboptions:
      user:
        description: Name of the user.
        type: str
        required: true
      path:
        description: Path of the file below the user's home.
        type: str
        required: true
      keys:
        description: Names that lead to the value, from the outermost object inwards.
        type: list
        elements: str
        required: true
      value:
        description: Value that may be shown in a diff.
        type: dict
      secret_value:
        description: Value that appears in no output, diff or log.
        type: dict
  refresh:
    description: Commands that run once when one of their paths changed, before the units.
    type: list
    elements: dict
    default: []
    suboptions:
      argv:
        description: The command and its arguments; no shell.
        type: list
        elements: str
        required: true
      paths:
        description: Prefixes of paths.
        type: list
        elements: str
        required: true
      into:
        description: The file that the command makes out of the paths. It also runs when that file lacks one's text.
        type: path
  units:
    description: systemd units, after files and packages.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Full name of the unit, such as V(foo.timer).
        type: str
        required: true
      enabled:
        description: Whether it starts at boot. Left alone unless given.
        type: bool
      state:
        description: Whether it runs. Left alone unless given.
        type: str
        choices: [started, stopped]
      inputs:
        description: Globs of files that the running unit has read. It is restarted when they differ from what it read.
        type: list
        elements: str
        default: []
      on_change:
        description: What to do when inputs differ.
        type: str
        choices: [restart, reload, none]
        default: restart
  docker_fragment:
    description:
      - What the owner wants of Docker's C(daemon.json), handed to its one writer (M(slipway.platform.docker_daemon))
        before anything else. An empty dictionary takes it back; the running daemon is not touched.
    type: dict
  engines:
    description: Container engines to restart if they were started with other inputs than those on disk.
    type: list
    elements: str
    choices: [docker, containerd]
    default: []
attributes:
  check_mode:
    description: Can run in check mode and predict what would change, also on a host where nothing is installed yet.
    support: full
  diff_mode:
    description: Shows what changes in files, packages and units; never the content of files that others may not read.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Run a small daemon
  slipway.platform.host_state:
    owner: hello
    packages:
      - name: socat
        version: 1.*
        hold: true
    files:
      - path: /etc/systemd/system/hello.service
        content: |
          [Service]
          ExecStart=/usr/bin/socat TCP-LISTEN:8000,fork STDOUT
          [Install]
          WantedBy=multi-user.target
    units:
      - name: hello.service
        enabled: true
        state: started
        inputs: [/etc/systemd/system/hello.service]

- name: Remove it again
  slipway.platform.host_state:
    owner: hello
    state: absent
"""

RETURN = r"""
changed_paths:
  description: Paths that were written, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/systemd/system/hello.service]
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
  sample: [install socat 1.*, hold socat]
actions:
  description: Commands and unit actions that were carried out.
  returned: always
  type: list
  elements: str
  sample: [enable hello.service, start hello.service]
restarted:
  description: Units and engines that were restarted.
  returned: always
  type: list
  elements: str
  sample: []
"""

import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _docker_daemon,
    _files,
    _host_state,
    _json_keys,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

PACKAGE_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "default": ""},
    "hold": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "idle_units": {"type": "list", "elements": "str", "default": []},
}
FILE_SPEC: dict[str, t.Any] = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
    "content": {"type": "str"},
    "secret_content": {"type": "str", "no_log": True},
    "target": {"type": "str"},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}
JSON_KEY_SPEC: dict[str, t.Any] = {
    "user": {"type": "str", "required": True},
    "path": {"type": "str", "required": True},
    "keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
    "value": {"type": "dict"},
    "secret_value": {"type": "dict", "no_log": True},
}
REFRESH_SPEC: dict[str, t.Any] = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "paths": {"type": "list", "elements": "str", "required": True},
    "into": {"type": "path"},
}
UNIT_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "enabled": {"type": "bool"},
    "state": {"type": "str", "choices": ["started", "stopped"]},
    "inputs": {"type": "list", "elements": "str", "default": []},
    "on_change": {"type": "str", "choices": ["restart", "reload", "none"], "default": "restart"},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "owner": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "packages": {"type": "list", "elements": "dict", "default": [], "options": PACKAGE_SPEC},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": FILE_SPEC,
        "mutually_exclusive": [("content", "secret_content")],
        "required_if": [("state", "file", ("content", "secret_content"), True), ("state", "link", ("target",))],
    },
    "json_keys": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "no_log": False,
        "options": JSON_KEY_SPEC,
        "mutually_exclusive": [("value", "secret_value")],
        "required_one_of": [("value", "secret_value")],
    },
    "refresh": {"type": "list", "elements": "dict", "default": [], "options": REFRESH_SPEC},
    "units": {"type": "list", "elements": "dict", "default": [], "options": UNIT_SPEC},
    "docker_fragment": {"type": "dict"},
    "engines": {"type": "list", "elements": "str", "choices": ["docker", "containerd"], "default": []},
}


def _file(params: dict[str, t.Any]) -> _files.WantedFile:
    secret = params["secret_content"] is not None
    text = params["secret_content"] if secret else params["content"] or ""
    default_mode = "0755" if params["state"] == "directory" else "0600" if secret else "0644"
    mode = params["mode"] or default_mode
    if not re.fullmatch(r"0[0-7]{3}|[1-7][0-7]{3}", mode):  # YAML reads 0644 without quotes as the number 420
        raise HostError(f"mode of {params['path']} is {mode!r}: it needs four octal digits in quotes, such as '0644'")
    return _files.WantedFile(
        path=params["path"],
        kind=params["state"],
        content=text.encode(),
        target=params["target"] or "",
        mode=int(mode, 8),
        owner=params["owner"],
        group=params["group"],
        secret=secret,
    )


def _json_key(params: dict[str, t.Any]) -> _json_keys.WantedKey:
    path, keys = params["path"], tuple(params["keys"])
    if not keys or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise HostError(f"json_keys has path {path!r} and keys {list(keys)}: it needs a path below the home and a key")
    secret = params["secret_value"] is not None
    value = params["secret_value"] if secret else params["value"]
    return _json_keys.WantedKey(user=params["user"], path=path, keys=keys, value=value, secret=secret)


def _unit(params: dict[str, t.Any]) -> _units.WantedUnit:
    started = {"started": True, "stopped": False}.get(params["state"])
    return _units.WantedUnit(
        name=params["name"],
        enabled=params["enabled"],
        started=started,
        inputs=tuple(params["inputs"]),
        on_change=params["on_change"],
    )


def _wanted(params: dict[str, t.Any]) -> _host_state.Wanted:
    return _host_state.Wanted(
        owner=params["owner"],
        packages=[
            _packages.WantedPackage(
                name=item["name"], version=item["version"], hold=item["hold"], present=item["state"] == "present"
            )
            for item in params["packages"]
        ],
        idle_units={item["name"]: item["idle_units"] for item in params["packages"] if item["idle_units"]},
        files=[_file(item) for item in params["files"]],
        json_keys=[_json_key(item) for item in params["json_keys"]],
        refresh=[
            _host_state.Refresh(tuple(item["argv"]), tuple(item["paths"]), item["into"] or "")
            for item in params["refresh"]
        ],
        units=[_unit(item) for item in params["units"]],
        engines=params["engines"],
    )


def _fragment(params: dict[str, t.Any], *, check: bool) -> _docker_daemon.Outcome:
    """Hand the owner's part of daemon.json to its writer; nothing where the owner has no such part."""
    host = _docker_daemon.DockerHost(check=check)
    if params["docker_fragment"] is None:
        return host.outcome
    return host.fragment(params["owner"], params["docker_fragment"])


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    host = _host_state.HostState(owner=module.params["owner"], check=module.check_mode)
    try:
        wanted = _wanted(module.params)
        fragment = _fragment(module.params, check=module.check_mode)
        outcome = host.present(wanted) if module.params["state"] == "present" else host.absent(wanted)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    for warning in fragment.warnings:
        module.warn(warning)
    module.exit_json(
        changed=outcome.changed or fragment.changed,
        diff=fragment.diffs + outcome.diffs,
        changed_paths=fragment.changed_paths + outcome.changed_paths,
        removed_paths=outcome.removed_paths,
        packages=outcome.packages,
        actions=fragment.actions + outcome.actions,
        restarted=outcome.restarted,
    )


if __name__ == "__main__":
    main()
