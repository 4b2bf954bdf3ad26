#!/usr/bin/env bash
# molecule.sh [SCENARIO]: one scenario, or all of them, two at a time; machines are always thrown away.
# Molecule's own --workers needs --shared-state, where all scenarios write one inventory file: a scenario would
# converge another one's machines. So each scenario is a molecule of its own, with its own inventory.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=$PWD/.slipway/logs
mkdir -p "$logs"
python -m tests.lab up gateway internet
if [ -n "${1-}" ]; then
  exec molecule test -s "$1"
fi

run_one() {
  local scenario=$1 start=$SECONDS log=$2/molecule-$1.log
  if molecule test -s "$scenario" >"$log" 2>&1 </dev/null; then
    printf '    %s: passed in %d s\n' "$scenario" $((SECONDS - start))
  else
    printf '    %s: FAILED after %d s; the part of %s before molecule gave up:\n' "$scenario" $((SECONDS - start)) "$log"
    # Every log begins with a CRITICAL of a scenario `default` that we don't have; after the failure comes the
    # destruction of the machines, which tells nobody anything.
    sed '/CRITICAL.*glob failed/d; /CRITICAL/q' "$log" | tail -n 90
    touch "$2/molecule-$1.failed"
  fi
}
export -f run_one

rm -f "$logs"/molecule-*.failed
# What takes longest for what fewest sites use, so that `make test` stays within its minutes; and what dies on purpose.
long=" hdfs_failover kubernetes_faults kubernetes_upgrade registry_mirror registry_s3 "
# What takes longest begins first, so that at the end nothing runs alone for long.
first=(kubernetes_faults spark hdfs_failover kubernetes_upgrade kubernetes hdfs kubernetes_gpu)
scenarios=()
for scenario in $(printf '%s\n' "${first[@]}" molecule/*/molecule.yml | sed 's|molecule/||; s|/molecule.yml||' | awk '!seen[$0]++'); do
  if [[ $long == *" $scenario "* && -z ${SLIPWAY_LONG-} ]]; then
    echo "    $scenario: for make test-long, or make molecule S=$scenario"
  else
    scenarios+=("$scenario")
  fi
done
# shellcheck disable=SC2016  # the inner shell expands them
printf '%s\n' "${scenarios[@]}" | xargs -P "${SLIPWAY_WORKERS:-2}" -I{} bash -c 'run_one "$1" "$2"' run {} "$logs"
failed=$(find "$logs" -name 'molecule-*.failed' | wc -l)
echo "scenarios: $((${#scenarios[@]} - failed)) passed, $failed failed"
[ "$failed" = 0 ]
