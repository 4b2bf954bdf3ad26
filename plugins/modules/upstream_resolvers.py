#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module upstream_resolvers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: upstream_resolvers
short_description: Says which DNS servers containers get when Docker is given none
description:
  - Reads C(/etc/resolv.conf) as dockerd does. Where systemd-resolved's stub C(127.0.0.53) is the only server, the
    servers behind it count. Servers on the loopback do not.
  - Fails where no server is left. Docker would then use public servers, which a company blocks, or none at all.
version_added: 0.1.0
author:
  - Slipway contributors
options: {}
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Make sure that containers have a DNS server
  slipway.platform.upstream_resolvers:
"""

RETURN = r"""
servers:
  description: DNS servers that a container can reach.
  returned: success
  type: list
  elements: str
  sample: [192.0.2.53]
source:
  description: File that names them.
  returned: success
  type: str
  sample: /run/systemd/resolve/resolv.conf
"""

from ansible_collections.slipway.platform.plugins.module_utils import _resolvers
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module


def main() -> None:
    """Run the module."""
    module = Module(argument_spec={}, supports_check_mode=True)
    try:
        found = _resolvers.find()
    except HostError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, servers=found.servers, source=found.source)


if __name__ == "__main__":
    main()
