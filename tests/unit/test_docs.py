# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/docs.py: what stands in an argument spec stands in the page, and drift is found."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from tools import docs

ROOT = Path(__file__).resolve().parents[2]

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


def test_the_example_for_k3s_says_what_the_lab_says() -> None:
    """k3s' registries.yaml is written by hand: the page shows the lab's registry, with a password that needs quotes."""
    page = (ROOT / "docs/onboarding.md").read_text(encoding="utf-8")
    block = re.search(r"( *)```yaml\n\1(# /etc/rancher/k3s/registries\.yaml.*?)```", page, re.S)
    assert block
    shown = yaml.safe_load(textwrap.dedent(block[1] + block[2]))
    lab = yaml.safe_load((ROOT / "inventory/lab/group_vars/all/site.yml").read_text(encoding="utf-8"))["site_registry"]
    address = f"{lab['host']}:{lab['port']}"
    assert shown["mirrors"] == {name: {"endpoint": [f"https://{address}"]} for name in ("docker.io", "registry.k8s.io")}
    assert shown["configs"] == {
        address: {
            "auth": {"username": "puller", "password": "s3\"cr:e t%41'"},
            "tls": {"ca_file": "/usr/local/share/ca-certificates/slipway-registry.crt"},
        }
    }


# What stops an onboarding, each in the words of the code: module and the telling part of its sentence.
REFUSALS = {
    "_preflight.py": (
        "does not resolve",
        "refused the connection",
        "gave no answer",
        "cannot be reached",
        "answered 407",
        "did not answer like an HTTP proxy",
        "failed the TLS handshake",
        "doesn't vouch for",
        "refuses the user",
        "has a clock",
        "is not JSON",
    ),
    "_kubernetes_node.py": (
        "belongs to another cluster",
        "says to be the node",
        "has leftovers of another cluster",
        "listens on port 10250 already",
        "MiB free",
        "swaps to",
        "and the cluster runs",
    ),
    "_kubernetes_cluster.py": ("is not there", "is not ready after", "did not run on"),
    "_kubernetes.py": ("kubeadm {words[0]} failed",),
    "_files.py": ("another run has been working on this host",),
    "_packages.py": ("is not in this host's apt sources",),
}


def test_every_refusal_of_an_onboarding_is_in_the_failure_table() -> None:
    rows = [
        line
        for name in ("onboarding", "kubernetes_node")
        for line in (ROOT / f"docs/{name}.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    for name, phrases in REFUSALS.items():
        code = (ROOT / "plugins/module_utils" / name).read_text(encoding="utf-8")
        code = re.sub(r'"\n\s*f?"', "", code)
        for phrase in phrases:
            assert phrase in code, f"{name} no longer says it: {phrase}"
            told = phrase.replace("{words[0]}", "join")
            assert any(told in row for row in rows), f"no row for {name}'s: {phrase}"
    judged = (ROOT / "plugins/module_utils/_kubernetes_node.py").read_text(encoding="utf-8")
    judged = judged[judged.index("def _judge_version") : judged.index("# --- Being a node")]
    assert judged.count("raise HostError") == len(REFUSALS["_kubernetes_node.py"]), "a refusal without a row"
