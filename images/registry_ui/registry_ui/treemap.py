# SPDX-License-Identifier: GPL-3.0-or-later
"""A treemap: rectangles whose areas are proportional to sizes, as square as they get."""

from __future__ import annotations

import dataclasses
import typing as t


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    item: t.Any


def squarify(items: t.Sequence[tuple[float, t.Any]], width: float, height: float) -> list[Box]:
    """Return a box for each (size, item), largest first; items without a size have none."""
    left = sorted(((size, item) for size, item in items if size > 0), key=lambda pair: -pair[0])
    total = sum(size for size, _ in left)
    areas = [(size * width * height / total, item) for size, item in left]
    boxes: list[Box] = []
    x = y = 0.0
    while areas:
        side = min(width - x, height - y)
        number = _row_length([area for area, _ in areas], side)
        row, areas = areas[:number], areas[number:]
        depth = sum(area for area, _ in row) / side if side > 0 else 0
        upright = width - x >= height - y
        along = y if upright else x
        for area, item in row:
            length = area / depth if depth > 0 else 0
            boxes.append(Box(x, along, depth, length, item) if upright else Box(along, y, length, depth, item))
            along += length
        x, y = (x + depth, y) if upright else (x, y + depth)
    return boxes


def _row_length(areas: t.Sequence[float], side: float) -> int:
    """Return how many of the areas make the row whose worst rectangle is most like a square."""
    best, number, total = float("inf"), 0, 0.0
    for area in areas:
        total += area
        depth = total / side if side > 0 else 1
        worst = max(max(depth * depth / a, a / (depth * depth)) for a in (areas[0], area))
        if worst > best:
            break
        best, number = worst, number + 1
    return max(number, 1)
