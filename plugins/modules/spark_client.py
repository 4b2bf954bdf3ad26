#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module spark_client."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: spark_client
short_description: Makes a machine one from which Spark's applications are submitted
description:
  - Copies Spark out of the drivers' image, so that what submits is what runs, and installs a Java for it.
  - Writes C(spark-defaults.conf), the templates of pods, a login that members of the group C(spark-submit) can read,
    and C(/usr/local/bin/spark-submit), which uses all of them and no proxy.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) undoes everything.
    type: str
    choices: [present, absent]
    default: present
  namespace:
    description: Where applications run.
    type: str
  endpoint:
    description: Host and port of the API server.
    type: str
  token:
    description: Token of the account that submits, as M(slipway.platform.spark_cluster) told it. Empty in check mode.
    type: str
    default: ""
  authority:
    description: Certificate of the API server's authority.
    type: str
    default: ""
  driver_image:
    description: Image of drivers.
    type: str
  executor_image:
    description: Image of executors.
    type: str
  home:
    description: Where Spark is put.
    type: path
    required: true
  java:
    description: Package that brings a Java.
    type: str
    default: default-jre-headless
  shuffle:
    description: What happens to shuffle data when executors go.
    type: str
    choices: [tracking, external, none]
    default: tracking
  shuffle_dir:
    description: With O(shuffle=external), the nodes' directory for shuffle data.
    type: path
    default: /var/lib/spark-shuffle
  shuffle_port:
    description: With O(shuffle=external), the shuffle service's port.
    type: int
    default: 7337
  shuffle_user:
    description: With O(shuffle=external), number of the user whom executors run as.
    type: int
    default: 185
  executors:
    description: How many executors an application has, or has at most.
    type: int
    default: 2
  pull_secret:
    description: Whether pulls need the secret that M(slipway.platform.spark_cluster) made.
    type: bool
    default: false
  hadoop:
    description: Hadoop's client configuration, from the name of a file such as C(core-site.xml) to its text.
    type: dict
    default: {}
  upload_dir:
    description: Address of a directory in HDFS for files of this machine that an application needs; empty for none.
    type: str
    default: ""
  event_log_dir:
    description: Address of a directory for applications' event logs; empty for none.
    type: str
    default: ""
  node_selector:
    description: Labels of nodes on which pods may run.
    type: dict
    default: {}
  tolerations:
    description: Tolerations of pods.
    type: list
    elements: dict
    default: []
  conf:
    description: Further properties.
    type: dict
    default: {}
  users:
    description: Who may submit. Others are taken out of the group.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Can run in check mode and predict what would change.
    support: full
  diff_mode:
    description: Shows files and actions; never the login.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Submit from here
  slipway.platform.spark_client:
    namespace: spark
    endpoint: control.example.com:6443
    token: "{{ told.token }}"
    authority: "{{ told.authority }}"
    driver_image: registry.example.com:6001/nvidia-spark-driver:3.5.9-1
    executor_image: registry.example.com:6001/nvidia-spark-executor:3.5.9-1
    home: /opt/spark
"""

RETURN = r"""
actions:
  description: What was done besides files and packages.
  returned: always
  type: list
  elements: str
  sample: [groupadd --system spark-submit]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark_client
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "namespace": {"type": "str"},
    "endpoint": {"type": "str"},
    "token": {"type": "str", "default": "", "no_log": True},
    "authority": {"type": "str", "default": ""},
    "driver_image": {"type": "str"},
    "executor_image": {"type": "str"},
    "home": {"type": "path", "required": True},
    "java": {"type": "str", "default": "default-jre-headless"},
    "shuffle": {"type": "str", "choices": ["tracking", "external", "none"], "default": "tracking"},
    "shuffle_dir": {"type": "path", "default": "/var/lib/spark-shuffle"},
    "shuffle_port": {"type": "int", "default": 7337},
    "shuffle_user": {"type": "int", "default": 185},
    "executors": {"type": "int", "default": 2},
    "pull_secret": {"type": "bool", "default": False, "no_log": False},
    "hadoop": {"type": "dict", "default": {}},
    "upload_dir": {"type": "str", "default": ""},
    "event_log_dir": {"type": "str", "default": ""},
    "node_selector": {"type": "dict", "default": {}},
    "tolerations": {"type": "list", "elements": "dict", "default": []},
    "conf": {"type": "dict", "default": {}},
    "users": {"type": "list", "elements": "str", "default": []},
}
PLAIN = (
    "namespace endpoint driver_image executor_image home java shuffle shuffle_dir shuffle_port shuffle_user executors "
    "pull_secret upload_dir event_log_dir hadoop"
)


def main() -> None:
    """Run the module."""
    needs = ("namespace", "endpoint", "driver_image", "executor_image")
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True, required_if=[("state", "present", needs)])
    client, params = _spark_client.SparkClient(check=module.check_mode), module.params
    try:
        if params["state"] == "absent":
            outcome = client.absent(params["home"])
        else:
            settings = _spark_client.Settings(
                **{name: params[name] for name in PLAIN.split()},
                node_selector={name: str(value) for name, value in params["node_selector"].items()},
                tolerations=tuple(params["tolerations"]),
                conf={name: _spark_client.text(value) for name, value in params["conf"].items()},
                users=tuple(params["users"]),
            )
            token, authority = params["token"], params["authority"]
            login = _spark_client.Login(token=token, authority=authority) if token else None
            outcome = client.present(settings, login)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diffs, actions=outcome.actions)


if __name__ == "__main__":
    main()
