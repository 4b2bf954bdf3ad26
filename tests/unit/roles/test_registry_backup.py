# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup program of the registry: both ends, as real processes, over a directory as distribution writes it."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "roles/registry_backup/files/registry_backup.py"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_backup", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_backup"] = module
    spec.loader.exec_module(module)
    return module


backup: Any = _load()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclasses.dataclass
class Tree:
    """A registry's data directory, written in the order in which distribution writes it."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "docker/registry/v2"

    def file(self, digest: str) -> Path:
        return self.base / "blobs/sha256" / digest[7:9] / digest[7:] / "data"

    def link(self, path: str, digest: str) -> None:
        link = self.base / "repositories" / path / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(digest, encoding="ascii")

    def blob(self, data: bytes) -> str:
        digest = digest_of(data)
        self.file(digest).parent.mkdir(parents=True, exist_ok=True)
        self.file(digest).write_bytes(data)
        return digest

    def layer(self, name: str, data: bytes) -> dict[str, Any]:
        digest = self.blob(data)
        self.link(f"{name}/_layers/sha256/{digest[7:]}", digest)
        return {"mediaType": LAYER, "digest": digest, "size": len(data)}

    def manifest(self, name: str, content: dict[str, Any], tag: str = "") -> str:
        digest = self.blob(json.dumps({"schemaVersion": 2, **content}).encode())
        self.link(f"{name}/_manifests/revisions/sha256/{digest[7:]}", digest)
        if tag:
            self.link(f"{name}/_manifests/tags/{tag}/index/sha256/{digest[7:]}", digest)
            self.link(f"{name}/_manifests/tags/{tag}/current", digest)
        return digest

    def image(self, name: str, tag: str, *layers: bytes, **more: Any) -> str:
        parts = [self.layer(name, data) for data in layers]
        config = self.layer(name, json.dumps([part["digest"] for part in parts]).encode())
        return self.manifest(name, {"mediaType": IMAGE, "config": config, "layers": parts, **more}, tag)

    def index(self, name: str, tag: str, *images: str) -> str:
        parts = [{"mediaType": IMAGE, "digest": image, "size": 1} for image in images]
        return self.manifest(name, {"mediaType": INDEX, "manifests": parts}, tag)

    def forget(self, name: str, digest: str) -> None:
        """Delete a manifest as the API does: its link goes, blob and directory stay."""
        (self.base / f"repositories/{name}/_manifests/revisions/sha256/{digest[7:]}/link").unlink()

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.base.rglob("*") if path.is_file()}


@pytest.fixture
def registry(tmp_path: Path) -> Tree:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.marker").touch()
    return Tree(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    (tmp_path / "store").mkdir()
    return backup.Store(str(tmp_path / "store"))


@pytest.fixture
def config(tmp_path: Path, registry: Tree, store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the configuration of a registry whose other machine is a process of the same program."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/docker.log\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(backup, "PAUSE", 0.0)
    described = {
        "host": "registry.corp.lab",
        "port": 6001,
        "data_dir": str(registry.root),
        "marker": ".marker",
        "data_uid": os.getuid(),
        "min_free": 1,
        "registry": "slipway-registry",
        "lock": str(tmp_path / "run/stack.lock"),
        "run_dir": str(tmp_path / "run"),
        "else": "what a newer role may add",
    }
    (tmp_path / "health.json").write_text(json.dumps(described), encoding="utf-8")
    return backup.Config(
        command=[sys.executable, str(PROGRAM), "store", "--directory", store.directory],
        to="vault:/srv",
        registry=str(tmp_path / "health.json"),
        state=str(tmp_path / "var/registry/backup.json"),
        verify="all",
        max_age=3600,
    )


def state(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(config.state).read_text(encoding="utf-8"))
    return found


def backed_up(config: Any) -> dict[str, Any]:
    """Back up, expect it to go well, and return the state that it left."""
    assert backup.run(config) == 0, state(config)["problems"]
    return state(config)


def stored(store: Any, digest: str) -> Path:
    return Path(store.path(digest))


def lose(registry: Tree) -> dict[str, bytes]:
    """Throw the images away; return what was there."""
    files = registry.files()
    subprocess.run(["rm", "-r", str(registry.root / "docker")], check=True)
    return files


# --- Round trips


def test_what_was_lost_comes_back_as_it_was(registry: Tree, config: Any, tmp_path: Path) -> None:
    first = registry.image("team/app", "1", b"base", b"app")
    second = registry.image("team/app", "", b"base", b"arm")
    registry.index("team/app", "2", first, second)
    registry.image("deep/er/name", "v1.0", b"base")
    found = backed_up(config)
    assert (found["repositories"], found["tags"], found["new_blobs"]) == (2, 3, found["blobs"])
    before = lose(registry)
    assert backup.restore(config, "latest", overwrite=False) == 0
    assert registry.files() == before
    log = (tmp_path / "docker.log").read_text(encoding="utf-8").splitlines()
    assert log == ["stop -- slipway-registry", "start -- slipway-registry"]
    assert not (registry.root / ".slipway-restore").exists()


def test_second_backup_copies_nothing(registry: Tree, config: Any) -> None:
    registry.image("app", "1", b"one")
    first = backed_up(config)
    second = backed_up(config)
    assert (second["new"], second["new_blobs"], second["new_bytes"]) == (False, 0, 0)
    assert second["name"] == first["name"]
    assert second["snapshots"] == 1
    assert second["verified"] == second["blobs"] == 3


def test_only_what_is_new_is_copied(registry: Tree, config: Any) -> None:
    registry.image("app", "1", b"base" * 1000, b"one")
    backed_up(config)
    registry.image("app", "2", b"base" * 1000, b"two")
    second = backed_up(config)
    assert second["new_blobs"] == 3, "a layer, its configuration, its manifest"
    assert second["new_bytes"] < 1000


def test_an_older_backup_can_be_chosen(registry: Tree, config: Any) -> None:
    old = registry.image("app", "1", b"old")
    name = backed_up(config)["name"]
    registry.image("app", "1", b"new")
    assert backed_up(config)["name"] > name
    lose(registry)
    assert backup.restore(config, name, overwrite=False) == 0
    assert (registry.base / "repositories/app/_manifests/tags/1/current/link").read_text(encoding="ascii") == old


def test_an_empty_registry_is_backed_up_and_restored(registry: Tree, config: Any) -> None:
    assert backed_up(config)["blobs"] == 0
    assert backup.restore(config, "latest", overwrite=False) == 0


def test_the_list_of_backups(registry: Tree, config: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    registry.image("app", "1", b"one")
    backed_up(config)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    capsys.readouterr()
    assert backup.main(["--config", str(tmp_path / "config.json"), "list"]) == 0
    assert "1 tags in 1 repositories, 3 blobs" in capsys.readouterr().out


# --- While pushes and deletions go on


def between(monkeypatch: pytest.MonkeyPatch, part: str, act: Callable[[], object]) -> None:
    """Have something happen once, right after a directory whose path ends in `part` was listed."""
    original, done = backup._names, []

    def listed(directory: str) -> list[str]:
        names: list[str] = original(directory)
        if directory.endswith(part) and not done:
            done.append(True)
            act()
        return names

    monkeypatch.setattr(backup, "_names", listed)


def sound(store: Any) -> None:
    """Check that nothing in the newest snapshot refers to what is not in it."""
    snapshot = store.snapshot("latest")
    for repository in snapshot["repositories"].values():
        needed = {*repository["tags"].values(), *repository["manifests"]}
        needed |= {part for parts in repository["manifests"].values() for part in parts}
        assert needed <= snapshot["blobs"].keys()
        assert set(repository["tags"].values()) <= repository["manifests"].keys()
    assert store.absent(snapshot["blobs"]) == ([], [])
    assert store.damaged(snapshot["blobs"]) == []


def test_a_push_under_way_is_not_in_the_backup(registry: Tree, store: Any, config: Any) -> None:
    registry.image("app", "1", b"one")
    part = registry.layer("app", b"half a push")["digest"]
    uploads = registry.base / "repositories/app/_uploads/123"
    uploads.mkdir(parents=True)
    (uploads / "data").write_bytes(b"ha")
    backed_up(config)
    sound(store)
    assert part not in store.snapshot("latest")["blobs"]


@pytest.mark.parametrize("part", ["_manifests/tags", "revisions/sha256"])
def test_a_push_that_ends_meanwhile(part: str, registry: Tree, store: Any, config: Any, monkeypatch: Any) -> None:
    first = registry.image("app", "1", b"one")

    def push() -> None:
        second = registry.image("app", "", b"two")
        registry.index("app", "1", first, second)

    between(monkeypatch, part, push)
    backed_up(config)
    sound(store)
    backed_up(config)
    assert len(store.snapshot("latest")["repositories"]["app"]["manifests"]) == 3


def test_an_image_of_an_index_that_the_listing_has_not_seen(
    registry: Tree, store: Any, config: Any, monkeypatch: Any
) -> None:
    """A directory that grows while it is read may show what came last, and not what came before."""
    child = registry.image("app", "", b"child")
    registry.index("app", "1", child)
    original = backup._names
    monkeypatch.setattr(backup, "_names", lambda path: [name for name in original(path) if name != child[7:]])
    backed_up(config)
    sound(store)
    assert child in store.snapshot("latest")["repositories"]["app"]["manifests"]


def test_an_image_that_is_deleted_meanwhile(registry: Tree, store: Any, config: Any, monkeypatch: Any) -> None:
    registry.image("app", "1", b"one")
    gone = registry.image("app", "", b"gone")

    def delete_and_collect() -> None:
        registry.forget("app", gone)
        registry.file(digest_of(b"gone")).unlink()
        registry.file(gone).unlink()

    between(monkeypatch, "revisions/sha256", delete_and_collect)
    backed_up(config)
    sound(store)
    assert gone not in store.snapshot("latest")["blobs"]


def test_a_blob_that_is_collected_before_it_is_copied(
    registry: Tree, store: Any, config: Any, monkeypatch: Any
) -> None:
    registry.image("app", "1", b"one")
    gone = registry.image("app", "", b"gone")
    original = backup.Target.put

    def put(self: Any, digest: str, path: str) -> bool:
        if registry.file(gone).exists():
            registry.forget("app", gone)
            registry.file(digest_of(b"gone")).unlink()
            registry.file(gone).unlink()
        return bool(original(self, digest, path))

    monkeypatch.setattr(backup.Target, "put", put)
    backed_up(config)
    sound(store)
    assert gone not in store.snapshot("latest")["blobs"]


def test_a_link_that_is_being_written(registry: Tree, store: Any, config: Any) -> None:
    registry.image("app", "1", b"one")
    registry.link("app/_manifests/tags/2/current", "sha25")
    backed_up(config)
    sound(store)
    assert store.snapshot("latest")["repositories"]["app"]["tags"].keys() == {"1"}


# --- A registry that is not whole


def test_a_damaged_blob_of_the_registry_is_named_and_not_kept(registry: Tree, store: Any, config: Any) -> None:
    registry.image("app", "1", b"one", b"shared")
    registry.image("app", "2", b"shared")
    registry.image("fine", "1", b"fine")
    registry.file(digest_of(b"one")).write_bytes(b"not")
    assert backup.run(config) == 1
    (problem,) = state(config)["problems"]
    assert digest_of(b"one") in problem
    assert "app:1" in problem
    assert "app:2" not in problem
    sound(store)
    assert digest_of(b"fine") in store.snapshot("latest")["blobs"]


def test_a_manifest_with_other_bytes_is_named(registry: Tree, store: Any, config: Any) -> None:
    digest = registry.image("app", "1", b"one")
    registry.file(digest).write_bytes(b'{"schemaVersion": 2}')
    assert backup.run(config) == 1
    assert "app:1" in state(config)["problems"][0]
    assert store.snapshot("latest")["repositories"] == {}


@pytest.mark.parametrize("what", ["manifest", "link"])
def test_a_missing_image_of_an_index_is_named(what: str, registry: Tree, store: Any, config: Any) -> None:
    """What `garbage-collect --delete-untagged` of version 2 leaves."""
    first, second = registry.image("app", "", b"one"), registry.image("app", "", b"two")
    registry.index("app", "1", first, second)
    if what == "manifest":
        registry.file(second).unlink()
    registry.forget("app", second)
    assert backup.run(config) == 1
    (problem,) = state(config)["problems"]
    assert second in problem
    assert "app:1" in problem
    sound(store)
    assert first in store.snapshot("latest")["blobs"]


def test_a_tag_without_its_manifest_is_named(registry: Tree, store: Any, config: Any) -> None:
    registry.file(registry.image("app", "1", b"one")).unlink()
    assert backup.run(config) == 1
    assert "app:1" in state(config)["problems"][0]
    sound(store)


def test_layers_that_lie_elsewhere_are_not_missed(registry: Tree, config: Any) -> None:
    foreign = {"mediaType": LAYER, "digest": digest_of(b"windows"), "size": 7, "urls": ["https://example.com/layer"]}
    registry.image("app", "1", b"one", blobs=[foreign])
    backed_up(config)


def test_a_build_cache_is_an_index_of_layers(registry: Tree, config: Any) -> None:
    layer = registry.layer("cache", b"layer")
    registry.manifest("cache", {"mediaType": INDEX, "manifests": [layer]}, "1")
    backed_up(config)
    before = lose(registry)
    backup.restore(config, "latest", overwrite=False)
    assert registry.files() == before


@pytest.mark.parametrize("body", [b"no json", b"[1]", b'{"config": 3, "layers": [{"digest": "../../etc/passwd"}]}'])
def test_what_names_nothing(body: bytes) -> None:
    assert backup.references(body) == []


def test_layers_of_schema_1() -> None:
    body = json.dumps({"fsLayers": [{"blobSum": digest_of(b"x")}]}).encode()
    assert [reference.digest for reference in backup.references(body)] == [digest_of(b"x")]


# --- A backup that is not whole


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_a_damaged_blob_of_the_backup_is_repaired(
    damage: Callable[[Path], None], registry: Tree, store: Any, config: Any
) -> None:
    registry.image("app", "1", b"one", b"two")
    backed_up(config)
    damage(stored(store, digest_of(b"one")))
    found = backed_up(config)
    assert found["new_blobs"] == 1
    if damage is not Path.unlink:
        assert digest_of(b"one") in found["notes"][0]
    sound(store)


@pytest.mark.parametrize("damage", [truncate, flip])
def test_a_damaged_blob_that_only_an_older_backup_has_is_named(
    damage: Callable[[Path], None], registry: Tree, store: Any, config: Any
) -> None:
    old = registry.image("app", "1", b"old")
    name = backed_up(config)["name"]
    registry.image("app", "1", b"new")
    registry.forget("app", old)
    backed_up(config)
    damage(stored(store, digest_of(b"old")))
    assert backup.run(config) == 1
    (problem,) = state(config)["problems"]
    assert digest_of(b"old") in problem
    assert f"app:1 of {name}" in problem


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_a_damaged_backup_is_not_restored(
    damage: Callable[[Path], None], registry: Tree, store: Any, config: Any, tmp_path: Path
) -> None:
    registry.image("app", "1", b"one", b"shared")
    registry.image("other", "1", b"shared")
    backed_up(config)
    lose(registry)
    damage(stored(store, digest_of(b"one")))
    with pytest.raises(backup.BackupError) as error:
        backup.restore(config, "latest", overwrite=False)
    assert f"{digest_of(b'one')} of app:1" in str(error.value)
    assert "other" not in str(error.value)
    assert [path.name for path in registry.root.iterdir()] == [".marker"]
    assert not (tmp_path / "docker.log").exists(), "the registry was not even stopped"


def test_only_new_blobs_are_read_again_where_asked(registry: Tree, store: Any, config: Any) -> None:
    config = dataclasses.replace(config, verify="new")
    registry.image("app", "1", b"one")
    assert backed_up(config)["verified"] == 3
    flip(stored(store, digest_of(b"one")))
    assert backed_up(config)["verified"] == 0


def test_a_disk_that_does_not_keep_what_it_is_given(registry: Tree, config: Any, monkeypatch: Any) -> None:
    registry.image("app", "1", b"one")
    original = backup.Target.ask

    def ask(self: Any, what: str, **parts: Any) -> Any:
        if what == "damaged":
            return {"damaged": {digest_of(b"one"): []}}
        return original(self, what, **parts)

    monkeypatch.setattr(backup.Target, "ask", ask)
    assert backup.run(config) == 1
    assert "does not give back what was written" in state(config)["problems"][0]


# --- Restores that are refused, or told to go on


def test_images_are_not_overwritten(registry: Tree, config: Any) -> None:
    registry.image("app", "1", b"one")
    backed_up(config)
    registry.image("app", "2", b"two")
    before = registry.files()
    with pytest.raises(backup.BackupError, match="holds images already: nothing was changed"):
        backup.restore(config, "latest", overwrite=False)
    assert registry.files() == before


def test_images_are_put_aside_when_told(registry: Tree, config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    registry.image("app", "1", b"one")
    backed_up(config)
    before = registry.files()
    registry.image("app", "2", b"two")
    assert backup.restore(config, "latest", overwrite=True) == 0
    assert registry.files() == before
    (aside,) = registry.root.glob("docker.replaced-*")
    assert (aside / "registry/v2/repositories/app/_manifests/tags/2").is_dir()
    assert str(aside) in capsys.readouterr().out


def test_a_push_that_comes_meanwhile_is_not_lost(registry: Tree, config: Any, monkeypatch: Any) -> None:
    registry.image("app", "1", b"one")
    backed_up(config)
    lose(registry)
    original = backup.Restore._links

    def links(self: Any, snapshot: Any) -> None:
        registry.image("app", "2", b"two")
        original(self, snapshot)

    monkeypatch.setattr(backup.Restore, "_links", links)
    with pytest.raises(backup.BackupError, match="holds images already"):
        backup.restore(config, "latest", overwrite=False)
    assert registry.file(digest_of(b"two")).exists()


@pytest.mark.parametrize("lock", ["stack.lock", "gc.lock"])
def test_somebody_who_works_on_the_registry_comes_first(
    lock: str, registry: Tree, config: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    backed_up(config)
    held = backup.alone(str(tmp_path / "run" / lock))
    monkeypatch.setattr(backup.alone.__wrapped__, "__defaults__", (0.0,))
    with held, pytest.raises(backup.BackupError, match=f"somebody else is at work .*{lock}"):
        backup.restore(config, "latest", overwrite=False)
    assert not (tmp_path / "docker.log").exists()


def test_uploads_that_never_ended_are_no_images(registry: Tree, config: Any) -> None:
    backed_up(config)
    uploads = registry.base / "repositories/app/_uploads/123"
    uploads.mkdir(parents=True)
    (uploads / "data").write_bytes(b"ha")
    assert backup.restore(config, "latest", overwrite=False) == 0


def test_a_disk_that_is_not_mounted(registry: Tree, config: Any) -> None:
    registry.image("app", "1", b"one")
    backed_up(config)
    (registry.root / ".marker").unlink()
    assert backup.run(config) == 1
    assert "is its disk mounted?" in state(config)["problems"][0]
    with pytest.raises(backup.BackupError, match="is its disk mounted"):
        backup.restore(config, "latest", overwrite=True)


def test_a_disk_that_is_too_small(registry: Tree, config: Any) -> None:
    registry.image("app", "1", b"one")
    backed_up(config)
    lose(registry)
    described = json.loads(Path(config.registry).read_text(encoding="utf-8"))
    Path(config.registry).write_text(json.dumps(described | {"min_free": 2**60}), encoding="utf-8")
    with pytest.raises(backup.BackupError, match=r"the restore needs 1048576\.0 TiB"):
        backup.restore(config, "latest", overwrite=False)


@pytest.mark.parametrize(
    ("name", "said"), [("latest", "no backup yet"), ("2020-01-01T000000Z", "no backup"), ("../../x", "no backup")]
)
def test_a_backup_that_is_not_there(
    name: str, said: str, registry: Tree, config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    if name != "latest":
        backed_up(config)
    assert backup.main(["--config", str(tmp_path / "config.json"), "restore", "--snapshot", name]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("where", ["repository", "tag"])
def test_names_of_a_snapshot_stay_in_the_data_directory(where: str, registry: Tree, store: Any, config: Any) -> None:
    registry.image("app", "1", b"one")
    name = backed_up(config)["name"]
    path = Path(store.directory) / f"snapshots/{name}.json"
    changed = json.loads(path.read_text(encoding="utf-8"))
    repository = changed["repositories"].pop("app")
    if where == "tag":
        repository["tags"] = {"../../../../../x": next(iter(repository["manifests"]))}
    changed["repositories"] = {"app" if where == "tag" else "../../../../x": repository}
    path.write_text(json.dumps(changed), encoding="utf-8")
    lose(registry)
    with pytest.raises(backup.BackupError, match="is no name of a"):
        backup.restore(config, "latest", overwrite=False)


# --- The store


def test_nothing_that_is_sent_becomes_a_path(store: Any) -> None:
    for digest in ("../../etc/passwd", "sha256:" + "../" * 21 + "x", "sha512:" + "a" * 64, None, ["x"]):
        with pytest.raises(backup.BackupError, match="is no sha256 digest"):
            store.path(digest)


def test_content_that_its_digest_does_not_describe_is_not_kept(store: Any) -> None:
    store.prepare()
    assert store.put(digest_of(b"right"), iter([b"wrong"])) is False
    assert store.everything() == []
    assert os.listdir(f"{store.directory}/incoming") == []


def talk(store: Any, *requests: bytes) -> list[dict[str, Any]]:
    """Return the answers of a store to what a client sends."""
    store.prepare()
    writer = io.BytesIO()
    backup.Service(store, backup.Wire(io.BytesIO(b"".join(requests)), writer)).serve()
    return [json.loads(line) for line in writer.getvalue().splitlines()]


def test_a_connection_that_breaks_leaves_nothing(store: Any) -> None:
    request = json.dumps({"do": "put", "digest": digest_of(b"whole"), "size": 5}).encode() + b"\nwho"
    (answer,) = talk(store, request)
    assert "the connection broke" in answer["error"]
    assert store.everything() == []


def test_an_error_does_not_end_the_conversation(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: what was sent is read to its end, and the next request is understood."""
    data = b"x" * 3_000_000
    put = json.dumps({"do": "put", "digest": digest_of(data), "size": len(data)}).encode() + b"\n" + data

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answers = talk(store, put, b'{"do": "list"}\n', b'{"do": "rm"}\n')
    assert "No space left on device" in answers[0]["error"]
    assert answers[1] == {"snapshots": []}
    assert "unknown request" in answers[2]["error"]


def test_a_blob_that_is_not_there_is_empty(store: Any) -> None:
    assert talk(store, json.dumps({"do": "get", "digest": digest_of(b"x")}).encode() + b"\n") == [{"size": 0}]


def test_a_snapshot_without_its_blobs_is_refused(store: Any) -> None:
    with pytest.raises(backup.BackupError, match="1 blobs are missing"):
        store.commit({"repositories": {}, "blobs": {digest_of(b"x"): 1}, "missing": {}})


def snapshots(store: Any, *days: float) -> list[str]:
    """Keep one snapshot with a blob of its own on each of these days (ago)."""
    now = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC).timestamp()
    store.prepare()
    for ago in days:
        store.clock = lambda ago=ago: now - ago * 86400
        data = f"{ago}".encode()
        store.put(digest_of(data), iter([data]))
        store.commit({"repositories": {}, "blobs": {digest_of(data): len(data)}, "missing": {}})
    store.clock = lambda: now
    return list(store.names())


def test_old_backups_go_with_the_blobs_that_only_they_need(store: Any) -> None:
    store.keep, store.keep_days = 2, 10
    names = snapshots(store, 50, 40, 20, 5, 4, 1)
    gone, freed = store.expire()
    assert gone == names[:3]
    assert freed == 6
    assert store.names() == names[3:]
    assert store.damaged(store.snapshot("latest")["blobs"]) == []


def test_the_newest_backups_stay_however_old(store: Any) -> None:
    store.keep, store.keep_days = 2, 10
    names = snapshots(store, 50, 40, 30)
    store.expire()
    assert store.names() == names[1:]


def test_a_list_that_cannot_be_read_costs_no_blob(store: Any) -> None:
    store.keep, store.keep_days = 1, 1
    names = snapshots(store, 50, 40, 0.5)
    (Path(store.directory) / f"snapshots/{names[2]}.json").write_text("{", encoding="utf-8")
    with pytest.raises(backup.BackupError, match="cannot be read"):
        store.expire()
    assert store.names() == names
    assert len(store.everything()) == 3


def test_names_stay_in_order_when_the_clock_is_set_back(store: Any) -> None:
    assert snapshots(store, 1, 2, 3) == ["2026-01-30T120000Z", "2026-01-30T120001Z", "2026-01-30T120002Z"]


def test_one_connection_at_a_time(store: Any) -> None:
    with (
        backup.alone(f"{store.directory}/lock", 0),
        pytest.raises(backup.BackupError, match="somebody else is at work"),
        backup.alone(f"{store.directory}/lock", 0),
    ):
        pass


# --- What is said


def test_a_failure_keeps_the_date_of_the_last_good_one(registry: Tree, config: Any) -> None:
    good = backed_up(config)["last_good"]
    broken = dataclasses.replace(config, command=["false"])
    assert backup.run(broken) == 1
    found = state(broken)
    assert found["last_good"] == good
    assert found["ok"] is False
    assert "hung up (false ended with 1)" in found["problems"][0]
    assert Path(config.state).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("said", ["Welcome to this machine", "3"])
def test_another_end_that_says_something_else(said: str, registry: Tree, config: Any) -> None:
    assert backup.run(dataclasses.replace(config, command=["echo", said])) == 1


def test_a_machine_without_a_registry(config: Any) -> None:
    os.unlink(config.registry)
    assert backup.run(config) == 1
    assert "run playbooks/registry.yml first" in state(config)["problems"][0]


def test_a_store_that_is_not_there(registry: Tree, config: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [*config.command[:-1], str(tmp_path / "file")]
    assert backup.run(dataclasses.replace(config, command=command)) == 1
    assert "file" in state(config)["problems"][0]


@pytest.mark.parametrize(("size", "text"), [(3, "3 bytes"), (1536, "1.5 KiB"), (2**41, "2.0 TiB")])
def test_sizes(size: int, text: str) -> None:
    assert backup.human(size) == text


def test_long_lists_are_cut() -> None:
    assert backup.some("abcdefg") == "a, b, c, d, e and 2 more"
    assert backup.some([]) == "nothing"
