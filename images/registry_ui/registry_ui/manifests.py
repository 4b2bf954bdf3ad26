# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests and configurations as plain data. They were written by strangers: every field may be of any type."""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t

from registry_ui.text import parse_time

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_TYPES = (OCI_INDEX, OCI_IMAGE, DOCKER_INDEX, DOCKER_IMAGE)
CONFIGS = {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
# A tag that only says what belongs to a digest: OCI's fallback for referrers, and cosign's three.
TECHNICAL_TAG = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.(sig|att|sbom))?")
MAX_PARTS = 4096


class UnreadableError(Exception):
    """It is not what its media type says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A blob or manifest that a manifest names. kind is config, layer, manifest or attestation."""

    kind: str
    digest: str
    size: int
    media_type: str = ""
    platform: str = ""
    artifact_type: str = ""
    annotations: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """kind is image, index or artifact (an image manifest that holds something else, such as an SBOM)."""

    kind: str
    media_type: str
    parts: tuple[Part, ...] = ()
    subject: str = ""
    artifact_type: str = ""
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def config(self) -> Part | None:
        """The configuration, where there is one."""
        return next((part for part in self.parts if part.kind == "config"), None)

    @property
    def layers(self) -> tuple[Part, ...]:
        """The layers, lowest first."""
        return tuple(part for part in self.parts if part.kind == "layer")

    @property
    def children(self) -> tuple[Part, ...]:
        """The manifests of an index, one for each platform, and attestations."""
        return tuple(part for part in self.parts if part.kind in ("manifest", "attestation"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A line of an image's history."""

    created: float | None
    command: str
    comment: str
    empty: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What an image says of itself and how it starts."""

    created: float | None = None
    platform: str = ""
    author: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    directory: str = ""
    stop_signal: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()


def load(content: bytes) -> dict[str, t.Any]:
    """Return a JSON object from bytes that need not be UTF-8; raises UnreadableError for anything else."""
    try:
        value = json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as exc:
        raise UnreadableError(f"not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise UnreadableError("not a JSON object")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(item) for item in value)
    return () if value is None else (_text(value),)


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, _text(item)) for key, item in value.items())) if isinstance(value, dict) else ()


def _map(value: object) -> dict[str, t.Any]:
    return value if isinstance(value, dict) else {}


def _maps(value: object) -> list[dict[str, t.Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _size(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60 else 0


def platform(value: object) -> str:
    """Return os/architecture/variant; empty where it is not said or said to be unknown."""
    found = _map(value)
    words = [_text(found.get(key)) for key in ("os", "architecture", "variant")]
    named = "/".join(word for word in words if word and word != "unknown")
    version = _text(found.get("os.version"))
    return f"{named} {version}".strip()[:100]


def _part(kind: str, value: dict[str, t.Any]) -> Part:
    digest = _text(value.get("digest"))
    if not DIGEST.fullmatch(digest):
        raise UnreadableError(f"{digest[:100]!r} is no digest")
    annotations = _pairs(value.get("annotations"))
    if kind == "manifest" and dict(annotations).get("vnd.docker.reference.type") == "attestation-manifest":
        kind = "attestation"
    return Part(
        kind=kind,
        digest=digest,
        size=_size(value.get("size")),
        media_type=_text(value.get("mediaType")),
        platform=platform(value.get("platform")),
        artifact_type=_text(value.get("artifactType")),
        annotations=annotations,
    )


def parse(content: bytes, media_type: str) -> Manifest:
    """Return what a manifest says; raises UnreadableError."""
    value = load(content)
    is_index = media_type in (OCI_INDEX, DOCKER_INDEX) or "manifests" in value
    parts = [_part("manifest", item) for item in _maps(value.get("manifests"))] if is_index else _image_parts(value)
    if len(parts) > MAX_PARTS:
        raise UnreadableError(f"it names {len(parts)} parts")
    artifact_type = _text(value.get("artifactType"))
    subject = _text(_map(value.get("subject")).get("digest"))
    config = next((part for part in parts if part.kind == "config"), None)
    is_image = config is not None and config.media_type in CONFIGS and not artifact_type
    return Manifest(
        kind="index" if is_index else "image" if is_image else "artifact",
        media_type=media_type,
        parts=tuple(parts),
        subject=subject if DIGEST.fullmatch(subject) else "",
        artifact_type=artifact_type or ("" if is_index or is_image or config is None else config.media_type),
        annotations=_pairs(value.get("annotations")),
    )


def _image_parts(value: dict[str, t.Any]) -> list[Part]:
    config = [_part("config", value["config"])] if isinstance(value.get("config"), dict) else []
    return config + [_part("layer", item) for item in _maps(value.get("layers") or value.get("blobs"))]


def parse_config(content: bytes) -> Config:
    """Return what a configuration says; raises UnreadableError."""
    value = load(content)
    runs = _map(value.get("config"))
    pairs = (text.partition("=")[::2] for text in _texts(runs.get("Env")))
    steps = (
        Step(
            created=parse_time(item.get("created")),
            command=_text(item.get("created_by")),
            comment=_text(item.get("comment")),
            empty=item.get("empty_layer") is True,
        )
        for item in _maps(value.get("history"))
    )
    return Config(
        created=parse_time(value.get("created")),
        platform=platform(value),
        author=_text(value.get("author")),
        entrypoint=_texts(runs.get("Entrypoint")),
        command=_texts(runs.get("Cmd")),
        user=_text(runs.get("User")),
        directory=_text(runs.get("WorkingDir")),
        stop_signal=_text(runs.get("StopSignal")),
        environment=tuple((key, text) for key, text in pairs),
        labels=_pairs(runs.get("Labels")),
        ports=tuple(sorted(_map(runs.get("ExposedPorts")))),
        volumes=tuple(sorted(_map(runs.get("Volumes")))),
        history=tuple(steps),
    )


def commands(steps: t.Sequence[Step], layers: int) -> list[str]:
    """Return for each layer the history's command that made it; empty where the history does not tell."""
    made = [step.command for step in steps if not step.empty]
    return made if len(made) == layers else [""] * layers


def belongs_to(tag: str) -> tuple[str, str]:
    """Return for a technical tag the digest that it belongs to, and sig, att, sbom or "" (the fallback index)."""
    match = TECHNICAL_TAG.fullmatch(tag)
    return (f"{match[1]}:{match[2]}", match[3] or "") if match else ("", "")
