#!/bin/bash
# What Kubernetes calls before it stops an executor (spark.decommission.enabled): SIGPWR makes Spark move its blocks to
# other executors; the hook lasts as long as that takes, or until Kubernetes has waited long enough.
set -euo pipefail
read -r executor _ <"/proc/1/task/1/children"
kill -s PWR "$executor"
while kill -0 "$executor" 2>/dev/null; do
  sleep 1
done
