#!/usr/bin/env bash
# From a fresh machine to a picture: environment, a model trained on real digits, samples. One command.
# A second run resumes the finished training and only samples.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh train,eval
workdir="${1:-runs/digits}"
python=.venv/bin/python
$python scripts/train.py --config configs/digits.py --workdir "$workdir"
$python scripts/demo_picture.py --workdir "$workdir" --out "$workdir/demo.png"
echo "the picture: $workdir/demo.png"
