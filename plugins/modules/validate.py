# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin validate, which runs on the controller only."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate
short_description: Refuses role variables that cannot work, before anything changes on a host
description:
  - Checks variables against the role's C(argument_specs) and against rules that a spec can't express, on the
    controller. Each mistake is one sentence that names the variable, what it got and what it needs.
  - Secrets are never shown.
  - Refuses operating systems that the roles do not support, by C(ansible_facts).
version_added: 0.1.0
author:
  - Slipway contributors
options:
  role:
    description: Role of this collection whose argument_specs (entry point main) apply.
    type: str
  roles:
    description:
      - Several roles to check in one task, each with its own defaults and the rules in its C(tasks/validate.yml).
    type: list
    elements: str
  rules:
    description:
      - Dictionary from a variable to the name of a rule, or a list of names.
      - Rules are C(absolute_path), C(ca_certificate), C(ca_certificates), C(dns_options), C(dns_search),
        C(dns_servers), C(duration), C(host_name), C(no_proxy), C(port), C(proxy), C(size), C(users), and those of the
        role itself.
    type: dict
    default: {}
  together:
    description: Rules over several variables.
    type: list
    elements: dict
    default: []
    suboptions:
      rule:
        description: Name of the rule, such as C(certificate).
        type: str
        required: true
      vars:
        description: Dictionary from the rule's part (C(certificate), C(private_key), C(ca)) to a variable's name.
        type: dict
        required: true
  system:
    description: Whether the operating system is checked too. A play that has no facts yet does that later.
    type: bool
    default: true
attributes:
  check_mode:
    description: Changes nothing, so it runs in check mode as always.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Refuse input that cannot work
  slipway.platform.validate:
    role: docker_proxy
    rules:
      docker_proxy_http: proxy
      docker_proxy_no_proxy: no_proxy

- name: Check two roles before the first of them changes anything
  slipway.platform.validate:
    roles: [host_proxy, docker_proxy]
"""

RETURN = r"""
digest:
  description: Digest of everything that was checked and of the collection, for M(slipway.platform.converged).
  returned: success
  type: str
errors:
  description: One sentence per mistake.
  returned: failure
  type: list
  elements: str
  sample: ["docker_proxy_http.url is 'proxy:8080': it needs a scheme, for example http://proxy.corp.lab:8080."]
"""
