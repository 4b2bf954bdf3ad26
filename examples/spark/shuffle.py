# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that is mostly shuffle: numbers are grouped, joined with themselves and summed; the sum is known beforehand.

Usage: shuffle.py ROWS KEYS
    Prints "shuffle: ok" and ends with 0, or says what came out instead and ends with 1.
"""

import sys

from pyspark.sql import SparkSession
from pyspark.sql.functions import col, count
from pyspark.sql.functions import sum as total


def main(rows: int, keys: int) -> int:
    """Return the exit code."""
    spark = SparkSession.builder.appName("shuffle").getOrCreate()
    # Every row travels: the join is by hash of both sides, never a broadcast.
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")
    numbers = spark.range(rows).select(col("id"), (col("id") % keys).alias("key"))
    groups = numbers.groupBy("key").agg(count("*").alias("size"))
    found = numbers.join(groups, "key").agg(total("size").alias("sizes"), total("id").alias("ids")).first()
    spark.stop()
    # Each row meets the size of its group: the sum of their squares.
    whole, rest = divmod(rows, keys)
    wanted = (rest * (whole + 1) ** 2 + (keys - rest) * whole**2, rows * (rows - 1) // 2)
    right = found is not None and (found["sizes"], found["ids"]) == wanted
    print("shuffle: ok" if right else f"shuffle: {found} instead of {wanted}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
