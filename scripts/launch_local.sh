#!/usr/bin/env bash
# Run one command as N processes of one job on this machine, joined through jax.distributed.
#
#   bash scripts/launch_local.sh 2 python scripts/train.py --config configs/digits.py --workdir runs/two
#
# Each process gets DEMOLISH_COORDINATOR, DEMOLISH_NUM_PROCESSES and DEMOLISH_PROCESS, and --distributed at the end
# of its words. SIGTERM, SIGINT and SIGUSR1 go on to all of them. When one fails the others get LAUNCH_GRACE seconds
# (10), after a signal as long as they need, and are then killed; the exit code is that of the first failure. Two
# jobs at a time need two ports: LAUNCH_PORT (by default one that is free). ONE_GPU_EACH=1 shows process i GPU i alone.
set -u

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  '' | *[!0-9]* | 0) echo "error: the first word is the number of processes, at least 1; got '${1:-}'. See --help." >&2; exit 2 ;;
esac
count=$1
shift
[ $# -gt 0 ] || { echo "error: no command was given after the number of processes. See --help." >&2; exit 2; }
case " $* " in *" --distributed "*) ;; *) set -- "$@" --distributed ;; esac

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'; }
export DEMOLISH_COORDINATOR="localhost:${LAUNCH_PORT:-$(free_port)}" DEMOLISH_NUM_PROCESSES="$count"

children=()
signalled=0
pass_on() { signalled=1; kill -s "$1" "${children[@]}" 2>/dev/null; }
for name in TERM INT USR1; do trap "pass_on $name" "$name"; done
trap 'kill -s KILL "${children[@]}" 2>/dev/null' EXIT

for ((rank = 0; rank < count; rank++)); do
  if [ "${ONE_GPU_EACH:-0}" = 1 ]; then export CUDA_VISIBLE_DEVICES="$rank"; fi
  # a background job of a script ignores SIGINT unless it is told otherwise before it starts
  DEMOLISH_PROCESS="$rank" python3 -c \
    'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])' "$@" &
  children+=("$!")
done

code=0 deadline=never
declare -A ended=()
while [ "${#ended[@]}" -lt "$count" ]; do
  for ((rank = 0; rank < count; rank++)); do
    pid="${children[rank]}"
    if [ -n "${ended[$rank]:-}" ] || kill -0 "$pid" 2>/dev/null; then continue; fi
    wait "$pid"
    result=$?
    ended[$rank]=$result
    if [ "$result" -ne 0 ] && [ "$code" -eq 0 ]; then
      code=$result
      echo "process $rank of $count ended with code $result" >&2
      if [ "$signalled" -eq 0 ]; then deadline=$((SECONDS + ${LAUNCH_GRACE:-10})); fi
    fi
  done
  if [ "$deadline" != never ] && [ "$SECONDS" -ge "$deadline" ]; then
    kill -s KILL "${children[@]}" 2>/dev/null
  fi
  sleep 0.1
done
trap - EXIT
exit "$code"
