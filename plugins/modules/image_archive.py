#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module image_archive."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: image_archive
short_description: Carries images of a private registry to another one, in a directory or a tar file
description:
  - Exports images with all platforms and their digests into an OCI layout in which each blob is once, with an index
    that lists name and digest, and a checksum of the index; and imports such an archive.
  - An export into an archive that is there copies only what is new, and takes out what is not asked for any more.
  - An import first reads every byte of what the registry lacks. Where one is wrong, nothing is pushed.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  path:
    description: The archive, a directory or a file that ends with C(.tar).
    type: path
    required: true
  state:
    description: V(exported) makes the archive, V(imported) has the registry hold what is in it.
    type: str
    choices: [exported, imported]
    required: true
  images:
    description: Images to export; with V(imported), empty means all of the archive.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Repository and tag in the private registry.
        type: str
        required: true
      digest:
        description: Its digest.
        type: str
        default: ""
      source:
        description: Its name upstream, which is noted in the archive.
        type: str
        default: ""
  registry:
    description: Host and port of the private registry.
    type: str
    required: true
  finish:
    description: >-
      Whether these are all images. With V(false) the rest of the archive is left alone, and a tar file is not packed;
      an import does not verify again.
    type: bool
    default: true
  directory:
    description: Directory with C(auth.json), C(environment.json) and C(certs/), readable by root only.
    type: path
    default: /etc/slipway/registry-mirror
  timeout:
    description: Seconds that one image may take.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Can run in check mode and tell what would be copied; verifies an archive all the same.
    support: full
  diff_mode:
    description: Returns no diff.
    support: none
  idempotent:
    description: A second run copies nothing.
    support: full
"""

EXAMPLES = r"""
- name: Export an image
  slipway.platform.image_archive:
    state: exported
    path: /srv/carry/images.tar
    registry: registry.corp.lab:6001
    images:
      - name: debian:13
        digest: sha256:0000000000000000000000000000000000000000000000000000000000000000

- name: Import what was carried here
  slipway.platform.image_archive:
    state: imported
    path: /media/usb/images.tar
    registry: registry.site.lab:6001
"""

RETURN = r"""
images:
  description: Name and digest of each image that was asked for.
  returned: always
  type: list
  elements: dict
missing:
  description: Those that were copied, or would be in check mode.
  returned: always
  type: list
  elements: dict
verified:
  description: Bytes that an import has read and found right.
  returned: always
  type: int
"""

import os
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _image_archive, _images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

IMAGE_SPEC: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "digest": {"type": "str", "default": ""},
    "source": {"type": "str", "default": ""},
}
ARGUMENT_SPEC: dict[str, t.Any] = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["exported", "imported"], "required": True},
    "images": {"type": "list", "elements": "dict", "default": [], "options": IMAGE_SPEC},
    "registry": {"type": "str", "required": True},
    "finish": {"type": "bool", "default": True},
    "directory": {"type": "path", "default": "/etc/slipway/registry-mirror"},
    "timeout": {"type": "int", "default": 3600},
}
Result = dict[str, t.Any]


def exported(options: Result, skopeo: _images.Skopeo, *, check: bool) -> Result:
    """Bring an archive to its state; return what was done."""
    wanted = [_image_archive.Wanted(**item) for item in options["images"]]
    export = _image_archive.Export(options["path"])
    missing = export.missing(wanted)
    changed = bool(missing) or (options["finish"] and not export.finished(wanted))
    if changed and not check:
        export.unpack()
        for item in missing:
            export.add(skopeo, item)
        if options["finish"]:
            export.finish(wanted)
    return {"changed": changed, "images": options["images"], "missing": [vars(item) for item in missing], "verified": 0}


def imported(options: Result, skopeo: _images.Skopeo, *, check: bool, bare: bool = False) -> Result:
    """Have the registry hold an archive's images; return what was done. bare: there is no skopeo yet to ask with."""
    archive = _image_archive.Archive(options["path"])
    asked = {item["name"] for item in options["images"]}
    entries = [entry for entry in archive.entries() if not asked or entry.name in asked]
    missing = entries if bare else _image_archive.lacking(skopeo, entries)
    verified = archive.verify(missing) if options["finish"] else 0
    if not check:
        for entry in missing:
            _image_archive.push(skopeo, archive, entry)
    shown = [{"name": entry.name, "digest": entry.digest, "source": entry.source} for entry in entries]
    names = {entry.name for entry in missing}
    return {
        "changed": bool(missing),
        "images": shown,
        "missing": [item for item in shown if item["name"] in names],
        "verified": verified,
    }


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    options = module.params
    os.umask(0o077)
    skopeo = _images.Skopeo(options["directory"], options["registry"], options["timeout"])
    bare = module.check_mode and not skopeo.is_set_up(module.get_bin_path("skopeo"))
    try:
        if options["state"] == "exported":
            result = exported(options, skopeo, check=module.check_mode)
        else:
            result = imported(options, skopeo, check=module.check_mode, bare=bare)
    except HostError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"{options['path']} cannot be used: {exc}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
