# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages in a real Chromium as people use them: by mouse and keyboard, on a phone, dark, without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, shot
from tests.browser.serve import ADMIN, GATE, READER

Visit = Callable[..., Page]
PAGES = {
    "home": "/ui/",
    "found": "/ui/?q=shop",
    "nothing": "/ui/?q=nothing-has-this-name",
    "repository": "/ui/r/ml/serving",
    "multi": "/ui/r/ml/serving/-/tag/1.10",
    "image": "/ui/r/web/blog/-/tag/2026.11",
    "hostile": "/ui/r/odd/hostile/-/tag/1",
    "compare": "/ui/r/ml/serving/-/compare?t=1.0&t=1.10",
    "space": "/ui/space",
    "health": "/ui/health",
    "deleted": "/ui/deleted",
    "api": "/ui/api/",
    "delete": "/ui/r/ml/serving/-/tag/1.10/delete",
}


def test_browse_from_the_tree_to_a_layer(visit: Visit) -> None:
    page = visit()
    expect(page).to_have_title(re.compile("Repositories"))
    page.get_by_role("link", name="serving").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ml/serving")
    page.get_by_role("link", name="1.10", exact=True).click()
    page.get_by_role("region", name="Platforms").get_by_role("link").first.click()
    expect(page.get_by_text("RUN apt-get install --yes python3 python3-torch # buildkit").first).to_be_visible()
    page.get_by_label("Where you are").get_by_role("link", name="ml/serving").click()
    expect(page).to_have_url(re.compile("/ui/r/ml/serving$"))


def test_search_as_you_type(visit: Visit, site: Site) -> None:
    page = visit()
    page.keyboard.press("/")
    page.keyboard.type("shop ca")
    expect(page.get_by_role("heading", level=1)).to_contain_text("1 repository with")
    expect(page).to_have_url(re.compile(r"\?q=shop%20ca$"))
    expect(page.get_by_role("searchbox", name="Search")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("web/shop/cart")
    page.go_back()
    expect(page.get_by_role("searchbox", name="Search")).to_have_value("shop ca")


def test_search_from_another_page_and_for_a_tag(visit: Visit) -> None:
    page = visit("/ui/health")
    page.get_by_role("searchbox", name="Search").fill("serving 1.9")
    page.get_by_role("link", name="ml/serving:1.9").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ml/serving:1.9")


def test_keys(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("link", name="kube-proxy")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("link", name="kube-proxy")).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name="coredns/coredns")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("summary").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.get_by_role("searchbox", name="Search")).not_to_be_focused()


def test_compare_two_ticked_tags(visit: Visit) -> None:
    page = visit("/ui/r/ml/serving")
    button = page.get_by_role("button", name="Compare two")
    expect(button).to_be_disabled()
    page.get_by_label("Compare 1.9").check()
    page.get_by_label("Compare 1.0").check()
    page.get_by_label("Compare 1.2").check()
    expect(page.get_by_label("Compare 1.9")).not_to_be_checked()
    button.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("1.2 against 1.0")
    expect(page.get_by_role("region", name="Environment").get_by_role("row")).to_have_count(2)
    page.get_by_label("for", exact=True).select_option("linux/arm64")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("platform=linux%2Farm64"))


def test_an_admin_deletes_and_takes_it_back(visit: Visit, site: Site) -> None:
    page = visit("/ui/r/web/blog/-/tag/2026.10", ADMIN)
    page.get_by_role("link", name="Delete tag").click()
    expect(page.get_by_role("heading", name="Who shares its layers")).to_be_visible()
    shot(page, "delete")
    page.get_by_role("button", name="Delete tag").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Deleted here")
    assert site.app.pages.registry.digest("web/blog", "2026.10") == ""
    page.get_by_role("button", name="Undo").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("web/blog:2026.10")
    assert site.app.pages.registry.digest("web/blog", "2026.10") != ""


def test_a_reader_is_refused(visit: Visit, site: Site) -> None:
    page = visit("/ui/r/web/blog/-/tag/2026.10", READER)
    expect(page.get_by_role("link", name="Delete tag")).to_have_count(0)
    page.goto(f"{site.url}/ui/r/web/blog/-/tag/2026.10/delete")
    expect(page.get_by_text("rita may read only")).to_be_visible()
    expect(page.get_by_role("button", name="Delete tag")).to_have_count(0)
    token = site.app.pages.tokens.give("rita")
    status = page.evaluate(
        "t => fetch(location.href, {method: 'POST', body: new URLSearchParams({token: t})}).then(a => a.status)", token
    )
    assert status == 403 and site.app.pages.registry.digest("web/blog", "2026.10")
    site.said.clear()  # Chromium notes the 403


def test_nobody_is_asked_to_sign_in(visit: Visit) -> None:
    page = visit("/ui/r/hello", GATE)
    expect(page.get_by_role("link", name="Sign in")).to_have_attribute("href", "/ui/login?next=/ui/r/hello")


def test_dark_by_the_system_and_by_hand(visit: Visit) -> None:
    page = visit("/ui/space", color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shot(page, "dark")
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark, "the choice was forgotten"


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_all_without_scrolling_sideways(name: str, visit: Visit) -> None:
    page = visit(PAGES[name], ADMIN, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shot(page, f"phone-{name}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(name: str, scheme: Any, visit: Visit, axe: str) -> None:
    page = visit(PAGES[name], ADMIN, color_scheme=scheme)
    page.evaluate(axe)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    serious = [
        (item["id"], item["impact"], [node["html"][:200] for node in item["nodes"]])
        for item in found
        if item["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("name", PAGES)
def test_without_javascript_every_page_reads(name: str, visit: Visit) -> None:
    page = visit(PAGES[name], ADMIN, java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("button", name="Dark or light")).to_have_count(0)


def test_without_javascript_search_and_filter_work(visit: Visit) -> None:
    page = visit(java_script_enabled=False)
    page.get_by_role("searchbox", name="Search").fill("kube")
    page.get_by_role("searchbox", name="Search").press("Enter")
    expect(page.get_by_role("link", name="kube-proxy")).to_be_visible()
    page.goto(page.url.split("/ui/")[0] + "/ui/r/ml/serving")
    page.get_by_label("Tags with").fill("1.1")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("region", name="Tags").get_by_role("row")).to_have_count(3)


def test_hostile_content_does_not_run(visit: Visit) -> None:
    page = visit(PAGES["hostile"])
    expect(page.get_by_text("RUN <img src=x onerror=alert(1)>").first).to_be_visible()
    expect(page.get_by_text("⟨U+202E⟩").first).to_be_visible()
    assert page.locator("main script, main img").count() == 0


def test_copy_a_pull_command(visit: Visit, site: Site) -> None:
    page = visit("/ui/r/hello/-/tag/v1.34.3")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    page.get_by_role("button", name="Copy docker pull registry.corp.lab:6001/hello:v1.34.3").click()
    assert page.evaluate("navigator.clipboard.readText()") == "docker pull registry.corp.lab:6001/hello:v1.34.3"


def test_a_new_push_is_there_on_the_next_look(visit: Visit, site: Site) -> None:
    from tests.registry_ui.push import Pusher

    page = visit()
    Pusher(str(site.app.pages.registry._http.base_url)).image("new/thing", "1")
    expect(page.get_by_role("link", name="new/thing")).to_have_count(0)
    for _ in range(50):
        page.reload()
        if page.get_by_role("link", name="new/thing").count():
            break
        page.wait_for_timeout(100)
    expect(page.get_by_role("link", name="new/thing")).to_be_visible()


def test_the_picture_for_the_readme(visit: Visit) -> None:
    page = visit("/ui/r/ml/serving", ADMIN, width=1100)
    shot(page, "readme")
