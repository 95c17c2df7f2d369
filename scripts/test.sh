#!/usr/bin/env bash
# From a fresh machine to every check: environment, format and lint, types, tests. One command.
# Arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh train,eval,dev
bin=.venv/bin
echo "== format and lint"; $bin/ruff format --check .; $bin/ruff check .
echo "== types"; $bin/basedpyright --pythonpath $bin/python
echo "== tests"; exec $bin/python -m pytest -n 2 --dist worksteal "$@"
