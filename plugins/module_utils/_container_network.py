# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and proxy for containers: Docker's DNS settings, and a forwarder on the node that knows the credentials.

Pure functions from settings to files in the form that the module host_state takes. Squid's grammar: squid.conf
directives cache_peer and acl; its code decides what a login may look like (http.cc, httpFixupAuthentication).
"""

from __future__ import annotations

import dataclasses
import shlex
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _proxy

DIRECTORY = "/etc/slipway/proxy_forwarder"
UNIT = "slipway-proxy-forwarder.service"
BUILD_COMMAND = "/usr/local/bin/slipway-build"
HEADER = "# Managed by slipway.platform.container_network. Edits are undone by the next run.\n"
# Debian's squid package makes no user of its own: base-passwd has this one, so the files can precede the package.
SQUID_GROUP = "proxy"
# MAX_LOGIN_SZ in squid's sources is 128 bytes with the terminating one; what is longer is cut off silently.
MAX_LOGIN = 127
File = dict[str, str]
Setting = t.Mapping[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What containers get. http and https are {url, user, password}, raw; an empty one means none.

    address and port are where the forwarder listens; subnets are the networks of this node's containers.
    """

    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    containers: bool = False
    builds: bool = False
    http: Setting = dataclasses.field(default_factory=dict)
    https: Setting = dataclasses.field(default_factory=dict)
    no_proxy: tuple[str, ...] = ()
    users: tuple[str, ...] = ("root",)
    address: str = "172.17.0.1"
    port: int = 3128
    subnets: tuple[str, ...] = ("172.16.0.0/12",)
    script: str = ""
    unit: str = ""

    @classmethod
    def parse(cls, settings: Setting) -> Network:
        """Build from a dictionary with these names; raises ProxyError naming the ones it does not know."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - set(fields))
        if unknown:
            raise _proxy.ProxyError(
                f"container_network does not know {', '.join(unknown)}: it takes {', '.join(fields)}"
            )
        values: dict[str, t.Any] = {
            name: tuple(value) if str(fields[name].type).startswith("tuple") else value
            for name, value in settings.items()
        }
        return cls(**{**values, "port": int(values.get("port", cls.port))})

    @property
    def peers(self) -> dict[str, _proxy.Proxy]:
        """The company's proxies by what they are used for, http or https; none where nothing is to be proxied."""
        if not (self.containers or self.builds):
            return {}
        parsed = {"http": _proxy.parse(self.http), "https": _proxy.parse(self.https)}
        return {scheme: proxy for scheme, proxy in parsed.items() if proxy}

    @property
    def forwarder(self) -> str:
        """The forwarder's URL: nothing in it is secret."""
        return f"http://{self.address}:{self.port}"

    @property
    def direct(self) -> str:
        """NO_PROXY for containers: the site's list and the containers' own networks."""
        return _proxy.no_proxy_string([*self.no_proxy, *self.subnets])


def daemon_json(network: Network) -> dict[str, t.Any]:
    """The fragment of daemon.json; what is not set, dockerd takes from the node's resolv.conf."""
    lists = {"dns": network.dns_servers, "dns-search": network.dns_search, "dns-opts": network.dns_options}
    return {key: list(values) for key, values in lists.items() if values}


def squid_login(proxy: _proxy.Proxy) -> str:
    """The option login= of cache_peer. Squid undoes one round of percent encoding of the whole text."""
    if not proxy.user:
        return ""
    return f" login={_proxy.percent_encode(proxy.user)}:{_proxy.percent_encode(proxy.password)}"


def refused_login(user: str, password: str) -> str:
    """What a login needs for squid to be able to send it, or an empty string where it can."""
    if user.startswith("*") or user.upper().startswith("NEGOTIATE"):
        return "a user that begins neither with * nor with NEGOTIATE, which squid takes for instructions"
    if len(f"{user}:{password}".encode()) > MAX_LOGIN:
        return f"user and password of at most {MAX_LOGIN - 1} bytes together, squid's limit"
    return ""


def peers_conf(network: Network) -> str:
    """The part of squid's configuration that holds the credentials."""
    lines = []
    same = network.peers.get("http") == network.peers.get("https")
    peers = {"any": network.peers["http"]} if same and network.peers else network.peers
    for name, proxy in peers.items():
        host = proxy.host.strip("[]")
        lines.append(
            f"cache_peer {host} parent {proxy.port} 0 no-query no-digest no-netdb-exchange default "
            f"name={name} connect-timeout=10{squid_login(proxy)}"
        )
        if name != "any":
            lines.append(f"cache_peer_access {name} {'allow' if name == 'https' else 'deny'} CONNECT")
            lines.append(f"cache_peer_access {name} {'deny' if name == 'https' else 'allow'} all")
    return HEADER + "\n".join(lines) + "\n"


def squid_conf(network: Network) -> str:
    """Squid's configuration: one address, the node's own containers, everything to the company's proxy."""
    return HEADER + "\n".join(
        [
            f"http_port {network.address}:{network.port}",
            "visible_hostname slipway-proxy-forwarder",
            "pid_filename none",
            "cache deny all",
            "cache_mem 8 MB",
            "pinger_enable off",
            "shutdown_lifetime 2 seconds",
            "cache_log /dev/null",
            "access_log syslog:daemon.info squid",
            "forwarded_for delete",
            "via off",
            "",
            "# A machine of the same network that routes to this address is no container.",
            'acl neighbours src "/run/slipway-proxy-forwarder/neighbours"',
            'acl self src "/run/slipway-proxy-forwarder/self"',
            f"acl containers src {' '.join(network.subnets)}",
            "http_access allow self",
            "http_access deny neighbours",
            "http_access allow containers",
            "http_access deny all",
            "",
            "never_direct allow all",
            f"include {DIRECTORY}/peers.conf",
            "",
        ]
    )


def build_command(network: Network) -> str:
    """A docker build that gives the proxy to the build alone.

    Docker's predefined build arguments reach RUN, but neither the image's history nor its configuration.
    """
    arguments = []
    for scheme in ("http", "https"):
        if scheme in network.peers:
            arguments += [f"{name}={network.forwarder}" for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")]
    arguments += [f"{name}={network.direct}" for name in ("no_proxy", "NO_PROXY")]
    options = " \\\n  ".join(f"--build-arg {shlex.quote(argument)}" for argument in arguments)
    return f'#!/bin/sh\n{HEADER}exec docker build \\\n  {options} \\\n  "$@"\n'


def files(network: Network) -> list[File]:
    """Every file of the forwarder, for the option files of host_state; none where nothing is to be proxied."""
    if not network.peers:
        return []
    result: list[File] = [
        {"path": f"{DIRECTORY}/squid.conf", "content": squid_conf(network)},
        {
            "path": f"{DIRECTORY}/peers.conf",
            "secret_content": peers_conf(network),
            "mode": "0640",
            "group": SQUID_GROUP,
        },
        {"path": f"{DIRECTORY}/prepare", "content": network.script, "mode": "0755"},
        {"path": f"/etc/systemd/system/{UNIT}", "content": network.unit},
    ]
    if network.builds and not network.containers:
        result.append({"path": BUILD_COMMAND, "content": build_command(network), "mode": "0755"})
    return result


def json_keys(network: Network) -> list[dict[str, t.Any]]:
    """The proxies that Docker's client gives to every container and build its user starts, for host_state."""
    if not (network.peers and network.containers):
        return []
    settings = {f"{scheme}Proxy": network.forwarder for scheme in network.peers}
    value = {**settings, "noProxy": network.direct}
    return [
        {"user": user, "path": ".docker/config.json", "keys": ["proxies", "default"], "value": value}
        for user in network.users
    ]


def packages(network: Network) -> list[dict[str, t.Any]]:
    """What the forwarder needs; Debian's own squid.service stays off unless squid was there before."""
    return [{"name": "squid", "idle_units": ["squid.service"]}] if network.peers else []


def units(network: Network) -> list[dict[str, t.Any]]:
    """The forwarder's unit, restarted when one of its files changes."""
    if not network.peers:
        return []
    inputs = [f"{DIRECTORY}/*", f"/etc/systemd/system/{UNIT}"]
    return [{"name": UNIT, "enabled": True, "state": "started", "inputs": inputs}]


def host_state(network: Network) -> dict[str, t.Any]:
    """All options of host_state but the owner."""
    return {
        "packages": packages(network),
        "files": files(network),
        "json_keys": json_keys(network),
        "units": units(network),
    }
