#!/usr/bin/python3
# Managed by slipway.platform.registry. Edits are undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delete the tags that the retention rules do not keep, and free the space of what no image needs.

Without arguments: one collection, for the systemd timer. --dry-run lists what would go (--json: as JSON) and changes
nothing. --recover, for ExecStopPost: lets pushes in again and puts back what a killed collection had not proved.
--hold only holds writes off until it is stopped: for a collection in a bucket, which playbooks/registry_gc.yml makes.

How it stays safe, in this order: the clusters are asked which images they use, and one that cannot be asked ends the
collection before anything has changed; writes are stopped; what may go is found with them stopped; it is moved aside on
the same file system, tags first, blobs last; what a push that was under way needs after all comes back; writes are let
in; the registry is asked for every kept tag, each platform and each blob of it; only then what was moved aside is
deleted, and if one answer is wrong all of it comes back. A manifest is kept with all that it names, so no platform of
an index that is kept is ever taken; the registry's own `garbage-collect --delete-untagged` does that on v2
(distribution 3178).

Only the standard library, Python 3.11 or later. Reads distribution's file system layout
(registry/storage/paths.go), which v2 and v3 share.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import fnmatch
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import sys
import time
import typing as t
import urllib.parse

CONFIG = "/etc/slipway/registry/gc.json"
DOCKER_SOCKET = "/run/docker.sock"
DAY = 86400.0
ROOT = "docker/registry/v2"
ASIDE = ".slipway-gc"
DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,128}\Z")
# Where clients keep signatures and the like of an image: sha256-HEX of the image, with or without a suffix
# (OCI distribution-spec, referrers tag schema; cosign).
ABOUT = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\..+)?\Z")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
# A manifest of more than 4 MiB is refused by the registry (OCI distribution-spec, pushing manifests).
MAX_MANIFEST = 8 * 2**20
ACCEPT = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "*/*",
    ]
)
Digests = dict[str, float]
# What of a cluster names images: what runs, and what may run again (scaled to zero, between two runs, rolled back).
CLUSTER_LISTS = (
    "/api/v1/pods",
    "/api/v1/podtemplates",
    "/api/v1/replicationcontrollers",
    "/apis/apps/v1/controllerrevisions",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/apis/batch/v1/cronjobs",
    "/apis/batch/v1/jobs",
)
PAGE = 500
CLUSTER_SECONDS = 60
# An image as a pod names it: a host, a repository, a tag, a digest (distribution/reference).
IMAGE = re.compile(
    r"(?:(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/)?(?P<path>[a-z0-9][a-z0-9._/-]*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9+._-]+:[0-9a-f]{32,128}))?\Z",
    re.ASCII,
)


class CollectionError(Exception):
    """Why a collection was not made, for the journal."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which tags a rule is about, and which of them stay: the newest keep_last, and those younger than keep_days."""

    repositories: list[str]
    tags: list[str]
    keep_last: int = 0
    keep_days: float = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """What the role wrote. hosts are the registry's own names, which a protected image may begin with."""

    data_dir: str
    marker: str
    run_dir: str
    state: str
    registry: str
    network: str
    hosts: list[str]
    retention: list[Rule]
    protected: list[str]
    untagged_days: float
    grace: str
    max_share: float
    settle: float = 2.0
    port: int = 5000
    clusters: str = ""  # file with servers, authorities and tokens; none where no cluster is to be asked
    bucket: bool = False

    @property
    def root(self) -> str:
        """Directory in which the registry keeps everything."""
        return os.path.join(self.data_dir, ROOT)

    @property
    def aside(self) -> str:
        """Directory for what is about to be deleted, on the same file system."""
        return os.path.join(self.data_dir, ASIDE)

    @property
    def flag(self) -> str:
        """File whose presence makes nginx hold pushes and deletions off."""
        return os.path.join(self.run_dir, "collecting")

    @property
    def lock(self) -> str:
        """File that is locked as long as a collection is under way."""
        return os.path.join(self.run_dir, "gc.lock")


def load_config(path: str) -> Config:
    """Read what the role wrote."""
    with open(path, encoding="utf-8") as handle:
        values = json.load(handle)
    values["retention"] = [Rule(**rule) for rule in values["retention"]]
    return Config(**values)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Kubernetes cluster whose images stay: its API server, and as whom to ask it."""

    server: str
    token: str
    ca_certificate: str | None = None
    resources: list[str] | None = None


def load_clusters(path: str) -> list[Cluster]:
    """Read which clusters there are; not being able to is not the same as none."""
    if not path:
        return []
    try:
        with open(path, encoding="utf-8") as handle:
            return [Cluster(**values) for values in json.load(handle)]
    except (OSError, ValueError, TypeError) as exc:
        raise CollectionError(f"{path} does not say which clusters to ask: {exc}") from exc


@dataclasses.dataclass
class InUse:
    """Images that clusters use: repository and tag, and digests of manifests or configurations."""

    tags: set[tuple[str, str]] = dataclasses.field(default_factory=set)
    digests: set[str] = dataclasses.field(default_factory=set)

    def add(self, image: str) -> None:
        """Note an image as it stands in a pod's spec or status.

        Which host it names does not matter: bare names and those of any upstream may lead here by a mirror. A name too
        many only keeps an image.
        """
        image = image.rpartition("://")[2]  # docker-pullable://, of a status
        if DIGEST.match(image):
            self.digests.add(image)
        elif match := IMAGE.match(image):
            host, path = match["host"] or "", match["path"]
            if host and not re.search(r"[.:]|\Alocalhost\Z", host):
                path = f"{host}/{path}"
            if match["digest"]:
                self.digests.add(match["digest"])
            if match["tag"] or not match["digest"]:
                self.tags.add((path.removeprefix("library/"), match["tag"] or "latest"))

    def tag(self, repository: str, tag: Tag) -> bool:
        """Tell whether a tag is in use, by name or by what it names."""
        return (repository.removeprefix("library/"), tag.name) in self.tags or tag.digest in self.digests

    def of(self, store: Store, repository: Repository) -> set[str]:
        """Return the manifests of a repository that are in use; a status may name one by its configuration."""
        elsewhere = self.digests - set(repository.revisions)
        return {
            digest
            for digest in repository.revisions
            if digest in self.digests or (elsewhere and elsewhere & (store.named_by(digest) or frozenset()))
        }


def images_in(value: t.Any) -> t.Iterator[str]:
    """Yield what stands below the keys image and imageID, wherever that is: in templates, lists, statuses, volumes."""
    if isinstance(value, list):
        for item in value:
            yield from images_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("image", "imageID") and isinstance(item, str):
                yield item
            elif key == "image" and isinstance(item, dict):  # a volume
                yield str(item.get("reference", ""))
            else:
                yield from images_in(item)


class Api:
    """A cluster's API server. Its certificate is verified; redirects and proxies are not followed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.base = urllib.parse.urlsplit(cluster.server)
        self.connection: http.client.HTTPSConnection | None = None

    def _connect(self) -> http.client.HTTPSConnection:
        if self.connection is None:
            context = ssl.create_default_context(cadata=self.cluster.ca_certificate or None)
            host, port = self.base.hostname or "", self.base.port or 443
            self.connection = http.client.HTTPSConnection(host, port, context=context, timeout=CLUSTER_SECONDS)
        return self.connection

    def close(self) -> None:
        """End the connection."""
        if self.connection is not None:
            self.connection.close()

    def _page(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, t.Any]]:
        target = f"{self.base.path.rstrip('/')}{path}?{urllib.parse.urlencode(query)}"
        headers = {"Authorization": f"Bearer {self.cluster.token.strip()}", "Accept": "application/json"}
        connection = self._connect()
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        content = json.loads(answer.read() or b"{}")
        return answer.status, content if isinstance(content, dict) else {}

    def items(self, path: str) -> t.Iterator[t.Any]:
        """Yield all objects of a kind, page by page; raises CollectionError when they are not to be had."""
        query = {"limit": str(PAGE)}
        while True:
            status, page = self._page(path, query)
            if status != 200:
                raise CollectionError(f"{path}: {status} {page.get('message', '')}".rstrip())
            if not isinstance(page.get("items"), list) or not str(page.get("kind")).endswith("List"):
                raise CollectionError(f"{path}: the answer is no list")
            yield from page["items"]
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = str(following)

    def read(self, path: str, used: InUse) -> None:
        """Note the images of all objects of a kind; begin again where the server has forgotten where we were."""
        for attempt in range(3):
            try:
                for item in self.items(path):
                    for image in images_in(item):
                        used.add(image)
                return
            except CollectionError as exc:
                if attempt == 2 or f"{path}: 410" not in str(exc):
                    raise


def in_use(config: Config) -> InUse:
    """Ask all clusters which images they use; raises CollectionError when one cannot be asked for all of it."""
    used = InUse()
    for cluster in load_clusters(config.clusters):
        api = Api(cluster)
        try:
            for path in (*CLUSTER_LISTS, *(cluster.resources or [])):
                api.read(path, used)
        except (OSError, http.client.HTTPException, ValueError, CollectionError) as exc:
            raise CollectionError(
                f"nothing is deleted, because the cluster {cluster.server} cannot be asked: {exc}"
            ) from exc
        finally:
            api.close()
    return used


@dataclasses.dataclass(frozen=True)
class Tag:
    """A tag: what it names, and when it was last pushed (epoch seconds)."""

    name: str
    digest: str
    pushed: float


@dataclasses.dataclass
class Repository:
    """What links a repository holds; the numbers are when each was written."""

    name: str
    tags: list[Tag] = dataclasses.field(default_factory=list)
    revisions: Digests = dataclasses.field(default_factory=dict)
    layers: Digests = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Plan:
    """What may go: paths below ROOT in the order in which they go, and what a person wants to know of them."""

    tags: list[tuple[str, Tag, str]] = dataclasses.field(default_factory=list)
    manifests: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    layers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    blobs: dict[str, int] = dataclasses.field(default_factory=dict)
    stored: int = 0
    kept_tags: list[tuple[str, Tag]] = dataclasses.field(default_factory=list)
    kept: set[tuple[str, str, str]] = dataclasses.field(default_factory=set)  # repository, kind, digest
    broken: list[str] = dataclasses.field(default_factory=list)
    in_use: int = 0

    @property
    def bytes(self) -> int:
        """What the blobs that may go take."""
        return sum(self.blobs.values())

    def add(
        self, repository: Repository, gone: t.Mapping[str, tuple[Tag, str]], needed: set[str], young: set[str]
    ) -> None:
        """Sort what a repository holds into what goes and what stays; young layers stay, but nobody needs them yet."""
        name = repository.name
        self.tags += [(name, tag, why) for tag, why in gone.values()]
        self.kept_tags += [(name, tag) for tag in repository.tags if tag.name not in gone]
        self.manifests += [(name, digest) for digest in repository.revisions if digest not in needed]
        self.layers += [(name, digest) for digest in repository.layers if digest not in needed | young]
        self.kept |= {(name, "manifests", digest) for digest in repository.revisions if digest in needed}
        self.kept |= {(name, "blobs", digest) for digest in repository.layers if digest in needed}

    def paths(self) -> list[str]:
        """Return tags, then links, then blobs: whatever is cut off on the way leaves no link to a missing blob."""
        found = [f"repositories/{name}/_manifests/tags/{tag.name}" for name, tag, _ in self.tags]
        found += [f"repositories/{name}/_manifests/revisions/{_slashed(digest)}" for name, digest in self.manifests]
        found += [f"repositories/{name}/_layers/{_slashed(digest)}" for name, digest in self.layers]
        return found + [os.path.dirname(blob_path(digest)) for digest in self.blobs]


def _slashed(digest: str) -> str:
    return digest.replace(":", "/", 1)


def blob_path(digest: str) -> str:
    """Return where a blob's bytes are, below ROOT."""
    algorithm, _, hexadecimal = digest.partition(":")
    return f"blobs/{algorithm}/{hexadecimal[:2]}/{hexadecimal}/data"


def seconds(duration: str) -> float:
    """Turn 30s, 15m, 24h or 7d into seconds."""
    return float(duration[:-1]) * UNITS[duration[-1]]


def human(size: float) -> str:
    """Return bytes as GiB, MiB or KiB, for a message."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


class Store:
    """The registry's directory. What a manifest names is remembered, because a digest never changes its content."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.names: dict[str, frozenset[str] | None] = {}

    def repositories(self) -> list[Repository]:
        """Read all repositories and their links."""
        top = os.path.join(self.root, "repositories")
        found = []
        for directory, below, _files in os.walk(top):
            if {"_manifests", "_layers", "_uploads"} & set(below):
                found.append(self._repository(directory, os.path.relpath(directory, top)))
            below[:] = [name for name in below if not name.startswith("_")]
        return sorted(found, key=lambda repository: repository.name)

    def _repository(self, directory: str, name: str) -> Repository:
        repository = Repository(name)
        tags = os.path.join(directory, "_manifests/tags")
        for entry in _listed(tags):
            link = os.path.join(tags, entry, "current/link")
            with contextlib.suppress(FileNotFoundError):
                with open(link, encoding="utf-8") as handle:
                    digest = handle.read().strip()
                repository.tags.append(Tag(entry, digest, os.stat(link).st_mtime))
        repository.revisions = _links(os.path.join(directory, "_manifests/revisions"))
        repository.layers = _links(os.path.join(directory, "_layers"))
        return repository

    def blobs(self) -> dict[str, tuple[int, float]]:
        """Return size and age of every blob."""
        found = {}
        top = os.path.join(self.root, "blobs")
        for algorithm in _listed(top):
            for part in _listed(os.path.join(top, algorithm)):
                for name in _listed(os.path.join(top, algorithm, part)):
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        data = os.stat(os.path.join(top, algorithm, part, name, "data"))
                        found[f"{algorithm}:{name}"] = (data.st_size, data.st_mtime)
        return found

    def named_by(self, digest: str) -> frozenset[str] | None:
        """Return all digests that stand anywhere in a manifest; None when it is missing or no JSON."""
        if digest not in self.names:
            self.names[digest] = self._read(digest)
        return self.names[digest]

    def _read(self, digest: str) -> frozenset[str] | None:
        try:
            with open(os.path.join(self.root, blob_path(digest)), "rb") as handle:
                return frozenset(_digests(json.loads(handle.read(MAX_MANIFEST))))
        except (FileNotFoundError, ValueError, RecursionError):
            return None


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _links(path: str) -> Digests:
    """Return the digests below a directory of links; the registry deletes a manifest by deleting its link only."""
    found = {}
    for algorithm in _listed(path):
        for name in _listed(os.path.join(path, algorithm)):
            with contextlib.suppress(FileNotFoundError):
                found[f"{algorithm}:{name}"] = os.stat(os.path.join(path, algorithm, name, "link")).st_mtime
    return found


def _digests(value: t.Any) -> t.Iterator[str]:
    if isinstance(value, str):
        if DIGEST.match(value):
            yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _digests(item)


def matches(patterns: t.Iterable[str], name: str) -> bool:
    """Tell whether a name fits one shell pattern; * takes slashes too, and a/ is short for a/*."""
    return any(fnmatch.fnmatchcase(name, p + "*" if p.endswith("/") else p) for p in patterns)


class Protected:
    """Images that stay whatever the rules say: REPOSITORY, REPOSITORY:TAG, REPOSITORY@DIGEST; names are patterns."""

    def __init__(self, entries: t.Iterable[str], hosts: t.Iterable[str]) -> None:
        self.tags: list[tuple[str, str]] = []
        self.digests: list[tuple[str, str]] = []
        for entry in entries:
            for host in hosts:
                entry = entry.removeprefix(f"{host}/")
            entry = entry.removeprefix("library/")
            name, at, digest = entry.partition("@")
            repository, _, tag = name.rpartition(":") if ":" in name else (name, "", "*")
            if at:
                self.digests.append((repository, digest))
            else:
                self.tags.append((repository, tag))

    def tag(self, repository: str, tag: Tag) -> bool:
        """Tell whether a tag is protected, by name or by what it names."""
        by_name = any(matches([name], repository) and matches([which], tag.name) for name, which in self.tags)
        return by_name or tag.digest in self.of(repository)

    def of(self, repository: str) -> set[str]:
        """Return the protected digests of a repository."""
        return {digest for name, digest in self.digests if matches([name], repository)}


def expired(repository: Repository, config: Config, now: float, used: InUse) -> list[tuple[Tag, str]]:
    """Return the tags of a repository that no rule keeps, and why. The first rule that fits a tag decides."""
    protected = Protected(config.protected, config.hosts)
    by_rule: dict[int, list[Tag]] = {}
    for tag in repository.tags:
        if ABOUT.match(tag.name) or protected.tag(repository.name, tag) or used.tag(repository.name, tag):
            continue
        for number, rule in enumerate(config.retention):
            if matches(rule.repositories, repository.name) and matches(rule.tags, tag.name):
                by_rule.setdefault(number, []).append(tag)
                break
    found = []
    for number, tags in by_rule.items():
        rule = config.retention[number]
        for tag in sorted(tags, key=lambda tag: (-tag.pushed, tag.name))[rule.keep_last :]:
            age = (now - tag.pushed) / DAY
            if age > rule.keep_days or not rule.keep_days:
                found.append((tag, _reason(rule, age)))
    return found


def _reason(rule: Rule, age: float) -> str:
    parts = [f"not among the newest {rule.keep_last}"] if rule.keep_last else []
    parts += [f"{age:.0f} days old, kept {rule.keep_days:g}"] if rule.keep_days else []
    return ", ".join(parts)


def reach(
    store: Store,
    repository: Repository,
    roots: t.Iterable[str],
    *,
    broken: list[str] | None = None,
) -> set[str]:
    """Return every digest that is needed for the manifests in roots: platforms, layers, configuration, subjects.

    In broken it is noted which manifests could not be read.
    """
    found: set[str] = set()
    todo = list(roots)
    while todo:
        digest = todo.pop()
        if digest in found:
            continue
        found.add(digest)
        named = store.named_by(digest)
        if named is None:
            if broken is not None:
                broken.append(f"{repository.name}@{digest} is missing or damaged")
            continue
        for other in named - found:
            # What has a link as manifest is read on; the rest is layers and configuration.
            if other in repository.revisions:
                todo.append(other)
            else:
                found.add(other)
    return found


def _judge(store: Store, repository: Repository, config: Config, now: float, plan: Plan, used: InUse) -> set[str]:
    """Add to the plan what of a repository may go; return the digests that it needs."""
    fresh = now - seconds(config.grace)
    gone = {tag.name: (tag, why) for tag, why in expired(repository, config, now, used)}
    plain = [tag for tag in repository.tags if not ABOUT.match(tag.name)]
    about = [tag for tag in repository.tags if ABOUT.match(tag.name)]
    roots = {tag.digest for tag in plain if tag.name not in gone}
    roots |= Protected(config.protected, config.hosts).of(repository.name) & set(repository.revisions)
    roots |= _untagged(store, repository, config, now) | used.of(store, repository)
    needed = reach(store, repository, roots, broken=plan.broken)
    # A signature stays as long as what it is about; in rounds, because a signature may be signed.
    while more := [tag for tag in about if tag.digest not in needed and _subject(tag) in needed]:
        needed |= reach(store, repository, [tag.digest for tag in more], broken=plan.broken)
    for tag in about:
        if tag.digest not in needed and _subject(tag) in repository.revisions:
            gone[tag.name] = (tag, "what it is about goes")
    # One about an image that is not here is none of our business.
    needed |= reach(store, repository, [tag.digest for tag in about if tag.name not in gone])
    young = {digest for digest, at in repository.layers.items() if at > fresh}
    plan.add(repository, gone, needed, young)
    return needed | young


def _untagged(store: Store, repository: Repository, config: Config, now: float) -> set[str]:
    """Return the manifests that had no tag before this run and stay: younger than untagged_days, or than the grace."""
    tagged = reach(store, repository, [tag.digest for tag in repository.tags if not ABOUT.match(tag.name)])
    for tag in repository.tags:
        if ABOUT.match(tag.name):
            tagged |= reach(store, repository, [tag.digest]) - {_subject(tag)}
    oldest = now - max(config.untagged_days * DAY, seconds(config.grace)) if config.untagged_days else float("-inf")
    return {digest for digest, at in repository.revisions.items() if digest not in tagged and at > oldest}


def _subject(tag: Tag) -> str:
    match = ABOUT.match(tag.name)
    return f"{match.group(1)}:{match.group(2)}" if match else ""


def make_plan(store: Store, config: Config, now: float, used: InUse | None = None) -> Plan:
    """Find what may go. Nothing younger than the grace is touched: it may belong to a push that is under way."""
    used = used or InUse()
    plan = Plan(in_use=len(used.tags) + len(used.digests))
    needed: set[str] = set()
    for repository in store.repositories():
        needed |= _judge(store, repository, config, now, plan, used)
    fresh = now - seconds(config.grace)
    there = store.blobs()
    for digest, (size, written) in there.items():
        plan.stored += size
        if digest not in needed and written <= fresh:
            plan.blobs[digest] = size
    # What was damaged before is told, and not asked for afterwards.
    plan.kept = {item for item in plan.kept if item[2] in there}
    plan.kept_tags = [(name, tag) for name, tag in plan.kept_tags if tag.digest in there]
    return plan


class Aside:
    """Moves things aside and, as long as they are not proved superfluous, back again."""

    def __init__(self, config: Config) -> None:
        self.root, self.directory = config.root, config.aside
        self.journal = os.path.join(self.directory, "journal")
        self.proved = os.path.join(self.directory, "proved")

    def take(self, paths: list[str]) -> None:
        """Move paths aside; what is to be moved is written down first."""
        os.makedirs(self.directory, mode=0o700)
        with open(self.journal, "w", encoding="utf-8") as handle:
            json.dump(paths, handle)
            handle.flush()
            os.fsync(handle.fileno())
        for path in paths:
            target = os.path.join(self.directory, "files", path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(os.path.join(self.root, path), target)

    def bring_back(self, paths: t.Iterable[str] | None = None) -> int:
        """Move paths (all, by default) back where they were; what was pushed again in the meantime wins."""
        count = 0
        for path in reversed(list(self._written() if paths is None else paths)):
            source, target = os.path.join(self.directory, "files", path), os.path.join(self.root, path)
            if os.path.lexists(source) and not os.path.lexists(target):
                self._parents(os.path.dirname(target))
                os.rename(source, target)
                count += 1
        return count

    def _parents(self, path: str) -> None:
        """Make directories that belong to whom the registry's belong to."""
        if not os.path.isdir(path):
            self._parents(os.path.dirname(path))
            os.mkdir(path)
            owner = os.stat(self.root)
            os.chown(path, owner.st_uid, owner.st_gid)

    def _written(self) -> list[str]:
        try:
            with open(self.journal, encoding="utf-8") as handle:
                return [str(path) for path in json.load(handle)]
        except (FileNotFoundError, ValueError):  # it was cut off before anything was moved
            return []

    def delete(self) -> None:
        """Delete what was moved aside: it is proved that nothing needs it."""
        with open(self.proved, "w", encoding="utf-8"):
            pass
        shutil.rmtree(self.directory)

    def recover(self) -> str:
        """Finish what a killed collection left; return what was done, for the journal."""
        if not os.path.isdir(self.directory):
            return ""
        if os.path.exists(self.proved):
            shutil.rmtree(self.directory)
            return "finished deleting what a killed collection had proved superfluous"
        count = self.bring_back()
        shutil.rmtree(self.directory)
        return f"put back {count} things that a killed collection had moved aside"


def let_writes_in(config: Config) -> bool:
    """Remove the file that holds pushes off; tell whether it was there."""
    try:
        os.unlink(config.flag)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def writes_stopped(config: Config) -> t.Iterator[None]:
    """Have nginx hold writes off, and give those that have begun a moment to end."""
    with open(config.flag, "w", encoding="utf-8"):
        pass
    try:
        time.sleep(config.settle)
        yield
    finally:
        let_writes_in(config)


@contextlib.contextmanager
def alone(config: Config) -> t.Iterator[None]:
    """Hold the lock; the health unit takes it as a sign that a collection is under way."""
    with open(config.lock, "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CollectionError("another collection is under way") from None
        yield


def address(config: Config) -> str:
    """Ask dockerd where the registry is: nginx may want a login, and this program has none."""
    connection = http.client.HTTPConnection("docker", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(DOCKER_SOCKET)
        connection.request("GET", f"/containers/{urllib.parse.quote(config.registry)}/json")
        answer = json.loads(connection.getresponse().read())
        return str(answer["NetworkSettings"]["Networks"][config.network]["IPAddress"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as exc:
        raise CollectionError(f"dockerd does not say where {config.registry} is: {exc!r}") from exc
    finally:
        connection.close()


def prove(config: Config, plan: Plan, host: str) -> list[str]:
    """Ask the registry for every kept tag, and every manifest and blob that it needs; return what is not there."""
    wanted = [(name, "manifests", tag.name, tag.digest) for name, tag in plan.kept_tags]
    wanted += [(name, kind, digest, digest) for name, kind, digest in sorted(plan.kept)]
    faults = []
    connection = http.client.HTTPConnection(host, config.port, timeout=60)
    try:
        for name, kind, reference, digest in wanted:
            connection.request("HEAD", f"/v2/{name}/{kind}/{reference}", headers={"Accept": ACCEPT})
            answer = connection.getresponse()
            answer.read()
            found = answer.headers.get("Docker-Content-Digest", digest)
            if (answer.status != 200 or found != digest) and not _moved_on(config, name, kind, reference, digest):
                faults.append(f"{name} {kind} {reference}: {answer.status}")
    except (OSError, http.client.HTTPException) as exc:
        faults.append(f"the registry does not answer: {exc!r}")
    finally:
        connection.close()
    return faults


def _moved_on(config: Config, name: str, kind: str, reference: str, digest: str) -> bool:
    """Tell whether somebody deleted it or pushed another in the meantime."""
    directory = os.path.join(config.root, "repositories", name)
    if kind == "blobs":
        link = f"_layers/{_slashed(digest)}/link"
    elif reference == digest:
        link = f"_manifests/revisions/{_slashed(digest)}/link"
    else:
        link = f"_manifests/tags/{reference}/current/link"
    try:
        with open(os.path.join(directory, link), encoding="utf-8") as handle:
            return handle.read().strip() != digest
    except FileNotFoundError:
        return True


def prune(root: str, names: t.Iterable[str]) -> None:
    """Remove the empty directories of repositories that hold nothing any more, so that nobody lists them."""
    top = os.path.join(root, "repositories")
    for name in names:
        path = os.path.join(top, name)
        own = [os.path.join(path, part) for part in ("_manifests", "_layers", "_uploads")]
        if any(files for part in own for _, _, files in os.walk(part)):
            continue
        for part in own:
            for directory, _, _ in os.walk(part, topdown=False):
                os.rmdir(directory)
        with contextlib.suppress(OSError):  # another repository is below
            while path != top:
                os.rmdir(path)
                path = os.path.dirname(path)


def check_share(config: Config, plan: Plan) -> None:
    """Refuse to delete more than the site has said is plausible."""
    share = 100 * plan.bytes / plan.stored if plan.stored else 0
    if share > config.max_share:
        raise CollectionError(
            f"{human(plan.bytes)} of {human(plan.stored)} would go, {share:.0f} %, more than registry_gc_max_share"
            f" ({config.max_share:g}) allows: look with --dry-run; if that is right, raise it for one run"
        )


def collect(config: Config, store: Store) -> dict[str, t.Any]:
    """Make one collection; return what was done, for the state file."""
    begun = time.time()
    if not os.path.exists(os.path.join(config.data_dir, config.marker)):
        raise CollectionError(f"{config.data_dir} is not the directory that the role prepared: is its disk mounted?")
    aside = Aside(config)
    used = in_use(config)
    plan = make_plan(store, config, begun, used)
    check_share(config, plan)
    stopped = 0.0
    faults: list[str] = []
    if plan.paths():
        host = address(config)
        with writes_stopped(config):
            stopped = time.time()
            plan = make_plan(store, config, stopped, used)
            check_share(config, plan)
            aside.take(plan.paths())
            _needed_after_all(store, plan, aside)
            prune(config.root, {name for name, _ in plan.manifests + plan.layers} | {item[0] for item in plan.tags})
            stopped = time.time() - stopped + config.settle
        faults = prove(config, plan, host)
        if faults:
            count = aside.bring_back()
            aside.recover()
            raise CollectionError(f"{len(faults)} answers were wrong, {count} things were put back: {faults[0]}")
        aside.delete()
    return summary(plan) | {"seconds": round(time.time() - begun, 1), "writes_stopped_seconds": round(stopped, 1)}


def _needed_after_all(store: Store, plan: Plan, aside: Aside) -> None:
    """Bring back the blobs that a push which had begun before writes were stopped has linked since."""
    again: set[str] = set()
    for repository in store.repositories():
        again |= reach(store, repository, repository.revisions) | set(repository.layers)
    late = [digest for digest in plan.blobs if digest in again]
    aside.bring_back(os.path.dirname(blob_path(digest)) for digest in late)
    for digest in late:
        del plan.blobs[digest]


def summary(plan: Plan) -> dict[str, t.Any]:
    """Return the numbers of a plan."""
    return {
        "tags": len(plan.tags),
        "manifests": len(plan.manifests),
        "blobs": len(plan.blobs),
        "bytes": plan.bytes,
        "stored_bytes": plan.stored,
        "kept_tags": len(plan.kept_tags),
        "in_use": plan.in_use,
        "broken": plan.broken[:100],
    }


def listing(plan: Plan) -> list[str]:
    """Return the lines of a dry run: each tag that would go and why, and what that frees."""
    lines = []
    for name, tag, why in plan.tags:
        pushed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(tag.pushed))
        lines.append(f"{name}:{tag.name}  pushed {pushed} UTC  {tag.digest}  {why}")
    lines += [f"damaged already: {text}" for text in plan.broken]
    if plan.in_use:
        lines.append(f"{plan.in_use} names and digests are in use by clusters; what they name stays")
    lines.append(
        f"{len(plan.tags)} tags, {len(plan.manifests)} manifests and {len(plan.blobs)} blobs would go, which frees"
        f" {human(plan.bytes)} of {human(plan.stored)}; {len(plan.kept_tags)} tags stay"
    )
    return lines


def as_json(plan: Plan) -> str:
    """Return a dry run for programs."""
    tags = [{"repository": name, **dataclasses.asdict(tag), "why": why} for name, tag, why in plan.tags]
    manifests = [f"{name}@{digest}" for name, digest in plan.manifests]
    return json.dumps({**summary(plan), "tags": tags, "manifests": manifests}, indent=1)


def save(path: str, values: dict[str, t.Any]) -> None:
    """Replace the state file in one step; everybody may read it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as handle:
        json.dump(values, handle)
    os.replace(f"{path}.new", path)


def run(config: Config) -> list[str]:
    """Recover, collect and note the result; return the journal lines."""
    store = Store(config.root)
    with alone(config):
        lines = ["let pushes in again"] if let_writes_in(config) else []
        lines += [text] if (text := Aside(config).recover()) else []
        now = time.time()
        try:
            done = collect(config, store)
        except (CollectionError, OSError) as exc:
            save(config.state, {"time": now, "ok": False, "error": str(exc)})
            raise
        save(config.state, {"time": now, "ok": True, "error": "", **done})
    lines += [f"damaged: {text}" for text in done["broken"]]
    freed = (
        f"{done['tags']} tags, {done['manifests']} manifests and {done['blobs']} blobs deleted, {human(done['bytes'])}"
    )
    return [*lines, f"{freed} freed; {done['kept_tags']} tags kept and proved; {done['seconds']} s"]


def recover(config: Config) -> list[str]:
    """Undo what a killed collection left; nothing while another one is under way."""
    with alone(config):
        lines = ["let pushes in again"] if let_writes_in(config) else []
        return lines + ([text] if (text := Aside(config).recover()) else [])


def hold(config: Config) -> list[str]:
    """Hold writes off until a signal comes; the health unit does it when this is killed."""
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    with alone(config), writes_stopped(config):
        signal.sigwait(awaited)
    return ["let pushes in again"]


def main(argv: list[str] | None = None) -> int:
    """Collect, list, recover or hold writes off; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="list what would go, change nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: as JSON")
    parser.add_argument("--recover", action="store_true", help="only undo what a killed collection left")
    parser.add_argument("--hold", action="store_true", help="only hold writes off until stopped")
    parser.add_argument("--config", default=CONFIG)
    args = parser.parse_args(argv)
    config = load_config(args.config)
    try:
        if args.hold:
            lines = hold(config)
        elif config.bucket and not args.recover:
            raise CollectionError("the images are in a bucket: playbooks/registry_gc.yml collects there")
        elif args.dry_run:
            plan = make_plan(Store(config.root), config, time.time(), in_use(config))
            lines = [as_json(plan)] if args.json else listing(plan)
        else:
            lines = recover(config) if args.recover else run(config)
    except (CollectionError, OSError) as exc:
        print(f"<3>{exc}" if not args.dry_run else exc, file=sys.stderr)
        return 1
    if lines:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
