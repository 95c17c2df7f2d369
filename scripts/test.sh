#!/usr/bin/env bash
# From a fresh machine to every check: environment, format and lint, types, tests. One command.
#   bash scripts/test.sh           everything
#   bash scripts/test.sh --fast    lint and one case of every quick test: a minute or two, while you work
# Other arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh train,eval,dev
bin=.venv/bin
unset PYTHONDONTWRITEBYTECODE  # programs start, and tests are collected, a third sooner with it
echo "== format and lint"; $bin/ruff format --check .; $bin/ruff check .
if [[ " $* " != *" --fast "* ]]; then
  echo "== types"; $bin/basedpyright --pythonpath $bin/python
fi
echo "== tests"; exec $bin/python -m pytest -n 2 --dist worksteal "$@"
