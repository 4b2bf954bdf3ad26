# SPDX-License-Identifier: GPL-3.0-or-later
"""Batch inference: rows of CSV files through a small PyTorch model, by a pandas UDF on the executors.

Usage: inference.py SOURCE WEIGHTS TARGET [--gpu]
    SOURCE: CSV files with the columns id, x0, x1, …
    WEIGHTS: a JSON file, one object per layer: {"weight": [[…], …], "bias": […]}
    TARGET: where rows of id and score go; what is there is replaced
    --gpu: the model runs on executors with a GPU each, all else on others (stage-level scheduling, which needs
        dynamic allocation)
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pandas
from pyspark.resource import ExecutorResourceRequests, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import pandas_udf, struct

Layers = list[dict[str, Any]]
# In the images: tells an executor's GPUs.
GPUS = "/opt/slipway/gpus.sh"


def network(layers: Layers, device: str) -> Any:
    """Return the model: linear layers with a rectifier between each two."""
    import torch

    parts: list[Any] = []
    for layer in layers:
        weight = torch.tensor(layer["weight"], dtype=torch.float64)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        linear.load_state_dict({"weight": weight, "bias": torch.tensor(layer["bias"], dtype=torch.float64)})
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1]).to(device).eval()


def on_gpus(spark: SparkSession, frame: DataFrame) -> DataFrame:
    """Have the stage that makes a frame run on executors with one GPU each, which are started for it."""
    executor = ExecutorResourceRequests().cores(1).resource("gpu", 1, GPUS, "nvidia.com")
    task = TaskResourceRequests().cpus(1).resource("gpu", 1)
    profile = ResourceProfileBuilder().require(executor).require(task).build
    return spark.createDataFrame(frame.rdd.withResources(profile), frame.schema, verifySchema=False)


def main(source: str, weights: str, target: str, *options: str) -> None:
    """Score every row."""
    spark = SparkSession.builder.appName("inference").getOrCreate()
    text = "\n".join(row.value for row in spark.read.text(weights).collect())
    shared = spark.sparkContext.broadcast(json.loads(text))

    @pandas_udf("double")
    def score(batches: Iterator[pandas.DataFrame]) -> Iterator[pandas.Series]:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = network(shared.value, device)
        with torch.no_grad():
            for batch in batches:
                rows = torch.tensor(batch.to_numpy(), dtype=torch.float64, device=device)
                # Plain numbers: a tensor could not be read by a driver that has no torch.
                yield pandas.Series(model(rows).squeeze(1).cpu().numpy())

    frame = spark.read.csv(source, header=True, inferSchema=True)
    inputs = [name for name in frame.columns if name != "id"]
    scored = frame.select("id", score(struct(*inputs)).alias("score"))
    if "--gpu" in options:
        scored = on_gpus(spark, scored)
    scored.write.mode("overwrite").csv(target, header=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
