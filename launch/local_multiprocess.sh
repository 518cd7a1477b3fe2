#!/usr/bin/env bash
# N processes on this machine's CPU, as on N hosts: to try out and debug a distributed run.
#
#   launch/local_multiprocess.sh N COMMAND [OPTION ...]
#   launch/local_multiprocess.sh 2 train --config=quickstart --workdir=/tmp/two
#
# starts `clr-jax COMMAND OPTION ...` N times with --coordinator=127.0.0.1:PORT --num_processes=N
# --process_id=0..N-1. The processes talk over the loopback interface (Gloo) and train one model on
# one global batch, which must divide by N. Each has one CPU device unless JAX_NUM_CPU_DEVICES says
# otherwise. The numbers are those of a single process up to rounding; the speed is not.
#
# Every line of output starts with the number of its process, '[0] ' to '[N-1] '.
# SIGTERM, Ctrl-C and a closed terminal go to all processes as SIGTERM: they save a checkpoint
# together and end with code 75 ("run the same command to resume"). The second one kills them.
# If a process fails, the others, which cannot continue without it, are killed after 10 seconds.
# The exit code is that of the first process that ended with another code than 0, else 0.
#
# Environment: CLR_JAX, the program (default clr-jax); PORT (default a free one); PYTHON, which finds
# the free port (default python3). Needs Linux and bash 5.1 or newer.
#
# Run here with 2 and 4 processes of clr-jax by tests/processes (pytest -m slow): training compared
# with one process, resuming, SIGTERM, bad input, and one process that is killed, stands still or has
# a full disk. Ctrl-C was run with stand-ins only (test_launch.py there).
set -uo pipefail

if (($# < 2)) || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: ${0##*/} N train|evaluate|bench [--OPTION=VALUE ...]" >&2
  exit 2
fi
num_processes=$1
shift

find_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=${PORT:-$("${PYTHON:-python3}" -c "$find_port")} || exit 1

export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo PYTHONUNBUFFERED=1

pids=()    # of the processes that still run
readers=() # of those that prefix their output
signals=0

send() {
  ((${#pids[@]} == 0)) || kill -s "$1" "${pids[@]}" 2>/dev/null
}

# shellcheck disable=SC2317,SC2329 # called by the trap
on_signal() {
  signals=$((signals + 1))
  if ((signals == 1)); then send TERM; else send KILL; fi
}
trap on_signal TERM INT HUP

for ((i = 0; i < num_processes; i++)); do
  exec {out}> >(trap '' TERM INT HUP && exec sed -u "s/^/[$i] /")
  readers+=($!)
  # setsid: a terminal sends Ctrl-C to its whole group, and each process must get one signal only.
  setsid "${CLR_JAX:-clr-jax}" "$@" --coordinator="127.0.0.1:$port" \
    --num_processes="$num_processes" --process_id="$i" >&"$out" 2>&1 {out}>&- &
  pids+=($!)
  exec {out}>&-
done

status=0
killer=
while ((${#pids[@]} > 0)); do
  wait -n -p ended "${pids[@]}"
  code=$?
  [[ -n ${ended:-} ]] || continue # the wait was interrupted by a signal
  for i in "${!pids[@]}"; do
    [[ ${pids[i]} != "$ended" ]] || unset "pids[i]"
  done
  if ((code != 0 && status == 0)); then
    status=$code
    if ((${#pids[@]} > 0)); then
      (sleep 10 && send KILL) >/dev/null 2>&1 & # else who reads the output waits for it
      killer=$!
    fi
  fi
done
[[ -z $killer ]] || kill "$killer" 2>/dev/null
wait "${readers[@]}" 2>/dev/null # the last lines
exit "$status"
