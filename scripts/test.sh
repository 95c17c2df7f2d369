#!/usr/bin/env bash
# From a fresh machine to every check: environment, format and lint, types, tests. One command.
#   bash scripts/test.sh             everything
#   bash scripts/test.sh --fast      lint, and one case of every quick test: while you work
#   bash scripts/test.sh --coverage  everything, with the lines of diffusion/ that no test reaches
# Other arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh train,eval,dev
bin=.venv/bin
unset PYTHONDONTWRITEBYTECODE  # with its bytecode kept, every program of the tests starts sooner
types=yes arguments=()
for word in "$@"; do
  case "$word" in
    --fast) types=no; arguments+=(--fast) ;;
    --coverage) arguments+=(--cov --cov-report=term-missing) ;;
    *) arguments+=("$word") ;;
  esac
done
echo "== format and lint"; $bin/ruff format --check .; $bin/ruff check .
if [ "$types" = yes ]; then echo "== types"; $bin/basedpyright --pythonpath $bin/python; fi
echo "== tests"; exec $bin/python -m pytest -n 2 --dist worksteal ${arguments[@]+"${arguments[@]}"}
