#!/usr/bin/env bash
# step.sh TEXT COMMAND...: says what runs, runs it, says how long it took and how it ended.
set -euo pipefail
text=$1
shift
printf '\n\033[1m==> %s\033[0m\n' "$text"
start=$SECONDS
status=0
"$@" || status=$?
printf '\033[1m<== %s: %s, %d s\033[0m\n' "$text" "$([ "$status" = 0 ] && echo "done" || echo "FAILED ($status)")" $((SECONDS - start))
exit "$status"
