# SPDX-License-Identifier: GPL-3.0-or-later
"""The index is what the registry holds: by a scan, and by notifications; it may be lost at any time."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from registry_ui.app import application
from registry_ui.client import USER_AGENT, Fetched, Registry, RegistryError
from registry_ui.indexer import Change, Indexer
from registry_ui.settings import Settings
from registry_ui.store import Store

from tests.registry_ui.process import collect_garbage, free_port, running
from tests.registry_ui.push import Pusher, digest_of
from tests.unit.images.registry_ui.conftest import GATE, SECRET, Ui


def event(action: str, repository: str = "event/app", **target: Any) -> dict[str, Any]:
    request = {"useragent": target.pop("useragent", "docker/29"), "method": target.pop("method", "GET")}
    target = {"repository": repository, "mediaType": "application/vnd.oci.image.manifest.v1+json"} | target
    stamp = "2026-01-02T03:04:05.5Z"
    return {"action": action, "timestamp": stamp, "target": target, "request": request, "actor": {"name": "anna"}}


def take(ui: Ui, *events: dict[str, Any]) -> int:
    """Send notifications and do what they ask for, as the thread in the background would."""
    answer = ui.client.post("/events", json={"events": list(events)}, headers={"Authorization": f"Bearer {SECRET}"})
    assert answer.status_code == 200, answer.text
    while ui.pages.indexer.waiting:
        change = ui.pages.indexer._changes.get()
        assert change
        ui.pages.indexer.apply(change)
    return int(answer.json()["taken"])


def rows(store: Store, repository: str) -> dict[str, str]:
    return {row["name"]: row["digest"] for row in store.tags(repository, technical=True)}


def test_a_scan_finds_all_and_drops_what_is_gone(ui: Ui) -> None:
    one = ui.pusher.image("scan/app", "1", layers=[b"base", b"one"])
    two = ui.pusher.image("scan/app", "2", layers=[b"base", b"two"])
    store = ui.pages.store
    store.put_tag("scan/app", "ghost", one, technical=False, pushed=None, pushed_by="")
    store.put_tag("scan/gone", "1", one, technical=False, pushed=None, pushed_by="")
    ui.scan()
    assert rows(store, "scan/app") == {"1": one, "2": two}
    assert store.repository("scan/gone") is None
    progress = ui.pages.indexer.progress
    assert progress.percent == 100 and progress.tags >= 2 and progress.fetched >= 2
    found = store.repository("scan/app")
    assert found and found["tags"] == 2 and found["size"] >= len(b"baseonetwo")
    fetched = progress.fetched
    ui.scan()
    assert ui.pages.indexer.progress.fetched == 0, f"the second scan read {fetched} manifests again"


def test_what_is_pushed_during_a_scan_stays(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its notification comes after the scan has asked for all names."""
    names = list(ui.pages.registry.repositories())
    monkeypatch.setattr(ui.pages.registry, "repositories", lambda: iter(names))
    digest = ui.pusher.image("scan/meanwhile", "1")
    take(ui, event("push", "scan/meanwhile", tag="1", digest=digest))
    ui.scan()
    assert rows(ui.pages.store, "scan/meanwhile") == {"1": digest}


def test_blobs_count_once_and_sharing_is_known(ui: Ui) -> None:
    shared, own = b"s" * 1000, b"o" * 300
    config = {"created": "2026-01-01T00:00:00Z"}
    one = ui.pusher.image("sums/one", "1", layers=[shared, own], config=config)
    ui.pusher.image("sums/two", "1", layers=[shared], config=config)
    ui.scan()
    store = ui.pages.store
    first, second = store.repository("sums/one"), store.repository("sums/two")
    assert first and second
    size = first["size"] - 1300
    assert first["exclusive"] == 300 and second["exclusive"] == 0 and second["size"] == 1000 + size
    assert store.only_here("sums/one", one) == 300
    assert [row["repository"] for row in store.sharers("sums/one", one)] == ["sums/two"]
    assert store.sharing("sums/one", one)[digest_of(shared)] == 1


def test_an_index_is_as_large_as_its_platforms_together(ui: Ui) -> None:
    arm = ui.pusher.image("multi/app", layers=[b"x" * 10, b"y" * 5], platform="linux/arm64/v8")
    amd = ui.pusher.image("multi/app", layers=[b"x" * 10, b"z" * 7], config={"author": "multi"})
    both = ui.pusher.index("multi/app", "1", {"linux/arm64/v8": arm, "linux/amd64": amd})
    ui.scan()
    row = ui.pages.store.tag("multi/app", "1")
    assert row and row["platforms"] == "linux/arm64/v8 linux/amd64" and row["created"]
    configs = [ui.pages.store.manifest("multi/app", digest)["config"] for digest in (arm, amd)]  # type: ignore[index]
    assert row["size"] == 22 + sum(len(config) for config in configs)
    assert ui.pages.store.untagged("multi/app") == []
    assert [parent["digest"] for parent in ui.pages.store.parents("multi/app", arm)] == [both]
    assert ui.pages.store.only_here("multi/app", both) == row["size"]


def test_a_push_shows_at_once_with_its_time_and_user(ui: Ui) -> None:
    digest = ui.pusher.image("event/app", "1")
    assert take(ui, event("push", tag="1", digest=digest)) == 1
    row = ui.pages.store.tag("event/app", "1")
    assert row and row["digest"] == digest and row["pushed"] == 1767323045.0 and row["pushed_by"] == "anna"
    found = ui.pages.store.repository("event/app")
    assert found and found["tags"] == 1 and found["pushed"] == 1767323045.0
    ui.scan()
    row = ui.pages.store.tag("event/app", "1")
    assert row and row["pushed"] == 1767323045.0, "a scan forgot when it was pushed"


def test_late_notifications_do_not_turn_the_clock_back(ui: Ui) -> None:
    old = ui.pusher.image("event/late", "1", layers=[b"old"])
    new = ui.pusher.image("event/late", "1", layers=[b"new"])
    take(ui, event("push", "event/late", tag="1", digest=new), event("push", "event/late", tag="1", digest=old))
    assert rows(ui.pages.store, "event/late") == {"1": new}
    assert [row["digest"] for row in ui.pages.store.untagged("event/late")] == [old]


def test_pulls_count_but_neither_our_own_nor_questions(ui: Ui) -> None:
    digest = ui.pusher.image("event/pulled", "1")
    layer = event("pull", "event/pulled", digest=digest, mediaType="application/octet-stream")
    own = event("pull", "event/pulled", digest=digest, useragent=USER_AGENT)
    question = event("pull", "event/pulled", digest=digest, method="HEAD")
    assert take(ui, event("pull", "event/pulled", digest=digest, tag="1"), layer, own, question) == 1
    ui.scan()
    row = ui.pages.store.tag("event/pulled", "1")
    assert row and row["pulled"] == 1767323045.0 and row["pulls"] == 1


def test_deletions_are_asked_about(ui: Ui) -> None:
    digest = ui.pusher.image("event/deleted", "1")
    ui.pusher.image("event/deleted", "2", layers=[b"other"])
    ui.scan()
    take(ui, event("delete", "event/deleted", digest=digest))
    assert "1" in rows(ui.pages.store, "event/deleted"), "it was believed though the registry still has it"
    ui.pages.registry.delete("event/deleted", digest)
    take(ui, event("delete", "event/deleted", digest=digest))
    assert set(rows(ui.pages.store, "event/deleted")) == {"2"}
    ui.pages.registry.delete("event/deleted", "2")
    take(ui, event("delete", "event/deleted", tag="2", digest=""))
    take(ui, event("delete", "event/deleted", digest=""))
    assert rows(ui.pages.store, "event/deleted") == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"events": None},
        {"events": ["x", 7, {}]},
        {"events": [{"action": "push", "target": {"repository": 7}}]},
        {"events": [{"action": "push", "target": {"repository": "a", "mediaType": "layer", "digest": "sha256:1"}}]},
        {"events": [{"action": "dance", "target": {"repository": "a", "digest": "sha256:1"}}]},
        {"events": [{"action": "pull", "target": {"repository": "a"}}]},
    ],
)
def test_notifications_that_say_nothing(ui: Ui, body: object) -> None:
    answer = ui.client.post("/events", json=body, headers={"Authorization": f"Bearer {SECRET}"})
    assert answer.json() == {"taken": 0}


def test_notifications_need_the_secret_and_bounds(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ui.client.post("/events", json={"events": []}).status_code == 403
    assert ui.client.post("/events", json={}, headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert ui.client.post("/events", content=b"no json", headers=GATE).status_code == 400
    monkeypatch.setattr("registry_ui.app.MAX_ENVELOPE", 10)
    assert ui.client.post("/events", content=b"x" * 11, headers=GATE).status_code == 413


def test_unreadable_images_are_listed_as_what_they_are(ui: Ui) -> None:
    ui.pusher.image("odd/config", "1", raw_config=b"\xff\xfenot json")
    ui.pusher.image("odd/index", "1")
    child = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": 1}
    with pytest.raises(AssertionError):  # the registry itself refuses an index whose manifests are missing
        ui.pusher.index("odd/index", "2", {}, [child])
    ui.scan()
    row = ui.pages.store.tag("odd/config", "1")
    assert row and row["created"] is None and row["kind"] == "image"
    ui.get("/ui/r/odd/config/-/tag/1")


def test_a_manifest_that_is_not_its_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_self: Registry, *_args: Any, **_options: Any) -> httpx.Response:
        return httpx.Response(200, headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}, content=b"{}")

    monkeypatch.setattr(Registry, "_ask", answer)
    with pytest.raises(RegistryError, match="not what its digest says"):
        Registry("http://registry").manifest("a", "1")
    monkeypatch.setattr("registry_ui.client.MAX_MANIFEST", 1)
    with pytest.raises(RegistryError, match="too large"):
        Registry("http://registry").manifest("a", "1")


def test_a_large_configuration_is_left_out(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_ui.client.MAX_CONFIG", 50)
    digest = ui.pusher.image("odd/large", "1", config={"config": {"Labels": {"x": "y" * 100}}})
    assert ui.pages.indexer.refresh_manifest("odd/large", digest)
    known = ui.pages.store.manifest("odd/large", digest)
    assert known and known["config"] is None


def test_a_manifest_nobody_can_read(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.pages.registry, "manifest", lambda *_: Fetched("sha256:" + "1" * 64, "text/x", b"["))
    assert ui.pages.indexer.refresh_manifest("odd/text", "sha256:" + "1" * 64)
    assert "unreadable" in ui.get("/ui/r/odd/text/-/digest/sha256:" + "1" * 64)


def test_a_registry_that_is_down_fails_the_scan_and_keeps_the_index(tmp_path: Path) -> None:
    store = Store(tmp_path / "index")
    store.put_tag("a", "1", "sha256:1", technical=False, pushed=None, pushed_by="")
    indexer = Indexer(store, Registry(f"http://127.0.0.1:{free_port()}"))
    progress = indexer.scan()
    assert progress.state == "failed" and "does not answer" in progress.error
    assert store.names() == {"a"}
    with pytest.raises(RegistryError):
        indexer.registry.blob("a", "sha256:1")


def test_a_damaged_or_foreign_index_is_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(b"this is no database" * 100)
    assert Store(path).names() == set()
    with sqlite3.connect(tmp_path / "old") as old:
        old.execute("PRAGMA user_version = 999")
    assert Store(tmp_path / "old").counts()["tags"] == 0


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "index")
    with pytest.raises(RuntimeError), store._write() as connection:
        connection.execute("INSERT INTO repository (name) VALUES ('half')")
        raise RuntimeError
    assert store.names() == set()


@contextlib.contextmanager
def serving(settings: Settings, port: int) -> Iterator[Store]:
    """Run the whole program, threads included; yield its index."""
    app = application(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield app.pages.store
    finally:
        server.should_exit = True
        thread.join()


def test_notifications_of_a_real_registry_and_a_lost_index(tmp_path: Path) -> None:
    """The whole way: push, pull, delete; then the index is deleted and comes back."""
    port, ui_port = free_port(), free_port()
    told = {"events": f"http://127.0.0.1:{ui_port}/events", "secret": SECRET}
    with running(tmp_path / "registry", port=port, **told) as url:
        settings = Settings(registry_url=url, registry_name="r:1", data_dir=tmp_path / "data", gate=SECRET)
        with serving(settings, ui_port) as first:
            digest = Pusher(url).image("live/app", "1")
            eventually(lambda: first.tag("live/app", "1"))
            httpx.get(f"{url}/v2/live/app/manifests/1", headers={"Accept": "*/*"})
            eventually(lambda: (first.tag("live/app", "1") or {}).get("pulls"))
            row = first.tag("live/app", "1")
            assert row and row["digest"] == digest and row["pushed"] and row["pulls"] == 1
            eventually(lambda: (first.repository("live/app") or {})["size"])
        for file in (tmp_path / "data").iterdir():
            file.unlink()
        with serving(settings, ui_port) as second:
            eventually(lambda: second.tag("live/app", "1"))
            httpx.delete(f"{url}/v2/live/app/manifests/{digest}")
            eventually(lambda: second.tag("live/app", "1") is None)


def eventually(check: Any) -> None:
    deadline = time.monotonic() + 15
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_thread_survives_what_it_cannot_do_and_tries_again(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_ui.indexer.RETRIES", (0.01, 0.01))
    monkeypatch.setattr("registry_ui.indexer.SETTLE", 0.01)
    indexer = ui.pages.indexer
    calls = []

    def apply(change: Change) -> bool:
        calls.append(change.tag)
        if len(calls) == 1:
            raise RegistryError("down")
        return change.tag == "2"

    monkeypatch.setattr(indexer, "apply", apply)
    monkeypatch.setattr(indexer, "scan", lambda: None)
    indexer.start()
    indexer._changes.put(Change("a", "", "1", None, ""))
    indexer._changes.put(Change("a", "", "2", None, ""))
    eventually(lambda: calls == ["1", "2", "1", "1"])
    indexer.stop()


def test_the_registry_tells_of_a_push_before_it_writes_the_tag(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ui.pusher.image("event/early", "1", layers=[b"old"])
    ui.scan()
    new = ui.pusher.image("event/early", layers=[b"new"])
    change = Change("event/early", new, "1", 1767323045.0, "anna")
    assert not ui.pages.indexer.apply(change)
    row = ui.pages.store.tag("event/early", "1")
    assert row and row["digest"] == old and row["pushed"] is None, "the old image got the new one's time"
    ui.pusher.image("event/early", "1", layers=[b"new"])
    assert ui.pages.indexer.apply(change)
    row = ui.pages.store.tag("event/early", "1")
    assert row and row["digest"] == new and row["pushed_by"] == "anna"


def test_what_a_garbage_collection_took_is_dropped(tmp_path: Path) -> None:
    port, directory = free_port(), tmp_path / "registry"
    with running(directory, port=port) as url:
        old = Pusher(url).image("gc/app", "1", layers=[b"old"])
        Pusher(url).image("gc/app", "1", layers=[b"new"])
        store = Store(tmp_path / "index")
        indexer = Indexer(store, Registry(url))
        indexer.refresh_manifest("gc/app", old)
        indexer.scan()
        assert [row["digest"] for row in store.untagged("gc/app")] == [old]
        collect_garbage(directory)
        indexer.scan()
        assert store.untagged("gc/app") == []
