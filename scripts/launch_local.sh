#!/usr/bin/env bash
# Run one command as N processes of one job on this machine, joined through jax.distributed.
#
#   bash scripts/launch_local.sh 2 python scripts/train.py --config configs/digits.py --workdir runs/two
#
# Each process gets DEMOLISH_COORDINATOR, DEMOLISH_NUM_PROCESSES and DEMOLISH_PROCESS, and --distributed at the end
# of its words. SIGTERM, SIGINT, SIGUSR1 and SIGHUP go on to all of them, once. When one fails the others get LAUNCH_GRACE
# seconds (10), after a signal as long as they need, and are then killed; the exit code is that of the first failure.
# When this script is killed they get SIGTERM, and are killed after LAUNCH_GRACE seconds. Two jobs at a time need two
# ports: LAUNCH_PORT (by default one that is free). ONE_GPU_EACH=1 shows process i GPU i alone.
set -u

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
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

# Every process is a group of its own: what a terminal sends to a group reaches this script alone, which passes it on.
# A background job of a script ignores SIGINT unless it is told otherwise before it starts.
own_group='
import os, signal, sys
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])'

# The guard reads which processes run from a pipe, which ends when this script does, however that happens.
guard='
import contextlib, os, signal, sys, time
os.setpgid(0, 0)
running = set()
for line in sys.stdin:
    word, pid = line.split()
    (running.add if word == "started" else running.discard)(int(pid))

def send(number):
    for pid in list(running):
        try:
            os.kill(pid, number)
        except OSError:
            running.discard(pid)

send(signal.SIGTERM)
end = time.monotonic() + float(sys.argv[1])
while running and time.monotonic() < end:
    time.sleep(0.1)
    send(0)
send(signal.SIGKILL)'
exec {told}> >(trap '' INT TERM HUP USR1; exec python3 -c "$guard" "${LAUNCH_GRACE:-10}" > /dev/null)
trap : PIPE

children=()
signaled=0
pass_on() { signaled=1; kill -s "$1" "${children[@]}" 2>/dev/null; }
for name in TERM INT USR1 HUP; do trap "pass_on $name" "$name"; done
trap 'kill -s KILL "${children[@]}" 2>/dev/null' EXIT

for ((rank = 0; rank < count; rank++)); do
  if [ "${ONE_GPU_EACH:-0}" = 1 ]; then export CUDA_VISIBLE_DEVICES="$rank"; fi
  DEMOLISH_PROCESS="$rank" python3 -c "$own_group" "$@" {told}>&- &
  children+=("$!")
  echo "started $!" >&"$told"
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
    echo "ended $pid" >&"$told"
    if [ "$result" -ne 0 ] && [ "$code" -eq 0 ]; then
      code=$result
      echo "process $rank of $count ended with code $result" >&2
      if [ "$signaled" -eq 0 ]; then deadline=$((SECONDS + ${LAUNCH_GRACE:-10})); fi
    fi
  done
  if [ "$deadline" != never ] && [ "$SECONDS" -ge "$deadline" ]; then
    kill -s KILL "${children[@]}" 2>/dev/null
  fi
  sleep 0.1
done
trap - EXIT
exit "$code"
