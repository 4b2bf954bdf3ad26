# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn the settings of HDFS into the files of its clients and its daemons; a page each beside this."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_conf


def _settings(value: t.Any) -> _hdfs_conf.Settings:
    if not isinstance(value, t.Mapping):
        raise AnsibleFilterError("hdfs filters need a dictionary of settings")
    try:
        return _hdfs_conf.Settings.parse(value)
    except (ValueError, TypeError) as exc:
        raise AnsibleFilterError(f"hdfs: {exc}") from None


def hdfs_client_files(value: t.Any) -> dict[str, str]:
    """Return the files of /etc/hadoop/conf for clients, by name."""
    return _hdfs_conf.client_files(_settings(value))


def hdfs_daemon_files(value: t.Any, component: str) -> list[dict[str, str]]:
    """Return the configuration files of one daemon."""
    settings = _settings(value)
    if component not in _hdfs_conf.PARTS:
        raise AnsibleFilterError(f"hdfs: {component} is no daemon: it needs one of {', '.join(_hdfs_conf.PARTS)}")
    return _hdfs_conf.daemon_files(settings, component)


def hdfs_zookeeper_login(value: t.Any) -> dict[str, str]:
    """Return the failover controller's login to ZooKeeper by a password, and the owner of what it keeps there."""
    return _hdfs_conf.zookeeper_login(str(value))


def hdfs_datanodes(value: t.Any, hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return machines of the inventory as DataNodes."""
    try:
        return _hdfs_conf.datanodes(value, hostvars)
    except (KeyError, TypeError) as exc:
        raise AnsibleFilterError(f"hdfs_datanodes needs names of machines of the inventory: {exc}") from None


def hdfs_machines(value: t.Any, hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return machines of the inventory by the names that all resolve."""
    try:
        return _hdfs_conf.machines(value, hostvars)
    except (KeyError, TypeError) as exc:
        raise AnsibleFilterError(f"hdfs_machines needs names of machines of the inventory: {exc}") from None


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """The filters by name."""
        return {
            "hdfs_client_files": hdfs_client_files,
            "hdfs_daemon_files": hdfs_daemon_files,
            "hdfs_datanodes": hdfs_datanodes,
            "hdfs_machines": hdfs_machines,
            "hdfs_zookeeper_login": hdfs_zookeeper_login,
        }
