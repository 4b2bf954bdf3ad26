# SPDX-License-Identifier: GPL-3.0-or-later
"""Every role has the same files, its spec and its defaults agree, and no task breaks a rule of the house."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
FILES = ["README.md", "defaults/main.yml", "meta/argument_specs.yml", "meta/main.yml"]
TASKS = ["main", "validate", "remove"]
MAX_TASK_LINES = 80
MAX_MAIN_LINES = 40
# What may stand in a task beside the module's own name.
KEYWORDS = set(
    "args become become_user block always rescue changed_when check_mode delay delegate_to delegate_facts diff "
    "failed_when listen loop loop_control name no_log notify register retries run_once tags throttle until vars when "
    "environment ignore_errors timeout".split()
)

by_role = pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)


def read(path: Path) -> Any:
    """Return the content of a YAML file; an empty file is None."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """YAML as Ansible reads it: its own tags (!unsafe, !vault) become plain values."""


_Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def task_files() -> list[Path]:
    """Return every file that holds tasks or handlers of a role."""
    return sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("roles/*/handlers/*.yml")])


def playbooks() -> list[Path]:
    """Return site.yml and the playbooks."""
    return [path for path in [ROOT / "site.yml", *sorted(ROOT.glob("playbooks/*.yml"))] if path.exists()]


def flatten(tasks: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """Yield tasks and, after each block, the tasks inside it."""
    for task in tasks or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from flatten(task.get(part))


def all_tasks() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every task of every role and playbook with the file that holds it."""
    for path in task_files():
        for task in flatten(read(path)):
            yield path, task
    for path in playbooks():
        for play in read(path):
            for part in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                for task in flatten(play.get(part)):
                    yield path, task


def where(path: Path, task: dict[str, Any]) -> str:
    """Return file and name of a task for a message."""
    return f"{path.relative_to(ROOT)}: {task.get('name', task)}"


def modules(task: dict[str, Any]) -> list[str]:
    """Return the keys of a task that name what it runs."""
    return [key for key in task if key not in KEYWORDS and not key.startswith("with_")]


@by_role
def test_every_role_has_the_same_files(role: Path) -> None:
    wanted = [*FILES, *(f"tasks/{name}.yml" for name in TASKS)]
    assert [name for name in wanted if not (role / name).is_file()] == []


@by_role
def test_every_role_has_a_page_and_a_scenario(role: Path) -> None:
    assert (ROOT / f"docs/{role.name}.md").is_file(), f"docs/{role.name}.md is missing"
    mentions = [path for path in ROOT.glob("molecule/*/*.yml") if role.name in path.read_text(encoding="utf-8")]
    assert mentions, f"no molecule scenario runs {role.name}"


@by_role
def test_defaults_are_those_of_the_spec(role: Path) -> None:
    specs = read(role / "meta/argument_specs.yml")["argument_specs"]
    described: dict[str, Any] = {}
    for spec in specs.values():
        described |= spec.get("options", {})
    defaults = read(role / "defaults/main.yml") or {}
    documented = {name: option["default"] for name, option in described.items() if "default" in option}
    assert documented == defaults


@by_role
def test_every_variable_says_what_it_is(role: Path) -> None:
    def silent(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, option in options.items():
            if not option.get("description"):
                yield prefix + name
            yield from silent(option.get("options", {}), f"{prefix}{name}.")

    specs = read(role / "meta/argument_specs.yml")["argument_specs"]
    assert [name for spec in specs.values() for name in silent(spec.get("options", {}))] == []
    assert [name for name, spec in specs.items() if not spec.get("short_description")] == []


@by_role
def test_public_variables_carry_the_role_name(role: Path) -> None:
    specs = read(role / "meta/argument_specs.yml")["argument_specs"]
    names = [name for spec in specs.values() for name in spec.get("options", {})]
    assert [name for name in names if not name.startswith(f"{role.name}_")] == []
    private = read(role / "vars/main.yml") if (role / "vars/main.yml").exists() else {}
    assert [name for name in private or {} if not name.startswith(f"__{role.name}_")] == []


def owner(variable: str) -> str | None:
    """Return the role whose name a variable carries: registry_trust_host belongs to registry_trust, not to registry."""
    names = [role.name for role in ROLES if variable.startswith(f"{role.name}_")]
    return max(names, key=len, default=None)


@by_role
def test_no_role_reads_another_roles_variables(role: Path) -> None:
    """Another role's public entry point is given what it needs; nothing is read across."""
    found = []
    for path in [*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml"), role / "defaults/main.yml"]:
        text = path.read_text(encoding="utf-8")
        for expression in re.findall(r"\{\{(?s:.*?)\}\}|when:.*", text):
            for name in re.findall(r"(?<![\w.'\"/])[a-z]\w*", expression):
                found += [f"{path.name}: {name}"] if owner(name) not in (None, role.name) else []
    assert found == []


@by_role
def test_validation_comes_first(role: Path) -> None:
    first = next(iter(read(role / "tasks/main.yml")))
    assert "validate" in str(first), f"{role.name}: tasks/main.yml starts with {first.get('name')!r}"


@pytest.mark.parametrize("path", task_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_task_files_are_one_step(path: Path) -> None:
    limit = MAX_MAIN_LINES if path.parent.name == "tasks" and path.name == "main.yml" else MAX_TASK_LINES
    assert len(path.read_text(encoding="utf-8").splitlines()) < limit


def test_handlers_are_named_after_their_role() -> None:
    bad = []
    for path in ROOT.glob("roles/*/handlers/*.yml"):
        prefix = f"{path.parents[1].name} | "
        bad += [where(path, task) for task in flatten(read(path)) if not task["name"].startswith(prefix)]
    assert bad == []


def test_every_notify_has_a_handler() -> None:
    """Ansible finds out only when the task changes something."""
    handlers = {task["name"] for path in ROOT.glob("roles/*/handlers/*.yml") for task in flatten(read(path))}
    wanted = []
    for path, task in all_tasks():
        names = task.get("notify", [])
        wanted += [(where(path, task), name) for name in ([names] if isinstance(names, str) else names)]
    assert [item for item in wanted if item[1] not in handlers] == []


def test_no_error_is_ignored() -> None:
    bad = [where(path, task) for path, task in all_tasks() if "ignore_errors" in task]
    assert bad == []


def test_every_failed_when_false_uses_its_result() -> None:
    bad = [where(path, t) for path, t in all_tasks() if t.get("failed_when") is False and "register" not in t]
    assert bad == []


def test_secrets_never_travel_by_task_environment() -> None:
    """no_log does not hide environment: at -vvv (ansible issue 13664)."""
    assert [where(path, task) for path, task in all_tasks() if "environment" in task] == []


def test_every_uri_says_whether_it_uses_the_proxy() -> None:
    bad = []
    for path, task in all_tasks():
        for name in ("ansible.builtin.uri", "ansible.builtin.get_url"):
            if name in task and "use_proxy" not in task[name]:
                bad.append(where(path, task))
    assert bad == []


def test_modules_are_called_by_full_name() -> None:
    bad = []
    for path, task in all_tasks():
        bad += [where(path, task) for name in modules(task) if name.count(".") < 2]
    assert bad == []


def test_targets_need_no_docker_sdk() -> None:
    """community.docker needs the Python SDK on the target, which breaks with new versions of requests."""
    bad = [where(path, task) for path, task in all_tasks() for key in task if key.startswith("community.docker.")]
    assert bad == []


def test_no_version_floats() -> None:
    floating = re.compile(r"(:|=|@|state: *)latest\b")
    paths = [*ROOT.glob("roles/**/*.yml"), *ROOT.glob("roles/**/*.j2"), *playbooks(), *ROOT.glob("inventory/**/*.yml")]
    bad = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if floating.search(line)
    ]
    assert bad == []


def test_no_role_depends_on_another_in_meta() -> None:
    bad = [role.name for role in ROLES if (read(role / "meta/main.yml") or {}).get("dependencies")]
    assert bad == []


def test_facts_are_read_as_ansible_facts() -> None:
    injected = re.compile(r"\bansible_(distribution|os_family|hostname|fqdn|architecture|default_ipv4|memtotal)\w*")
    bad = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*ROOT.glob("roles/**/*.yml"), *ROOT.glob("roles/**/*.j2"), *playbooks()]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if injected.search(line)
    ]
    assert bad == []


def test_templates_say_who_manages_the_file() -> None:
    """JSON has no comments; everything else starts with the header."""
    bad = []
    for path in ROOT.glob("roles/*/templates/**/*.j2"):
        head = path.read_text(encoding="utf-8").splitlines()[:2]
        role = path.relative_to(ROOT / "roles").parts[0]
        if ".json" not in path.name and not any(f"Managed by slipway.platform.{role}" in line for line in head):
            bad.append(str(path.relative_to(ROOT)))
    assert bad == []
