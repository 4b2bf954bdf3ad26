#!/usr/bin/env bash
# What `make setup` does: the host's packages and dockerd (host.sh), then the virtual environment. Done steps are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/lab
venv=.venv

say() { printf '    %s\n' "$*"; }

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

"$here/host.sh"

wanted=$(sha256sum requirements.txt | cut -d' ' -f1)
if [ "$(cat "$venv/.requirements" 2>/dev/null)" != "$wanted" ]; then
  python=$(find_python) || {
    echo "setup: no Python 3.11 or later among python3, python3.13, python3.12, python3.11: install one." >&2
    exit 1
  }
  "$here/step.sh" "Make the virtual environment with $("$python" --version)" "$python" -m venv --clear "$venv"
  "$here/step.sh" "Install the pinned requirements" "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    --require-hashes -r requirements.txt
  printf '%s' "$wanted" >"$venv/.requirements"
else
  say "virtual environment: already made from this requirements.txt"
fi
