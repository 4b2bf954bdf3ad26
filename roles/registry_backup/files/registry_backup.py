#!/usr/bin/python3
# Managed by slipway.platform.registry_backup. Edits are undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back up the registry of this host onto another machine, blob by blob, and restore it from there.

run      copy what the other machine lacks, have it read everything again, note the result (for the systemd timer)
list     show the backups that are there
restore  fill the data directory from a backup; nothing is served before every blob of it has its digest
store    be that other machine: answer a `run`, `list` or `restore` on standard input and output

How a backup is consistent while pushes go on stands in docs/decisions/0019-registry-backup.md. In short: a registry
writes blobs, then the manifest, then the tag; this reads tags, then manifests, then blobs. Only the standard library,
Python 3.11 or later. No network code: the other end is what the configured command (ssh) is connected to.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import typing as t

CONFIG = "/etc/slipway/registry-backup/config.json"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
SNAPSHOT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z\Z")
NAME = "%Y-%m-%dT%H%M%SZ"
MANIFEST = re.compile(r"\.(manifest|index)\.(list\.)?v[0-9]+\+")
CHUNK = 1 << 20
# A registry refuses larger manifests itself (distribution: 4 MiB).
MAX_MANIFEST = 1 << 23
# What vanishes between two looks was deleted; what is missing in this many looks is missing.
LOOKS = 3
PAUSE = 1.0
LOCK_PATIENCE = 30.0
STORED = "docker"
STAGING = ".slipway-restore"

Message = dict[str, t.Any]


class BackupError(Exception):
    """Something that a person has to know, as a sentence."""


def human(size: float) -> str:
    """Return bytes in the unit that fits, for a message."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def checked_digest(value: t.Any) -> str:
    """Return a digest; whatever else the other end sent would end up in a path."""
    if not isinstance(value, str) or not DIGEST.match(value):
        raise BackupError(f"{str(value)[:80]!r} is no sha256 digest")
    return value


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step, and have it on the disk."""
    temporary = f"{path}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


# --- What a registry holds ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Contents:
    """What one look at a registry found.

    repositories maps a name to {"tags": {tag: digest}, "manifests": {digest: [digests it refers to]}}; blobs maps each
    digest to its size. missing maps a digest that is referred to and not there (or not readable) to who refers to it.
    """

    repositories: dict[str, Message] = dataclasses.field(default_factory=dict)
    blobs: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def miss(self, digest: str, who: str) -> None:
        """Note that somebody refers to what is not there."""
        names = self.missing.setdefault(digest, [])
        if who not in names:
            names.append(who)

    def users(self, digests: t.Collection[str]) -> dict[str, list[str]]:
        """Return for each digest the images that need it, by tag where one points there."""
        return users(dataclasses.asdict(self), digests)


def users(snapshot: Message, digests: t.Collection[str]) -> dict[str, list[str]]:
    """Return for each digest which images of a snapshot need it: NAME:TAG, or NAME@DIGEST where no tag leads there."""
    found: dict[str, list[str]] = {digest: [] for digest in digests}
    for name, repository in snapshot["repositories"].items():
        manifests = repository["manifests"]
        reached: set[str] = set()
        roots = [(f"{name}:{tag}", digest) for tag, digest in repository["tags"].items()]
        for label, digest in roots + [(f"{name}@{digest}", digest) for digest in manifests]:
            if label.startswith(f"{name}@") and digest in reached:
                continue
            needed = closure(manifests, digest)
            reached |= needed
            for part in needed & found.keys():
                found[part].append(label)
    return found


def closure(manifests: t.Mapping[str, list[str]], root: str) -> set[str]:
    """Return a digest and everything that it leads to."""
    todo, done = [root], set()
    while todo:
        digest = todo.pop()
        if digest not in done:
            done.add(digest)
            todo += manifests.get(digest, [])
    return done


class Registry:
    """The files of distribution's filesystem driver, read while it runs."""

    def __init__(self, data_dir: str) -> None:
        self.base = os.path.join(data_dir, STORED, "registry", "v2")

    def blob(self, digest: str) -> str:
        """Return the path of a blob."""
        value = digest.partition(":")[2]
        return os.path.join(self.base, "blobs", "sha256", value[:2], value, "data")

    def look(self) -> Contents:
        """Return what is there, with the names that are not yet or no longer whole under `missing`."""
        found = Contents()
        top = os.path.join(self.base, "repositories")
        for directory, below, _ in os.walk(top):
            if "_manifests" in below:
                self._repository(os.path.relpath(directory, top), directory, found)
            below[:] = sorted(name for name in below if not name.startswith("_"))
        return found

    def _repository(self, name: str, directory: str, found: Contents) -> None:
        # Tags before revisions: who sees a tag then also sees the manifest that was stored before it.
        tags = {}
        for tag in _names(os.path.join(directory, "_manifests", "tags")):
            if digest := _link(os.path.join(directory, "_manifests", "tags", tag, "current", "link")):
                tags[tag] = digest
        revisions = os.path.join(directory, "_manifests", "revisions", "sha256")
        known = [f"sha256:{value}" for value in _names(revisions)]
        manifests: dict[str, list[str]] = {}
        todo = collections.deque((digest, f"{name}:{tag}") for tag, digest in tags.items())
        todo += [(digest, f"{name}@{digest}") for digest in known if _link(_revision(directory, digest))]
        while todo:
            digest, who = todo.popleft()
            if digest in manifests:
                continue
            body = self._manifest(directory, digest)
            if body is None:
                found.miss(digest, who)
                continue
            manifests[digest] = self._parts(directory, digest, body, who, found)
            # Images of an index that came while the directory was read.
            todo += [(part, who) for part in manifests[digest] if _link(_revision(directory, part))]
        whole = {tag: digest for tag, digest in tags.items() if digest in manifests}
        if manifests:
            found.repositories[name] = {"tags": whole, "manifests": manifests}

    def _manifest(self, directory: str, digest: str) -> bytes | None:
        """Return a manifest that the repository has and whose digest is right."""
        if not _link(_revision(directory, digest)):
            return None
        try:
            with open(self.blob(digest), "rb") as handle:
                body = handle.read(MAX_MANIFEST)
        except OSError:
            return None
        return body if f"sha256:{hashlib.sha256(body).hexdigest()}" == digest else None

    def _parts(self, directory: str, digest: str, body: bytes, who: str, found: Contents) -> list[str]:
        """Note a manifest and the blobs it names; return all that it refers to and that is here."""
        found.blobs[digest] = len(body)
        parts = []
        for reference in references(body):
            size = self._size(reference.digest)
            if size is None or (reference.is_manifest and not _link(_revision(directory, reference.digest))):
                if not reference.elsewhere:
                    found.miss(reference.digest, who)
                continue
            parts.append(reference.digest)
            found.blobs.setdefault(reference.digest, size)
        return parts

    def _size(self, digest: str) -> int | None:
        try:
            return os.stat(self.blob(digest)).st_size
        except OSError:
            return None


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _link(path: str) -> str:
    """Return the digest in a link; empty when it is deleted, or being written."""
    try:
        with open(path, encoding="ascii") as handle:
            digest = handle.read(200).strip()
    except (OSError, ValueError):
        return ""
    return digest if DIGEST.match(digest) else ""


def _revision(directory: str, digest: str) -> str:
    return os.path.join(directory, "_manifests", "revisions", "sha256", digest.partition(":")[2], "link")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A digest that a manifest names. elsewhere: a layer with urls, which a registry need not have."""

    digest: str
    is_manifest: bool
    elsewhere: bool


def references(body: bytes) -> list[Reference]:
    """Return what a manifest or index names: config, layers, images of an index (manifests), blobs of an artifact.

    And layers of the old schema 1 (fsLayers). An index may also name layers: caches of image builds do.
    """
    try:
        content = json.loads(body)
    except ValueError:
        return []
    if not isinstance(content, dict):
        return []
    described: list[t.Any] = [content.get("config")]
    for key in ("layers", "manifests", "blobs"):
        described += content.get(key) or []
    described += [{"digest": layer.get("blobSum")} for layer in content.get("fsLayers") or []]
    return [
        Reference(part["digest"], bool(MANIFEST.search(str(part.get("mediaType")))), bool(part.get("urls")))
        for part in described
        if isinstance(part, dict) and DIGEST.match(str(part.get("digest")))
    ]


# --- The wire -------------------------------------------------------------------------------------------------------


class Wire:
    """Lines of JSON in both directions; the content of a blob follows its line as it is."""

    def __init__(self, reader: t.IO[bytes], writer: t.IO[bytes]) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, message: Message) -> None:
        """Send one message."""
        self.writer.write(json.dumps(message).encode() + b"\n")
        self.writer.flush()

    def receive(self) -> Message | None:
        """Return the next message; None when the other end has closed."""
        line = self.reader.readline()
        if not line:
            return None
        message = json.loads(line)
        if not isinstance(message, dict):
            raise BackupError("the other end sent no message")
        return message

    def content(self, size: int) -> t.Iterator[bytes]:
        """Yield exactly so many bytes."""
        while size:
            chunk = self.reader.read(min(size, CHUNK))
            if not chunk:
                raise BackupError("the connection broke")
            size -= len(chunk)
            yield chunk


class Target:
    """The other machine, as a `run` or `restore` sees it."""

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __enter__(self) -> Target:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.wire = Wire(self.process.stdout, self.process.stdin)
        return self

    def __exit__(self, *_error: object) -> None:
        for end in (self.wire.writer, self.wire.reader):
            with contextlib.suppress(OSError):
                end.close()
        self.process.wait()

    def ask(self, what: str, **parts: t.Any) -> Message:
        """Send a request and return the answer; raises BackupError with the other end's reason."""
        with contextlib.suppress(BrokenPipeError):
            self.wire.send({"do": what, **parts})
        return self.answer()

    def answer(self) -> Message:
        """Return the next answer."""
        try:
            message = self.wire.receive()
        except ValueError as exc:
            raise BackupError(f"the other machine does not speak our language: {exc}") from exc
        if message is None:
            status = self.process.wait()
            raise BackupError(f"the other machine hung up ({os.path.basename(self.command[0])} ended with {status})")
        if "error" in message:
            raise BackupError(str(message["error"]))
        return message

    def put(self, digest: str, path: str) -> bool:
        """Send a blob; return whether what this machine has is what the digest says. OSError: it is gone here."""
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            with contextlib.suppress(BrokenPipeError):
                self.wire.send({"do": "put", "digest": digest, "size": size})
                left = size
                while left:
                    chunk = handle.read(min(left, CHUNK))
                    if not chunk:
                        raise BackupError(f"{path} became shorter while it was read")
                    self.wire.writer.write(chunk)
                    left -= len(chunk)
                self.wire.writer.flush()
        return bool(self.answer()["stored"])

    def get(self, digest: str, file: t.IO[bytes]) -> bool:
        """Write a blob into a file; return whether it is what its digest says."""
        size = int(self.ask("get", digest=digest)["size"])
        found = hashlib.sha256()
        for chunk in self.wire.content(size):
            found.update(chunk)
            file.write(chunk)
        return f"sha256:{found.hexdigest()}" == digest


# --- The other machine ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Store:
    """A directory of blobs by digest, each once, and of snapshots that say which of them make up a registry.

    Nothing that is sent can delete a blob: only the age of snapshots does (keep, keep_days), by this machine's clock.
    """

    directory: str
    keep: int = 14
    keep_days: int = 30
    clock: t.Callable[[], float] = time.time

    def path(self, digest: str) -> str:
        """Return where a blob lies."""
        value = checked_digest(digest).partition(":")[2]
        return os.path.join(self.directory, "blobs", value[:2], value)

    def prepare(self) -> None:
        """Make the directories; remove what a broken connection left."""
        for name in ("blobs", "snapshots", "incoming"):
            os.makedirs(os.path.join(self.directory, name), mode=0o700, exist_ok=True)
        for name in _names(os.path.join(self.directory, "incoming")):
            os.unlink(os.path.join(self.directory, "incoming", name))

    def absent(self, blobs: t.Mapping[str, int]) -> tuple[list[str], list[str]]:
        """Return which blobs are not here, and which are here with another size than they should have."""
        gone, wrong = [], []
        for digest, size in blobs.items():
            try:
                if os.stat(self.path(digest)).st_size != size:
                    wrong.append(digest)
            except FileNotFoundError:
                gone.append(digest)
        return gone, wrong

    def put(self, digest: str, content: t.Iterator[bytes]) -> bool:
        """Store a blob if it is what its digest says."""
        path = self.path(digest)
        temporary = os.path.join(self.directory, "incoming", digest.partition(":")[2])
        found = hashlib.sha256()
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
                for chunk in content:
                    found.update(chunk)
                    handle.write(chunk)
                handle.flush()
                os.fsync(handle.fileno())
            if f"sha256:{found.hexdigest()}" != digest:
                return False
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.replace(temporary, path)
            return True
        finally:
            for _ in content:  # after an error: the next message comes behind it
                pass
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def damaged(self, digests: t.Iterable[str]) -> list[str]:
        """Read blobs again; return those that are not what their digest says, or cannot be read."""
        return [digest for digest in digests if not self._intact(digest)]

    def _intact(self, digest: str) -> bool:
        try:
            with open(self.path(digest), "rb") as handle:
                return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}" == digest
        except OSError:
            return False

    def everything(self) -> list[str]:
        """Return the digest of each blob that is here."""
        top = os.path.join(self.directory, "blobs")
        return [f"sha256:{name}" for first in _names(top) for name in _names(os.path.join(top, first))]

    def names(self) -> list[str]:
        """Return the names of the snapshots, oldest first."""
        found = _names(os.path.join(self.directory, "snapshots"))
        return [name.removesuffix(".json") for name in found if SNAPSHOT.match(name.removesuffix(".json"))]

    def snapshot(self, name: str) -> Message:
        """Return a snapshot; `latest` is the newest."""
        names = self.names()
        if not names:
            raise BackupError("there is no backup yet")
        wanted = names[-1] if name == "latest" else name
        if wanted not in names:
            raise BackupError(f"there is no backup {wanted!r}; there are {', '.join(names[-5:])}")
        try:
            with open(os.path.join(self.directory, "snapshots", f"{wanted}.json"), encoding="utf-8") as handle:
                return {**json.load(handle), "name": wanted}
        except (OSError, ValueError) as exc:
            raise BackupError(f"the list of the backup {wanted} cannot be read: {exc}") from exc

    def commit(self, snapshot: Message) -> tuple[str, bool]:
        """Keep a snapshot whose blobs are all here; return its name and whether it differs from the newest."""
        gone, wrong = self.absent(snapshot["blobs"])
        if gone or wrong:
            raise BackupError(f"{len(gone) + len(wrong)} blobs are missing, {(gone + wrong)[0]} for one")
        names = self.names()
        if names:
            newest = self.snapshot("latest")
            if all(newest.get(part) == snapshot[part] for part in ("repositories", "blobs", "missing")):
                return names[-1], False
        now = datetime.datetime.fromtimestamp(self.clock(), datetime.UTC)
        if names:  # names are in order, also when the clock was set back
            newest_time = datetime.datetime.strptime(names[-1], NAME).replace(tzinfo=datetime.UTC)
            now = max(now, newest_time + datetime.timedelta(seconds=1))
        name = now.strftime(NAME)
        text = json.dumps(snapshot, sort_keys=True, indent=1)
        write_file(os.path.join(self.directory, "snapshots", f"{name}.json"), text.encode())
        return name, True

    def expire(self) -> tuple[list[str], int]:
        """Remove snapshots beyond keep and keep_days, and blobs that none needs any more; return names and bytes."""
        limit = datetime.datetime.fromtimestamp(self.clock() - self.keep_days * 86400, datetime.UTC)
        old = [name for name in self.names()[: -self.keep] if name < limit.strftime(NAME)]
        # Read before anything goes: with one that cannot be read nobody knows which blobs it needs.
        needed: set[str] = set()
        for name in self.names():
            if name not in old:
                needed |= self.snapshot(name)["blobs"].keys()
        for name in old:
            os.unlink(os.path.join(self.directory, "snapshots", f"{name}.json"))
        freed = 0
        for digest in self.everything():
            if digest not in needed:
                freed += os.stat(self.path(digest)).st_size
                os.unlink(self.path(digest))
        return old, freed

    def who_needs(self, digests: t.Collection[str]) -> dict[str, list[str]]:
        """Return for each blob the images of the newest snapshot that needs it."""
        found: dict[str, list[str]] = {}
        for name in reversed(self.names() if digests else []):
            snapshot = self.snapshot(name)
            wanted = [digest for digest in digests if digest not in found and digest in snapshot["blobs"]]
            for digest, images in users(snapshot, wanted).items():
                found[digest] = [f"{image} of {name}" for image in images]
        return found


@contextlib.contextmanager
def alone(path: str, patience: float = LOCK_PATIENCE) -> t.Iterator[None]:
    """Hold a lock that nobody else holds; raise BackupError when somebody keeps it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BackupError(f"somebody else is at work ({path} is locked)") from None
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)


class Service:
    """Answers requests about a store until the other end hangs up."""

    def __init__(self, store: Store, wire: Wire) -> None:
        self.store = store
        self.wire = wire

    def serve(self) -> None:
        """Answer one request after the other; an error of one is its answer."""
        while (request := self.wire.receive()) is not None:
            action = getattr(self, f"_do_{request.get('do')}", None)
            try:
                if action is None:
                    raise BackupError(f"unknown request {request.get('do')!r}: is the same version on both machines?")
                answer = action(request)
            except BackupError as exc:
                answer = {"error": str(exc)}
            except OSError as exc:
                answer = {"error": f"{self.store.directory}: {exc.strerror or exc}"}
            if answer is not None:
                self.wire.send(answer)

    def _do_absent(self, request: Message) -> Message:
        gone, wrong = self.store.absent(request["blobs"])
        return {"gone": gone, "wrong": wrong}

    def _do_put(self, request: Message) -> Message:
        return {"stored": self.store.put(checked_digest(request["digest"]), self.wire.content(int(request["size"])))}

    def _do_damaged(self, request: Message) -> Message:
        asked = request["blobs"]
        digests = self.store.damaged(self.store.everything() if asked == "all" else asked)
        needed = self.store.who_needs(digests)
        return {"damaged": {digest: needed.get(digest, []) for digest in digests}}

    def _do_commit(self, request: Message) -> Message:
        name, new = self.store.commit(request["snapshot"])
        expired, freed = self.store.expire()
        return {"name": name, "new": new, "expired": expired, "freed": freed, "snapshots": self.store.names()}

    def _do_list(self, _request: Message) -> Message:
        snapshots = [self.store.snapshot(name) for name in self.store.names()]
        return {"snapshots": [summary(snapshot) for snapshot in snapshots]}

    def _do_snapshot(self, request: Message) -> Message:
        return {"snapshot": self.store.snapshot(str(request["name"]))}

    def _do_get(self, request: Message) -> None:
        """Send a blob. Where it cannot be read zeros follow: the other end sees by the digest that it is damaged."""
        try:
            handle = open(self.store.path(request["digest"]), "rb")  # noqa: SIM115  # closed below
        except FileNotFoundError:
            self.wire.send({"size": 0})
            return
        with handle:
            left = os.fstat(handle.fileno()).st_size
            self.wire.send({"size": left})
            while left:
                chunk = b""
                with contextlib.suppress(OSError):
                    chunk = handle.read(min(left, CHUNK))
                chunk = chunk or bytes(min(left, CHUNK))
                self.wire.writer.write(chunk)
                left -= len(chunk)
            self.wire.writer.flush()


def summary(snapshot: Message) -> Message:
    """Return what fits into a line about a snapshot."""
    return {
        "name": snapshot["name"],
        "repositories": len(snapshot["repositories"]),
        "tags": sum(len(repository["tags"]) for repository in snapshot["repositories"].values()),
        "blobs": len(snapshot["blobs"]),
        "bytes": sum(snapshot["blobs"].values()),
    }


# --- A backup -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    """What the role wrote: the command that reaches the other machine, paths, and what the health unit is told."""

    command: list[str]
    to: str
    registry: str
    state: str
    verify: str
    max_age: int

    def described(self) -> Message:
        """Return the registry's own description of itself, by the role registry."""
        try:
            with open(self.registry, encoding="utf-8") as handle:
                return t.cast("Message", json.load(handle))
        except (OSError, ValueError) as exc:
            raise BackupError(f"no registry here ({exc}): run playbooks/registry.yml first") from exc


def settled(registry: Registry, pause: float) -> Contents:
    """Look until nothing is missing any more, or what is missing stays so."""
    contents = registry.look()
    for _ in range(LOOKS - 1):
        if not contents.missing:
            break
        time.sleep(pause)
        contents = registry.look()
    return contents


class Backup:
    """One run; `result` is what the state file will say."""

    def __init__(self, config: Config, registry: Registry, *, pause: float = PAUSE) -> None:
        self.config = config
        self.registry = registry
        self.pause = pause
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.sent: dict[str, int] = {}

    def run(self, name: str) -> Message:
        """Bring what is missing, have it verified, commit; return the facts for the state file."""
        with Target(self.config.command) as target:
            contents = self._bring(target)
            verified = self._verify(target, contents)
            parts = dataclasses.asdict(contents)
            done = target.ask("commit", snapshot={"version": 1, "registry": name, **parts})
        for digest, who in contents.missing.items():
            self.problems.append(f"the registry itself has not, or not as it should be, {digest} of {some(who)}")
        return {
            **summary({**parts, "name": done["name"]}),
            "new": done["new"],
            "new_blobs": len(self.sent),
            "new_bytes": sum(self.sent.values()),
            "verified": verified,
            "expired": done["expired"],
            "freed": done["freed"],
            "snapshots": len(done["snapshots"]),
        }

    def _bring(self, target: Target) -> Contents:
        """Return contents whose blobs are all on the other machine."""
        unsound: set[str] = set()
        for _ in range(LOOKS):
            contents = settled(self.registry, self.pause)
            for digest in unsound & contents.blobs.keys():
                self._give_up(contents, digest)
            answer = target.ask("absent", blobs=contents.blobs)
            for digest in answer["wrong"]:
                self.notes.append(f"{digest} of the backup was damaged (its size): sent again")
            failed = [digest for digest in answer["gone"] + answer["wrong"] if not self._send(target, digest)]
            if not failed:
                return contents
            unsound |= set(failed)
            time.sleep(self.pause)
        raise BackupError("blobs vanish faster than they can be copied: does a garbage collection run? Try again later")

    def _send(self, target: Target, digest: str) -> bool:
        path = self.registry.blob(digest)
        try:
            size = os.stat(path).st_size
            if not target.put(digest, path):
                return False
        except FileNotFoundError:
            return False
        self.sent[digest] = size
        return True

    def _give_up(self, contents: Contents, digest: str) -> None:
        """Take a blob that is not what its digest says out of the contents, and say who needs it."""
        for who in contents.users([digest])[digest]:
            contents.miss(digest, who)
        del contents.blobs[digest]
        for repository in contents.repositories.values():
            for parts in repository["manifests"].values():
                parts[:] = [part for part in parts if part != digest]

    def _verify(self, target: Target, contents: Contents) -> int:
        """Have the other machine read its blobs again; send anew what turns out damaged."""
        blobs: t.Any = "all" if self.config.verify == "all" else list(self.sent)
        damaged = target.ask("damaged", blobs=blobs)["damaged"]
        for digest, who in damaged.items():
            if digest in contents.blobs and self._send(target, digest):
                self.notes.append(f"{digest} of the backup was damaged (its content): sent again")
            elif who or digest in contents.blobs:
                self.problems.append(f"{digest} of the backup is damaged and not in the registry: {some(who)}")
        again = target.ask("damaged", blobs=[digest for digest in damaged if digest in contents.blobs])["damaged"]
        if again:
            raise BackupError(f"{self.config.to} does not give back what was written there: {', '.join(again)}")
        return len(contents.blobs) if blobs == "all" else len(self.sent)


def some(names: t.Sequence[str], most: int = 5) -> str:
    """Return names for a message, not too many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest if names else "nothing"


def last_good(path: str) -> float:
    """Return when a backup last went well, by the state file; 0 when none did."""
    try:
        with open(path, encoding="utf-8") as handle:
            return float(json.load(handle)["last_good"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def run(config: Config) -> int:
    """Back up, leave the result in the state file, say it; return the exit status."""
    started = time.time()
    facts: Message = {}
    problems: list[str] = []
    try:
        described = config.described()
        if not os.path.exists(os.path.join(described["data_dir"], described["marker"])):
            raise BackupError(f"{described['data_dir']} is not the registry's data directory: is its disk mounted?")
        backup = Backup(config, Registry(described["data_dir"]))
        facts = backup.run(f"{described['host']}:{described['port']}")
        problems = backup.problems
        facts["notes"] = backup.notes
    except (BackupError, OSError) as exc:
        problems = [str(exc)]
    finished = time.time()
    state = {
        "ok": not problems,
        "to": config.to,
        "started": started,
        "finished": finished,
        "last_good": last_good(config.state) if problems else finished,
        "max_age": config.max_age,
        "problems": problems,
        **facts,
    }
    os.makedirs(os.path.dirname(config.state), exist_ok=True)
    write_file(config.state, json.dumps(state, indent=1).encode(), 0o644)
    print("\n".join(told(state)), flush=True)
    return 1 if problems else 0


def told(state: Message) -> list[str]:
    """Return the result of a backup as lines."""
    lines = [*state.get("notes", []), *(f"FAILED: {problem}" for problem in state["problems"])]
    if "name" in state:
        lines.append(
            f"backup {state['name']} on {state['to']}: {state['tags']} tags in {state['repositories']} repositories,"
            f" {state['blobs']} blobs, {human(state['bytes'])}; new {state['new_blobs']} blobs,"
            f" {human(state['new_bytes'])}; {state['verified']} verified; {state['snapshots']} backups kept"
        )
    return lines


def show(config: Config) -> int:
    """List the backups, newest first."""
    with Target(config.command) as target:
        for item in reversed(target.ask("list")["snapshots"]):
            print(
                f"{item['name']}  {item['tags']} tags in {item['repositories']} repositories,"
                f" {item['blobs']} blobs, {human(item['bytes'])}"
            )
    return 0


# --- A restore ------------------------------------------------------------------------------------------------------


def holds_images(data_dir: str) -> bool:
    """Tell whether a data directory has anything but uploads that never ended."""
    for directory, below, files in os.walk(os.path.join(data_dir, STORED)):
        below[:] = [name for name in below if name != "_uploads"]
        if files and directory:
            return True
    return False


class Restore:
    """One restore into a data directory, beside what is there until everything has arrived and been verified."""

    def __init__(self, described: Message, *, overwrite: bool) -> None:
        self.described = described
        self.data_dir = described["data_dir"]
        self.overwrite = overwrite
        self.staging = os.path.join(self.data_dir, STAGING)
        self.registry = Registry(self.staging)

    def run(self, config: Config, name: str) -> list[str]:
        """Bring everything, then put it in place; return what to tell."""
        self.refuse()
        shutil.rmtree(self.staging, ignore_errors=True)
        try:
            with Target(config.command) as target:
                snapshot = target.ask("snapshot", name=name)["snapshot"]
                self._room(snapshot)
                self._bring(target, snapshot)
            self._links(snapshot)
            replaced = self._swap()
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
        facts = summary(snapshot)
        lines = [
            f"restored {facts['name']}: {facts['tags']} tags in {facts['repositories']} repositories,"
            f" {facts['blobs']} blobs, {human(facts['bytes'])}, all verified"
        ]
        lines += [f"not in the backup: {digest} of {some(who)}" for digest, who in snapshot["missing"].items()]
        return lines + ([f"what was there before is in {replaced}: delete it when all is well"] if replaced else [])

    def refuse(self) -> None:
        """Raise BackupError where a restore would hide what is there."""
        if not os.path.exists(os.path.join(self.data_dir, self.described["marker"])):
            raise BackupError(f"{self.data_dir} is not the registry's data directory: is its disk mounted?")
        if not self.overwrite and holds_images(self.data_dir):
            raise BackupError(
                f"{self.data_dir} holds images already: nothing was changed (registry_backup_overwrite: true replaces"
                " them)"
            )

    def _room(self, snapshot: Message) -> None:
        usage = os.statvfs(self.data_dir)
        free, wanted = usage.f_bavail * usage.f_frsize, sum(snapshot["blobs"].values()) + self.described["min_free"]
        if free < wanted:
            raise BackupError(f"{self.data_dir} has {human(free)} free, the restore needs {human(wanted)}")

    def _directory(self, path: str) -> None:
        """Make a directory and those above it, for the registry's user."""
        if not os.path.isdir(path):
            self._directory(os.path.dirname(path))
            os.mkdir(path, 0o755)
            self._own(path)

    def _own(self, path: str) -> None:
        os.chown(path, self.described["data_uid"], self.described["data_uid"])

    def _write(self, path: str) -> t.IO[bytes]:
        self._directory(os.path.dirname(path))
        handle = open(path, "wb")  # noqa: SIM115  # the caller closes it
        self._own(path)
        return handle

    def _bring(self, target: Target, snapshot: Message) -> None:
        damaged = []
        for digest in snapshot["blobs"]:
            with self._write(self.registry.blob(checked_digest(digest))) as handle:
                if not target.get(digest, handle):
                    damaged.append(digest)
                handle.flush()
                os.fsync(handle.fileno())
        if damaged:
            named = [f"{digest} of {some(who)}" for digest, who in users(snapshot, damaged).items()]
            raise BackupError(f"blobs of the backup are damaged, nothing was changed: {'; '.join(named)}")

    def _links(self, snapshot: Message) -> None:
        """Write what makes blobs a repository: layer links, revisions, and last the tags."""
        for name, repository in snapshot["repositories"].items():
            base = os.path.normpath(os.path.join(self.registry.base, "repositories", name))
            if not base.startswith(os.path.join(self.registry.base, "repositories") + os.sep):
                raise BackupError(f"{name!r} is no name of a repository")
            for digest, parts in repository["manifests"].items():
                for part in parts:
                    if part not in repository["manifests"]:
                        self._link(base, "_layers/sha256", part)
                self._link(base, "_manifests/revisions/sha256", digest)
            for tag, digest in repository["tags"].items():
                if os.sep in tag or tag in (".", ".."):
                    raise BackupError(f"{tag!r} is no name of a tag")
                if digest in repository["manifests"]:
                    self._link(base, f"_manifests/tags/{tag}/index/sha256", digest)
                    self._link(base, f"_manifests/tags/{tag}", digest, name="current")

    def _link(self, base: str, below: str, digest: str, name: str = "") -> None:
        value = checked_digest(digest)
        path = os.path.join(base, below, name or value.partition(":")[2], "link")
        with self._write(path) as handle:
            handle.write(value.encode())

    def _swap(self) -> str:
        """Put the restored files in place while the registry stands still; return where the old ones went."""
        stored, replaced = os.path.join(self.data_dir, STORED), ""
        self._directory(os.path.join(self.registry.base, "repositories"))  # a backup of an empty registry
        collection = os.path.join(self.described["run_dir"], "gc.lock")  # a garbage collection holds it
        with alone(collection), alone(self.described["lock"]), stopped(self.described["registry"]):
            self.refuse()  # a push may have come meanwhile
            if os.path.exists(stored):
                if holds_images(self.data_dir):
                    replaced = f"{stored}.replaced-{time.strftime(NAME, time.gmtime())}"
                    os.rename(stored, replaced)
                else:
                    shutil.rmtree(stored)
            os.rename(os.path.join(self.staging, STORED), stored)
            os.sync()
        return replaced


@contextlib.contextmanager
def stopped(container: str) -> t.Iterator[None]:
    """Stop a container meanwhile. The health unit honours the lock; when this is killed, it starts the container."""
    subprocess.run(["docker", "stop", "--", container], check=False, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "start", "--", container], check=False, capture_output=True)


def restore(config: Config, name: str, *, overwrite: bool) -> int:
    """Restore a backup and say so."""
    print("\n".join(Restore(config.described(), overwrite=overwrite).run(config, name)))
    return 0


def serve(store: Store) -> int:
    """Be the other machine for one connection."""
    os.umask(0o077)
    wire = Wire(sys.stdin.buffer, sys.stdout.buffer)
    try:
        with alone(os.path.join(store.directory, "lock")):
            store.prepare()
            Service(store, wire).serve()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads what is left
        return 1
    except (BackupError, OSError, ValueError) as exc:
        wire.send({"error": f"{store.directory}: {exc}"})
        return 1
    return 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run", help="back up now")
    verbs.add_parser("list", help="show the backups")
    again = verbs.add_parser("restore", help="fill the data directory from a backup")
    again.add_argument("--snapshot", default="latest")
    again.add_argument("--overwrite", action="store_true", help="replace the images that are there")
    store = verbs.add_parser("store", help="be the other machine, on standard input and output")
    store.add_argument("--directory", required=True)
    store.add_argument("--keep", type=int, default=14)
    store.add_argument("--keep-days", type=int, default=30)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    args = arguments(argv)
    if args.verb == "store":
        return serve(Store(args.directory, args.keep, args.keep_days))
    with open(args.config, encoding="utf-8") as handle:
        config = Config(**json.load(handle))
    if args.verb == "run":
        return run(config)
    try:
        if args.verb == "list":
            return show(config)
        return restore(config, args.snapshot, overwrite=args.overwrite)
    except (BackupError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
