# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of this collection is built on."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule


class Module(AnsibleModule):  # type: ignore[misc]
    """AnsibleModule that logs on the target that it was called, and by no means with what.

    ansible-core writes a module's arguments to the host's journal and masks secrets in the text of it. Secrets inside
    lists of options come through that in pieces: repr() changes them before they are looked for.
    """

    def _log_invocation(self) -> None:
        self.log(f"{self._name} was called; its arguments are not logged")
