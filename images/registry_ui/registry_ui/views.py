# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pages and the JSON API say, as plain data."""

from __future__ import annotations

import dataclasses
import typing as t

from registry_ui import manifests
from registry_ui.client import Registry, RegistryError
from registry_ui.store import Row, Store
from registry_ui.text import natural, short

SORTS = ("name", "size", "created", "pushed", "pulled")


@dataclasses.dataclass
class Folder:
    """A level of the tree: a part of repositories' names up to a slash."""

    name: str
    path: str
    folders: dict[str, Folder] = dataclasses.field(default_factory=dict)
    repositories: list[Row] = dataclasses.field(default_factory=list)
    tags: int = 0
    count: int = 0
    pushed: float | None = None


def tree(rows: t.Iterable[Row]) -> Folder:
    """Return repositories by the parts of their names. A folder with one entry only is written as one with it."""
    root = Folder("", "")
    for row in rows:
        at = root
        *folders, name = row["name"].split("/")
        for level in [None, *folders]:
            if level is not None:
                at = at.folders.setdefault(level, Folder(level, f"{at.path}{level}/"))
            at.tags += row["tags"]
            at.count += 1
            at.pushed = max(filter(None, (at.pushed, row["pushed"])), default=None)
        at.repositories.append(row | {"label": name})
    return _shortened(root)


def _shortened(folder: Folder) -> Folder:
    for name, child in list(folder.folders.items()):
        child = _shortened(child)
        if child.count == 1:
            row = child.repositories[0]
            folder.repositories.append(row | {"label": f"{name}/{row['label']}"})
            del folder.folders[name]
    folder.repositories.sort(key=lambda row: str(row["label"]))
    return folder


def sort_tags(rows: list[Row], by: str, *, down: bool) -> list[Row]:
    """Return tags in order; those without the value come last either way."""
    rows = sorted(rows, key=lambda row: natural(row["name"]), reverse=down if by == "name" else True)
    if by == "name":
        return rows
    known = [row for row in rows if row[by] is not None]
    return sorted(known, key=lambda row: row[by], reverse=down) + [row for row in rows if row[by] is None]


def add_twins(rows: list[Row]) -> list[Row]:
    """Return tags, each with the other tags of the same image."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row["digest"], []).append(row["name"])
    return [row | {"twins": [name for name in names[row["digest"]] if name != row["name"]]} for row in rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer as a page shows it."""

    digest: str
    size: int
    media_type: str
    command: str
    shared: int
    share: float


@dataclasses.dataclass(kw_only=True)
class Image:
    """All that is known of a manifest."""

    repository: str
    digest: str
    row: Row
    manifest: manifests.Manifest
    config: manifests.Config
    tags: list[str]
    layers: list[Layer]
    children: list[dict[str, t.Any]]
    parents: list[Row]
    referrers: list[dict[str, t.Any]]

    @property
    def size(self) -> int:
        """Bytes that a pull moves at most; for an index, of all platforms."""
        return int(self.row["size"])


def image(store: Store, registry: Registry | None, repository: str, digest: str) -> Image | None:
    """Return an image; None when the index does not know it. A registry is asked for referrers only."""
    row = store.manifest(repository, digest)
    if row is None:
        return None
    try:
        manifest = manifests.parse(row["content"], row["media_type"])
    except manifests.UnreadableError:
        manifest = manifests.Manifest(kind="artifact", media_type=row["media_type"], artifact_type="unreadable")
    try:
        config = manifests.parse_config(row["config"]) if row["config"] else manifests.Config()
    except manifests.UnreadableError:
        config = manifests.Config()
    shared = store.sharing(repository, digest)
    made_by = manifests.commands(config.history, len(manifest.layers))
    largest = max((layer.size for layer in manifest.layers), default=0) or 1
    return Image(
        repository=repository,
        digest=digest,
        row=row,
        manifest=manifest,
        config=config,
        tags=sorted(store.tags_of(repository, digest), key=natural),
        layers=[
            Layer(
                digest=part.digest,
                size=part.size,
                media_type=part.media_type,
                command=command,
                shared=shared.get(part.digest, 0),
                share=part.size / largest,
            )
            for part, command in zip(manifest.layers, made_by, strict=True)
        ],
        children=[_child(store, repository, part) for part in manifest.children],
        parents=store.parents(repository, digest),
        referrers=referrers(store, registry, repository, digest),
    )


def _child(store: Store, repository: str, part: manifests.Part) -> dict[str, t.Any]:
    known = store.manifest(repository, part.digest)
    return {
        "digest": part.digest,
        "kind": part.kind,
        "platform": part.platform or (known["platforms"] if known else ""),
        "size": known["size"] if known else None,
        "created": known["created"] if known else None,
        "known": known is not None,
        "of": dict(part.annotations).get("vnd.docker.reference.digest", ""),
    }


def referrers(store: Store, registry: Registry | None, repository: str, digest: str) -> list[dict[str, t.Any]]:
    """Return what was attached to a manifest: by subject, OCI's tag fallback, cosign's tags, the registry's API."""
    found: dict[str, dict[str, t.Any]] = {}

    def add(other: str, kind: str, size: object, how: str, tag: str = "") -> None:
        found.setdefault(other, {"digest": other, "type": kind, "size": size, "how": how, "tag": tag})

    for row in store.referrers(repository, digest):
        add(row["digest"], row["artifact_type"] or row["media_type"], row["size"], "subject")
    base = digest.replace(":", "-", 1)
    for suffix, kind in (("sig", "cosign signature"), ("att", "cosign attestation"), ("sbom", "cosign SBOM")):
        tag = store.tag(repository, f"{base}.{suffix}")
        if tag:
            add(tag["digest"], kind, tag["size"], "tag", tag["name"])
    fallback = store.tag(repository, base)
    known = store.manifest(repository, fallback["digest"]) if fallback else None
    for content, how in (
        (known["content"] if known else None, "tag"),
        (_from_api(registry, repository, digest), "API"),
    ):
        for part in _index(content):
            add(part.digest, part.artifact_type or part.media_type, part.size, how)
    return list(found.values())


def _index(content: bytes | None) -> tuple[manifests.Part, ...]:
    if content is None:
        return ()
    try:
        return manifests.parse(content, manifests.OCI_INDEX).children
    except manifests.UnreadableError:
        return ()


def _from_api(registry: Registry | None, repository: str, digest: str) -> bytes | None:
    try:
        return registry.referrers(repository, digest) if registry else None
    except RegistryError:
        return None


def pull_commands(name: str, repository: str, tag: str, digest: str) -> list[tuple[str, str, str]]:
    """Return (id, for whom, what to type or write) for an image."""
    by_tag = f"{name}/{repository}:{tag}" if tag else f"{name}/{repository}@{digest}"
    exact = f"{name}/{repository}@{digest}"
    pod = f"containers:\n  - name: {repository.rpartition('/')[2]}\n    image: {exact}"
    return [
        ("docker", "Docker, Podman", f"docker pull {by_tag}"),
        ("digest", "exactly this image", f"docker pull {exact}"),
        ("containerd", "containerd", f"ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d {by_tag}"),
        ("pod", "a pod, pinned", pod),
    ]


def pick(store: Store, repository: str, digest: str, platform: str) -> tuple[Image | None, list[str]]:
    """Return the image for a platform, and the platforms there are; of an index without it, its first."""
    found = image(store, None, repository, digest)
    if found is None or found.manifest.kind != "index":
        return found, [found.config.platform] if found and found.config.platform else []
    children = [child for child in found.children if child["kind"] == "manifest" and child["known"]]
    if not children:
        return None, []
    chosen = next((child for child in children if child["platform"] == platform), children[0])
    return image(store, None, repository, chosen["digest"]), [child["platform"] for child in children]


def compare(left: Image, right: Image) -> dict[str, t.Any]:
    """Return what two images share and in what they differ."""
    digests = {layer.digest for layer in left.layers}, {layer.digest for layer in right.layers}
    common = [layer for layer in left.layers if layer.digest in digests[1]]
    return {
        "common": common,
        "common_size": sum({layer.digest: layer.size for layer in common}.values()),
        "left_only": [layer for layer in left.layers if layer.digest not in digests[1]],
        "right_only": [layer for layer in right.layers if layer.digest not in digests[0]],
        "settings": [pair for pair in _settings(left, right) if pair[1] != pair[2]],
        "environment": changes(left.config.environment, right.config.environment),
        "labels": changes(left.config.labels, right.config.labels),
    }


def _settings(left: Image, right: Image) -> list[tuple[str, str, str]]:
    def words(values: tuple[str, ...]) -> str:
        return " ".join(values)

    a, b = left.config, right.config
    return [
        ("Platform", a.platform, b.platform),
        ("Entry point", words(a.entrypoint), words(b.entrypoint)),
        ("Command", words(a.command), words(b.command)),
        ("User", a.user, b.user),
        ("Directory", a.directory, b.directory),
        ("Ports", words(a.ports), words(b.ports)),
        ("Volumes", words(a.volumes), words(b.volumes)),
        ("Stop signal", a.stop_signal, b.stop_signal),
    ]


def changes(
    left: t.Iterable[tuple[str, str]], right: t.Iterable[tuple[str, str]]
) -> list[tuple[str, str | None, str | None]]:
    """Return (key, left, right) for what differs; None where a side has no such key."""
    a, b = dict(left), dict(right)
    return [(key, a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]


def removal(store: Store, repository: str, digest: str, tag: str) -> dict[str, t.Any]:
    """Return what goes, what stays and what would break when a tag (or, without one, a manifest) is deleted."""
    tags = store.tags_of(repository, digest)
    others = [name for name in tags if name != tag] if tag else []
    return {
        "whole": not tag,
        "tags": tags if not tag else [tag],
        "others": others,
        "parents": store.parents(repository, digest),
        "sharers": store.sharers(repository, digest),
        "frees": 0 if tag and others else store.only_here(repository, digest),
        "referrers": referrers(store, None, repository, digest),
        "short": short(digest),
    }
