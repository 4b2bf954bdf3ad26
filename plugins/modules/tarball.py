#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module tarball."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: tarball
short_description: Unpacks a pinned release, fetched through the proxy, whole or not at all
description:
  - Downloads a tarball that consists of one directory, compares its SHA-512, and puts it at a path in one step.
  - Says at the path which release it is; the same one is not fetched again.
  - No proxy of the environment is used.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  url:
    description: Address of the tarball.
    type: str
    required: true
  checksum:
    description: SHA-512 of the tarball.
    type: str
    required: true
  path:
    description: Where its directory goes.
    type: path
    required: true
  proxy:
    description: Proxy to use; empty goes direct.
    type: dict
    default: {}
    suboptions:
      url:
        description: Scheme, host and port.
        type: str
      user:
        description: User, raw.
        type: str
      password:
        description: Password, raw.
        type: str
  no_proxy:
    description: Names, .suffixes, addresses and networks that are reached without the proxy.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Predicts; fetches nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Have Hadoop
  slipway.platform.tarball:
    url: https://archive.apache.org/dist/hadoop/common/hadoop-3.4.2/hadoop-3.4.2.tar.gz
    checksum: "{{ hdfs_checksum }}"
    path: /opt/slipway/hadoop-3.4.2
"""

RETURN = r"""
path:
  description: Where the release is.
  returned: success
  type: str
  sample: /opt/slipway/hadoop-3.4.2
"""

import typing as t
import urllib.parse

from ansible_collections.slipway.platform.plugins.module_utils import _proxy, _tarball
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

ARGUMENT_SPEC: dict[str, t.Any] = {
    "url": {"type": "str", "required": True},
    "checksum": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "proxy": {
        "type": "dict",
        "default": {},
        "options": {
            "url": {"type": "str"},
            "user": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
    },
    "no_proxy": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    url, checksum, path = (module.params[name] for name in ("url", "checksum", "path"))
    changed = _tarball.installed(path) != checksum.lower()
    try:
        if changed and not module.check_mode:
            proxy = _proxy.proxy_url(module.params["proxy"])
            used = proxy and not _tarball.is_direct(url, module.params["no_proxy"])
            proxies = {urllib.parse.urlsplit(url).scheme: proxy} if used else {}
            _tarball.install(url, path, checksum=checksum, open_url=_tarball.opener(proxies))
    except (HostError, _proxy.ProxyError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=changed, path=path)


if __name__ == "__main__":
    main()
