"""Images are named by what they are made of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.lab import build, golang, paths, recipes
from tests.lab.recipes import HUB, RECIPES, SEED, Base, Compiled, Layer


def test_every_file_and_parent_and_program_exists() -> None:
    for recipe in RECIPES.values():
        if isinstance(recipe, Base | Layer):
            assert all((paths.FILES / source).is_file() for source in recipe.files.values())
        if isinstance(recipe, Layer | Compiled):
            assert recipe.parent in (*RECIPES, "scratch")
        if isinstance(recipe, Layer):
            assert set(recipe.copies) <= set(RECIPES)
            assert set(recipe.programs) <= set(golang.PROGRAMS)


def test_what_is_served_has_a_recipe() -> None:
    assert set(HUB.values()) | set(SEED.values()) <= set(RECIPES)


def test_a_key_changes_with_packages_and_with_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    base, layer = RECIPES["trixie"], RECIPES["trixie-docker"]
    assert isinstance(base, Base)
    before = layer.key()
    changed = dataclasses.replace(base, packages=(*base.packages, "less"))
    assert changed.key() != base.key()
    monkeypatch.setitem(RECIPES, "trixie", changed)
    assert layer.key() != before


def test_a_key_changes_with_a_files_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    monkeypatch.setattr(recipes, "FILES", tmp_path)
    recipe = Base(name="x", suite="trixie", packages=(), files={"/f": "f"})
    before = recipe.key()
    (tmp_path / "f").write_text("two")
    assert recipe.key() != before


def test_a_key_does_not_depend_on_the_umask_of_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    monkeypatch.setattr(recipes, "FILES", tmp_path)
    recipe = Base(name="x", suite="trixie", packages=(), files={"/f": "f"})
    keys = []
    for bits in (0o600, 0o664, 0o755):
        file.chmod(bits)
        keys.append(recipe.key())
    assert keys[0] == keys[1] != keys[2]


def test_a_key_changes_with_the_version_of_a_module_and_with_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, compiler = RECIPES["nvidia-1.20.1"], RECIPES["cc"]
    assert isinstance(compiled, Compiled)
    assert isinstance(compiler, Layer)
    before = compiled.key()
    assert dataclasses.replace(compiled, version="v1.20.2").key() != before
    monkeypatch.setitem(RECIPES, "cc", dataclasses.replace(compiler, dockerfile="RUN true"))
    assert compiled.key() != before


def test_what_images_stand_on_is_found_once() -> None:
    foundations, programs = build.needs(["gateway", "internet", "bookworm-docker", "hub-registry-3", "unknown"])
    assert (foundations, programs) == (["trixie", "bookworm", "debian"], {"registry"})
    assert build.needs(["hub-pause", "gpu"]) == (["bookworm"], set())
