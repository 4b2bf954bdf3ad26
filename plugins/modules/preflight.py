#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module preflight."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight
short_description: Checks from the host that proxies let it through and names resolve
description:
  - Tries everything at once and says in one sentence each what cannot work, with the variable to correct. A proxy
    that does not resolve, refuses, does not answer, or answers 407 is told apart.
  - Returns the few facts that the roles of this collection need, so that a play can do without C(gather_facts).
  - Changes nothing and is over within O(timeout), also when packets are dropped on the way.
version_added: 0.1.0
author:
  - Slipway contributors
options:
  proxies:
    description: Proxies to try. One with an empty O(proxies[].url) is skipped.
    type: list
    elements: dict
    default: []
    suboptions:
      variable:
        description: Name of the variable that holds the proxy, for the message.
        type: str
        required: true
      url:
        description: Scheme, host and port, without credentials.
        type: str
      user:
        description: Raw user name.
        type: str
      password:
        description: Raw password. It appears in no output.
        type: str
      probe:
        description:
          - Host and port that the proxy is asked to connect to. That the proxy refuses this target with another
            status than 407 is a warning, not a failure, since it has accepted the credentials then.
        type: str
        default: registry-1.docker.io:443
  names:
    description: Host names that have to resolve on the host.
    type: list
    elements: dict
    default: []
    suboptions:
      variable:
        description: Name of the variable that holds the name, for the message.
        type: str
        required: true
      name:
        description: The host name or address. An empty one is skipped.
        type: str
        required: true
  servers:
    description:
      - TLS servers that the host has to reach without a proxy. A clock that differs by more than two minutes from
        theirs is a failure too.
    type: list
    elements: dict
    default: []
    suboptions:
      variable:
        description: Name of the variable that holds the server, for the message.
        type: str
        required: true
      address:
        description: Host and port. An empty one is skipped.
        type: str
        required: true
      path:
        description: What it is asked for.
        type: str
        default: /healthz
      ca:
        description:
          - The certificate itself of the authority that has to vouch for the server. Without it the certificate is not
            looked at, and no login is tried.
        type: str
        default: ""
      user:
        description: Raw user name that the server has to accept. Empty tries none.
        type: str
        default: ""
      password:
        description: Raw password. It appears in no output.
        type: str
        default: ""
  refuse_docker_proxies:
    description:
      - Whether C(proxies) in C(/etc/docker/daemon.json) is a failure beside any of O(proxies). dockerd uses it before
        the environment that the role docker_proxy gives it, so one of the two would silently have no effect.
    type: bool
    default: false
  timeout:
    description: Seconds after which a check has failed. All checks run at the same time.
    type: int
    default: 10
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
- name: Check the way out and learn what the host is
  slipway.platform.preflight:
    proxies:
      - variable: site_proxy.http
        url: "{{ site_proxy.http.url }}"
        user: "{{ site_proxy.http.user }}"
        password: "{{ site_proxy.http.password }}"
    names:
      - variable: site_registry.host
        name: "{{ site_registry.host }}"
"""

RETURN = r"""
failures:
  description: One sentence for each thing that cannot work.
  returned: failure
  type: list
  elements: str
  sample:
    - "docker_proxy_http: the proxy proxy.corp.lab:8080 refused the connection: it needs a proxy that listens there."
ansible_facts:
  description: Facts of the host, from Ansible's own collector.
  returned: success
  type: dict
  contains:
    ansible_distribution:
      description: Name of the distribution.
      type: str
      sample: Debian
    ansible_distribution_version:
      description: Full version.
      type: str
      sample: "13.1"
    ansible_distribution_major_version:
      description: Major version.
      type: str
      sample: "13"
    ansible_distribution_release:
      description: Code name.
      type: str
      sample: trixie
    ansible_os_family:
      description: Family of the distribution.
      type: str
      sample: Debian
    ansible_architecture:
      description: Machine type as in C(uname -m).
      type: str
      sample: x86_64
    slipway_preflight:
      description:
        - What has been checked, so that a role does not check it again. A proxy is its URL, a space and its user; the
          check of O(refuse_docker_proxies) is C(docker config).
      type: list
      elements: str
"""

import platform
import typing as t

from ansible.module_utils.facts.system.distribution import DistributionFactCollector
from ansible_collections.slipway.platform.plugins.module_utils import _preflight, _proxy
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._module import Module

DOCKER_CONFIG = "/etc/docker/daemon.json"
FACTS = ("distribution", "distribution_version", "distribution_major_version", "distribution_release", "os_family")
MAX_TIMEOUT = 25

ARGUMENT_SPEC = {
    "proxies": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "variable": {"type": "str", "required": True},
            "url": {"type": "str"},
            "user": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "probe": {"type": "str", "default": "registry-1.docker.io:443"},
        },
    },
    "names": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"variable": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
    },
    "servers": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "variable": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/healthz"},
            "ca": {"type": "str", "default": ""},
            "user": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
        },
    },
    "refuse_docker_proxies": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 10},
}


def _facts(module: Module) -> dict[str, str]:
    found = DistributionFactCollector().collect(module=module)
    facts = {f"ansible_{name}": found[name] for name in FACTS if name in found}
    return {**facts, "ansible_architecture": platform.machine()}


def _probes(settings: t.Iterable[dict[str, t.Any]], failures: list[str]) -> list[_preflight.Probe]:
    probes = []
    for setting in settings:
        try:
            proxy = _proxy.parse(setting)
        except _proxy.ProxyError as exc:
            failures.append(f"{setting['variable']}: {exc}.")
            continue
        if proxy:
            probes.append(_preflight.Probe((setting["variable"],), proxy, setting["probe"]))
    return _preflight.merge(probes)


def _server(setting: dict[str, t.Any]) -> _preflight.Server:
    host, _, port = setting["address"].rpartition(":")
    login = f"{setting['user']}:{setting['password']}" if setting["user"] else ""
    return _preflight.Server(setting["variable"], host, int(port), setting["path"], setting["ca"], login)


def _docker_config(failures: list[str]) -> None:
    try:
        keys = _preflight.docker_proxies(DOCKER_CONFIG)
    except HostError as exc:
        failures.append(f"{exc}.")
        return
    if keys:
        failures.append(
            f"{DOCKER_CONFIG} on this host holds proxies ({', '.join(keys)}), which dockerd uses before "
            "docker_proxy_http and docker_proxy_https: it needs to be without, or these variables empty."
        )


def main() -> None:
    """Run the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    if not 1 <= params["timeout"] <= MAX_TIMEOUT:
        module.fail_json(msg=f"timeout is {params['timeout']}: it needs to be 1 to {MAX_TIMEOUT} seconds.")
    failures: list[str] = []
    probes = _probes(params["proxies"], failures)
    names = [_preflight.Name(item["variable"], item["name"]) for item in params["names"] if item["name"]]
    if params["refuse_docker_proxies"] and probes:
        _docker_config(failures)
    servers = [_server(item) for item in params["servers"] if item["address"]]
    report = _preflight.check(probes, names, servers, seconds=params["timeout"])
    failures += report.failures
    for warning in report.warnings:
        module.warn(warning)
    if failures:
        module.fail_json(msg="\n".join(failures), failures=failures)
    checked = [f"{item['url']} {item['user'] or ''}" for item in params["proxies"] if item["url"]]
    if params["refuse_docker_proxies"]:
        checked.append("docker config")
    module.exit_json(changed=False, ansible_facts={**_facts(module), "slipway_preflight": checked})


if __name__ == "__main__":
    main()
