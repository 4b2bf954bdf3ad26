#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether scores are those of the same model in plain Python, without Spark and without PyTorch.

Usage: compare.py SOURCE WEIGHTS RESULT
    As inference.py's, copied out of HDFS: SOURCE and RESULT are directories of CSV files on this machine.
    Ends with 1 where a row has no score, or another one.
"""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any


def score(layers: list[dict[str, Any]], row: list[float]) -> float:
    """Return what the model makes of a row: linear layers with a rectifier between each two."""
    for number, layer in enumerate(layers):
        sums = (sum(weight * value for weight, value in zip(weights, row, strict=True)) for weights in layer["weight"])
        row = [value + bias for value, bias in zip(sums, layer["bias"], strict=True)]
        row = [max(0.0, value) for value in row] if number < len(layers) - 1 else row
    return row[0]


def rows(directory: str) -> dict[int, list[float]]:
    """Return the rows of CSV files by their id, the other columns in order."""
    found: dict[int, list[float]] = {}
    for path in sorted(Path(directory).glob("*.csv")):
        with path.open(newline="") as handle:
            for row in csv.DictReader(handle):
                key = int(row.pop("id"))
                found[key] = [float(value) for value in row.values()]
    return found


def main(source: str, weights: str, result: str) -> int:
    """Print the comparison and return the exit code."""
    layers = json.loads(Path(weights).read_text())
    wanted = {key: score(layers, row) for key, row in rows(source).items()}
    found = {key: row[0] for key, row in rows(result).items()}
    common = wanted.keys() & found.keys()
    wrong = [key for key in common if not math.isclose(wanted[key], found[key], rel_tol=1e-9, abs_tol=1e-9)]
    largest = max((abs(wanted[key] - found[key]) for key in common), default=math.nan)
    same = bool(wanted) and wanted.keys() == found.keys() and not wrong
    print(f"{len(wanted)} rows, {len(found)} scores, {len(wrong)} wrong ones, largest difference {largest:.1e}")
    print("the same as in plain Python" if same else "NOT the same as in plain Python")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
