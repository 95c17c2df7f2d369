#!/usr/bin/env bash
# Make the environment .venv from the project's own files. Usage: bash scripts/setup.sh [extras], by default train,eval.
# PYTHON names the interpreter (3.11 or newer) if the right one is not found by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-train,eval}"

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=""
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
  if command -v "$candidate" >/dev/null && usable "$candidate"; then python="$candidate"; break; fi
done
if [ -z "$python" ]; then
  echo "error: no Python 3.11 or newer with venv was found; install one (Debian: apt install python3-venv) or set PYTHON." >&2
  exit 2
fi

stamp=".venv/.installed"
wanted="$("$python" -c 'import sys; print(sys.version)') $extras $(cat pyproject.toml constraints.txt | cksum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

echo "making the environment .venv with $("$python" --version) ..."
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
echo "$wanted" > "$stamp"
