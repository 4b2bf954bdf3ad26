# SPDX-License-Identifier: GPL-3.0-or-later
"""One registry, one UI and one Chromium for all tests; each test has pages of its own, and what they say is noted."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the virtual environment is older than requirements.txt: make setup")
pytest.importorskip("starlette", reason="the virtual environment is older than requirements.txt: make setup")

from playwright.sync_api import Browser, Page, sync_playwright
from registry_ui.app import Application

from tests.browser import serve
from tests.lab import paths

AXE = "axe-core@4.10.3"
AXE_SHA256 = "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292"
SCREENSHOTS = paths.REPOSITORY / ".slipway" / "screenshots"


@dataclasses.dataclass
class Site:
    """The running UI."""

    url: str
    app: Application
    browser: Browser
    said: list[str] = dataclasses.field(default_factory=list)
    asked: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run everything."""
    directory = tmp_path_factory.mktemp("browser")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serve.ui(directory) as (url, app), serve.chromium(directory) as driven, sync_playwright() as playwright:
        yield Site(url, app, playwright.chromium.connect_over_cdp(driven))


@pytest.fixture
def visit(site: Site, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page: as whom, on what. At the end nothing may have failed or been blocked."""
    site.said.clear()
    site.asked.clear()
    contexts = []

    def open_page(
        path: str = "/ui/", headers: dict[str, str] = serve.READER, width: int = 1280, **options: Any
    ) -> Page:
        viewport = {"width": width, "height": 800}
        context = site.browser.new_context(viewport=viewport, extra_http_headers=headers, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: site.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: site.said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (site.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: site.asked.append(asked.url))
        page.goto(site.url + path)
        return page

    yield open_page
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=str(SCREENSHOTS / f"{request.node.name}-{number}.png"), full_page=True)
        context.close()
    assert site.said == []
    assert [url for url in site.asked if not url.startswith(site.url)] == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return axe-core's text; skip where there is no npm to fetch it with."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing, which fetches axe-core")
    kept = paths.artefacts() / f"axe-{AXE_SHA256[:12]}.tgz"
    if not kept.exists():
        directory = tmp_path_factory.mktemp("axe")
        subprocess.run([npm, "pack", "--silent", AXE], cwd=directory, check=True, capture_output=True)
        (found,) = directory.glob("*.tgz")
        assert hashlib.sha256(found.read_bytes()).hexdigest() == AXE_SHA256
        shutil.copy(found, kept)
    with tarfile.open(kept) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def shot(page: Page, name: str) -> Path:
    """Keep a screenshot under a name; return its path."""
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=str(path))
    return path
