#!/usr/bin/env bash
# Train on every host of a Cloud TPU slice. The repository lies in FOLDER (demolish) of the home on every host:
#
#   TPU=my-pod ZONE=us-east5-a bash scripts/cluster/tpu_pod.sh --config imagenet64 --workdir /mnt/shared/imagenet64
#
# The words are those of `demolish train`; the work directory must lie where all hosts can write. Each host makes its
# environment first, if it has none, by Python 3.11 or newer. JAX finds the other hosts. The same command resumes.
set -euo pipefail
for name in TPU ZONE; do
  if [ -z "${!name:-}" ]; then echo "error: $name is not set. Usage: TPU=NAME ZONE=ZONE bash $0 --config ..." >&2; exit 2; fi
done
if [ $# -eq 0 ]; then
  echo "error: no words for demolish train were given, such as --config digits --workdir /mnt/shared/digits." >&2
  exit 2
fi
printf -v words ' %q' "$@"
printf -v folder '%q' "${FOLDER:-demolish}"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd $folder && bash scripts/setup.sh train,eval,tpu && exec .venv/bin/demolish train$words --distributed"
