# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may delete deletes what they saw, nothing more, and can have it back; nobody else can."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from registry_ui import guard
from registry_ui.client import RegistryError
from registry_ui.settings import Machine, Settings

from tests.registry_ui.process import collect_garbage
from tests.unit.images.registry_ui.conftest import ADMIN, GATE, READER, SECRET, Ui


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a repository of the test's own."""
    return "del/" + request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:60].strip("-")


def there(ui: Ui, name: str, reference: str) -> bool:
    return bool(ui.pages.registry.digest(name, reference))


def test_what_shares_it_is_shown_first(ui: Ui, name: str) -> None:
    digest = ui.pusher.image(name, "1", layers=[b"shared with all", b"own" * 100])
    ui.pusher.image(name, "2", layers=[b"shared with all"])
    ui.pusher.image(name, "1b", layers=[b"shared with all", b"own" * 100])
    ui.scan()
    page = ui.get(f"/ui/r/{name}/-/tag/1/delete", ADMIN)
    assert "Stays" in page and "tag/1b" in page and "Who shares its layers" in page
    whole = ui.get(f"/ui/r/{name}/-/digest/{digest}/delete", ADMIN)
    assert "300 B at the next garbage collection" in whole and "Delete image" in whole
    assert (
        "Sign in" in ui.get(f"/ui/r/{name}/-/tag/1/delete")
        and "<button" not in page.split("Keep it")[1].split("</form>")[0]
    )
    assert "rita may read only" in ui.get(f"/ui/r/{name}/-/tag/1/delete", READER)


def test_a_tag_goes_alone_and_comes_back(ui: Ui, name: str) -> None:
    digest = ui.pusher.image(name, "1")
    ui.pusher.image(name, "twin")
    ui.scan()
    answer = ui.post(f"/ui/r/{name}/-/tag/1/delete")
    assert answer.status_code == 303 and answer.headers["location"] == "/ui/deleted"
    assert not there(ui, name, "1") and there(ui, name, "twin") and there(ui, name, digest)
    assert ui.pages.store.tag(name, "1") is None
    page = ui.get("/ui/deleted", ADMIN)
    assert name in page and "anna" in page and "Undo" in page
    number = ui.pages.store.all_trash()[0]["id"]
    assert ui.post(f"/ui/r/{name}/-/undo/{number}").headers["location"] == f"/ui/r/{name}/-/tag/1"
    assert ui.pages.registry.digest(name, "1") == digest and ui.pages.store.tag(name, "1")
    assert ui.pages.store.all_trash() == []
    assert ui.post(f"/ui/r/{name}/-/undo/{number}").status_code == 404


def test_an_image_goes_with_all_its_tags_and_comes_back(ui: Ui, name: str) -> None:
    digest = ui.pusher.image(name, "1")
    ui.pusher.image(name, "2")
    ui.scan()
    assert ui.post(f"/ui/r/{name}/-/digest/{digest}/delete").status_code == 303
    assert not there(ui, name, "1") and not there(ui, name, digest) and ui.pages.store.tags(name) == []
    number = ui.pages.store.all_trash()[0]["id"]
    assert ui.post(f"/ui/r/{name}/-/undo/{number}").status_code == 303
    assert there(ui, name, "1") and there(ui, name, "2")
    assert [row["name"] for row in ui.pages.store.tags(name)] == ["1", "2"]


def test_an_image_without_a_tag_comes_back_by_its_digest(ui: Ui, name: str) -> None:
    digest = ui.pusher.image(name)
    ui.pages.indexer.refresh_manifest(name, digest)
    assert ui.post(f"/ui/r/{name}/-/digest/{digest}/delete").status_code == 303
    assert ui.post(f"/ui/r/{name}/-/undo/{ui.pages.store.all_trash()[0]['id']}").headers["location"].endswith(digest)
    assert there(ui, name, digest)


def test_after_a_garbage_collection_undo_says_that_it_is_gone(ui: Ui, name: str) -> None:
    digest = ui.pusher.image(name, "1", layers=[b"only in this one image"])
    ui.pusher.image("del/other", "1")
    ui.scan()
    ui.post(f"/ui/r/{name}/-/digest/{digest}/delete")
    collect_garbage(ui.directory)
    answer = ui.post(f"/ui/r/{name}/-/undo/{ui.pages.store.all_trash()[0]['id']}")
    assert answer.status_code == 410 and "push the image again" in answer.text
    (ui.state / "gc.json").write_text(json.dumps({"time": time.time() + 1, "ok": True}))
    assert "since the last garbage collection" in ui.get("/ui/deleted", ADMIN)
    assert ui.pages.store.all_trash() == []


def test_undo_never_moves_a_tag_that_somebody_pushed_since(ui: Ui, name: str) -> None:
    ui.pusher.image(name, "1", layers=[b"old"])
    ui.scan()
    ui.post(f"/ui/r/{name}/-/tag/1/delete")
    new = ui.pusher.image(name, "1", layers=[b"new"])
    answer = ui.post(f"/ui/r/{name}/-/undo/{ui.pages.store.all_trash()[0]['id']}")
    assert answer.status_code == 409 and "another image by now" in answer.text
    assert ui.pages.registry.digest(name, "1") == new


def test_a_part_of_a_multi_platform_image_warns(ui: Ui, name: str) -> None:
    amd = ui.pusher.image(name)
    ui.pusher.index(name, "1", {"linux/amd64": amd})
    ui.scan()
    assert "It is part of" in ui.get(f"/ui/r/{name}/-/digest/{amd}/delete", ADMIN)


@pytest.mark.parametrize("others", [True, False])
def test_version_2_deletes_only_whole_images(ui: Ui, name: str, others: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{name}-{str(others).lower()}"
    digest = ui.pusher.image(name, "1")
    if others:
        ui.pusher.image(name, "2")
    ui.scan()
    real = ui.pages.registry.delete

    def delete(repository: str, reference: str) -> None:
        if ":" not in reference:
            raise RegistryError("the registry answers 405 UNSUPPORTED", 405)
        real(repository, reference)

    monkeypatch.setattr(ui.pages.registry, "delete", delete)
    answer = ui.post(f"/ui/r/{name}/-/tag/1/delete")
    assert answer.status_code == (409 if others else 303)
    assert there(ui, name, digest) is others
    assert len(ui.pages.store.all_trash()) == (0 if others else 1), "what was not deleted must not be undone"


def test_a_registry_that_refuses_leaves_no_undo(ui: Ui, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ui.pusher.image(name, "1")
    ui.scan()

    def refuse(*_: Any) -> None:
        raise RegistryError("the registry answers 500", 500)

    monkeypatch.setattr(ui.pages.registry, "delete", refuse)
    assert ui.post(f"/ui/r/{name}/-/tag/1/delete").status_code == 502
    assert ui.pages.store.all_trash() == []
    monkeypatch.undo()
    ui.post(f"/ui/r/{name}/-/tag/1/delete")
    monkeypatch.setattr(ui.pages.registry, "put", refuse)
    assert ui.post(f"/ui/r/{name}/-/undo/{ui.pages.store.all_trash()[0]['id']}").status_code == 502


def test_what_is_gone_already_is_told(ui: Ui, name: str) -> None:
    digest = ui.pusher.image(name, "1")
    ui.scan()
    ui.pages.registry.delete(name, digest)
    assert ui.post(f"/ui/r/{name}/-/digest/{digest}/delete").status_code == 404
    assert ui.post(f"/ui/r/{name}/-/tag/1/delete").status_code == 404
    assert ui.pages.store.tags(name) == []
    assert ui.post(f"/ui/r/{name}/-/what/1").status_code == 404
    assert ui.post(f"/ui/r/{name}/-/undo/x").status_code == 404


@pytest.mark.parametrize(
    ("headers", "more", "fields", "status"),
    [
        (GATE, {}, {}, 401),
        (READER, {}, {}, 403),
        (GATE | {"X-Slipway-May": "delete"}, {}, {}, 401),
        (ADMIN, {}, {"token": ""}, 403),
        (ADMIN, {}, {"token": "9999999999.AAAA"}, 403),
        (ADMIN, {}, {"token": "x.y"}, 403),
        (ADMIN, {"Origin": "https://evil.example"}, {}, 403),
        (ADMIN, {"Sec-Fetch-Site": "cross-site"}, {}, 403),
        (ADMIN, {"Sec-Fetch-Site": "same-site"}, {}, 403),
        ({"X-Slipway-User": "anna", "X-Slipway-May": "delete"}, {}, {}, 403),
    ],
)
def test_who_may_not_deletes_nothing(
    ui: Ui, headers: dict[str, str], more: dict[str, str], fields: dict[str, str], status: int
) -> None:
    ui.pusher.image("del/kept", "1")
    ui.scan()
    data = {"token": ui.token(headers)} | fields
    answer = ui.client.post("/ui/r/del/kept/-/tag/1/delete", headers=headers | more, data=data, follow_redirects=False)
    assert answer.status_code == status
    assert there(ui, "del/kept", "1")


def test_a_token_is_one_users_and_ends(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    ui.pusher.image("del/kept", "1")
    ui.scan()
    assert ui.post("/ui/r/del/kept/-/tag/1/delete", token=ui.pages.tokens.give("rita")).status_code == 403
    old = ui.token()
    later = time.time() + guard.TOKEN_LIFE + 1
    monkeypatch.setattr(guard.time, "time", lambda: later)
    assert ui.post("/ui/r/del/kept/-/tag/1/delete", token=old).status_code == 403
    monkeypatch.undo()
    large = ui.client.post("/ui/scan", headers=ADMIN, data={"token": old, "x": "y" * 70_000})
    assert large.status_code == 403
    assert there(ui, "del/kept", "1")


@pytest.mark.parametrize("flag", ["read-only", "collecting"])
def test_nothing_changes_while_the_registry_is_read_only(ui: Ui, flag: str) -> None:
    ui.pusher.image("del/kept", "1")
    ui.scan()
    (ui.state / flag).touch()
    answer = ui.post("/ui/r/del/kept/-/tag/1/delete")
    assert answer.status_code == 409 and "garbage collection" in answer.text and there(ui, "del/kept", "1")


def test_who_is_signed_in_may_have_the_index_compared(ui: Ui) -> None:
    assert ui.post("/ui/scan", READER).headers["location"] == "/ui/health"
    assert ui.pages.indexer._wanted.is_set()
    assert ui.post("/ui/scan", GATE).status_code == 401


@pytest.mark.parametrize(
    ("after", "leads_to"),
    [
        ("/ui/r/team/app", "/ui/r/team/app"),
        ("", "/ui/"),
        ("//evil.example", "/ui/"),
        ("https://evil.example", "/ui/"),
        ("/ui/\\evil", "/ui/"),
        ("/ui//evil", "/ui/"),
        ("/ui/\r\nX: y", "/ui/"),
        ("/v2/", "/ui/"),
    ],
)
def test_a_login_leads_back_to_our_own_pages_only(ui: Ui, after: str, leads_to: str) -> None:
    answer = ui.client.get("/ui/login", params={"next": after}, headers=READER, follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == leads_to
    assert ui.client.get("/ui/login", headers=GATE).status_code == 401


def test_the_buttons_are_for_who_may(ui: Ui) -> None:
    ui.pusher.image("del/kept", "1")
    ui.scan()
    assert "Delete tag" in ui.get("/ui/r/del/kept/-/tag/1", ADMIN)
    for headers in (READER, GATE):
        assert "Delete tag" not in ui.get("/ui/r/del/kept/-/tag/1", headers)


def test_settings(tmp_path: Path) -> None:
    secret, login = tmp_path / "secret", tmp_path / "login"
    secret.write_text(f"{SECRET}\n")
    login.write_text("ui:p:w")
    said = {
        "REGISTRY_UI_SECRET_FILE": str(secret),
        "REGISTRY_UI_REGISTRY_URL": "http://r",
        "REGISTRY_UI_REGISTRY_NAME": "r:1",
    }
    found = Settings.read(said | {"REGISTRY_UI_LOGIN_FILE": str(login), "REGISTRY_UI_STATE_DIRS": "/run/x:/y"})
    assert found.login == ("ui", "p:w") and found.gate == SECRET and found.state_dirs == (Path("/run/x"), Path("/y"))
    assert SECRET not in repr(found) and "p:w" not in repr(found)
    assert Settings.read(said).login is None and Settings.read(said).state_dirs == ()
    with pytest.raises(ValueError, match="REGISTRY_UI_REGISTRY_URL"):
        Settings.read({"REGISTRY_UI_SECRET_FILE": str(secret)})
    secret.write_text("short")
    with pytest.raises(ValueError, match="16 characters"):
        Settings.read(said)
    for text, stamp in (
        ('{"time": 9, "ok": true}', 9.0),
        ('{"time": 9, "ok": false}', None),
        ('{"last_good": 7, "time": 9, "ok": false}', 7.0),
        ('{"last_good": 0}', None),
        ('{"last_good": true}', None),
        ('{"time": "9", "ok": true}', None),
        ('{"time": 1e99, "ok": true}', None),
    ):
        (tmp_path / "gc.json").write_text(text)
        assert Machine((tmp_path,)).last("gc") == stamp, text
    nowhere = Machine()
    assert not nowhere.read_only() and nowhere.said("gc") == {} and nowhere.last("gc") is None


def test_the_program_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from registry_ui import __main__ as program

    monkeypatch.setattr(program.os, "environ", {})
    assert program.main() == 2
    assert "REGISTRY_UI_SECRET_FILE is not set" in capsys.readouterr().err
