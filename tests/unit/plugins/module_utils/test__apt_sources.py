# SPDX-License-Identifier: GPL-3.0-or-later
"""Each historic way of adding Docker's repository ends as one definition."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _apt_sources as apt

URL = "https://download.docker.com/linux/debian"
REPOSITORY = apt.Repository(
    name="docker", role="docker_engine", url=URL, suite="trixie", component="stable", key="KEY\n"
)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name in ("sources.list.d", "keyrings", "trusted.gpg.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "sources.list").write_text("deb http://mirror/debian trixie main\n")
    return tmp_path


def wanted(etc: Path, known: tuple[str, ...] = ()) -> dict[str, str | None]:
    """Return what files() asks for: content by path, None for absent."""
    items = apt.files(REPOSITORY, known=known, apt_dir=str(etc))
    return {
        str(Path(item.path).relative_to(etc)): item.content.decode() if item.kind == "file" else None for item in items
    }


def test_a_fresh_host_gets_a_source_and_its_key(etc: Path) -> None:
    result = wanted(etc)
    assert list(result) == ["keyrings/slipway-docker.asc", "sources.list.d/slipway-docker.sources"]
    assert result["keyrings/slipway-docker.asc"] == "KEY\n"
    assert f"URIs: {URL}\nSuites: trixie\nComponents: stable\nSigned-By: {etc}/keyrings/slipway-docker.asc\n" in str(
        result["sources.list.d/slipway-docker.sources"]
    )


@pytest.mark.parametrize("key", ["docker.gpg", "docker.asc"])
def test_docker_list_with_its_keyring_is_adopted(etc: Path, key: str) -> None:
    (etc / "keyrings" / key).write_text("old")
    (etc / "sources.list.d/docker.list").write_text(
        f"deb [arch=amd64 signed-by={etc}/keyrings/{key}] {URL} trixie stable\n"
    )
    result = wanted(etc)
    assert result["sources.list.d/docker.list"] is None
    assert result[f"keyrings/{key}"] is None


def test_docker_sources_is_adopted(etc: Path) -> None:
    (etc / "sources.list.d/docker.sources").write_text(
        f"Types: deb\nURIs: {URL}/\nSuites: trixie\nComponents: stable\nSigned-By: {etc}/keyrings/docker.asc\n"
    )
    result = wanted(etc)
    assert result["sources.list.d/docker.sources"] is None
    assert result["keyrings/docker.asc"] is None


def test_only_the_matching_entries_of_a_shared_file_go(etc: Path) -> None:
    other = "Types: deb\nURIs: http://mirror/x\nSuites: a\nComponents: b\nSigned-By: /usr/share/keyrings/x.gpg\n"
    (etc / "sources.list.d/all.sources").write_text(
        f"{other}\nTypes: deb\nURIs: {URL}\nSuites: trixie\nComponents: stable\n"
    )
    (etc / "sources.list").write_text(f"deb http://mirror/debian trixie main\ndeb {URL} trixie stable # by hand\n")
    result = wanted(etc)
    assert result["sources.list"] == "deb http://mirror/debian trixie main\n"
    assert str(result["sources.list.d/all.sources"]).strip() == other.strip()


def test_a_key_that_another_source_uses_stays(etc: Path) -> None:
    key = f"{etc}/keyrings/shared.gpg"
    (etc / "sources.list.d/a.list").write_text(f"deb [signed-by={key}] {URL} trixie stable\n")
    (etc / "sources.list.d/b.list").write_text(f"deb [signed-by={key}] http://other/ trixie stable\n")
    result = wanted(etc)
    assert "keyrings/shared.gpg" not in result
    assert "sources.list.d/b.list" not in result


def test_a_key_of_a_package_stays(etc: Path) -> None:
    (etc / "sources.list.d/a.list").write_text(f"deb [signed-by=/usr/share/keyrings/docker.gpg] {URL} trixie stable\n")
    assert [path for path in wanted(etc) if "share" in path] == []


def test_what_was_adopted_stays_listed(etc: Path) -> None:
    """Otherwise the next run would give it back."""
    (etc / "sources.list.d/rest.list").write_text("deb http://mirror/x trixie main\n")
    known = tuple(
        str(etc / name) for name in ("sources.list.d/docker.list", "sources.list.d/rest.list", "keyrings/docker.gpg")
    )
    result = wanted(etc, known)
    assert result["sources.list.d/docker.list"] is None
    assert result["keyrings/docker.gpg"] is None
    assert result["sources.list.d/rest.list"] == "deb http://mirror/x trixie main\n"


def test_other_files_are_left_alone(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(
        "Types: deb\nURIs: http://mirror/debian\n\n\nTypes: deb-src\nURIs: x\n"
    )
    (etc / "sources.list.d/folder").mkdir()
    assert len(wanted(etc)) == 2


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("https://a/b", "http://a/b/", True),
        ("https://a/b", "https://a/b/c", False),
        ("HTTPS://A/b", "https://a/b", True),
    ],
)
def test_addresses(left: str, right: str, same: bool) -> None:
    assert apt.same_address(left, right) is same
