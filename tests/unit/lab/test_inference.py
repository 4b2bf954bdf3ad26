"""The lab's example of inference: its input, and what is seen in the pods that it leaves."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.lab import inference

REGISTRY = inference.REGISTRY


def pod(role: str, node: str, gpus: str = "", image: str = "") -> dict[str, Any]:
    limits = {"memory": "900Mi", **({inference.GPU: gpus} if gpus else {})}
    container = {"image": image or f"{REGISTRY}{role}:3.5.9-1", "resources": {"limits": limits}}
    metadata = {"name": f"{role}-{node}", "labels": {"spark-role": role}}
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": [container]}}


RIGHT = (pod("driver", "node2"), pod("executor", "node3"), pod("executor", "node1", "1"))


def test_the_input_is_the_same_at_every_call() -> None:
    files = inference.files()
    assert files == inference.files()
    rows = [
        row for name, text in files.items() if name.startswith("rows/") for row in csv.DictReader(io.StringIO(text))
    ]
    assert sorted(int(row["id"]) for row in rows) == list(range(inference.ROWS))
    assert all(len(row) == 1 + inference.COLUMNS for row in rows)
    with tarfile.open(fileobj=io.BytesIO(inference.archive(files))) as archive:
        assert {f"inference/{name}" for name in files} < set(archive.getnames())
        assert {entry.uid for entry in archive} == {1000}


def test_what_is_right() -> None:
    assert inference.wrong(RIGHT) == []
    assert inference.line(RIGHT[2]) == f"  executor  node1    {REGISTRY}executor:3.5.9-1  nvidia.com/gpu: 1"


@pytest.mark.parametrize(
    ("pods", "sentence"),
    [
        (RIGHT[1:], "there are 0 drivers"),
        (
            (*RIGHT, pod("executor", "node2", image="docker.io/a:1")),
            "image docker.io/a:1 is not the private registry's",
        ),
        ((RIGHT[0], pod("executor", "node1"), RIGHT[2]), "executors were on node1, and not on two"),
        ((RIGHT[0], pod("executor", "node2"), RIGHT[1]), "there is not one executor that asked for a GPU"),
        ((*RIGHT, RIGHT[2]), "there is not one executor that asked for a GPU"),
        (RIGHT[:1], "executors were on no node, and not on two"),
    ],
)
def test_what_is_wrong_is_said(pods: tuple[dict[str, Any], ...], sentence: str) -> None:
    assert sentence in inference.wrong(pods)


def compare(directory: Path) -> subprocess.CompletedProcess[str]:
    words = [directory / "rows", directory / "weights.json", directory / "result"]
    command = [sys.executable, inference.EXAMPLES / "compare.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("scores", "code"),
    [
        ("id,score\n1,0.5\n2,3.5\n", 0),
        ("id,score\n1,0.5\n2,3.5000001\n", 1),
        ("id,score\n1,0.5\n", 1),
        ("id,score\n1,0.5\n2,3.5\n3,1.0\n", 1),
        ("id,score\n1,nan\n2,3.5\n", 1),
    ],
)
def test_scores_are_compared_with_plain_python(scores: str, code: int, tmp_path: Path) -> None:
    for name in ("rows", "result"):
        (tmp_path / name).mkdir()
    # One hidden value, max(0, x0 - x1), times 3, and a half.
    (tmp_path / "weights.json").write_text('[{"weight": [[1, -1]], "bias": [0]}, {"weight": [[3]], "bias": [0.5]}]')
    (tmp_path / "rows" / "a.csv").write_text("id,x0,x1\n1,1,2\n")
    (tmp_path / "rows" / "b.csv").write_text("id,x0,x1\n2,2,1\n")
    (tmp_path / "result" / "part-0.csv").write_text(scores)
    done = compare(tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.endswith(f"{'the same as' if code == 0 else 'NOT the same as'} in plain Python\n")
