# SPDX-License-Identifier: GPL-3.0-or-later
"""Every page says what the registry holds, and is safe in a browser whatever people pushed."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from registry_ui import api, treemap, views

from tests.registry_ui.push import Pusher
from tests.unit.images.registry_ui.conftest import ADMIN, GATE, READER, Ui

HOSTILE = {
    "config": {
        "Labels": {"<img src=x onerror=alert(1)>": "\x1b]0;owned\x07", "long": "A" * 20_000, "'\"": "{{ 7*7 }}"},
        "Env": ["PATH=\u202e/bin", "<script>=1"],
        "Entrypoint": ["</code><script>alert(2)</script>"],
        "User": "<b>root</b>",
    },
    "author": "<iframe src=//evil>",
    "history": [{"created_by": "RUN <svg onload=alert(3)>", "created": "tomorrow", "comment": "\ud800"}],
}
PATHS = ("tag/1", "tag/1/delete", "compare?t=1&t=2", "compare")


class Elements(html.parser.HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.fixture(scope="module", autouse=True)
def _images(registry: tuple[str, Any]) -> Iterator[dict[str, str]]:
    pusher = Pusher(registry[0])
    arm = pusher.image("team/app", layers=[b"base", b"arm"], platform="linux/arm64")
    amd = pusher.image("team/app", layers=[b"base", b"amd"], config=HOSTILE)
    pusher.index("team/app", "multi", {"linux/amd64": amd, "linux/arm64": arm})
    pusher.image("team/app", "1", layers=[b"base", b"amd"], config=HOSTILE)
    pusher.image("team/app", "2", layers=[b"base", b"two"], config={"config": {"Env": ["A=1"], "Labels": {"a": "b"}}})
    pusher.image("team/app", "same", layers=[b"base", b"amd"], config=HOSTILE)
    pusher.image("team/deep/er/tool", "1.9")
    pusher.image("team/deep/er/tool", "1.10", layers=[b"longer layer"])
    pusher.image("hello", "1")
    told = pusher.artifact("team/app", "", "application/spdx+json", amd)
    pusher.artifact("team/app", f"sha256-{amd[7:]}.sig", "application/vnd.dev.cosign")
    sbom = pusher.artifact("team/app", "", "text/spdx")
    size = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sbom,
        "size": 1,
        "artifactType": "text/spdx",
    }
    pusher.index("team/app", f"sha256-{arm[7:]}", {}, [size])
    pusher.artifact("charts/app", "0.1", "application/vnd.cncf.helm.config.v1+json")
    yield {"arm": arm, "amd": amd, "sbom": sbom, "told": told}


@pytest.fixture(autouse=True)
def _scanned(ui: Ui, _images: dict[str, str]) -> None:
    ui.scan()
    # What has no tag, and belongs to no index, the registry cannot list: only its notification tells of it.
    assert ui.pages.indexer.refresh_manifest("team/app", _images["told"])


def test_the_tree_folds_names_by_their_parts(ui: Ui) -> None:
    page = ui.get("/ui/")
    assert "4 repositories" in page and 'href="/ui/r/team/app"' in page and 'href="/ui/r/hello"' in page
    assert "deep/er/tool" in page, "folders with one repository are one row"
    assert ui.get("/ui/?q=").count("data-row") == page.count("data-row")


@pytest.mark.parametrize(
    ("query", "there", "gone"),
    [
        ("tool", "deep/er/tool", "/r/hello"),
        ("TEAM+er", "deep/er/tool", "/r/team/app"),
        ("app:mul", "app/-/tag/multi", "/r/hello"),
        ("nothing-like-it", "Nothing found", "/r/hello"),
        ("%25", "Nothing found", "/r/hello"),
    ],
)
def test_search_finds_repositories_and_tags(ui: Ui, query: str, there: str, gone: str) -> None:
    page = ui.get(f"/ui/?q={query}")
    assert there in page and gone not in page


def test_an_empty_registry_says_how_to_push(ui: Ui) -> None:
    for name in ui.pages.store.names():
        ui.pages.store.forget_repository(name)
    assert "docker push registry.corp.lab:6001/hello:1" in ui.get("/ui/")
    assert "Nothing is stored yet" in ui.get("/ui/space")


def test_a_repository_lists_its_tags(ui: Ui) -> None:
    page = ui.get("/ui/r/team/app")
    assert "linux/arm64" in page and "= same" in page and "more tags hold signatures" in page
    assert "sha256-" not in re.sub(r"title=\"[^\"]*\"", "", page), "technical tags stand among the others"
    order = re.findall(r'tag/(1\.\d+)"', ui.get("/ui/r/team/deep/er/tool"))
    assert order == ["1.10", "1.9"]
    assert re.findall(r'tag/(1\.\d+)"', ui.get("/ui/r/team/deep/er/tool?sort=name&order=up")) == ["1.9", "1.10"]
    assert 'aria-sort="descending"' in ui.get("/ui/r/team/app?sort=size")
    assert "No tag has" in ui.get("/ui/r/team/app?q=zzz") and "Helm" not in page
    assert "application/vnd.cncf.helm.config.v1+json" in ui.get("/ui/r/charts/app")


def test_many_tags_come_in_pages(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_ui.app.PAGE_SIZE", 2)
    first, last = ui.get("/ui/r/team/app"), ui.get("/ui/r/team/app?page=99")
    assert 'aria-label="Pages of tags"' in first and first != last
    assert "tag/2" in ui.get("/ui/r/team/app?page=x") and "tag/2" in first


def test_an_image_shows_what_it_is(ui: Ui, _images: dict[str, str]) -> None:
    page = ui.get("/ui/r/team/app/-/tag/2")
    for text in (
        "docker pull registry.corp.lab:6001/team/app:2",
        "linux/amd64",
        "Environment",
        " other images",
        "hosts-dir",
    ):
        assert text in page
    multi = ui.get("/ui/r/team/app/-/tag/multi")
    assert "2 platforms" in multi and _images["arm"] in multi
    arm = ui.get(f"/ui/r/team/app/-/digest/{_images['arm']}")
    assert "Part of" in arm and "text/spdx" in arm, "the tag fallback of OCI"
    amd = ui.get(f"/ui/r/team/app/-/digest/{_images['amd']}")
    assert "application/spdx+json" in amd and "cosign signature" in amd
    assert "Attached to" in ui.get(f"/ui/r/team/app/-/digest/{_images['told']}")


def test_the_referrers_of_the_registrys_own_api(
    ui: Ui, _images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"digest": _images["sbom"], "size": 3, "artifactType": "from/api"}
    answers = iter([json.dumps({"manifests": [part]}).encode(), b"nonsense"])
    monkeypatch.setattr(ui.pages.registry, "referrers", lambda *_: next(answers))
    assert "from/api" in ui.get("/ui/r/team/app/-/tag/2")
    assert "Nothing." in ui.get("/ui/r/team/app/-/tag/2")


def test_a_missing_platform_is_told(ui: Ui, _images: dict[str, str]) -> None:
    ui.pages.store.forget_manifest("team/app", _images["arm"])
    assert "is missing" in ui.get("/ui/r/team/app/-/tag/multi")
    assert "linux/arm64" in ui.get(f"/ui/r/team/app/-/digest/{_images['arm']}"), (
        "what the registry has is read when asked for"
    )


def test_two_tags_are_compared(ui: Ui) -> None:
    page = ui.get("/ui/r/team/app/-/compare?t=1&t=2")
    assert "Only in 1" in page and "In both" in page and "Environment" in page
    assert "Both are the same image" in ui.get("/ui/r/team/app/-/compare?t=1&t=same")
    assert "linux/amd64" in ui.get("/ui/r/team/app/-/compare?t=2&t=multi&platform=linux/amd64")
    assert 'for="platform"' in ui.get("/ui/r/team/app/-/compare?t=multi&t=multi")
    assert "cannot be compared" in ui.get("/ui/r/team/app/-/compare?t=1&t=bare") if _bare(ui) else True
    ui.get("/ui/r/team/app/-/compare?t=1&t=none", status=404)
    assert "Choose two" in ui.get("/ui/r/team/app/-/compare?t=1")


def _bare(ui: Ui) -> bool:
    """Note an index without any platform, as if a garbage collection had taken all."""
    from registry_ui.manifests import OCI_INDEX, Manifest

    empty = Manifest(kind="index", media_type=OCI_INDEX)
    ui.pages.store.put_manifest("team/app", "sha256:bare", empty, b"{}", None, platforms=[], created=None)
    ui.pages.store.put_tag("team/app", "bare", "sha256:bare", technical=False, pushed=None, pushed_by="")
    return True


def test_space_is_drawn_and_listed(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    (ui.state / "health.json").write_text('{"facts": {"free_bytes": 5000000000}}')
    page = ui.get("/ui/space")
    assert page.count("<rect") >= 4 and "5.0 GB free" in page
    monkeypatch.setattr("registry_ui.app.MAX_BOXES", 1)
    assert "Not drawn" in ui.get("/ui/space")


def test_boxes_fill_the_picture_and_do_not_overlap() -> None:
    sizes = [50, 30, 10, 5, 3, 1, 1, 0]
    boxes = treemap.squarify([(size, size) for size in sizes], 1000, 400)
    assert len(boxes) == 7
    assert sum(box.width * box.height for box in boxes) == pytest.approx(400_000)
    for box in boxes:
        assert box.width * box.height == pytest.approx(box.item * 4000)
        assert box.x >= 0 and box.x + box.width <= 1000.001 and box.y >= 0 and box.y + box.height <= 400.001
    for at, one in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart_x = one.x + one.width <= other.x + 1e-6 or other.x + other.width <= one.x + 1e-6
            apart_y = one.y + one.height <= other.y + 1e-6 or other.y + other.height <= one.y + 1e-6
            assert apart_x or apart_y
    assert treemap.squarify([], 10, 10) == []


def test_health_says_what_is_wrong(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "answers" in ui.get("/ui/health") and "none yet" in ui.get("/ui/health")
    directory = ui.state
    (directory / "health.json").write_text(
        json.dumps({"problems": {"disk": ["<disk> full", 1]}, "facts": {"certificate_days": 9}})
    )
    (directory / "gc.json").write_text('{"time": 1767323045, "ok": true}')
    (directory / "backup.json").write_text("broken")
    (directory / "read-only").touch()
    page = ui.get("/ui/health", READER)
    assert "&lt;disk&gt; full" in page and "9 days" in page and "refused now" in page and "Compare now" in page
    (directory / "health.json").write_text("[]")
    ui.get("/ui/health")
    monkeypatch.setattr(ui.pages.registry, "_http", type(ui.pages.registry)("http://127.0.0.1:1")._http)
    assert "does not answer" in ui.get("/ui/health") and "docker logs" in ui.get("/ui/health")
    ui.pages.indexer.scan()
    assert "could not be compared" in ui.get("/ui/health") and "What is shown may be old" in ui.get("/ui/")


def test_a_scan_shows_how_far_it_is(ui: Ui) -> None:
    progress = ui.pages.indexer.progress
    progress.state, progress.done, progress.total = "running", 3, 12
    assert "3 of 12" in ui.get("/ui/health")
    assert "Reading the registry for the first time" not in ui.get("/ui/")
    with ui.pages.store._write() as connection:
        connection.execute("DELETE FROM meta WHERE key = 'scanned'")
    assert "Reading the registry for the first time: 3 of 12" in ui.get("/ui/")


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/space", "/ui/health", "/ui/api/", *(f"/ui/r/team/app/-/{path}" for path in PATHS)]
)
def test_hostile_content_is_text(ui: Ui, path: str) -> None:
    page = ui.get(path, ADMIN)
    elements = Elements(page).seen
    assert {tag for tag, _ in elements} & {"iframe", "img", "object", "embed", "style", "base"} <= {"img"}
    assert [attributes for tag, attributes in elements if tag == "img"] == [
        {"src": attributes["src"], "alt": "", "width": "22", "height": "22"}
        for tag, attributes in elements
        if tag == "img"
    ]
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert len(scripts) == 1 and str(scripts[0]["src"]).startswith("/ui/static/app.js?")
    assert not [key for _, attributes in elements for key in attributes if key.startswith("on") or key == "style"]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    assert len(page) < 400_000


def test_hostile_repository_names_are_text(ui: Ui) -> None:
    name = "<script>alert(1)</script>/\u202e'\""
    ui.pages.store.put_tag(name, "<b>", "sha256:1", technical=False, pushed=None, pushed_by="<i>")
    ui.pages.store.count_repository(name)
    for path in ("/ui/", "/ui/?q=script", "/ui/?q=%3Cb", "/ui/r/%3Cscript%3Ealert(1)%3C/script%3E/%E2%80%AE'%22"):
        page = ui.get(path)
        assert "<script>alert" not in page and "<b>" not in page and "\u202e" not in page
    ui.get("/ui/r/" + "x" * 5000, status=404)


def test_what_is_not_there_says_so(ui: Ui) -> None:
    missing = "sha256:" + "0" * 64
    for path in (
        "none",
        "team/app/-/tag/none",
        f"team/app/-/digest/{missing}",
        "team/app/-/digest/x",
        "team/app/-/what/x",
    ):
        assert "All repositories" in ui.get(f"/ui/r/{path}", status=404)
    for path in ("team/app/-/tag/", "team/app/-/tag/none/delete", f"none/-/digest/{missing}", f"none/-/raw/{missing}"):
        ui.get(f"/ui/r/{path}", status=404)
    assert json.loads(ui.get("/ui/api/v1/nothing", status=404))["error"]


def test_manifests_can_be_read_raw_but_not_run(ui: Ui, _images: dict[str, str]) -> None:
    answer = ui.client.get(f"/ui/r/team/app/-/raw/{_images['amd']}/config", headers=GATE)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8" and answer.json()["author"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    sbom = f"/ui/r/team/app/-/raw/{_images['sbom']}"
    assert "text/spdx" in ui.get(sbom)
    ui.get(f"{sbom}/config", status=404)


@pytest.mark.parametrize("path", ["/ui/", "/ui/none", "/ui/static/app.css", "/ui/api/v1/state", "/healthz", "/ui/boom"])
def test_every_answer_has_the_headers(ui: Ui, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.client._transport, "raise_server_exceptions", False)
    if path == "/ui/boom":
        monkeypatch.setattr(ui.pages.store, "repositories", lambda *_: 1 / 0)
        path = "/ui/?q=boom"
    answer = ui.client.get(path, headers=GATE)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["referrer-policy"] == "same-origin"
    assert "access-control-allow-origin" not in answer.headers
    if path == "/ui/?q=boom":
        assert answer.status_code == 500 and "slipway-registry-ui" in answer.text


def test_the_registry_being_down_is_a_page(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.pages.registry, "_http", type(ui.pages.registry)("http://127.0.0.1:1")._http)
    assert "4 repositories" in ui.get("/ui/"), "what is in the index needs no registry"
    assert "Environment" in ui.get("/ui/r/team/app/-/tag/2")
    assert "does not answer" in ui.get("/ui/r/team/app/-/digest/sha256:" + "0" * 64, status=502)


def test_the_api_and_its_document(ui: Ui, _images: dict[str, str]) -> None:
    document = json.loads(ui.get("/ui/api/openapi.json"))
    assert document["openapi"] == "3.1.0" and len(document["paths"]) == 6
    for path, operations in document["paths"].items():
        needed = {item["name"] for item in operations["get"]["parameters"] if item["required"]}
        assert ui.client.get(path, headers=GATE).status_code == (400 if needed else 200)
    first = json.loads(ui.get("/ui/api/v1/repositories?limit=1"))
    assert first["more"] and first["repositories"][0]["name"] == "charts/app"
    after = json.loads(ui.get("/ui/api/v1/repositories?after=charts/app&q=app&limit=x"))
    assert [row["name"] for row in after["repositories"]] == ["team/app"]
    tags = json.loads(ui.get("/ui/api/v1/tags?repository=team/app&technical=1"))["tags"]
    assert {"multi", f"sha256-{_images['amd'][7:]}.sig"} <= {row["name"] for row in tags}
    multi = next(row for row in tags if row["name"] == "multi")
    assert multi["platforms"] == ["linux/amd64", "linux/arm64"] and multi["created"] == "2026-01-02T03:04:05Z"
    image = ui.get("/ui/api/v1/image?repository=team/app&reference=1")
    assert image.isascii() and json.loads(image)["config"]["author"] == HOSTILE["author"]
    result = json.loads(ui.get("/ui/api/v1/compare?repository=team/app&left=1&right=2"))
    assert len(result["common"]) == 1 and result["left"] == _images["amd"]
    assert json.loads(ui.get("/ui/api/v1/space"))["repositories"][0]["size"]
    assert json.loads(ui.get("/ui/api/v1/state"))["registry"]["answers"] is True


@pytest.mark.parametrize(
    "query",
    [
        "tags?repository=none",
        "image?repository=team/app&reference=none",
        "compare?repository=team/app&left=1&right=sha256:1",
        "image?repository=team/app&reference=sha256:" + "0" * 64,
    ],
)
def test_the_api_says_what_is_not_there(ui: Ui, query: str) -> None:
    assert "error" in json.loads(ui.get(f"/ui/api/v1/{query}", status=404))


def test_numbers_for_prometheus(ui: Ui) -> None:
    (ui.state / "health.json").write_text('{"facts": {"free_bytes": 5, "read_only": true, "x": "y"}}')
    ui.get("/ui/")
    ui.client.post(
        "/events",
        headers=GATE,
        json={"events": [{"action": "pull", "target": {"repository": "a", "digest": "d", "tag": "1"}}]},
    )
    numbers = ui.get("/ui/metrics")
    for line in (
        "registry_ui_repositories 4",
        'registry_ui_notifications_total{action="pull"} 1',
        "registry_ui_machine_free_bytes 5",
    ):
        assert line in numbers.splitlines()
    assert re.search(r'registry_ui_request_seconds_bucket\{page="home",le="\+Inf"\} [1-9]', numbers)
    kinds = re.findall(r"^# TYPE (\S+)", numbers, re.M)
    assert len(kinds) == len(set(kinds))
    for line in numbers.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{\w+=\"[^\"]*\"(,\w+=\"[^\"]*\")*\})? [0-9.e+-]+", line), line


def test_folders_and_orders() -> None:
    rows = [{"name": name, "tags": 1, "pushed": None} for name in ("a/b/c", "a/b/d", "a/e", "f")]
    tree = views.tree(rows)
    assert [row["label"] for row in tree.repositories] == ["f"] and tree.count == 4
    assert list(tree.folders["a"].folders) == ["b"]
    tags = [{"name": str(at), "pushed": at or None} for at in range(3)]
    assert [row["name"] for row in views.sort_tags(tags, "pushed", down=True)] == ["2", "1", "0"]
    assert views.changes([("a", "1"), ("b", "2")], [("b", "3"), ("c", "4")]) == [
        ("a", "1", None),
        ("b", "2", "3"),
        ("c", None, "4"),
    ]
    assert api._words(None) == []


def test_addresses_without_the_slash_lead_on(ui: Ui) -> None:
    assert ui.client.get("/ui", headers=GATE, follow_redirects=False).headers["location"] == "/ui/"
    assert ui.client.get("/", headers=GATE).status_code == 404
    answer = ui.client.get("/ui/static/app.js", headers=GATE)
    assert "immutable" in answer.headers["cache-control"]
