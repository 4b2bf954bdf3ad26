"""Files outside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import paths


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_cache_follows_the_environment(tmp_path: Path) -> None:
    assert paths.cache_root() == tmp_path / "slipway"
    assert paths.artefacts().is_dir()
    assert paths.state().is_dir()


def test_writing_tells_whether_the_content_is_new(tmp_path: Path) -> None:
    file = tmp_path / "d" / "f"
    assert paths.write(file, "a", 0o600)
    assert not paths.write(file, "a", 0o600)
    assert paths.write(file, "b", 0o600)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("b", 0o600)
    assert [entry.name for entry in file.parent.iterdir()] == ["f"]


def test_a_lock_is_free_again_after_a_failure() -> None:
    with pytest.raises(ValueError, match="x"), paths.locked("l"):
        raise ValueError("x")
    with paths.locked("l"):
        pass


def test_a_digest_tells_its_parts_apart() -> None:
    assert paths.digest("ab", "c") != paths.digest("a", "bc")
    assert len(paths.digest("x")) == 12
