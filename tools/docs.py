#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the pages that can be derived: roles/*/README.md and the table of roles in README.md.

`docs.py` writes, `docs.py --check` only says what is out of date and exits 1 (part of `make lint`).
The source is each role's meta/argument_specs.yml. A paragraph of the main description that begins with a path
("`/etc/docker/daemon.json`: merged from all fragments") is listed under "What it changes on the host".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TABLE_START = "<!-- roles: written by make docs -->"
TABLE_END = "<!-- /roles -->"
NOTE = "<!-- Written by `make docs` from meta/argument_specs.yml: edit that file. -->"
STARTS_WITH_PATH = re.compile(r"^`?[/~]\S")
UNDO = """\
`playbooks/remove.yml` takes back all roles; this one alone:

```yaml
- hosts: machines
  become: true
  tasks:
    - ansible.builtin.import_role:
        name: slipway.platform.{role}
        tasks_from: remove
```

Files that the role wrote are removed, files that it replaced are restored, packages that it installed are removed."""

Spec = dict[str, Any]


def paragraphs(text: str | list[str] | None) -> list[str]:
    """Return a description, which Ansible allows as string or list, as a list of one-line paragraphs."""
    if text is None:
        return []
    items = [text] if isinstance(text, str) else text
    return [" ".join(str(item).split()) for item in items]


def cell(text: str) -> str:
    """Return text that cannot break out of a Markdown table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def shown_default(option: Spec) -> str:
    """Return an option's default as JSON in code, or a dash where there is none."""
    if "default" not in option:
        return "—"
    return f"`{cell(json.dumps(option['default'], ensure_ascii=False))}`"


def shown_type(option: Spec) -> str:
    """Return an option's type with its elements and choices."""
    kind = str(option.get("type", "str"))
    if "elements" in option:
        kind = f"{kind} of {option['elements']}"
    if "choices" in option:
        choices = " \\| ".join(str(choice) for choice in option["choices"])
        kind = f"{kind}: {choices}"
    return kind


def rows(options: dict[str, Spec], prefix: str = "") -> Iterator[str]:
    """Yield one table row for each option, nested ones after their parent under their dotted name."""
    for name, option in options.items():
        required = "yes" if option.get("required") else ""
        text = cell(" ".join(paragraphs(option.get("description"))))
        yield f"| `{prefix}{name}` | {shown_type(option)} | {required} | {shown_default(option)} | {text} |"
        inner = "[]." if option.get("type") == "list" else "."
        yield from rows(option.get("options", {}), f"{prefix}{name}{inner}")


def variables(options: dict[str, Spec]) -> list[str]:
    """Return the table of an entry point's variables."""
    if not options:
        return ["None."]
    return ["| variable | type | required | default | what it is |", "|---|---|---|---|---|", *rows(options)]


def example(role: str, spec: Spec) -> str:
    """Return the example of an entry point: its own, or the shortest play that runs the role."""
    if spec.get("examples"):
        return str(spec["examples"]).strip()
    lines = ["- hosts: machines", "  become: true", "  roles:", f"    - role: slipway.platform.{role}"]
    required = [name for name, option in spec.get("options", {}).items() if option.get("required")]
    if required:
        lines += ["  vars:", *(f"    {name}: …" for name in required)]
    return "\n".join(lines)


def render_role(role: str, specs: dict[str, Spec]) -> str:
    """Return the README of a role.

    Args:
        role: directory name under roles/.
        specs: the entry points of meta/argument_specs.yml.
    """
    main = specs["main"]
    text = paragraphs(main.get("description"))
    files = [item for item in text if STARTS_WITH_PATH.match(item)]
    prose = [item for item in text if item not in files]
    out = [f"# {role}", "", NOTE, "", "## Purpose", "", main["short_description"].rstrip(".") + "."]
    for item in prose:
        out += ["", item]
    out += ["", "## What it changes on the host", ""]
    out += [f"- {item}" for item in files] or [f"See [docs/{role}.md](../../docs/{role}.md)."]
    out += ["", "## Variables", "", *variables(main.get("options", {}))]
    for name, spec in specs.items():
        if name != "main":
            out += ["", f"### Entry point `{name}`", "", spec["short_description"].rstrip(".") + "."]
            for item in paragraphs(spec.get("description")):
                out += ["", item]
            out += ["", *variables(spec.get("options", {}))]
    out += ["", "## Example", "", "```yaml", example(role, main), "```", "", "## Undo", "", UNDO.format(role=role)]
    page = f"[docs/{role}.md](../../docs/{role}.md)"
    out += ["", "## Limits", "", f"{page} says how it works, what is proven and what it cannot do."]
    return "\n".join(out) + "\n"


def load_specs(role_dir: Path) -> dict[str, Spec]:
    """Return the entry points of a role, main first."""
    loaded = yaml.safe_load((role_dir / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    specs: dict[str, Spec] = loaded["argument_specs"]
    return {"main": specs["main"]} | specs


def role_dirs(root: Path) -> list[Path]:
    """Return the directories of all roles that have an argument spec, by name."""
    return sorted(path.parent.parent for path in root.glob("roles/*/meta/argument_specs.yml"))


def roles_table(root: Path) -> str:
    """Return the table of roles for README.md."""
    lines = ["| role | what it does |", "|---|---|"]
    for role_dir in role_dirs(root):
        name = role_dir.name
        short = cell(load_specs(role_dir)["main"]["short_description"].rstrip("."))
        page = f" · [page](docs/{name}.md)" if (root / f"docs/{name}.md").exists() else ""
        lines.append(f"| [`{name}`](roles/{name}/README.md) | {short}{page} |")
    return "\n".join(lines)


def wanted_pages(root: Path) -> dict[Path, str]:
    """Return every derived page with the text it should have."""
    pages = {path / "README.md": render_role(path.name, load_specs(path)) for path in role_dirs(root)}
    readme = root / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        head, start, rest = text.partition(TABLE_START)
        _, end, tail = rest.partition(TABLE_END)
        if start and end:
            pages[readme] = f"{head}{start}\n{roles_table(root)}\n{end}{tail}"
    return pages


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the pages, or with --check report those that differ; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    args = parser.parse_args(argv)
    stale = 0
    for path, text in wanted_pages(root).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{path.relative_to(root)}: {'out of date, run make docs' if args.check else 'written'}")
        if not args.check:
            path.write_text(text, encoding="utf-8")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
