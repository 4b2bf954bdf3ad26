# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn a private registry's settings into what each container runtime reads; a page each beside this."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.module_utils import _registry_trust


def _filter(function: t.Callable[[_registry_trust.Trust], t.Any]) -> t.Callable[[t.Any], t.Any]:
    """A filter that takes a dictionary of settings and refuses names it does not know."""

    @functools.wraps(function)
    def wrapped(value: t.Any) -> t.Any:
        if not isinstance(value, t.Mapping):
            raise AnsibleFilterError("registry_trust filters need a dictionary of settings")
        try:
            return function(_registry_trust.Trust.parse(value))
        except ValueError as exc:
            raise AnsibleFilterError(str(exc)) from None

    return wrapped


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters by name."""
        return {
            "registry_trust_files": _filter(_registry_trust.files),
            "registry_trust_json_keys": _filter(_registry_trust.json_keys),
            "registry_trust_daemon_json": _filter(_registry_trust.daemon_json),
            "registry_trust_notices": _filter(_registry_trust.notices),
        }
