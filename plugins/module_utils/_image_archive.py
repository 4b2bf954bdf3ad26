# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in a directory or tar file that can be carried: an OCI layout (image-spec, image-layout.md), each blob once.

index.json names each image and its digest, and index.json.sha256 is the digest of that; so all that is in an archive is
verified from one line. What is Docker's own format stays that: digests do not change on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._images import DIGEST, Name, Skopeo

INDEX, CHECKSUM, LAYOUT = "index.json", "index.json.sha256", "oci-layout"
BLOBS = "blobs/sha256"
LAYOUT_TEXT = b'{"imageLayoutVersion": "1.0.0"}\n'
REF = "org.opencontainers.image.ref.name"
MEMBER = re.compile(rf"(?:{re.escape(INDEX)}|{re.escape(CHECKSUM)}|{LAYOUT}|{BLOBS}/[0-9a-f]{{64}})\Z")
CHUNK = 2**20
# The form of skopeo's dir transport (containers/image, directory).
VERSION = b"Directory Transport Version: 1.1\n"
MAX_MANIFEST = 8 * 2**20


def blob_name(digest: str) -> str:
    """Return where a blob is in an archive."""
    return f"{BLOBS}/{digest.removeprefix('sha256:')}"


class Files(t.Protocol):
    """What an archive is made of: files by their name in it."""

    def open(self, name: str) -> t.IO[bytes]:
        """Open a file; raises KeyError or OSError when it is not there."""

    def place(self, name: str, target: str) -> None:
        """Have a file's content at a path, without a copy where that is possible."""


@dataclasses.dataclass(frozen=True)
class DirectoryFiles:
    """An archive that is a directory."""

    path: str

    def open(self, name: str) -> t.IO[bytes]:
        """Open a file that is no link."""
        descriptor = os.open(os.path.join(self.path, name), os.O_RDONLY | os.O_NOFOLLOW)
        return os.fdopen(descriptor, "rb")

    def place(self, name: str, target: str) -> None:
        """Link to the file: the archive may be on a medium that cannot be written."""
        os.symlink(os.path.join(self.path, name), target)


class TarFiles:
    """An archive that is one uncompressed tar file; a member is read where it lies."""

    def __init__(self, path: str) -> None:
        try:
            self.tar = tarfile.open(path, "r:")  # noqa: SIM115  # as long as the object lives
            self.members = {member.name.removeprefix("./"): member for member in self.tar if not member.isdir()}
        except (tarfile.TarError, EOFError) as exc:
            raise HostError(f"{path} is damaged: it is no whole tar file ({exc})") from exc
        for name, member in self.members.items():
            if not member.isreg() or not MEMBER.match(name):
                raise HostError(f"{path} is no archive of images: it holds {name[:100]!r}")

    def open(self, name: str) -> t.IO[bytes]:
        """Open a member."""
        handle = self.tar.extractfile(self.members[name])
        return handle if handle is not None else io.BytesIO()

    def place(self, name: str, target: str) -> None:
        """Copy a member out."""
        with self.open(name) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy, CHUNK)


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image of an archive: its name in the registry, and the descriptor of its manifest or index."""

    name: str
    digest: str
    size: int
    media_type: str
    source: str = ""

    def as_descriptor(self) -> dict[str, t.Any]:
        """Return the entry for index.json."""
        notes = {REF: self.name, **({"org.slipway.source": self.source} if self.source else {})}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, "annotations": notes}


def named(manifest: bytes) -> tuple[list[dict[str, t.Any]], list[dict[str, t.Any]]]:
    """Return the descriptors of the manifests and of the blobs that a manifest or an index names."""
    content = json.loads(manifest)
    blobs = [*([content["config"]] if "config" in content else []), *content.get("layers", [])]
    return content.get("manifests", []), blobs


class Archive:
    """Images that were exported. All reading goes through one object, so that a tar file is opened once."""

    def __init__(self, path: str) -> None:
        self.path = path
        if os.path.isdir(path):
            self.files: Files = DirectoryFiles(path)
        elif os.path.isfile(path):
            self.files = TarFiles(path)
        else:
            raise HostError(f"{path} is not there: it needs a directory or a tar file that mirror_export.yml has made")

    def damaged(self, what: str) -> HostError:
        """Return the error for an archive that is not what was exported."""
        return HostError(f"{self.path} is damaged, and nothing was pushed: {what}")

    def _small(self, name: str) -> bytes:
        try:
            with self.files.open(name) as handle:
                return handle.read(64 * MAX_MANIFEST)
        except (KeyError, OSError, tarfile.TarError) as exc:
            raise self.damaged(f"{name} is missing or cannot be read") from exc

    def entries(self) -> list[Entry]:
        """Return the images, after the index has been compared with its checksum."""
        data = self._small(INDEX)
        if self._small(CHECKSUM).split()[:1] != [hashlib.sha256(data).hexdigest().encode()]:
            raise self.damaged(f"{INDEX} is not what {CHECKSUM} says")
        try:
            return [_entry(item) for item in json.loads(data)["manifests"]]
        except (ValueError, KeyError, TypeError) as exc:
            raise self.damaged(f"{INDEX} is none: {exc}") from exc

    def manifest(self, digest: str) -> bytes:
        """Return the bytes of a manifest, verified."""
        data = self._small(blob_name(digest))
        if _images.digest_of(data) != digest:
            raise self.damaged(f"{blob_name(digest)} has other bytes than its name says")
        return data

    def parts(self, entry: Entry) -> tuple[list[str], dict[str, int]]:
        """Return the digests of all manifests of an image, itself first, and its blobs with their sizes."""
        manifests, blobs, todo = [entry.digest], dict[str, int](), [entry.digest]
        while todo:
            digest = todo.pop()
            try:
                children, below = named(self.manifest(digest))
                found = {_digest(item): int(item["size"]) for item in below if not item.get("urls")}
                more = [_digest(item) for item in children]
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                raise self.damaged(f"{blob_name(digest)} is no manifest: {exc}") from exc
            blobs |= found
            more = [item for item in more if item not in manifests]
            manifests += more
            todo += more
        return manifests, blobs

    def verify(self, entries: t.Iterable[Entry]) -> int:
        """Read every byte of images; return how many bytes that were. Raises HostError at the first wrong one."""
        blobs: dict[str, int] = {}
        for entry in entries:
            blobs |= self.parts(entry)[1]
        for digest, size in blobs.items():
            self._verify(digest, size)
        return sum(blobs.values())

    def _verify(self, digest: str, size: int) -> None:
        name, found, read = blob_name(digest), hashlib.sha256(), 0
        try:
            with self.files.open(name) as handle:
                while chunk := handle.read(CHUNK):
                    found.update(chunk)
                    read += len(chunk)
        except (KeyError, OSError, tarfile.TarError) as exc:
            raise self.damaged(f"{name} is missing or cannot be read") from exc
        if read != size:
            raise self.damaged(f"{name} has {read} bytes instead of {size}")
        if f"sha256:{found.hexdigest()}" != digest:
            raise self.damaged(f"{name} has other bytes than its name says")

    def lay_out(self, entry: Entry, directory: str) -> None:
        """Fill a directory with an image as skopeo's dir transport has it."""
        manifests, blobs = self.parts(entry)
        with open(os.path.join(directory, "version"), "wb") as handle:
            handle.write(VERSION)
        for digest in manifests:
            name = "manifest.json" if digest == entry.digest else f"{digest.removeprefix('sha256:')}.manifest.json"
            self.files.place(blob_name(digest), os.path.join(directory, name))
        for digest in blobs:
            target = os.path.join(directory, digest.removeprefix("sha256:"))
            if not os.path.lexists(target):
                self.files.place(blob_name(digest), target)


def _digest(descriptor: t.Mapping[str, t.Any]) -> str:
    digest = str(descriptor["digest"])
    if not DIGEST.match(digest):
        raise ValueError(f"{digest[:80]} is no sha256 digest")
    return digest


def _entry(item: t.Mapping[str, t.Any]) -> Entry:
    notes = item["annotations"]
    name = str(_images.parse_target(str(notes[REF])))
    source = str(notes.get("org.slipway.source", ""))
    return Entry(name, _digest(item), int(item["size"]), str(item["mediaType"]), source)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An image to export: its name in the private registry, its digest, and its name upstream."""

    name: str
    digest: str
    source: str = ""


class Export:
    """Writes an archive. A tar file is packed from a directory beside it, with which an interrupted run goes on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_tar = path.endswith(".tar")
        self.directory = f"{path}.parts" if self.is_tar else path

    def _known(self, path: str) -> dict[str, Entry]:
        if not os.path.exists(path):
            return {}
        try:
            return {entry.name: entry for entry in Archive(path).entries()}
        except HostError:
            return {}  # cut off while it was made, or damaged: what is whole of it is used again

    def known(self) -> dict[str, Entry]:
        """Return what the archive, or what is under way to be one, names already."""
        return {**(self._known(self.path) if self.is_tar else {}), **self._known(self.directory)}

    def missing(self, wanted: t.Iterable[Wanted]) -> list[Wanted]:
        """Return the images that are not in the archive, or other ones of their name, or not whole."""
        known = self.known()
        return [item for item in wanted if not self._has(known.get(item.name), item)]

    def _has(self, entry: Entry | None, item: Wanted) -> bool:
        if entry is None or entry.digest != item.digest:
            return False
        for path in [self.directory, *([self.path] if self.is_tar else [])]:
            with contextlib.suppress(HostError, KeyError, OSError):
                archive = Archive(path)
                for digest, size in archive.parts(entry)[1].items():
                    with archive.files.open(blob_name(digest)) as handle:
                        if handle.seek(0, os.SEEK_END) != size:
                            raise KeyError(digest)
                return True
        return False

    def finished(self, wanted: t.Sequence[Wanted]) -> bool:
        """Tell whether the archive is exactly what is wanted, and nothing is left of making it."""
        entries = self._known(self.path)
        same = {name: entry.digest for name, entry in entries.items()} == {item.name: item.digest for item in wanted}
        return same and not self.missing(wanted) and not (self.is_tar and os.path.exists(self.directory))

    def add(self, skopeo: Skopeo, item: Wanted) -> None:
        """Copy an image out of the registry into the archive's directory, and name it in the index."""
        blobs = os.path.join(self.directory, BLOBS)
        os.makedirs(blobs, exist_ok=True)
        work = os.path.join(self.directory, ".part")
        shutil.rmtree(work, ignore_errors=True)
        skopeo.pull(_images.parse_target(item.name), item.digest, work)
        with open(os.path.join(work, "manifest.json"), "rb") as handle:
            manifest = handle.read()
        if _images.digest_of(manifest) != item.digest:
            raise HostError(f"{item.name} came as {_images.digest_of(manifest)}: it needs {item.digest}")
        for name in os.listdir(work):
            digest = item.digest if name == "manifest.json" else f"sha256:{name.removesuffix('.manifest.json')}"
            if DIGEST.match(digest):
                os.replace(os.path.join(work, name), os.path.join(self.directory, blob_name(digest)))
        shutil.rmtree(work)
        kind = json.loads(manifest).get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        entry = Entry(item.name, item.digest, len(manifest), kind, item.source)
        self._write({**self._known(self.directory), item.name: entry})

    def _write(self, entries: t.Mapping[str, Entry]) -> None:
        """Write the index and then its checksum, each in one step."""
        descriptors = [entry.as_descriptor() for _, entry in sorted(entries.items())]
        kind = "application/vnd.oci.image.index.v1+json"
        content = {"schemaVersion": 2, "mediaType": kind, "manifests": descriptors}
        index = json.dumps(content, indent=1).encode() + b"\n"
        checksum = f"{hashlib.sha256(index).hexdigest()}  {INDEX}\n".encode()
        for name, data in ((LAYOUT, LAYOUT_TEXT), (INDEX, index), (CHECKSUM, checksum)):
            path = os.path.join(self.directory, name)
            with open(f"{path}.part", "wb") as handle:
                handle.write(data)
                os.fsync(handle.fileno())
            os.replace(f"{path}.part", path)

    def finish(self, wanted: t.Sequence[Wanted]) -> None:
        """Leave exactly what is wanted in the archive, and pack it where it is a tar file."""
        entries = self._known(self.directory)
        self._write({item.name: entries[item.name] for item in wanted})
        archive = Archive(self.directory)
        kept = {INDEX, CHECKSUM, LAYOUT}
        for entry in archive.entries():
            manifests, blobs = archive.parts(entry)
            kept |= {blob_name(digest) for digest in [*manifests, *blobs]}
        for top, _, names in os.walk(self.directory):
            for name in names:
                path = os.path.join(top, name)
                if os.path.relpath(path, self.directory) not in kept:
                    os.unlink(path)
        if self.is_tar:
            self._pack(sorted(kept, key=lambda name: (name.startswith(BLOBS), name)))
            shutil.rmtree(self.directory)

    def _pack(self, names: t.Iterable[str]) -> None:
        with tarfile.open(f"{self.path}.part", "w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                tar.add(os.path.join(self.directory, name), arcname=name, filter=_plain)
        os.replace(f"{self.path}.part", self.path)

    def unpack(self) -> None:
        """Have what an earlier tar file holds in the directory, so that only what is new is copied."""
        if not self.is_tar or os.path.exists(self.directory) or not self._known(self.path):
            return
        files = TarFiles(self.path)
        os.makedirs(os.path.join(self.directory, BLOBS))
        for name in sorted(files.members, key=lambda name: name.startswith("index")):
            files.place(name, os.path.join(self.directory, name))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take out what tells of the machine: the same images are the same file."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def push(skopeo: Skopeo, archive: Archive, entry: Entry) -> None:
    """Push an image of an archive, which was verified, into the registry."""
    with tempfile.TemporaryDirectory(prefix="slipway-import-", dir="/var/tmp") as directory:
        archive.lay_out(entry, directory)
        skopeo.push(directory, _images.parse_target(entry.name), entry.digest)


def lacking(skopeo: Skopeo, entries: t.Iterable[Entry]) -> list[Entry]:
    """Return the images that the registry has not, or has others of their name."""
    return [entry for entry in entries if skopeo.own(_target(entry)) != entry.digest]


def _target(entry: Entry) -> Name:
    return _images.parse_target(entry.name)
