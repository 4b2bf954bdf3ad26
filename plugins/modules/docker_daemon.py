#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module docker_daemon."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: docker_daemon
short_description: Installs and configures Docker, as the only writer of daemon.json
description:
  - With O(fragment), sets what one role wants of C(daemon.json), merges all fragments and writes the file. The running
    daemon is left alone; M(slipway.platform.engine_apply) or the role docker_engine makes it take the file over.
  - Without O(fragment), brings packages, the engine's own fragment, users and units to the wanted state and lets the
    daemon take it over, by SIGHUP where that is enough. A daemon that refuses gets the last good file back.
  - Keys in C(daemon.json) that no fragment owns are kept and reported.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  fragment:
    description: One role's part of C(daemon.json). Excludes every other option.
    type: dict
    suboptions:
      name:
        description: Name of the fragment, usually the role.
        type: str
        required: true
      config:
        description: Keys of C(daemon.json). An empty map removes the fragment.
        type: dict
        required: true
  state:
    description:
      - V(absent) takes back the engine's fragment, users, holds, repository and the packages that were installed here.
        Images, containers and volumes under C(/var/lib/docker) stay.
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
  repository:
    description: An apt repository to install from. Older definitions for the same address are adopted.
    type: dict
    suboptions:
      url:
        description: Address of the repository.
        type: str
        required: true
      suite:
        description: Suite, such as V(trixie).
        type: str
        required: true
      component:
        description: Component of the suite.
        type: str
        default: stable
      key:
        description: The armoured public key itself that signs the repository.
        type: str
        required: true
  defaults:
    description: Keys of C(daemon.json) that give way to O(options) without an error.
    type: dict
    default: {}
  options:
    description: Keys of C(daemon.json) that the site asks for.
    type: dict
    default: {}
  users:
    description: Users in the group docker. One that was put there by this module and is no longer listed is taken out.
    type: list
    elements: str
    default: []
  unknown_keys:
    description: What happens to keys in C(daemon.json) that nobody owns.
    type: str
    choices: [keep, remove, fail]
    default: keep
attributes:
  check_mode:
    description: Can run in check mode, also on a host where nothing is installed yet.
    support: full
  diff_mode:
    description: Shows files, packages and actions; user and password of a URL are masked.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Hand docker a role's part of daemon.json
  slipway.platform.docker_daemon:
    fragment:
      name: container_network
      config:
        dns: [192.0.2.53]

- name: Install Docker and let it run with all fragments
  slipway.platform.docker_daemon:
    packages:
      - name: docker.io
        version: 26.1.*
        hold: true
    options:
      live-restore: true
    users: [ops]
"""

RETURN = r"""
changed_paths:
  description: Paths that were written or removed, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/docker/daemon.json]
packages:
  description: What was done to packages.
  returned: always
  type: list
  elements: str
  sample: [install docker.io 26.1.*, hold docker.io]
actions:
  description: What was done besides, such as a reload, with the reason.
  returned: always
  type: list
  elements: str
  sample: ["reloaded docker: registry-mirrors changed in /etc/docker/daemon.json"]
unknown_keys:
  description: Keys in daemon.json that no fragment owns.
  returned: always
  type: list
  elements: str
  sample: [data-root]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _apt_sources, _docker_daemon, _packages
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

PACKAGE_SPEC = {
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "default": ""},
    "hold": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
REPOSITORY_SPEC = {
    "url": {"type": "str", "required": True},
    "suite": {"type": "str", "required": True},
    "component": {"type": "str", "default": "stable"},
    "key": {"type": "str", "required": True, "no_log": False},
}
FRAGMENT_SPEC = {"name": {"type": "str", "required": True}, "config": {"type": "dict", "required": True}}
ARGUMENT_SPEC = {
    "fragment": {"type": "dict", "options": FRAGMENT_SPEC},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "packages": {"type": "list", "elements": "dict", "default": [], "options": PACKAGE_SPEC},
    "repository": {"type": "dict", "options": REPOSITORY_SPEC},
    "defaults": {"type": "dict", "default": {}},
    "options": {"type": "dict", "default": {}},
    "users": {"type": "list", "elements": "str", "default": []},
    "unknown_keys": {"type": "str", "choices": ["keep", "remove", "fail"], "default": "keep"},
}


def _wanted(params: dict[str, t.Any]) -> _docker_daemon.WantedEngine:
    repository = params["repository"]
    return _docker_daemon.WantedEngine(
        packages=tuple(
            _packages.WantedPackage(
                name=item["name"], version=item["version"], hold=item["hold"], present=item["state"] == "present"
            )
            for item in params["packages"]
        ),
        repository=repository and _apt_sources.Repository(name="docker", role="docker_engine", **repository),
        defaults=params["defaults"],
        options=params["options"],
        users=tuple(params["users"]),
        unknown_keys=params["unknown_keys"],
    )


def _act(params: dict[str, t.Any], host: _docker_daemon.DockerHost) -> _docker_daemon.Outcome:
    if params["fragment"]:
        return host.fragment(params["fragment"]["name"], params["fragment"]["config"])
    if params["state"] == "absent":
        return host.absent()
    return host.present(_wanted(params))


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    host = _docker_daemon.DockerHost(check=module.check_mode)
    try:
        outcome = _act(module.params, host)
    except HostError as exc:
        module.fail_json(msg=str(exc), actions=host.outcome.actions, changed_paths=host.outcome.changed_paths)
    for warning in outcome.warnings:
        module.warn(warning)
    if outcome.unknown_keys and module.params["unknown_keys"] == "keep" and not module.params["fragment"]:
        module.warn(f"/etc/docker/daemon.json holds keys that no role owns: {', '.join(outcome.unknown_keys)}")
    module.exit_json(
        changed=outcome.changed,
        diff=outcome.diffs,
        changed_paths=outcome.changed_paths,
        packages=outcome.packages,
        actions=outcome.actions,
        unknown_keys=list(outcome.unknown_keys),
    )


if __name__ == "__main__":
    main()
