#!/usr/bin/env bash
# Train on four nodes of eight GPUs under Slurm. In the repository's folder, on a file system that all nodes share:
#
#   sbatch scripts/cluster/slurm.sh --config imagenet64 --workdir runs/imagenet64 --config.parallel.fsdp=8
#   sbatch --nodes=1 --gpus-per-node=2 scripts/cluster/slurm.sh --config digits --workdir runs/digits
#
# The words are those of `demolish train`. One process per node owns its GPUs; JAX finds the others through Slurm.
# Five minutes before the time ends SIGTERM makes the processes save and end with 143, and the job is queued again;
# likewise after 8, by which processes end that wait in vain for one that died.
#SBATCH --job-name=demolish
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
if [ $# -eq 0 ]; then
  echo "error: no words for demolish train were given, such as --config digits --workdir runs/digits." >&2
  exit 2
fi
# shellcheck source=/dev/null
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi

# By itself JAX gives a process of Slurm one GPU, that of its rank on the node; here it gets all.
if [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ]; then
  JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))"
  export JAX_LOCAL_DEVICE_IDS
fi

srun demolish train "$@" --distributed
code=$?
if [ "$code" -eq 143 ] || [ "$code" -eq 8 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
