#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module spark_images."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: spark_images
short_description: Puts Spark and Java onto a model image, and has the result in the private registry
description:
  - Builds C(nvidia-spark-driver) and C(nvidia-spark-executor) by C(docker), proves that they run, and pushes them. With
    nothing changed it asks the registry for both, and that is all.
  - What they are made of (Spark, base, model, our files) has one digest, which is part of their tag and stands in their
    label. An image of that tag that has lost its label or its entry point is built and pushed again.
  - An image of O(base) or O(model) on the private registry counts as changed when its tag means another image there.
    One from elsewhere is what the engine has under that name; give a digest, or mirror it.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  state:
    description: V(absent) removes from the machine what building left; the registry keeps its images.
    type: str
    choices: [present, absent]
    default: present
  version:
    description: Spark's version.
    type: str
    default: ""
  checksum:
    description: SHA-512 of Spark's distribution, as Apache publishes it beside the file.
    type: str
    default: ""
  source:
    description: Address below which the distribution is, V(spark-VERSION/spark-VERSION-bin-hadoop3.tgz).
    type: str
    default: https://archive.apache.org/dist/spark
  base:
    description: Debian on which Java is installed to be copied from.
    type: str
    default: docker.io/library/debian:12
  model:
    description: Image of Debian or Ubuntu onto which both are put.
    type: str
    default: ""
  model_name:
    description: What the tag says of it. Empty takes the last part of its name and its tag.
    type: str
    default: ""
  java:
    description: Version of Java in O(base).
    type: int
    default: 17
  registry:
    description: Host and port of the private registry.
    type: str
    default: ""
  user:
    description: Who pushes.
    type: str
    default: ""
  password:
    description: The password.
    type: str
    default: ""
  proxies:
    description: The proxy's URLs by scheme, for the distribution. The registry is always asked directly.
    type: dict
    default: {}
  no_proxy:
    description: Names and suffixes that are reached without it.
    type: list
    elements: str
    default: []
  files:
    description: What the images are built from, by name; C(Dockerfile) is one of them.
    type: dict
    default: {}
  timeout:
    description: Seconds that a pull, a build or a push may take.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Can run in check mode and tell what would be pushed; nothing is pulled or built.
    support: full
  diff_mode:
    description: Has nothing to show but the actions.
    support: none
  idempotent:
    description: A second run builds and pushes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Have Spark with PyTorch
  slipway.platform.spark_images:
    version: 3.5.9
    checksum: "{{ lookup('ansible.builtin.file', 'spark-3.5.9-bin-hadoop3.tgz.sha512') | split | first }}"
    model: registry.corp.lab:6001/torch:2.6.0
    registry: registry.corp.lab:6001
    user: ci
    password: "{{ vault_ci_password }}"
    files:
      Dockerfile: "{{ lookup('ansible.builtin.file', 'Dockerfile') }}"
"""

RETURN = r"""
driver:
  description: Full name of the driver's image.
  returned: when it is known
  type: str
  sample: registry.corp.lab:6001/nvidia-spark-driver:3.5.9-torch-2.6.0-0123456789ab
executor:
  description: Full name of the executor's image.
  returned: when it is known
  type: str
  sample: registry.corp.lab:6001/nvidia-spark-executor:3.5.9-torch-2.6.0-0123456789ab
actions:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: ["push nvidia-spark-driver:3.5.9-torch-2.6.0-0123456789ab anew"]
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark_images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "version": {"type": "str", "default": ""},
    "checksum": {"type": "str", "default": ""},
    "source": {"type": "str", "default": "https://archive.apache.org/dist/spark"},
    "base": {"type": "str", "default": "docker.io/library/debian:12"},
    "model": {"type": "str", "default": ""},
    "model_name": {"type": "str", "default": ""},
    "java": {"type": "int", "default": 17},
    "registry": {"type": "str", "default": ""},
    "user": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "proxies": {"type": "dict", "default": {}, "no_log": True},
    "no_proxy": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "dict", "default": {}},
    "timeout": {"type": "int", "default": 3600},
}


# What is given to the logic in another form.
SHAPED = ("proxies", "no_proxy", "files", "model_name")


def _wanted(options: dict[str, t.Any]) -> _spark_images.Wanted:
    plain = {name: value for name, value in options.items() if name not in ("state", *SHAPED)}
    return _spark_images.Wanted(
        **plain,
        model_name=options["model_name"] or (_spark_images.model_name(options["model"]) if options["model"] else ""),
        proxies=tuple(sorted((name, url) for name, url in options["proxies"].items() if url)),
        no_proxy=tuple(options["no_proxy"]),
        files=tuple(sorted(options["files"].items())),
    )


def main() -> None:
    """Run the module."""
    required = ["version", "checksum", "model", "registry", "files"]
    module = Module(argument_spec=ARGUMENT_SPEC, required_if=[("state", "present", required)], supports_check_mode=True)
    images = _spark_images.Images(_wanted(module.params), check=module.check_mode)
    try:
        outcome = images.present() if module.params["state"] == "present" else images.absent()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=bool(outcome.actions), actions=outcome.actions, **outcome.images)


if __name__ == "__main__":
    main()
