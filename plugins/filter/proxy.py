# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that encode proxy settings for the file that is going to hold them; each has its page beside this file."""

from __future__ import annotations

import functools
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.module_utils import _proxy

SETTING_KEYS = ("http", "https", "no_proxy")
PROXY_KEYS = ("url", "user", "password")


def _known(value: t.Any, allowed: tuple[str, ...], *, name: str) -> t.Mapping[str, t.Any]:
    if not isinstance(value, t.Mapping):
        raise _proxy.ProxyError(f"{name} needs a dictionary with {', '.join(allowed)}")
    unknown = sorted(str(key) for key in value if key not in allowed)
    if unknown:
        raise _proxy.ProxyError(f"{name} does not know {', '.join(unknown)}: it takes {', '.join(allowed)}")
    return value


def _entries(value: t.Any) -> t.Iterable[t.Any]:
    if value is None:
        return ()
    if isinstance(value, (str, t.Mapping)) or not isinstance(value, t.Iterable):
        raise _proxy.ProxyError("no_proxy needs to be a list")
    return value


def _setting(value: t.Any, *, name: str) -> dict[str, t.Any]:
    given = _known(value, SETTING_KEYS, name=name)
    proxies = {key: _known(given.get(key) or {}, PROXY_KEYS, name=f"{name}'s {key}") for key in ("http", "https")}
    return {**proxies, "no_proxy": _entries(given.get("no_proxy"))}


def proxy_url(value: t.Any) -> str:
    """{url, user, password} to a URL with the credentials percent-encoded once; {} to an empty string."""
    return _proxy.proxy_url(_known(value or {}, PROXY_KEYS, name="proxy_url"))


def proxy_variables(value: t.Any) -> dict[str, str]:
    """{http, https, no_proxy} to environment variables in upper and lower case."""
    return _proxy.variables(**_setting(value, name="proxy_variables"))


def no_proxy_string(value: t.Any) -> str:
    """A list of hosts, suffixes and networks to the value of NO_PROXY: normalised, each once, sorted."""
    return _proxy.no_proxy_string(_entries(value))


def systemd_environment(value: t.Any) -> str:
    """A dictionary of variables to Environment= lines of a unit."""
    return _proxy.systemd_environment(value)


def systemd_environment_file(value: t.Any) -> str:
    """A dictionary of variables to the lines of an EnvironmentFile."""
    return _proxy.systemd_environment_file(value)


def apt_proxy(value: t.Any) -> str:
    """{http, https, no_proxy} to the lines of an apt.conf file."""
    return _proxy.apt_proxy(**_setting(value, name="apt_proxy"))


def proxy_drop_ins(value: t.Any, *, units: t.Any, in_unit: t.Any, header: t.Any) -> list[dict[str, str]]:
    """{http, https, no_proxy} to the files that give systemd units a proxy, as host_state takes them."""
    setting = _setting(value, name="proxy_drop_ins")
    return _proxy.drop_ins(**setting, units=units, in_unit=bool(in_unit), header=str(header))


def _friendly(function: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
    @functools.wraps(function)
    def wrapped(value: t.Any, **more: t.Any) -> t.Any:
        try:
            return function(value, **more)
        except _proxy.ProxyError as exc:
            raise AnsibleFilterError(str(exc)) from None

    return wrapped


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name; their errors never hold a password."""
        functions: tuple[t.Any, ...] = (
            proxy_url, proxy_variables, proxy_drop_ins, no_proxy_string, systemd_environment, systemd_environment_file,
            apt_proxy,
        )  # fmt: skip
        return {function.__name__: _friendly(function) for function in functions}
