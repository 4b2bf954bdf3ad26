#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module spark_application."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: spark_application
short_description: Submits an application of Spark in cluster mode, follows it to its end and returns what came of it
description:
  - Submits from a machine that the role spark has made a client. What runs is known by its name; the same name with the
    same work is submitted once. Where it runs already, it is followed; where it has ended well, nothing changes.
  - An action plugin on the controller follows it, and shows stages, tasks and executors as they change.
  - Properties travel in a file that only root can read. Arguments of the application stand in lists of processes and in
    its pod, so a secret has no place there.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  name:
    description: Name of the application, at most 56 characters; C(NAME-driver) is its pod.
    type: str
    required: true
  state:
    description: V(absent) kills it, and takes away what is left of it.
    type: str
    choices: [present, absent]
    default: present
  application:
    description:
      - Python file or jar. A path is one of the client, which needs C(spark_upload_dir); C(local://) is one of the
        image, and C(hdfs://) one in HDFS. The same holds for O(jars), O(py_files) and O(files).
    type: str
  main_class:
    description: Main class of a jar.
    type: str
    default: ""
  arguments:
    description: Arguments of the application. No place for secrets.
    type: list
    elements: str
    default: []
  jars:
    description: Jars for the class path of driver and executors.
    type: list
    elements: str
    default: []
  py_files:
    description: Python files and archives for driver and executors.
    type: list
    elements: str
    default: []
  files:
    description: Files for the working directory of driver and executors.
    type: list
    elements: str
    default: []
  conf:
    description: Properties, besides those of the role. What the role decides itself is refused.
    type: dict
    default: {}
  rerun:
    description:
      - What to do where the same work has ended already. With V(never), one that failed is an error again.
    type: str
    choices: [never, failed, always]
    default: never
  wait:
    description: Whether to follow it to its end.
    type: bool
    default: true
  seconds:
    description: How long to follow it.
    type: int
    default: 3600
  on_interrupt:
    description: What to do with it where following ends early, by the time that is given or by an interrupt.
    type: str
    choices: [leave, kill]
    default: leave
  log_lines:
    description: How many lines of the driver's log to return at the end.
    type: int
    default: 100
attributes:
  check_mode:
    description: Says whether it would be submitted.
    support: full
  diff_mode:
    description: There is no text to show.
    support: none
  idempotent:
    description: The same work under the same name is submitted once.
    support: full
"""

EXAMPLES = r"""
- name: Count words
  slipway.platform.spark_application:
    name: words
    application: /srv/jobs/words.py
    arguments: [hdfs://namenode.example.com:8020/in, hdfs://namenode.example.com:8020/out]
    conf:
      spark.executor.memory: 2g
"""

RETURN = r"""
application:
  description: >-
    What there is of it: C(state) is absent, pending, running, succeeded or failed; C(exit_code) that of the driver;
    C(seconds) since it was scheduled; C(reason) why it waits or failed; C(progress), C(executors), C(node), C(image),
    and C(identifier), which Spark calls it by.
  returned: always
  type: dict
  sample: {state: succeeded, exit_code: 0, seconds: 41.0}
log:
  description: The end of the driver's log.
  returned: when it has ended
  type: list
  elements: str
  sample: []
"""

import dataclasses
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark_application, _spark_client
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

LIST: dict[str, t.Any] = {"type": "list", "elements": "str", "default": []}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "application": {"type": "str"},
    "main_class": {"type": "str", "default": ""},
    "arguments": LIST,
    "jars": LIST,
    "py_files": LIST,
    "files": LIST,
    "conf": {"type": "dict", "default": {}},
    "rerun": {"type": "str", "choices": ["never", "failed", "always"], "default": "never"},
    "wait": {"type": "bool", "default": True},
    "seconds": {"type": "int", "default": 3600},
    "on_interrupt": {"type": "str", "choices": ["leave", "kill"], "default": "leave"},
    "log_lines": {"type": "int", "default": 100},
}
# The longest that leaves room for "-driver" and Spark's own endings in a label.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,54}[a-z0-9])?\Z")


def main() -> None:
    """Submit it, or look at it; the action plugin is what waits."""
    needs = [("state", "present", ("application",))]
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True, required_if=needs)
    params = module.params
    if not NAME.match(params["name"]):
        needed = "at most 56 of a-z, 0-9 and dash, a letter first and no dash at the end"
        module.fail_json(msg=f"name is {params['name']!r}: it needs {needed}")
    try:
        api = _spark_application.Api(_spark_client.KUBECONFIG)
        application = _spark_application.Application(params["name"], check=module.check_mode, api=api)
        if params["state"] == "absent":
            outcome = application.absent()
        else:
            outcome = application.present(_spec(params), rerun=params["rerun"])
        log = application.log(params["log_lines"]) if outcome.status.finished else []
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, application=dataclasses.asdict(outcome.status), log=log)


def _spec(params: t.Mapping[str, t.Any]) -> _spark_application.Spec:
    return _spark_application.Spec(
        name=params["name"],
        application=params["application"],
        main_class=params["main_class"],
        arguments=tuple(params["arguments"]),
        jars=tuple(params["jars"]),
        py_files=tuple(params["py_files"]),
        files=tuple(params["files"]),
        conf={name: _spark_client.text(value) for name, value in params["conf"].items()},
    )


if __name__ == "__main__":
    main()
