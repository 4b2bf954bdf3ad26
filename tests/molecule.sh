#!/usr/bin/env bash
# molecule.sh [SCENARIO]: one scenario, or all of them with two workers; machines are always thrown away.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m tests.lab up gateway internet
if [ -n "${1-}" ]; then
  exec molecule test -s "$1"
fi
exec molecule test --all --workers "${SLIPWAY_WORKERS:-2}" --shared-state
