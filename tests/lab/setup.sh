#!/usr/bin/env bash
# What `make setup` does: the host's packages and dockerd (host.sh), then the virtual environment. Done steps are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=tests/lab
venv=.venv

say() { printf '    %s\n' "$*"; }

"$here/host.sh"

wanted=$(sha256sum requirements.txt | cut -d' ' -f1)
if [ "$(cat "$venv/.requirements" 2>/dev/null)" != "$wanted" ]; then
  python=$(command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is $("$python" --version): it needs to be Python 3.11 or later." >&2
    exit 1
  }
  "$here/step.sh" "Make the virtual environment with $("$python" --version)" "$python" -m venv --clear "$venv"
  "$here/step.sh" "Install the pinned requirements" "$venv/bin/pip" install --quiet --disable-pip-version-check \
    --require-hashes -r requirements.txt
  printf '%s' "$wanted" >"$venv/.requirements"
else
  say "virtual environment: already made from this requirements.txt"
fi
