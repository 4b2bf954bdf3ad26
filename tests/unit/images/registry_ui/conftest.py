# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry with images of every kind, and the application in front of it, without a server between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Debian's versions of them, which the image has, stand in requirements.in.
pytest.importorskip("starlette", reason="the virtual environment is older than requirements.txt: make setup")
pytest.importorskip("httpx", reason="the virtual environment is older than requirements.txt: make setup")

from registry_ui.app import Application, Pages, application
from registry_ui.settings import Settings
from starlette.testclient import TestClient

from tests.registry_ui.process import free_port, running
from tests.registry_ui.push import Pusher

SECRET = "0123456789abcdef0123456789abcdef"
GATE = {"X-Slipway-Gate": SECRET}
READER = GATE | {"X-Slipway-User": "rita"}
ADMIN = GATE | {"X-Slipway-User": "anna", "X-Slipway-May": "delete"}


@dataclasses.dataclass
class Ui:
    """The application, a client of it, and what stands behind."""

    app: Application
    client: TestClient
    pusher: Pusher
    url: str
    directory: Path

    @property
    def pages(self) -> Pages:
        """The handlers, with store and indexer."""
        return self.app.pages

    @property
    def state(self) -> Path:
        """Where the machine says how it is."""
        return self.pages.machine.directories[0]

    def get(self, path: str, headers: dict[str, str] = GATE, status: int = 200) -> str:
        """Return the body of a page."""
        answer = self.client.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.text

    def scan(self) -> None:
        """Bring the index up to date."""
        assert self.pages.indexer.scan().state == "done", self.pages.indexer.progress.error

    def token(self, headers: dict[str, str] = ADMIN) -> str:
        """Return a token for a form of that user's."""
        return self.pages.tokens.give(headers.get("X-Slipway-User", ""))

    def post(self, path: str, headers: dict[str, str] = ADMIN, **fields: Any) -> Any:
        """Send a form."""
        data = {"token": self.token(headers)} | fields
        return self.client.post(path, headers=headers, data=data, follow_redirects=False)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run a registry for the tests of a file."""
    directory = tmp_path_factory.mktemp("registry")
    with running(directory, port=free_port()) as url:
        yield url, directory


@pytest.fixture
def ui(registry: tuple[str, Path], tmp_path: Path) -> Iterator[Ui]:
    """Return the application with an empty index; the registry's images are those of the file's earlier tests too."""
    url, directory = registry
    (tmp_path / "state").mkdir()
    settings = Settings(
        registry_url=url,
        registry_name="registry.corp.lab:6001",
        registry_version="3.1.2",
        data_dir=tmp_path / "data",
        gate=SECRET,
        state_dirs=(tmp_path / "state",),
    )
    app = application(settings, work=False)
    with TestClient(app, raise_server_exceptions=True) as client:
        yield Ui(app, client, Pusher(url), url, directory)
