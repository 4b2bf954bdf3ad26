# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/docs.py: what stands in an argument spec stands in the page, and drift is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import docs

SPEC = """
argument_specs:
  apply:
    short_description: Another way in
    options: {}
  main:
    short_description: Does a thing
    description:
      - First paragraph.
      - "`/etc/thing.conf`: what it holds"
    options:
      thing_list:
        type: list
        elements: dict
        default: []
        description: A list | with a pipe.
        options:
          name:
            type: str
            required: true
            choices: [a, b]
            description: Its name.
      thing_host:
        type: str
        required: true
        description: [Two, parts.]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a tree with one role and a README with markers."""
    (tmp_path / "roles/thing/meta").mkdir(parents=True)
    (tmp_path / "roles/thing/meta/argument_specs.yml").write_text(SPEC, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/thing.md").touch()
    readme = f"before\n{docs.TABLE_START}\nold\n{docs.TABLE_END}\nafter\n"
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    return tmp_path


def test_the_page_of_a_role(root: Path) -> None:
    assert docs.main([], root) == 0
    page = (root / "roles/thing/README.md").read_text(encoding="utf-8")
    assert "- `/etc/thing.conf`: what it holds" in page
    assert "First paragraph." in page
    assert "| `thing_list` | list of dict |  | `[]` | A list \\| with a pipe. |" in page
    assert "| `thing_list[].name` | str: a \\| b | yes | — | Its name. |" in page
    assert "| `thing_host` | str | yes | — | Two parts. |" in page
    assert "### Entry point `apply`\n\nAnother way in.\n\nNone." in page
    assert "    thing_host: …" in page
    assert page.index("## Purpose") < page.index("## Variables") < page.index("## Undo") < page.index("## Limits")


def test_the_table_of_roles_keeps_the_rest_of_the_readme(root: Path) -> None:
    docs.main([], root)
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| [`thing`](roles/thing/README.md) | Does a thing · [page](docs/thing.md) |" in text


def test_drift_is_found_and_nothing_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"], root) == 1
    assert not (root / "roles/thing/README.md").exists()
    assert "roles/thing/README.md: out of date, run make docs" in capsys.readouterr().out
    docs.main([], root)
    assert docs.main(["--check"], root) == 0
