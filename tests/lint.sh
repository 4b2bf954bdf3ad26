#!/usr/bin/env bash
# Every linter, the drift of generated pages included; all of them run before the verdict.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export ANSIBLE_CONFIG=$PWD/ansible.cfg
failed=()
check() {
  echo "    $*"
  "$@" || failed+=("$1 $2")
}

mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
check ruff format --check --quiet .
check ruff check --quiet .
check mypy --no-error-summary
check yamllint --strict .
check ansible-lint --offline -q
check shellcheck "${scripts[@]}"
check python tools/docs.py --check
if ((${#failed[@]})); then
  printf 'lint: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
