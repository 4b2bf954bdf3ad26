# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to trust a private registry, and to ask it and caches first: the files of each container runtime.

Pure functions from settings to files in the form that the module host_state takes. Which form of hosts.toml does what
was measured on containerd 1.6 and 1.7: docs/decisions/0008-registry-fallback.md.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import typing as t

DIRECTORY = "/etc/slipway/registry_trust"
HEADER = "# Managed by slipway.platform.registry_trust. Edits are undone by the next run.\n"
HUB = "docker.io"
HTTPS_PORT = 443
File = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Who is asked for images: host and port, and the login as RFC 7617 wants it, empty for none."""

    host: str
    port: int
    basic: str = ""

    @property
    def address(self) -> str:
        """Host and port as they stand in an image's name."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its address for hosts.toml and registry-mirrors."""
        return f"https://{self.address}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
    """A registry, the upstream names that are asked of it first, their caches, and the runtimes that shall know.

    An empty host means no registry. Each cache has upstream, host and port; its certificate is by the registry's CA.
    dial_timeout is a duration in Go's form, such as 5s.
    """

    host: str = ""
    port: int = 6001
    ca_certificate: str = ""
    mirrors: tuple[str, ...] = (HUB,)
    caches: tuple[t.Mapping[str, t.Any], ...] = ()
    fallback: bool = True
    user: str = ""
    password: str = ""
    runtimes: tuple[str, ...] = ("docker", "containerd", "containers")
    docker_mirror: bool = True
    system_trust: bool = True
    dial_timeout: str = "5s"

    @classmethod
    def parse(cls, settings: t.Mapping[str, t.Any]) -> Trust:
        """Build from a dictionary with these names; raises ValueError naming the ones it does not know."""
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise ValueError(f"registry_trust does not know {', '.join(unknown)}: it takes {', '.join(names)}")
        values = dict(settings)
        for name in ("mirrors", "caches", "runtimes"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**{**values, "port": int(values.get("port", cls.port))})

    @property
    def registry(self) -> Endpoint:
        """The private registry."""
        return Endpoint(self.host, self.port, self.basic)

    @property
    def names(self) -> list[str]:
        """The names by which images can be addressed, none without a registry: also without the port of https."""
        if not self.host:
            return []
        return [self.registry.address, *([self.host] if self.port == HTTPS_PORT else [])]

    @property
    def upstreams(self) -> dict[str, list[Endpoint]]:
        """Who is asked for an upstream's images, in order: the private registry, then the upstream's cache."""
        asked: dict[str, list[Endpoint]] = {name: [self.registry] for name in self.mirrors if self.host}
        for cache in self.caches:
            asked.setdefault(str(cache["upstream"]), []).append(Endpoint(str(cache["host"]), int(cache["port"])))
        return asked

    @property
    def trusted(self) -> list[str]:
        """The names for which a CA file is laid down: the registry's, and each cache's."""
        caches = [endpoint.address for asked in self.upstreams.values() for endpoint in asked]
        return list(dict.fromkeys([*self.names, *caches]))

    @property
    def ca_path(self) -> str:
        """The CA's file that all runtimes but Docker are pointed to."""
        return f"{DIRECTORY}/ca.crt"

    @property
    def basic(self) -> str:
        """User and password as RFC 7617 wants them; empty without a user."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode() if self.user else ""

    @property
    def ca_text(self) -> str:
        """The CA certificates with exactly one newline at the end; empty without any."""
        return self.ca_certificate.strip() + "\n" if self.ca_certificate.strip() else ""

    def serves(self, runtime: str) -> bool:
        """Whether there is a registry or a cache and this runtime shall know it."""
        return bool(self.host or self.caches) and runtime in self.runtimes


def toml_string(value: str) -> str:
    """A TOML basic string (toml.io/en/v1.0.0#string): JSON's escapes, and DEL, which JSON leaves alone."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def hosts_toml(trust: Trust, asked: t.Sequence[Endpoint], *, server: bool, push: bool) -> str:
    """A hosts.toml that asks these first, in order.

    server: the last of them is also the last resort, so nothing else is ever asked. Without a `server` line containerd
    falls back to the registry in the image's name. A table [host] has to be there: without one containerd 1.6 and 1.7
    call the file broken and ask the upstream. The last resort is asked again for what it does not have, and has a login
    of its own: without, a missing image would be told as a wrong login.
    """
    lines = [f"server = {toml_string(asked[-1].url)}", ""] if server else []
    if server and asked[-1].basic:
        lines += ["[header]", f"authorization = {toml_string('Basic ' + asked[-1].basic)}", ""]
    actions = ["pull", "resolve", "push"] if push else ["pull", "resolve"]
    for endpoint in asked:
        lines += [f"[host.{toml_string(endpoint.url)}]", f"capabilities = {json.dumps(actions)}"]
        if trust.ca_text:
            lines.append(f"ca = {toml_string(trust.ca_path)}")
        lines.append(f"dial_timeout = {toml_string(trust.dial_timeout)}")
        if endpoint.basic:
            lines += [
                f"[host.{toml_string(endpoint.url)}.header]",
                f"authorization = {toml_string('Basic ' + endpoint.basic)}",
            ]
    return HEADER + "\n".join(lines) + "\n"


def registries_conf(trust: Trust) -> str:
    """A drop-in of containers-registries.conf(5): mirrors, and the upstream blocked where there is no fallback.

    `blocked` leaves the mirrors alone (they are asked first) and also stops tag lists and pushes to the upstream, which
    a changed `location` would not.
    """
    lines = []
    if HUB in trust.upstreams:  # bare names; the only name in the list, so that Podman has nothing to ask
        lines += [f'unqualified-search-registries = ["{HUB}"]', ""]
    for upstream, asked in trust.upstreams.items():
        name = toml_string(upstream)
        lines += ["[[registry]]", f"prefix = {name}", f"location = {name}"]
        if not trust.fallback:
            lines.append("blocked = true")
        for endpoint in asked:
            lines += ["[[registry.mirror]]", f"location = {toml_string(endpoint.address)}"]
        lines.append("")
    return HEADER + "\n".join(lines).rstrip("\n") + "\n"


def docker_files(trust: Trust) -> list[File]:
    """What dockerd reads: one CA for each name of registry and caches; read at each pull, no reload needed."""
    if not trust.ca_text:
        return []
    return [{"path": f"/etc/docker/certs.d/{name}/ca.crt", "content": trust.ca_text} for name in trust.trusted]


def containerd_files(trust: Trust) -> list[File]:
    """What containerd's CRI plugin reads at each pull: a hosts.toml for the registry and one for each upstream."""
    kind, mode = ("secret_content", "0600") if trust.basic else ("content", "0644")
    texts = dict.fromkeys(trust.names, hosts_toml(trust, [trust.registry], server=True, push=True))
    for upstream, asked in trust.upstreams.items():
        texts[upstream] = hosts_toml(trust, asked, server=not trust.fallback, push=False)
    return [
        {"path": f"/etc/containerd/certs.d/{name}/hosts.toml", kind: text, "mode": mode} for name, text in texts.items()
    ]


def containers_files(trust: Trust) -> list[File]:
    """What Podman, Skopeo and Buildah read."""
    files = []
    if trust.ca_text:
        files += [
            {"path": f"/etc/containers/certs.d/{name}/ca.crt", "content": trust.ca_text} for name in trust.trusted
        ]
    if trust.upstreams:
        files.append({"path": "/etc/containers/registries.conf.d/50-slipway.conf", "content": registries_conf(trust)})
    return files


def files(trust: Trust) -> list[File]:
    """Every file for a registry and caches, for the option files of host_state; none without either."""
    if not trust.host and not trust.caches:
        return []
    result: list[File] = []
    if trust.ca_text:
        result.append({"path": trust.ca_path, "content": trust.ca_text})
        if trust.system_trust:
            result.append({"path": "/usr/local/share/ca-certificates/slipway-registry.crt", "content": trust.ca_text})
    for runtime, make in (("docker", docker_files), ("containerd", containerd_files), ("containers", containers_files)):
        if trust.serves(runtime):
            result += make(trust)
    return result


def json_keys(trust: Trust) -> list[dict[str, t.Any]]:
    """The login that Docker's client, Podman, Skopeo and Buildah read when root runs them, for host_state's json_keys.

    containers-auth.json(5) names Docker's config.json as the last place that is looked at.
    """
    if not trust.basic or not (trust.serves("docker") or trust.serves("containers")):
        return []
    return [
        {
            "user": "root",
            "path": ".docker/config.json",
            "keys": ["auths", name],
            "secret_value": {"auth": trust.basic},
        }
        for name in trust.names
    ]


def daemon_json(trust: Trust) -> dict[str, t.Any]:
    """The fragment of daemon.json.

    Without a mirror the list is empty rather than missing: dockerd takes an empty list over by SIGHUP, but a key that
    vanishes only by a restart.
    """
    if not trust.serves("docker"):
        return {}
    asked = trust.upstreams.get(HUB, [])
    return {"registry-mirrors": [item.url for item in asked if trust.docker_mirror or item != trust.registry]}


def notices(trust: Trust) -> list[str]:
    """What a runtime cannot do of what the settings ask for, one sentence each."""
    found = []
    if trust.serves("docker"):
        others = [name for name in trust.upstreams if name != HUB]
        if others:
            better = " or ".join([trust.registry.address] * bool(trust.host) + ["a cache"] * bool(trust.caches))
            found.append(
                f"dockerd knows mirrors of {HUB} only: it pulls images of {', '.join(others)} from there, not from "
                f"{better} (containerd and Podman do)."
            )
        if daemon_json(trust)["registry-mirrors"] and not trust.fallback:
            found.append(
                "dockerd has no switch against falling back to Docker Hub: registry_trust_fallback binds containerd "
                "and Podman only. Refuse registry-1.docker.io at the proxy (docs/registry_trust.md)."
            )
    return found
