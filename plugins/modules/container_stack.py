#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module container_stack."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: container_stack
short_description: Keeps containers that belong together running, by the docker command line
description:
  - Makes networks and containers as listed, and repairs what somebody changed. A container is made anew when its
    options here change, or when C(docker inspect) says something else than it did after the container was made;
    a changed restart policy, memory or process limit is repaired in place; a stopped one is started.
  - Nothing is recreated or restarted otherwise. Images are pulled only when they are missing, all of them before the
    first container is stopped.
  - Containers and networks of the same stack that are no longer listed are removed. A container or network of that
    name which is not of the stack is never touched; the module fails.
  - Needs C(docker) and nothing else on the host, no Python SDK. While it works it holds a lock on
    C(/run/slipway/stack-NAME.lock), which a health check should honour.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  name:
    description: Name of the stack.
    type: str
    required: true
  state:
    description: V(absent) removes the stack's containers and networks, and images that it pulled and nobody uses.
    type: str
    choices: [present, absent]
    default: present
  networks:
    description: Bridge networks of the stack.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the network.
        type: str
        required: true
      internal:
        description: Whether the network has no way out of the host.
        type: bool
        default: false
  containers:
    description: Containers in the order in which they are made.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the container.
        type: str
        required: true
      image:
        description: Image with tag or digest.
        type: str
        required: true
      build:
        description:
          - Directory on the host with a Dockerfile. The image is built from it when it is missing, by C(slipway-build)
            where role container_network has put that. Give O(containers[].image) a tag that changes with the content.
        type: path
        default: ""
      base:
        description: Image on which O(containers[].build) stands; it is pulled first where it is missing.
        type: str
        default: ""
      entrypoint:
        description: Program to run instead of the image's entry point.
        type: str
        default: ""
      command:
        description: Arguments of the entry point.
        type: list
        elements: str
        default: []
      user:
        description: User and group, better as numbers.
        type: str
        default: ""
      networks:
        description: Networks that it joins. Without any it has none.
        type: list
        elements: str
        default: []
      ports:
        description: Published ports, V(HOST:CONTAINER).
        type: list
        elements: str
        default: []
      volumes:
        description: Mounts, V(SOURCE:TARGET[:ro]).
        type: list
        elements: str
        default: []
      tmpfs:
        description: Mounts in memory, V(TARGET:OPTIONS).
        type: list
        elements: str
        default: []
      environment:
        description: Environment variables. They show in C(docker inspect), so put secrets into files.
        type: dict
        default: {}
      read_only:
        description: Whether the root file system is read-only.
        type: bool
        default: true
      cap_drop:
        description: Capabilities to drop.
        type: list
        elements: str
        default: [ALL]
      security_options:
        description: Docker's security options.
        type: list
        elements: str
        default: [no-new-privileges]
      restart:
        description: Docker's restart policy.
        type: str
        default: always
      memory:
        description: Upper bound of memory such as V(512m), swap included. Empty means none.
        type: str
        default: ""
      pids_limit:
        description: Upper bound of processes. 0 means none.
        type: int
        default: 0
      log_options:
        description: Options of the json-file log driver.
        type: dict
        default: {max-size: 10m, max-file: "3"}
      stop_signal:
        description:
          - Signal that stops it. Give one that is not O(containers[].reload_signal), because docker no longer restarts
            a container that was sent its stop signal.
        type: str
        default: ""
      stop_timeout:
        description: Seconds to wait after the stop signal.
        type: int
        default: 10
      restart_on:
        description: Globs of files on the host. The container is restarted when they differ from what it read.
        type: list
        elements: str
        default: []
      reload_on:
        description: Globs of files on the host. The container gets a signal when they differ from what it read.
        type: list
        elements: str
        default: []
      reload_signal:
        description: The signal for O(containers[].reload_on).
        type: str
        default: HUP
      check_command:
        description: Command inside the container that has to succeed before it is sent that signal.
        type: list
        elements: str
        default: []
  ready:
    description: Command on the host that succeeds once the stack serves. It runs every time, so it proves every run.
    type: list
    elements: str
    default: []
  ready_timeout:
    description: Seconds to wait for O(ready).
    type: int
    default: 60
attributes:
  check_mode:
    description: Can run in check mode and predict what would change, also where docker is not installed yet.
    support: full
  diff_mode:
    description: Shows what a container is made of, or what somebody changed of it.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Keep a small web server running
  slipway.platform.container_stack:
    name: hello
    networks:
      - name: hello
    containers:
      - name: hello
        image: docker.io/library/nginx:1.26.3
        networks: [hello]
        ports: ["8080:80"]
        read_only: false
        cap_drop: []
        reload_on: [/etc/hello/*.conf]
        volumes: ["/etc/hello:/etc/nginx/conf.d:ro"]
    ready: [curl, -fsS, "http://127.0.0.1:8080/"]

- name: Remove it again
  slipway.platform.container_stack:
    name: hello
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: ["update hello: somebody changed HostConfig.RestartPolicy"]
pulled:
  description: Images that were pulled or built.
  returned: always
  type: list
  elements: str
  sample: [docker.io/library/nginx:1.26.3]
"""

import contextlib
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _containers
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

TEXTS = {"type": "list", "elements": "str", "default": []}
NETWORK_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "internal": {"type": "bool", "default": False},
}
CONTAINER_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "build": {"type": "path", "default": ""},
    "base": {"type": "str", "default": ""},
    "entrypoint": {"type": "str", "default": ""},
    "command": TEXTS,
    "user": {"type": "str", "default": ""},
    "networks": TEXTS,
    "ports": TEXTS,
    "volumes": TEXTS,
    "tmpfs": TEXTS,
    "environment": {"type": "dict", "default": {}},
    "read_only": {"type": "bool", "default": True},
    "cap_drop": {"type": "list", "elements": "str", "default": ["ALL"]},
    "security_options": {"type": "list", "elements": "str", "default": ["no-new-privileges"]},
    "restart": {"type": "str", "default": "always"},
    "memory": {"type": "str", "default": ""},
    "pids_limit": {"type": "int", "default": 0},
    "log_options": {"type": "dict", "default": {"max-size": "10m", "max-file": "3"}},
    "stop_signal": {"type": "str", "default": ""},
    "stop_timeout": {"type": "int", "default": 10},
    "restart_on": TEXTS,
    "reload_on": TEXTS,
    "reload_signal": {"type": "str", "default": "HUP"},
    "check_command": TEXTS,
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "networks": {"type": "list", "elements": "dict", "default": [], "options": NETWORK_SPEC},
    "containers": {"type": "list", "elements": "dict", "default": [], "options": CONTAINER_SPEC},
    "ready": TEXTS,
    "ready_timeout": {"type": "int", "default": 60},
}


def _container(params: dict[str, t.Any]) -> _containers.Container:
    plain: dict[str, t.Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}
    for key in ("environment", "log_options"):
        plain[key] = tuple(sorted((str(name), str(value)) for name, value in params[key].items()))
    return _containers.Container(**plain)


def _stack(params: dict[str, t.Any]) -> _containers.Stack:
    return _containers.Stack(
        name=params["name"],
        containers=tuple(_container(item) for item in params["containers"]),
        networks=tuple(_containers.Network(**item) for item in params["networks"]),
        ready=tuple(params["ready"]),
        ready_timeout=params["ready_timeout"],
    )


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    stack = _stack(module.params)
    state = _containers.StackState(stack=stack, check=module.check_mode)
    try:
        with contextlib.nullcontext() if module.check_mode else _containers.locked(stack.name):
            outcome = state.present() if module.params["state"] == "present" else state.absent()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=bool(outcome.actions), diff=outcome.diffs, actions=outcome.actions, pulled=outcome.pulled)


if __name__ == "__main__":
    main()
