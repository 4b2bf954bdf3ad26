# SPDX-License-Identifier: GPL-3.0-or-later
"""Input of examples/spark/inference.py, and what has to come out: what compare.py says of it."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from typing import Any

from examples.spark import compare

INPUTS, HIDDEN = 4, 8


@dataclasses.dataclass(frozen=True)
class Job:
    """A small model of two layers, and rows for it."""

    layers: list[dict[str, Any]]
    rows: list[list[float]]

    @property
    def files(self) -> dict[str, str]:
        """Content of rows.csv and weights.json."""
        names = ",".join(f"x{number}" for number in range(INPUTS))
        lines = [f"id,{names}", *(f"{number}," + ",".join(map(repr, row)) for number, row in enumerate(self.rows))]
        return {"rows.csv": "\n".join(lines), "weights.json": json.dumps(self.layers)}

    @property
    def scores(self) -> dict[int, float]:
        """What each row's score is."""
        return {number: compare.score(self.layers, row) for number, row in enumerate(self.rows)}


def job(rows: int = 200) -> Job:
    """Return the same job each time."""
    chance = random.Random(7)

    def numbers(count: int, limit: float) -> list[float]:
        return [chance.uniform(-limit, limit) for _ in range(count)]

    layers = [
        {"weight": [numbers(INPUTS, 1) for _ in range(HIDDEN)], "bias": [0.5] * HIDDEN},
        {"weight": [numbers(HIDDEN, 1)], "bias": [0.1]},
    ]
    return Job(layers, [numbers(INPUTS, 2) for _ in range(rows)])


def read(text: str) -> dict[int, float]:
    """Return the scores in what the job wrote, whatever else stands between them."""
    return {int(key): float(score) for key, score in re.findall(r"^(\d+),(-?\d\S*)$", text, re.M)}
