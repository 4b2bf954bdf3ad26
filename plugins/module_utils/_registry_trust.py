# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to trust a private registry and to ask it first: the files of each container runtime.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
    """A registry, the upstream names that are asked of it first, and the runtimes that shall know.

    An empty host means no registry. dial_timeout is a duration in Go's form, such as 5s.
    """

    host: str = ""
    port: int = 6001
    ca_certificate: str = ""
    mirrors: tuple[str, ...] = (HUB,)
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
        for name in ("mirrors", "runtimes"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**{**values, "port": int(values.get("port", cls.port))})

    @property
    def address(self) -> str:
        """Host and port as they stand in an image's name."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The registry's address for hosts.toml and registry-mirrors."""
        return f"https://{self.address}"

    @property
    def names(self) -> list[str]:
        """The names by which images can be addressed: without the port where it is the one of https."""
        return [self.address, *([self.host] if self.port == HTTPS_PORT else [])]

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
        """Whether there is a registry and this runtime shall know it."""
        return bool(self.host) and runtime in self.runtimes


def toml_string(value: str) -> str:
    """A TOML basic string (toml.io/en/v1.0.0#string): JSON's escapes, and DEL, which JSON leaves alone."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def hosts_toml(trust: Trust, *, server: bool, push: bool) -> str:
    """A hosts.toml that asks the registry first.

    server: the registry is also the last resort, so nothing else is ever asked. Without a `server` line containerd
    falls back to the registry in the image's name. A table [host] has to be there: without one containerd 1.6 and 1.7
    call the file broken and ask the upstream.
    """
    lines = [f"server = {toml_string(trust.url)}", ""] if server else []
    actions = ["pull", "resolve", "push"] if push else ["pull", "resolve"]
    lines += [f"[host.{toml_string(trust.url)}]", f"capabilities = {json.dumps(actions)}"]
    if trust.ca_text:
        lines.append(f"ca = {toml_string(trust.ca_path)}")
    lines.append(f"dial_timeout = {toml_string(trust.dial_timeout)}")
    if trust.basic:
        lines += [
            f"[host.{toml_string(trust.url)}.header]",
            f"authorization = {toml_string('Basic ' + trust.basic)}",
        ]
    return HEADER + "\n".join(lines) + "\n"


def registries_conf(trust: Trust) -> str:
    """A drop-in of containers-registries.conf(5): mirrors, and the upstream blocked where there is no fallback.

    `blocked` leaves the mirrors alone (they are asked first) and also stops tag lists and pushes to the upstream, which
    a changed `location` would not.
    """
    lines = []
    if HUB in trust.mirrors:  # bare names; the only name in the list, so that Podman has nothing to ask
        lines += [f'unqualified-search-registries = ["{HUB}"]', ""]
    for upstream in trust.mirrors:
        name = toml_string(upstream)
        lines += ["[[registry]]", f"prefix = {name}", f"location = {name}"]
        if not trust.fallback:
            lines.append("blocked = true")
        lines += ["[[registry.mirror]]", f"location = {toml_string(trust.address)}", ""]
    return HEADER + "\n".join(lines).rstrip("\n") + "\n"


def docker_files(trust: Trust) -> list[File]:
    """What dockerd reads: one CA for each name of the registry; read at each pull, no reload needed."""
    if not trust.ca_text:
        return []
    return [{"path": f"/etc/docker/certs.d/{name}/ca.crt", "content": trust.ca_text} for name in trust.names]


def containerd_files(trust: Trust) -> list[File]:
    """What containerd's CRI plugin reads at each pull: a hosts.toml for the registry and one for each upstream."""
    kind, mode = ("secret_content", "0600") if trust.basic else ("content", "0644")
    texts = dict.fromkeys(trust.names, hosts_toml(trust, server=True, push=True))
    texts |= dict.fromkeys(trust.mirrors, hosts_toml(trust, server=not trust.fallback, push=False))
    return [
        {"path": f"/etc/containerd/certs.d/{name}/hosts.toml", kind: text, "mode": mode} for name, text in texts.items()
    ]


def containers_files(trust: Trust) -> list[File]:
    """What Podman, Skopeo and Buildah read."""
    files = []
    if trust.ca_text:
        files += [{"path": f"/etc/containers/certs.d/{name}/ca.crt", "content": trust.ca_text} for name in trust.names]
    if trust.mirrors:
        files.append({"path": "/etc/containers/registries.conf.d/50-slipway.conf", "content": registries_conf(trust)})
    return files


def files(trust: Trust) -> list[File]:
    """Every file for a registry, for the option files of host_state; none without a registry."""
    if not trust.host:
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
    return {"registry-mirrors": [trust.url] if trust.docker_mirror and HUB in trust.mirrors else []}


def notices(trust: Trust) -> list[str]:
    """What a runtime cannot do of what the settings ask for, one sentence each."""
    found = []
    if trust.serves("docker"):
        others = [name for name in trust.mirrors if name != HUB]
        if others:
            found.append(
                f"dockerd knows mirrors of {HUB} only: it pulls images of {', '.join(others)} from there, not from "
                f"{trust.address} (containerd and Podman do)."
            )
        if trust.docker_mirror and HUB in trust.mirrors and not trust.fallback:
            found.append(
                "dockerd has no switch against falling back to Docker Hub: registry_trust_fallback binds containerd "
                "and Podman only. Refuse registry-1.docker.io at the proxy (docs/registry_trust.md)."
            )
    return found
