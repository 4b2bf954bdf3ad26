# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of images: each blob once, only what is new, and not one wrong byte let through."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _image_archive
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._image_archive import Archive, Export, Wanted
from ansible_collections.slipway.platform.plugins.module_utils._images import Skopeo

from tests.unit.plugins.skopeo import OWN, FakeSkopeo, digest


@pytest.fixture
def fake() -> FakeSkopeo:
    return FakeSkopeo()


@pytest.fixture
def skopeo(fake: FakeSkopeo, tmp_path: Path) -> Skopeo:
    return Skopeo(str(tmp_path / "etc"), OWN, command=fake)


@pytest.fixture
def wanted(fake: FakeSkopeo) -> list[Wanted]:
    """An image for two platforms and one for one, with a layer that both have."""
    return [
        Wanted("team/app:1", fake.image(f"{OWN}/team/app:1", b"base", b"app"), "quay.io/team/app:1"),
        Wanted("tool:2", fake.image(f"{OWN}/tool:2", b"base", b"tool", platforms=1)),
    ]


@pytest.fixture(params=["images", "images.tar"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / request.param)


def export(path: str, skopeo: Skopeo, wanted: list[Wanted]) -> list[str]:
    """Export as the module does; return the names of what was copied."""
    made = Export(path)
    missing = made.missing(wanted)
    made.unpack()
    for item in missing:
        made.add(skopeo, item)
    made.finish(wanted)
    return [item.name for item in missing]


def names(path: str) -> set[str]:
    if os.path.isfile(path):
        with tarfile.open(path) as tar:
            return set(tar.getnames())
    return {str(found.relative_to(path)) for found in Path(path).rglob("*") if found.is_file()}


def test_there_and_back(path: str, skopeo: Skopeo, fake: FakeSkopeo, wanted: list[Wanted]) -> None:
    assert export(path, skopeo, wanted) == ["team/app:1", "tool:2"]
    assert Export(path).finished(wanted)
    assert not os.path.exists(f"{path}.parts")
    # 3 layers, 3 configurations, 3 manifests, 1 index.
    assert len([name for name in names(path) if name.startswith("blobs/")]) == 10
    fake.tags.clear()
    archive = Archive(path)
    entries = archive.entries()
    assert [(entry.name, entry.digest, entry.source) for entry in entries] == [
        ("team/app:1", wanted[0].digest, "quay.io/team/app:1"),
        ("tool:2", wanted[1].digest, ""),
    ]
    assert archive.verify(entries) == sum(len(fake.blobs[digest(data)]) for data in (b"base", b"app", b"tool")) + sum(
        len(data) for data in fake.blobs.values() if data.startswith(OWN.encode())
    )
    assert _image_archive.lacking(skopeo, entries) == entries
    for entry in entries:
        _image_archive.push(skopeo, archive, entry)
    assert {name: fake.tags[f"{OWN}/{name}"] for name in ("team/app:1", "tool:2")} == {
        item.name: item.digest for item in wanted
    }
    assert _image_archive.lacking(skopeo, entries) == []


def test_only_what_is_new_is_copied(path: str, skopeo: Skopeo, fake: FakeSkopeo, wanted: list[Wanted]) -> None:
    export(path, skopeo, wanted)
    assert export(path, skopeo, wanted) == []
    moved = Wanted("tool:2", fake.image(f"{OWN}/tool:2", b"base", b"newer", platforms=1))
    before = names(path)
    assert export(path, skopeo, [wanted[0], moved]) == ["tool:2"]
    assert f"blobs/sha256/{digest(b'tool')[7:]}" in before - names(path)
    assert export(path, skopeo, [wanted[0]]) == []
    assert [entry.name for entry in Archive(path).entries()] == ["team/app:1"]
    assert not Export(path).finished(wanted)


def test_cut_off_and_run_again(path: str, skopeo: Skopeo, fake: FakeSkopeo, wanted: list[Wanted]) -> None:
    fake.fails = {"tool": "no route"}
    with pytest.raises(HostError, match="tool:2 was not copied: no route"):
        export(path, skopeo, wanted)
    fake.fails = {}
    os.makedirs(os.path.join(Export(path).directory, ".part"))
    assert export(path, skopeo, wanted) == ["tool:2"]
    assert Export(path).finished(wanted)


def test_a_blob_that_was_cut_off_is_copied_again(skopeo: Skopeo, wanted: list[Wanted], tmp_path: Path) -> None:
    path = tmp_path / "images"
    export(str(path), skopeo, wanted)
    (path / f"blobs/sha256/{digest(b'app')[7:]}").write_bytes(b"ap")
    assert export(str(path), skopeo, wanted) == ["team/app:1"]
    (path / f"blobs/sha256/{digest(b'tool')[7:]}").unlink()
    assert export(str(path), skopeo, wanted) == ["tool:2"]


def test_the_same_images_are_the_same_file(skopeo: Skopeo, wanted: list[Wanted], tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        export(str(tmp_path / name), skopeo, wanted)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_registry_that_sends_something_else(skopeo: Skopeo, fake: FakeSkopeo, tmp_path: Path) -> None:
    other = fake.image(f"{OWN}/other:1")
    fake.tags[f"{OWN}/app@sha256:{'a' * 64}"] = other
    with pytest.raises(HostError, match=f"app:1 came as {other}: it needs sha256:aaaa"):
        Export(str(tmp_path / "images")).add(skopeo, Wanted("app:1", f"sha256:{'a' * 64}"))


def blob(data: bytes) -> str:
    return f"blobs/sha256/{digest(data)[7:]}"


def harm(archive: Path, name: str, how: Any) -> None:
    """Change a file of an archive, which may be a tar file."""
    if archive.is_dir():
        changed = how((archive / name).read_bytes())
        (archive / name).unlink()
        if changed is not None:
            (archive / name).write_bytes(changed)
        return
    with tarfile.open(archive) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    content[name] = how(content[name])
    with tarfile.open(archive, "w") as tar:
        for key, data in content.items():
            if data is not None:
                member = tarfile.TarInfo(key)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        (blob(b"app"), lambda data: b"apq", "has other bytes than its name says"),
        (blob(b"app"), lambda data: data[:-1], "has 2 bytes instead of 3"),
        (blob(b"base"), lambda data: None, "is missing or cannot be read"),
        ("index.json", lambda data: data.replace(b"team", b"maet"), "index.json is not what index.json.sha256 says"),
        ("index.json", lambda data: None, "index.json is missing or cannot be read"),
        ("index.json.sha256", lambda data: b"", "index.json is not what"),
    ],
)
def test_damage_is_one_sentence(
    name: str, how: Any, says: str, path: str, skopeo: Skopeo, wanted: list[Wanted]
) -> None:
    export(path, skopeo, wanted)
    harm(Path(path), name, how)
    with pytest.raises(HostError, match=f"{path} is damaged, and nothing was pushed: .*{says}"):
        archive = Archive(path)
        archive.verify(archive.entries())


def test_a_damaged_manifest_is_found(path: str, skopeo: Skopeo, wanted: list[Wanted]) -> None:
    export(path, skopeo, wanted)
    harm(Path(path), f"blobs/sha256/{wanted[0].digest[7:]}", lambda data: data + b" ")
    archive = Archive(path)
    with pytest.raises(HostError, match="has other bytes than its name says"):
        archive.verify(archive.entries())


def seal(path: Path, index: Any) -> None:
    """Write an index with the right checksum."""
    data = index if isinstance(index, bytes) else json.dumps(index).encode()
    path.mkdir(exist_ok=True)
    (path / "index.json").write_bytes(data)
    (path / "index.json.sha256").write_text(f"{digest(data)[7:]}  index.json\n", encoding="utf-8")


@pytest.mark.parametrize(
    "index",
    [
        b"{",
        {},
        {"manifests": [{}]},
        {"manifests": [{"annotations": {_image_archive.REF: "a:1"}, "digest": "sha512:1", "size": 1, "mediaType": ""}]},
        {"manifests": [{"annotations": {_image_archive.REF: "../a"}, "digest": "", "size": 1, "mediaType": ""}]},
    ],
)
def test_an_index_of_something_else(index: Any, tmp_path: Path) -> None:
    seal(tmp_path / "a", index)
    with pytest.raises(HostError, match=r"index\.json is none"):
        Archive(str(tmp_path / "a")).entries()


@pytest.mark.parametrize("data", [b"no json", b"[]", b'{"layers": [{}]}', b'{"manifests": [{"digest": "x"}]}'])
def test_a_manifest_that_is_none(data: bytes, tmp_path: Path) -> None:
    descriptor = {
        "digest": digest(data),
        "size": len(data),
        "mediaType": "",
        "annotations": {_image_archive.REF: "a:1"},
    }
    seal(tmp_path / "a", {"manifests": [descriptor]})
    (tmp_path / "a/blobs/sha256").mkdir(parents=True)
    (tmp_path / "a" / blob(data)).write_bytes(data)
    archive = Archive(str(tmp_path / "a"))
    with pytest.raises(HostError, match="is no manifest"):
        archive.verify(archive.entries())


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is not there: it needs a directory or a tar file"):
        Archive(str(tmp_path / "nowhere"))
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(HostError, match="is damaged: it is no whole tar file"):
        Archive(str(tmp_path / "a.tar"))
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/passwd"))
    with pytest.raises(HostError, match=r"is no archive of images: it holds '\.\./\.\./etc/passwd'"):
        Archive(str(tmp_path / "b.tar"))


def test_a_link_is_not_followed(skopeo: Skopeo, wanted: list[Wanted], tmp_path: Path) -> None:
    path = tmp_path / "images"
    export(str(path), skopeo, wanted)
    (path / blob(b"app")).rename(tmp_path / "elsewhere")
    (path / blob(b"app")).symlink_to(tmp_path / "elsewhere")
    archive = Archive(str(path))
    with pytest.raises(HostError, match="is missing or cannot be read"):
        archive.verify(archive.entries())


def test_a_tar_file_that_was_cut_off(skopeo: Skopeo, wanted: list[Wanted], tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    export(str(path), skopeo, wanted)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1].offset_data
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(HostError, match=r"images.tar is damaged"):
        archive = Archive(str(path))
        archive.verify(archive.entries())
