# SPDX-License-Identifier: GPL-3.0-or-later
"""A job of two actions over one shuffle, which counts its map tasks and stops where the test wants to look."""

import os
import sys
import time

from pyspark import SparkContext

MAPS, REDUCES, ROWS = 8, 4, 5000


def hold(context: SparkContext, name: str) -> None:
    """Wait for a file that the test makes, and tell it how many executors there are."""
    told = -1
    while not os.path.exists(f"/tmp/{name}"):
        executors = context._jsc.sc().getExecutorMemoryStatus().size() - 1
        if executors != told:
            print(f"{name}: {executors} executors", flush=True)
        told = executors
        time.sleep(0.5)


def main() -> None:
    """Run with the seconds that each task of the second action takes."""
    seconds = float(sys.argv[1])
    context = SparkContext()
    maps = context.accumulator(0)

    def make(index, _):  # type: ignore[no-untyped-def]
        maps.add(1)
        return ((number % REDUCES, index * ROWS + number) for number in range(ROWS))

    def slow(rows):  # type: ignore[no-untyped-def]
        time.sleep(seconds)
        return iter([sum(value for _, value in rows)])

    pairs = context.parallelize(range(MAPS), MAPS).mapPartitionsWithIndex(make).partitionBy(REDUCES)
    wanted = sum(range(MAPS * ROWS))
    first = pairs.values().sum()
    before = maps.value
    print(f"first: {'right' if first == wanted else first}, {before} maps", flush=True)
    hold(context, "go")
    print("second begins", flush=True)
    second = pairs.mapPartitions(slow).sum()
    print(f"second: {'right' if second == wanted else second}, {maps.value - before} maps", flush=True)
    context.stop()


if __name__ == "__main__":
    main()
