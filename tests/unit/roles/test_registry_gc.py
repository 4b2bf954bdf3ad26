# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's garbage collection: what goes, what stays, and that it undoes itself, on a store made here."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "roles/registry/files/registry_gc.py"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OLD = 100.0  # days


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_gc", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_gc"] = module
    spec.loader.exec_module(module)
    return module


gc: Any = _load()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Disk:
    """Writes what the registry would write on a push."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / gc.ROOT

    def write(self, path: str, data: bytes, days: float) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        stamp = time.time() - days * gc.DAY
        os.utime(target, (stamp, stamp))

    def blob(self, data: bytes, days: float = OLD) -> str:
        self.write(gc.blob_path(digest(data)), data, days)
        return digest(data)

    def layer(self, repository: str, data: bytes, days: float = OLD) -> str:
        name = self.blob(data, days)
        self.write(f"repositories/{repository}/_layers/{name.replace(':', '/')}/link", name.encode(), days)
        return name

    def manifest(self, repository: str, content: dict[str, Any], tag: str = "", days: float = OLD) -> str:
        name = self.blob(json.dumps(content).encode(), days)
        base = f"repositories/{repository}/_manifests"
        self.write(f"{base}/revisions/{name.replace(':', '/')}/link", name.encode(), days)
        if tag:
            self.write(f"{base}/tags/{tag}/current/link", name.encode(), days)
        return name

    def image(self, repository: str, tag: str = "", *, layers: tuple[str, ...] = (), days: float = OLD) -> str:
        """Push an image whose layers have the given texts; by default one of its own."""
        texts = layers or (f"{repository}:{tag}",)
        parts = [{"digest": self.layer(repository, text.encode(), days)} for text in texts]
        config = {"digest": self.layer(repository, b"{}", days)}
        return self.manifest(repository, {"mediaType": MANIFEST, "config": config, "layers": parts}, tag, days)

    def index(self, repository: str, tag: str, children: list[str], days: float = OLD, **more: Any) -> str:
        parts = [{"digest": child} for child in children]
        return self.manifest(repository, {"mediaType": INDEX, "manifests": parts, **more}, tag, days)

    def has(self, name: str) -> bool:
        return (self.root / gc.blob_path(name)).exists()

    def tags(self, repository: str) -> list[str]:
        return sorted(gc._listed(str(self.root / f"repositories/{repository}/_manifests/tags")))

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


class Registry(http.server.BaseHTTPRequestHandler):
    """Answers as the registry does, from its disk."""

    protocol_version = "HTTP/1.1"
    root: Path
    asked: list[str] = []  # noqa: RUF012  # one server at a time
    lies: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        name, kind, reference = self.path.removeprefix("/v2/").rsplit("/", 2)
        base = self.root / "repositories" / name
        if kind == "blobs":
            link = base / "_layers" / reference.replace(":", "/") / "link"
        elif ":" in reference:
            link = base / "_manifests/revisions" / reference.replace(":", "/") / "link"
        else:
            link = base / "_manifests/tags" / reference / "current/link"
        known = link.exists() and (self.root / gc.blob_path(link.read_text(encoding="utf-8"))).exists()
        self.send_response(200 if known and not any(lie in self.path for lie in self.lies) else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.marker").touch()
    (tmp_path / "run").mkdir()
    made = Disk(tmp_path / "data")
    made.root.mkdir(parents=True)
    return made


@pytest.fixture
def config(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    Registry.root, Registry.asked, Registry.lies = disk.root, [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(gc, "address", lambda _config: "127.0.0.1")
    yield gc.Config(
        data_dir=str(tmp_path / "data"),
        marker=".marker",
        run_dir=str(tmp_path / "run"),
        state=str(tmp_path / "state/gc.json"),
        registry="registry",
        network="net",
        hosts=["registry.corp.lab:6001"],
        retention=[],
        protected=[],
        untagged_days=0,
        grace="24h",
        max_share=100,
        settle=0,
        port=server.server_address[1],
    )
    server.shutdown()
    server.server_close()


def changed(config: Any, *rules: dict[str, Any], **values: Any) -> Any:
    """Return another configuration; rules replace the retention."""
    full = [gc.Rule(**{"repositories": ["*"], "tags": ["*"], **rule}) for rule in rules]
    return gc.dataclasses.replace(config, **({"retention": full} if rules else {}), **values)


def result(config: Any) -> dict[str, Any]:
    return dict(json.loads(Path(config.state).read_text(encoding="utf-8")))


def test_nothing_to_do_changes_nothing_and_stops_nobody(config: Any, disk: Disk) -> None:
    disk.image("a/app", "1")
    before = disk.files()
    lines = gc.run(config)
    assert "0 tags, 0 manifests and 0 blobs deleted" in lines[-1]
    assert disk.files() == before
    assert Registry.asked == []
    assert result(config)["ok"] is True
    assert result(config)["writes_stopped_seconds"] == 0


def test_what_nobody_links_goes(config: Any, disk: Disk) -> None:
    kept = disk.image("a/app", "1")
    orphan, fresh = disk.blob(b"orphan"), disk.blob(b"fresh", days=0.5)
    link = disk.layer("a/app", b"a layer of a manifest that was deleted")
    gc.run(config)
    assert [disk.has(name) for name in (kept, orphan, fresh, link)] == [True, False, True, False]
    assert not (disk.root / f"repositories/a/app/_layers/{link.replace(':', '/')}").exists()


def test_the_newest_stay(config: Any, disk: Disk) -> None:
    for number in range(6):
        disk.image("a/app", f"v{number}", layers=("base", f"own {number}"), days=OLD - number)
    disk.image("b/app", "only", days=OLD)
    gc.run(changed(config, {"keep_last": 2}))
    assert disk.tags("a/app") == ["v4", "v5"]
    assert disk.tags("b/app") == ["only"]
    assert [disk.has(digest(f"own {number}".encode())) for number in range(6)] == [False] * 4 + [True] * 2
    assert disk.has(digest(b"base"))
    assert f"/v2/a/app/blobs/{digest(b'base')}" in Registry.asked


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ({"keep_days": 10}, ["new"]),
        ({"keep_days": 10, "keep_last": 2}, ["middle", "new"]),
        ({"keep_days": 80, "keep_last": 1}, ["middle", "new"]),
        ({"tags": ["old", "m*"], "keep_last": 1}, ["middle", "new"]),
        ({"tags": ["x*"], "keep_last": 1}, ["middle", "new", "old"]),
        ({"repositories": ["b/"], "keep_last": 1}, ["middle", "new", "old"]),
        ({"repositories": ["a/"], "keep_last": 1}, ["new"]),
        ({"repositories": ["*app"], "keep_last": 1}, ["new"]),
    ],
)
def test_a_rule_decides_by_number_age_and_pattern(
    rule: dict[str, Any], left: list[str], config: Any, disk: Disk
) -> None:
    for tag, days in (("old", 90), ("middle", 50), ("new", 1)):
        disk.image("a/app", tag, days=days)
    gc.run(changed(config, rule))
    assert disk.tags("a/app") == left


def test_the_first_rule_that_fits_decides(config: Any, disk: Disk) -> None:
    for days, tag in enumerate(("pr-1", "release-1", "release-2", "pr-2")):
        disk.image("a/app", tag, days=10 + days)
    gc.run(changed(config, {"tags": ["release-*"], "keep_last": 9}, {"keep_last": 1}))
    assert disk.tags("a/app") == ["pr-1", "release-1", "release-2"]


@pytest.mark.parametrize(
    "protected",
    ["a/app:1", "registry.corp.lab:6001/a/app:1", "registry.corp.lab:6001/library/a/app:1", "a/app", "*:1", "a/*:?"],
)
def test_what_is_protected_stays(protected: str, config: Any, disk: Disk) -> None:
    disk.image("a/app", "1")
    disk.image("a/app", "2", days=1)
    gc.run(changed(config, {"keep_last": 1}, protected=[protected]))
    assert disk.tags("a/app") == ["1", "2"]


def test_a_protected_digest_stays_with_its_tag_or_without(config: Any, disk: Disk) -> None:
    one, two = disk.image("a/app", "1"), disk.image("a/app", "", layers=("two",))
    disk.image("a/app", "3", days=1)
    other = disk.image("a/app", "", layers=("other",))
    protected = [f"registry.corp.lab:6001/a/app@{name}" for name in (one, two)]
    gc.run(changed(config, {"keep_last": 1}, protected=protected, untagged_days=10))
    assert disk.tags("a/app") == ["1", "3"]
    assert [disk.has(name) for name in (one, two, other, digest(b"two"), digest(b"other"))] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_every_platform_of_a_kept_index_stays(config: Any, disk: Disk) -> None:
    """What the registry's own collection gets wrong on v2: the children have no tag."""
    children = [disk.image("a/app", "", layers=(f"platform {number}",)) for number in range(3)]
    kept = disk.index("a/app", "1", children[:2])
    nested = disk.index("a/app", "2", [kept, children[2]])
    orphan = disk.image("a/app", "", layers=("orphan",))
    gc.run(changed(config, untagged_days=1))
    assert all(disk.has(name) for name in (*children, kept, nested, digest(b"platform 0")))
    assert not disk.has(orphan)
    assert {f"/v2/a/app/manifests/{child}" for child in children} <= set(Registry.asked)


def test_the_platforms_of_an_index_that_goes_go(config: Any, disk: Disk) -> None:
    child, shared = (disk.image("a/app", "", layers=(name,)) for name in ("child", "shared"))
    gone, kept = disk.index("a/app", "1", [child, shared]), disk.index("a/app", "2", [shared], days=1)
    gc.run(changed(config, {"keep_last": 1}))
    assert [disk.has(name) for name in (gone, child, shared, kept, digest(b"child"))] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_manifests_without_a_tag_stay_unless_that_is_asked(config: Any, disk: Disk) -> None:
    old, young = disk.image("a/app", layers=("old",)), disk.image("a/app", layers=("young",), days=5)
    now = disk.image("a/app", layers=("now",), days=0.1)
    gc.run(config)
    assert disk.has(old)
    gc.run(changed(config, untagged_days=10))
    assert [disk.has(name) for name in (old, young, now)] == [False, True, True]


def test_a_digest_that_is_shared_keeps_its_manifest(config: Any, disk: Disk) -> None:
    kept = disk.image("a/app", "1", layers=("same",))
    disk.image("a/app", "2", layers=("same",), days=1)
    gc.run(changed(config, {"keep_last": 1}))
    assert disk.tags("a/app") == ["2"]
    assert disk.has(kept)


def test_a_blob_that_another_repository_needs_stays(config: Any, disk: Disk) -> None:
    disk.image("a/app", "1", layers=("shared", "own"))
    disk.image("b/app", "1", layers=("shared",))
    gc.run(changed(config, {"repositories": ["a/"], "keep_days": 1}))
    assert [disk.has(digest(text)) for text in (b"shared", b"own")] == [True, False]
    assert not (disk.root / "repositories/a").exists(), "an empty repository is not listed"
    assert disk.tags("b/app") == ["1"]


def test_a_push_under_way_loses_nothing(config: Any, disk: Disk) -> None:
    """Its blobs are there, or mounted from elsewhere, and its manifest is not yet."""
    uploaded = disk.layer("a/new", b"uploaded", days=0.1)
    mounted = disk.blob(b"mounted", days=OLD)
    disk.write(f"repositories/a/new/_layers/{mounted.replace(':', '/')}/link", mounted.encode(), 0.1)
    child = disk.image("a/new", layers=("child",), days=0.1)
    gc.run(changed(config, untagged_days=1))
    assert all(disk.has(name) for name in (uploaded, mounted, child))
    assert (disk.root / "repositories/a/new/_layers").exists()


def signature(disk: Disk, subject: str, *, suffix: str = ".sig", days: float = OLD, **more: Any) -> str:
    layer = disk.layer("a/app", f"signature of {subject}{suffix}".encode(), days)
    return disk.manifest("a/app", {"layers": [{"digest": layer}], **more}, subject.replace(":", "-") + suffix, days)


def test_a_signature_goes_with_what_it_is_about(config: Any, disk: Disk) -> None:
    gone, kept = disk.image("a/app", "1"), disk.image("a/app", "2", days=1)
    signatures = [signature(disk, name) for name in (gone, kept)]
    about_signature = signature(disk, signatures[1], suffix=".att")
    stranger = signature(disk, digest(b"elsewhere"))
    gc.run(changed(config, {"keep_last": 1}))
    assert [disk.has(name) for name in (gone, *signatures, about_signature, stranger)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert len(disk.tags("a/app")) == 4


def test_a_referrer_neither_holds_nor_loses_its_subject(config: Any, disk: Disk) -> None:
    gone, kept = disk.image("a/app", "1"), disk.image("a/app", "2", days=1)
    untagged = disk.image("a/app", layers=("untagged",))
    referrers = {}
    for subject in (gone, kept, untagged):
        bill = disk.manifest("a/app", {"subject": {"digest": subject}, "x": subject})
        disk.index("a/app", subject.replace(":", "-"), [bill])
        referrers[subject] = bill
    gc.run(changed(config, {"keep_last": 1}))
    assert [disk.has(name) for name in (gone, kept, untagged)] == [False, True, True]
    assert [disk.has(referrers[name]) for name in (gone, kept, untagged)] == [False, True, True]


def test_damage_is_told_and_does_not_stop_the_rest(config: Any, disk: Disk) -> None:
    broken = disk.image("a/app", "1")
    (disk.root / gc.blob_path(broken)).unlink()
    disk.manifest("a/app", {"schemaVersion": 1, "fsLayers": [{"blobSum": disk.layer("a/app", b"ancient")}]}, "2")
    garbled = disk.image("a/app", "3")
    (disk.root / gc.blob_path(garbled)).write_bytes(b"{")
    orphan = disk.blob(b"orphan")
    lines = gc.run(config)
    assert [f"damaged: a/app@{name} is missing or damaged" in lines for name in (broken, garbled)] == [True, True]
    assert disk.has(digest(b"ancient"))
    assert not disk.has(orphan)


def test_too_much_is_refused(config: Any, disk: Disk) -> None:
    disk.image("a/app", "1", layers=("x" * 1000,))
    disk.image("a/app", "2", days=1)
    with pytest.raises(gc.CollectionError, match="more than registry_gc_max_share"):
        gc.run(changed(config, {"keep_last": 1}, max_share=50))
    assert disk.tags("a/app") == ["1", "2"]
    assert result(config)["ok"] is False
    assert "registry_gc_max_share" in result(config)["error"]


def test_a_disk_that_is_not_mounted_is_refused(config: Any) -> None:
    os.unlink(os.path.join(config.data_dir, config.marker))
    with pytest.raises(gc.CollectionError, match="is its disk mounted"):
        gc.run(config)


def test_a_wrong_answer_brings_everything_back(config: Any, disk: Disk) -> None:
    disk.image("a/app", "1")
    disk.image("a/gone", "1")
    kept = disk.image("a/app", "2", days=1)
    before = disk.files()
    Registry.lies = [f"manifests/{kept}"]
    with pytest.raises(gc.CollectionError, match=r"1 answers were wrong, \d+ things were put back"):
        gc.run(changed(config, {"keep_last": 1}, {"keep_days": 1}))
    assert disk.files() == before
    assert not os.path.exists(config.aside)
    assert not os.path.exists(config.flag)
    assert result(config)["ok"] is False


def test_a_registry_that_does_not_answer_brings_everything_back(config: Any, disk: Disk) -> None:
    disk.image("a/app", "1")
    disk.image("a/app", "2", days=1)
    before = disk.files()
    with pytest.raises(gc.CollectionError, match="does not answer"):
        gc.run(changed(config, {"keep_last": 1}, port=1))
    assert disk.files() == before


def test_what_changed_in_the_meantime_is_no_fault(config: Any, disk: Disk) -> None:
    kept = disk.image("a/app", "1")
    plan = gc.make_plan(gc.Store(config.root), config, time.time())
    shutil.rmtree(disk.root / "repositories/a/app/_manifests/tags/1")
    shutil.rmtree(disk.root / f"repositories/a/app/_manifests/revisions/{kept.replace(':', '/')}")
    assert gc.prove(config, plan, "127.0.0.1") == []
    (disk.root / gc.blob_path(digest(b"{}"))).unlink()
    assert gc.prove(config, plan, "127.0.0.1") == [f"a/app blobs {digest(b'{}')}: 404"]


def test_a_push_that_ends_while_writes_are_stopped_keeps_its_blobs(
    config: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = disk.blob(b"an old blob that the push found")
    take = gc.Aside.take

    def late(self: Any, paths: list[str]) -> None:
        disk.layer("a/app", b"config", days=0)
        disk.write(f"repositories/a/app/_layers/{old.replace(':', '/')}/link", old.encode(), 0)
        disk.manifest("a/app", {"layers": [{"digest": old}]}, "late", days=0)
        take(self, paths)

    monkeypatch.setattr(gc.Aside, "take", late)
    gc.run(config)
    assert disk.has(old)
    assert disk.tags("a/app") == ["late"]


class KilledError(BaseException):
    """Stands for kill -9: nothing of the program runs any more."""


@pytest.mark.parametrize("moment", ["rename", "rmtree", "prove", "journal"])
def test_killed_at_any_moment(moment: str, config: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start lets pushes in, and has everything back or nothing of what was proved superfluous."""
    disk.image("a/app", "1")
    disk.image("a/app", "2", days=1)
    before = disk.files()
    wanted = changed(config, {"keep_last": 1})
    calls: list[str] = []

    def dies(*_arguments: Any, **_more: Any) -> None:
        calls.append(moment)
        if len(calls) > (2 if moment == "rename" else 0):
            raise KilledError
        rename(*_arguments)

    rename = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(gc, "let_writes_in", lambda _config: True)  # a killed program does not tidy up
        target = {"rename": (gc.os, "rename"), "rmtree": (gc.shutil, "rmtree"), "prove": (gc, "prove")}
        patch.setattr(*target.get(moment, (gc.json, "dump")), dies)
        with pytest.raises(KilledError):
            gc.run(wanted)
    assert os.path.exists(config.flag)
    lines = gc.recover(config)
    assert lines[0] == "let pushes in again"
    assert not os.path.exists(config.flag)
    assert not os.path.exists(config.aside)
    if moment == "rmtree":
        assert "finished deleting" in lines[1]
        assert disk.tags("a/app") == ["2"]
    else:
        assert disk.files() == before
    assert gc.recover(config) == []
    gc.run(wanted)
    assert disk.tags("a/app") == ["2"]


def test_what_was_pushed_again_wins_over_what_was_moved_aside(config: Any, disk: Disk) -> None:
    disk.image("a/app", "1")
    aside = gc.Aside(config)
    aside.take(["repositories/a/app/_manifests/tags/1"])
    newer = disk.image("a/app", "1", layers=("newer",), days=0)
    assert aside.recover() == "put back 0 things that a killed collection had moved aside"
    link = disk.root / "repositories/a/app/_manifests/tags/1/current/link"
    assert link.read_text(encoding="utf-8") == newer


def test_one_at_a_time(config: Any) -> None:
    with open(config.lock, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(gc.CollectionError, match="another collection"):
            gc.run(config)


def run_main(config: Any, tmp_path: Path, *arguments: str) -> int:
    path = tmp_path / "gc.json"
    path.write_text(json.dumps(gc.dataclasses.asdict(config)), encoding="utf-8")
    return int(gc.main(["--config", str(path), *arguments]))


def test_a_dry_run_lists_and_changes_nothing(
    config: Any, disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.image("a/app", "1", layers=("x" * 3000,))
    disk.image("a/app", "2", days=1)
    before = disk.files()
    wanted = changed(config, {"keep_last": 1, "keep_days": 30})
    assert run_main(wanted, tmp_path, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a/app:1  pushed ")
    assert lines[0].endswith("not among the newest 1, 100 days old, kept 30")
    assert lines[-1].startswith("1 tags, 1 manifests and 2 blobs would go, which frees 3.2 KiB of ")
    assert run_main(wanted, tmp_path, "--dry-run", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(tag["repository"], tag["name"]) for tag in listed["tags"]] == [("a/app", "1")]
    assert disk.files() == before
    assert not os.path.exists(config.state)
    assert run_main(wanted, tmp_path) == 0
    assert "1 tags, 1 manifests and 2 blobs deleted, 3.2 KiB freed" in capsys.readouterr().out
    assert result(config)["bytes"] == listed["bytes"]


def test_what_goes_wrong_is_said_and_told_by_the_status(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.unlink(os.path.join(config.data_dir, config.marker))
    assert run_main(config, tmp_path) == 1
    assert capsys.readouterr().err.startswith("<3>")
    assert run_main(config, tmp_path, "--recover") == 0
    assert capsys.readouterr().out == ""


def test_in_a_bucket_it_only_holds_writes_off(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = gc.dataclasses.replace(config, bucket=True)
    for arguments in ([], ["--dry-run"]):
        assert run_main(wanted, tmp_path, *arguments) == 1
        assert "playbooks/registry_gc.yml" in capsys.readouterr().err
    command = [sys.executable, str(PROGRAM), "--config", str(tmp_path / "gc.json"), "--hold"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as held:
        while not os.path.exists(config.flag):
            assert held.poll() is None
            time.sleep(0.02)
        with pytest.raises(gc.CollectionError, match="another collection"), gc.alone(config):
            pass
        held.terminate()
        assert held.communicate(timeout=30)[0] == "let pushes in again\n"
    assert not os.path.exists(config.flag)


def test_dockerd_that_does_not_answer(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(gc, "DOCKER_SOCKET", str(tmp_path / "none"))
    with pytest.raises(gc.CollectionError, match="does not say where registry is"):
        gc.address(config)


def test_sizes_and_durations() -> None:
    assert [gc.human(size) for size in (512, 3 * 2**20, 5 * 2**30)] == ["0.5 KiB", "3.0 MiB", "5.0 GiB"]
    assert [gc.seconds(text) for text in ("30s", "2m", "24h", "7d")] == [30, 120, 86400, 604800]


def test_writes_are_held_off_while_it_matters(config: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.blob(b"orphan")
    seen = {}

    def look(name: str, real: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            seen[name] = os.path.exists(config.flag)
            return real(*arguments)

        return wrapped

    for name in ("_needed_after_all", "prove"):
        monkeypatch.setattr(gc, name, look(name, getattr(gc, name)))
    gc.run(config)
    assert seen == {"_needed_after_all": True, "prove": False}
    with contextlib.suppress(RuntimeError), gc.writes_stopped(config):
        raise RuntimeError
    assert not os.path.exists(config.flag)
