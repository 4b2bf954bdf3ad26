# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn the settings of pull-through caches into files and containers; a page each beside this."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.module_utils import _registry_cache


def _filter(function: t.Callable[[_registry_cache.Caches], t.Any]) -> t.Callable[[t.Any], t.Any]:
    """A filter that takes a dictionary of settings and refuses names it does not know."""

    @functools.wraps(function)
    def wrapped(value: t.Any) -> t.Any:
        if not isinstance(value, t.Mapping):
            raise AnsibleFilterError("registry_cache filters need a dictionary of settings")
        try:
            return function(_registry_cache.Caches.parse(value))
        except (ValueError, TypeError, KeyError) as exc:
            raise AnsibleFilterError(f"registry_cache: {exc}") from None

    return wrapped


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters by name."""
        return {
            "registry_cache_files": _filter(_registry_cache.files),
            "registry_cache_containers": _filter(_registry_cache.containers),
            "registry_cache_program": _filter(_registry_cache.program),
        }
