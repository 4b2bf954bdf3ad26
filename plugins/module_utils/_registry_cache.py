# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pull-through caches of a machine are made of: files, containers, and what their program has to know.

Pure functions from settings to what the modules host_state and container_stack take. Why a shell starts the registry,
and why its login comes from a helper: docs/decisions/0020-pull-through-caches.md.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _proxy

ETC = "/etc/slipway/registry-cache"
CONTAINER = "slipway-registry-cache"
# Numbers, because no such user has to exist on the host.
UID = "65530"
HEADER = "# Managed by slipway.platform.registry_cache. Edits are undone by the next run.\n"
HUB = "docker.io"
HUB_URL = "https://registry-1.docker.io"
# A repository that everybody may pull; elsewhere any name serves to see whether the upstream answers.
HUB_PROBE = "library/hello-world"
PROBE = "slipway-check"
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Paths inside the container.
INSIDE = "/etc/slipway/cache"
CA_INSIDE = "/etc/slipway/ca"
CA_DIRECTORY, CA_FILE = "/etc/ssl/certs", "ca-certificates.crt"

# Variables of docker's client (role container_network sets some) are not ours; the file has our own, if any.
START = f"""#!/bin/sh
{HEADER}unset HTTP_PROXY http_proxy HTTPS_PROXY https_proxy NO_PROXY no_proxy
set -ae
. {INSIDE}/proxy
exec registry serve {INSIDE}/config.yml
"""
LOGIN = f"#!/bin/sh\n{HEADER}exec cat {INSIDE}/login.json\n"


def key(name: str) -> str:
    """Return an upstream's name as part of the names of containers and directories: docker.io is docker-io."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def in_bytes(size: t.Any) -> int:
    """Return a size such as 10g in bytes; empty is 0."""
    match = re.fullmatch(r"([0-9]*)([kmgt]?)", str(size or "").lower())
    if match is None:
        raise ValueError(f"{size!r} is no size such as 10m or 2g")
    return int(match[1] or 0) * _UNITS[match[2]]


def in_seconds(duration: str) -> int:
    """Return a duration such as 30d in seconds."""
    match = re.fullmatch(r"([0-9]+)([smhd])", str(duration))
    if match is None:
        raise ValueError(f"{duration!r} is no duration such as 30s, 15m, 12h or 30d")
    return int(match[1]) * _SECONDS[match[2]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upstream:
    """A registry that is cached: its name in image names, the cache's port, and what is its own."""

    name: str
    port: int
    url: str = ""
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    proxy: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    max_size: str = ""
    probe: str = ""

    @property
    def key(self) -> str:
        """Its part of the names of containers and directories."""
        return key(self.name)

    @property
    def container(self) -> str:
        """Its container."""
        return f"{CONTAINER}-{self.key}"

    @property
    def remote(self) -> str:
        """The address that is asked."""
        return (self.url or (HUB_URL if self.name == HUB else f"https://{self.name}")).rstrip("/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caches:
    """All caches of a machine. http and https are the proxies of those that have none of their own."""

    host: str
    upstreams: tuple[Upstream, ...]
    image: str
    data_dir: str
    ttl: str
    memory: str
    min_free: str
    http: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    https: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def parse(cls, settings: t.Mapping[str, t.Any]) -> Caches:
        """Build from a dictionary with these names; raises ValueError naming the ones it does not know."""
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise ValueError(f"registry_cache does not know {', '.join(unknown)}: it takes {', '.join(names)}")
        upstreams = tuple(_upstream(item) for item in settings["upstreams"])
        values = {**settings, "upstreams": upstreams, "no_proxy": tuple(settings.get("no_proxy") or ())}
        return cls(**values)

    def proxies(self, upstream: Upstream) -> tuple[t.Mapping[str, t.Any], t.Mapping[str, t.Any]]:
        """Return the proxies for http and for https of a cache."""
        own = upstream.proxy if (upstream.proxy or {}).get("url") else None
        return own or self.http or {}, own or self.https or {}


def _upstream(values: t.Mapping[str, t.Any]) -> Upstream:
    given = {name: value for name, value in values.items() if value is not None}
    return Upstream(**{**given, "port": int(given["port"])})


def config_yml(caches: Caches, upstream: Upstream) -> str:
    """Return distribution's configuration; JSON is YAML.

    The login comes from a helper, also where there is none: so distribution does not ask the upstream at its start,
    which would keep a cache from starting while the proxy is down.
    """
    content = {
        "version": "0.1",
        "log": {"level": "warn", "formatter": "text", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": "/var/lib/registry"},
            "delete": {"enabled": True},
            "maintenance": {
                "uploadpurging": {"enabled": True, "age": "24h", "interval": "6h", "dryrun": False},
                "readonly": {"enabled": False},
            },
        },
        "http": {"addr": ":5000", "draintimeout": "30s", "headers": {"X-Content-Type-Options": ["nosniff"]}},
        "proxy": {
            "remoteurl": upstream.remote,
            "exec": {"command": f"{INSIDE}/login"},
            "ttl": f"{in_seconds(caches.ttl)}s",
            "cachewritetimeout": "2h",
        },
        "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    }
    return HEADER + json.dumps(content, indent=1) + "\n"


def proxy_variables(caches: Caches, upstream: Upstream) -> str:
    """Return what the shell reads before it starts the registry; percent-encoded values hold no quote."""
    http, https = caches.proxies(upstream)
    found = _proxy.variables(http=http, https=https, no_proxy=caches.no_proxy)
    return HEADER + "".join(f"{name}='{value}'\n" for name, value in found.items() if name.isupper())


def files(caches: Caches) -> list[dict[str, str]]:
    """Return the files and directories of each cache, for the option files of host_state."""
    found: list[dict[str, str]] = []
    for upstream in caches.upstreams:
        etc = f"{ETC}/{upstream.key}"
        login = {"Username": upstream.user, "Secret": upstream.password}
        owned = {"owner": UID, "group": UID}
        found += [
            {"path": f"{caches.data_dir}/{upstream.key}", "state": "directory", "mode": "0750", **owned},
            {"path": f"{etc}/start", "content": START},
            {"path": f"{etc}/login", "content": LOGIN, "mode": "0755"},
            {"path": f"{etc}/config.yml", "content": config_yml(caches, upstream)},
            {
                "path": f"{etc}/proxy",
                "secret_content": proxy_variables(caches, upstream),
                "mode": "0640",
                "group": UID,
            },
            {"path": f"{etc}/login.json", "secret_content": json.dumps(login) + "\n", "mode": "0640", "group": UID},
        ]
    return found


def containers(caches: Caches) -> list[dict[str, t.Any]]:
    """Return the container of each cache, for the option containers of container_stack."""
    return [
        {
            "name": upstream.container,
            "image": caches.image,
            "entrypoint": "/bin/sh",
            "command": [f"{INSIDE}/start"],
            "user": f"{UID}:{UID}",
            "networks": [CONTAINER],
            "volumes": [
                f"{ETC}/{upstream.key}:{INSIDE}:ro",
                f"{CA_DIRECTORY}:{CA_INSIDE}:ro",
                f"{caches.data_dir}/{upstream.key}:/var/lib/registry",
            ],
            "tmpfs": ["/tmp:rw,noexec,nosuid,nodev,size=16m"],
            "environment": {
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                "SSL_CERT_FILE": f"{CA_INSIDE}/{CA_FILE}",
            },
            "memory": caches.memory,
            "pids_limit": 1024,
            "log_options": {"max-size": "10m", "max-file": "3"},
            "stop_timeout": 40,
            "restart_on": [f"{ETC}/{upstream.key}/*", f"{CA_DIRECTORY}/{CA_FILE}"],
        }
        for upstream in caches.upstreams
    ]


def program(caches: Caches) -> dict[str, t.Any]:
    """Return what the program on the host has to know; no secrets."""
    return {
        "host": caches.host,
        "data_dir": caches.data_dir,
        "min_free": in_bytes(caches.min_free),
        "caches": [_told(caches, upstream) for upstream in caches.upstreams],
    }


def _told(caches: Caches, upstream: Upstream) -> dict[str, t.Any]:
    http, https = caches.proxies(upstream)
    proxy = _proxy.parse(https if upstream.remote.startswith("https:") else http)
    return {
        "name": upstream.name,
        "key": upstream.key,
        "container": upstream.container,
        "port": upstream.port,
        "url": upstream.remote,
        "user": upstream.user,
        "proxy": proxy.address if proxy else "",
        "proxy_user": proxy.user if proxy else "",
        "max_size": in_bytes(upstream.max_size),
        "probe": upstream.probe or (HUB_PROBE if upstream.name == HUB else PROBE),
    }
