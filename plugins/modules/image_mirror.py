#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module image_mirror."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_mirror
short_description: Copies images from upstream registries into a private one, with all platforms and the same digest
description:
  - Looks up which digest each image has upstream (or takes it from O(lock)) and which the private registry has, and
    copies what differs by C(skopeo copy --all --preserve-digests). With nothing to copy it only asks. An image that
    is in the lock and in the registry needs no upstream at all.
  - A copy that was cut off is finished by the next run; layers that arrived are not sent again.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  images:
    description: Images to have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name upstream, with tag or digest or both. Without a host it is Docker Hub's.
        type: str
        required: true
      target:
        description: Repository and tag in the private registry. Empty takes the name without host and C(library/).
        type: str
        default: ""
  registry:
    description: Host and port of the private registry.
    type: str
    required: true
  lock:
    description: Lines of name and digest. A name that stands here is that image, whatever upstream says now.
    type: str
    default: ""
  update:
    description: Whether to ask upstream for names that stand in O(lock) too.
    type: bool
    default: false
  directory:
    description: >-
      Directory with C(auth.json), C(environment.json) (the proxy's variables) and C(certs/), readable by root only. No
      credentials are taken from anywhere else.
    type: path
    default: /etc/slipway/registry-mirror
  timeout:
    description: Seconds that one image may take.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Can run in check mode and tell what would be copied. Where skopeo is not installed yet, that is all.
    support: full
  diff_mode:
    description: Shows which digest a name has and would have.
    support: full
  idempotent:
    description: A second run copies nothing.
    support: full
"""

EXAMPLES = r"""
- name: Have Debian and an application
  slipway.platform.image_mirror:
    registry: registry.corp.lab:6001
    images:
      - name: docker.io/library/debian:13
      - name: quay.io/team/app:1.2
        target: vendor/app:1.2
"""

RETURN = r"""
images:
  description: Each image with its name, its target, its digest, the digest before, and whether it was missing.
  returned: always
  type: list
  elements: dict
  sample:
    - name: docker.io/library/debian:13
      target: debian:13
      digest: sha256:0000000000000000000000000000000000000000000000000000000000000000
      before: ""
      missing: true
missing:
  description: Those of RV(images) that were copied, or would be in check mode.
  returned: always
  type: list
  elements: dict
lock:
  description: O(lock) with the digests of these images, by name.
  returned: always
  type: str
"""

import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "images": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {"name": {"type": "str", "required": True}, "target": {"type": "str", "default": ""}},
    },
    "registry": {"type": "str", "required": True},
    "lock": {"type": "str", "default": ""},
    "update": {"type": "bool", "default": False},
    "directory": {"type": "path", "default": "/etc/slipway/registry-mirror"},
    "timeout": {"type": "int", "default": 3600},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    options = module.params
    skopeo = _images.Skopeo(options["directory"], options["registry"], options["timeout"])
    try:
        wishes = [_images.Wish.make(**item) for item in options["images"]]
        known = _images.read_lock(options["lock"])
        faults: list[str] = []
        if module.check_mode and not skopeo.is_set_up(module.get_bin_path("skopeo")):
            _images.check_targets(wishes)
            found = [_images.Found(wish, known.get(str(wish.source), "")) for wish in wishes]
        else:
            found, faults = _images.look_up(skopeo, wishes, {} if options["update"] else known)
        if faults:
            module.fail_json(msg="\n".join(faults), faults=faults)
        for item in found:
            if item.missing and not module.check_mode:
                skopeo.mirror(item)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    missing = [item for item in found if item.missing]
    tags = {str(item.wish.source): item.digest for item in found if item.digest and not item.wish.source.digest}
    module.exit_json(
        changed=bool(missing),
        images=[item.result() for item in found],
        missing=[item.result() for item in missing],
        lock=_images.write_lock({**known, **tags}),
        diff=[
            {
                "before_header": str(item.wish.target),
                "after_header": str(item.wish.target),
                "before": f"{item.before}\n" if item.before else "",
                "after": f"{item.digest or '(not looked up)'}\n",
            }
            for item in missing
        ],
    )


if __name__ == "__main__":
    main()
