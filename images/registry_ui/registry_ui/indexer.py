# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the index true: takes the registry's notifications as they come, and repairs by a scan what they missed."""

from __future__ import annotations

import collections
import dataclasses
import logging
import queue
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from registry_ui import manifests
from registry_ui.client import USER_AGENT, Fetched, Registry, RegistryError
from registry_ui.store import Store
from registry_ui.text import parse_time

LOG = logging.getLogger("registry_ui")
# Two cores serve pages and the registry as well.
WORKERS = 4
# Sizes are summed up this long after a change, so that a push of twenty tags is one sum.
SETTLE = 2.0
# Seconds after which what a notification told of is looked for again; a scan finds the rest.
RETRIES = (0.1, 0.5, 2.0, 10.0, 60.0)
# Seconds after which a scan that failed is begun again.
RETRY = 5.0
MAX_DEPTH = 3


@dataclasses.dataclass
class Progress:
    """How far a scan is; total is 0 until the registry has told all names."""

    state: str = "none"
    began: float = 0.0
    ended: float = 0.0
    done: int = 0
    total: int = 0
    tags: int = 0
    fetched: int = 0
    error: str = ""

    @property
    def percent(self) -> int:
        """Part that is done, of 100."""
        return 100 * self.done // self.total if self.total else 0


@dataclasses.dataclass(frozen=True)
class Change:
    """What a notification said: something was pushed to (at is a time), or deleted from, a repository."""

    repository: str
    reference: str
    tag: str
    at: float | None
    by: str
    tries: int = 0


class Indexer:
    """Writes the index.

    Args:
        scan_interval: Seconds between two scans; 0 means that only somebody's click starts one.
    """

    def __init__(self, store: Store, registry: Registry, *, scan_interval: float = 0) -> None:
        self.store = store
        self.registry = registry
        self.scan_interval = scan_interval
        self.progress = Progress()
        self.events: collections.Counter[str] = collections.Counter()
        self.scans: collections.Counter[str] = collections.Counter()
        self._changes: queue.Queue[Change | None] = queue.Queue()
        self._dirty = threading.Event()
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._applying = threading.Lock()
        self._threads: list[threading.Thread] = []

    # Life

    def start(self) -> None:
        """Begin to work in the background, with a scan: nobody knows what was missed."""
        self._wanted.set()
        for work in (self._follow, self._sum, self._scan_on_time):
            thread = threading.Thread(target=work, name=work.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the work in the background."""
        self._stop.set()
        self._wanted.set()
        self._dirty.set()
        self._changes.put(None)
        for thread in self._threads:
            thread.join(timeout=10)

    def want_scan(self) -> None:
        """Have a scan begin; one that runs already is enough."""
        self._wanted.set()

    @property
    def waiting(self) -> int:
        """How many notifications wait for their turn."""
        return self._changes.qsize()

    # Notifications

    def take(self, envelope: dict[str, t.Any]) -> int:
        """Take the registry's notifications; return how many of them say something new."""
        found = envelope.get("events")
        return sum(
            self._take_one(event) for event in (found if isinstance(found, list) else []) if isinstance(event, dict)
        )

    def _take_one(self, event: dict[str, t.Any]) -> bool:
        target, request, actor = (_map(event.get(key)) for key in ("target", "request", "actor"))
        action, repository = str(event.get("action")), target.get("repository")
        digest, tag = str(target.get("digest") or ""), str(target.get("tag") or "")
        at = parse_time(event.get("timestamp"))
        if not isinstance(repository, str) or not repository:
            return False
        is_manifest = not digest or target.get("mediaType") in manifests.MEDIA_TYPES or bool(tag)
        if action == "pull":
            # Neither our own reading for a page, nor a question whether something is there, is a pull.
            is_ours = str(request.get("useragent", "")).startswith(USER_AGENT.partition("/")[0])
            if not is_manifest or not digest or is_ours or request.get("method") == "HEAD":
                return False
            self.store.put_pull(repository, digest, at or time.time())
        elif action in ("push", "delete"):
            if action == "push" and not is_manifest:
                return False
            name = str(actor.get("name") or "")
            self._changes.put(Change(repository, digest, tag, at if action == "push" else None, name))
        else:
            return False
        self.events[action] += 1
        return True

    def _follow(self) -> None:
        while not self._stop.is_set():
            change = self._changes.get()
            if change is None:
                return
            try:
                shown = self.apply(change)
            except Exception as exc:
                # The registry is restarted, or somebody pushed what nobody can read: neither may end this thread.
                LOG.warning("a notification about %r is tried again: %s", change.repository, exc)
                shown = False
            if not shown and change.tries < len(RETRIES):
                later = dataclasses.replace(change, tries=change.tries + 1)
                timer = threading.Timer(RETRIES[change.tries], self._changes.put, (later,))
                timer.daemon = True
                timer.start()

    def apply(self, change: Change) -> bool:
        """Ask the registry what is true now about what was pushed or deleted; the order of notifications is not.

        Returns:
            Whether the registry shows it. It tells of a push a moment before it writes the tag.
        """
        shown = True
        with self._applying:
            if change.tag:
                shown = self._apply_to_tag(change)
            if change.reference and not self.refresh_manifest(change.repository, change.reference):
                self.store.forget_manifest(change.repository, change.reference)
            if not change.tag and not change.reference:
                self.scan_repository(change.repository)
            self.changed(change.repository)
        return shown

    def _apply_to_tag(self, change: Change) -> bool:
        is_push = change.at is not None
        is_there = not is_push or self.registry.digest(change.repository, change.tag) == change.reference
        pushed, by = (change.at, change.by) if is_there else (None, "")
        self.refresh_tag(change.repository, change.tag, pushed=pushed, by=by)
        return is_there

    def changed(self, repository: str) -> None:
        """Have the sums of a repository brought up to date."""
        self.store.count_repository(repository)
        self._dirty.set()

    def _sum(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            if self._stop.wait(SETTLE):
                return
            self._dirty.clear()
            self.store.sum_up()

    # What is true of a tag, and of a manifest

    def refresh_tag(self, repository: str, tag: str, *, pushed: float | None = None, by: str = "") -> bool:
        """Bring one tag up to date; return whether it exists."""
        digest = self.registry.digest(repository, tag)
        known = bool(digest) and self.store.has_manifest(repository, digest)
        if not digest or not (known or self.refresh_manifest(repository, digest)):
            self.store.forget_tag(repository, tag)
            return False
        technical = bool(manifests.belongs_to(tag)[0])
        self.store.put_tag(repository, tag, digest, technical=technical, pushed=pushed, pushed_by=by)
        return True

    def refresh_manifest(self, repository: str, digest: str, depth: int = 0) -> bool:
        """Have a manifest in the index, and those it names; return whether the registry has it."""
        if self.store.has_manifest(repository, digest):
            return depth > 0 or self.registry.digest(repository, digest) != ""
        fetched = self.registry.manifest(repository, digest)
        if fetched is None:
            return False
        self.progress.fetched += 1
        try:
            manifest = manifests.parse(fetched.content, fetched.media_type)
        except manifests.UnreadableError as exc:
            LOG.warning("%r@%s is not shown in full: %s", repository, digest, exc)
            manifest = manifests.Manifest(kind="artifact", media_type=fetched.media_type, artifact_type="unreadable")
        self._keep(repository, digest, manifest, fetched, depth)
        return True

    def _keep(self, repository: str, digest: str, manifest: manifests.Manifest, fetched: Fetched, depth: int) -> None:
        raw, config = self._config(repository, manifest)
        platforms, created = [config.platform] if config.platform else [], config.created
        for child in manifest.children if depth < MAX_DEPTH else ():
            self.refresh_manifest(repository, child.digest, depth + 1)
            known = self.store.manifest(repository, child.digest)
            if known and child.kind == "manifest":
                created = max(filter(None, (created, known["created"])), default=None)
                platforms.append((child.platform or known["platforms"]).replace(" ", "_"))
        self.store.put_manifest(
            repository, digest, manifest, fetched.content, raw, platforms=platforms, created=created
        )

    def _config(self, repository: str, manifest: manifests.Manifest) -> tuple[bytes | None, manifests.Config]:
        if manifest.kind != "image" or manifest.config is None:
            return None, manifests.Config()
        try:
            raw = self.registry.blob(repository, manifest.config.digest)
            return raw, manifests.parse_config(raw)
        except (RegistryError, manifests.UnreadableError) as exc:
            if isinstance(exc, RegistryError) and exc.status == 0:
                raise
            LOG.warning("the configuration of an image in %r is not shown: %s", repository, exc)
            return None, manifests.Config()

    # Scans

    def _scan_on_time(self) -> None:
        while not self._stop.is_set():
            self._wanted.wait(timeout=self.scan_interval or None)
            self._wanted.clear()
            if self._stop.is_set():
                return
            self.scan()
            if self.progress.state == "failed" and not self._stop.wait(RETRY):
                self._wanted.set()

    def scan(self) -> Progress:
        """Compare the index with the registry, repository by repository, and repair it."""
        self.progress = progress = Progress(state="running", began=time.time())
        try:
            names = list(dict.fromkeys(self.registry.repositories()))
            progress.total = len(names)
            with ThreadPoolExecutor(WORKERS, thread_name_prefix="scan") as pool:
                for _ in pool.map(self._scan_one, names):
                    progress.done += 1
            for gone in self.store.names().difference(names):
                self._forget_if_gone(gone)
            self.store.sum_up()
            self.store.note("scanned", str(time.time()))
            progress.state = "done"
        except Exception as exc:
            progress.state, progress.error = "failed", str(exc)
            LOG.warning("the scan ended early: %s", exc)
        progress.ended = time.time()
        self.scans[progress.state] += 1
        return progress

    def _forget_if_gone(self, repository: str) -> None:
        """Drop a repository that was not among the names, unless something was pushed to it since those were told."""
        with self._applying:
            digests = self.store.digests(repository)
            if not any(self.registry.tags(repository)) and not any(self._has(repository, item) for item in digests):
                self.store.forget_repository(repository)

    def _has(self, repository: str, digest: str) -> bool:
        return self.registry.digest(repository, digest) != ""

    def _scan_one(self, repository: str) -> None:
        if not self._stop.is_set():
            self.scan_repository(repository)

    def scan_repository(self, repository: str) -> None:
        """Compare one repository with the registry's."""
        self.store.ensure_repository(repository)
        names = list(self.registry.tags(repository))
        for tag in names:
            self.refresh_tag(repository, tag)
            self.progress.tags += 1
        for row in self.store.tags(repository, technical=True):
            # One that was pushed since the list was made is asked for again.
            if row["name"] not in names:
                self.refresh_tag(repository, row["name"])
        for row in self.store.untagged(repository):
            if not self.registry.digest(repository, row["digest"]):
                self.store.forget_manifest(repository, row["digest"])
        self.store.count_repository(repository)


def _map(value: object) -> dict[str, t.Any]:
    return value if isinstance(value, dict) else {}
