# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin verify, which runs on the controller only."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: verify
short_description: Proves from outside that machines do what the inventory promises
description:
  - Runs the checks of tests/testinfra/verify on the controller against every machine of the play, shows a table of
    checks by machines, what the machines have (GPUs, driver), and writes one verdict as JSON. Fails when a check failed
    or none could be made.
  - What to expect comes from the inventory's C(site_proxy), C(site_dns), C(site_registry), C(site_ca_certificates)
    and C(site_verify). What a site does not have is skipped, with the reason in the verdict.
  - Read-only, but for the probe images that C(site_verify) names (C(private), C(upstream)); they are pulled, run and
    removed again.
  - Passwords reach the checks on standard input, never by argument or environment, and stand in no output.
  - Logs in by key, and becomes root without a password.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  verdict:
    description: Where to write the verdict, on the controller.
    type: path
    required: true
attributes:
  check_mode:
    description: Changes nothing of the machine's state, so it runs in check mode as always.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Prove that the machines do what they should
  slipway.platform.verify:
    verdict: .slipway/verify.json
  run_once: true
"""

RETURN = r"""
counts:
  description: How many checks passed, failed and were skipped. Each of them stands in the verdict's file.
  returned: always
  type: dict
  sample: {"passed": 70, "failed": 0, "skipped": 2}
"""
