# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn a site's DNS and proxy into what containers get; a page each beside this."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.module_utils import _container_network
from ansible_collections.slipway.platform.plugins.module_utils._proxy import ProxyError


def _filter(function: t.Callable[[_container_network.Network], t.Any]) -> t.Callable[[t.Any], t.Any]:
    """A filter that takes a dictionary of settings and refuses names it does not know."""

    @functools.wraps(function)
    def wrapped(value: t.Any) -> t.Any:
        if not isinstance(value, t.Mapping):
            raise AnsibleFilterError("container_network filters need a dictionary of settings")
        try:
            return function(_container_network.Network.parse(value))
        except ProxyError as exc:
            raise AnsibleFilterError(str(exc)) from None

    return wrapped


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters by name."""
        return {
            "container_network_state": _filter(_container_network.host_state),
            "container_network_daemon_json": _filter(_container_network.daemon_json),
        }
