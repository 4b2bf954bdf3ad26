#!/bin/bash
# What Spark asks for an executor's GPUs (spark.executor.resource.gpu.discoveryScript): their numbers, as JSON.
set -euo pipefail
numbers=$(nvidia-smi --query-gpu=index --format=csv,noheader | sed 's/.*/"&"/' | paste -sd,)
echo "{\"name\": \"gpu\", \"addresses\": [$numbers]}"
