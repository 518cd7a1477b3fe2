#!/usr/bin/env bash
# Trains on all GPUs of this host.
#
#   launch/multi_gpu.sh --config=configs/quickstart.py --workdir=DIR [--config.KEY=VALUE ...]
#   CUDA_VISIBLE_DEVICES=0,1 launch/multi_gpu.sh ...       # on some of them
#
# One process drives all local GPUs: `clr-jax train` does so by itself, without a launcher and
# without a process for each GPU. batch_size is the global batch and must divide by the number of
# GPUs, which must be a power of two. This script adds two things:
#   - it refuses to start where nvidia-smi finds no GPU, instead of training on the CPU;
#   - it starts the same command again when the run was preempted (exit code 75, after SIGTERM),
#     which resumes from the checkpoint. SIGTERM to this script itself ends it after the checkpoint.
# It sets no XLA flag: none has been measured to help. Several hosts: see the other scripts here.
#
# Environment: CLR_JAX, the program (default clr-jax).
#
# Run here without a GPU only, with stand-ins for nvidia-smi and clr-jax
# (tests/processes/test_launch.py); not yet run on a host with several GPUs.
set -uo pipefail

if (($# == 0)); then
  echo "usage: ${0##*/} --config=FILE --workdir=DIR [--config.KEY=VALUE ...]" >&2
  exit 2
fi
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi --list-gpus | grep -q '^GPU '; then
  echo "${0##*/}: nvidia-smi finds no GPU; on a CPU run clr-jax train itself" >&2
  exit 2
fi
nvidia-smi --list-gpus
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda} # an error, not the CPU, if JAX lacks CUDA

child=
stopped=
# shellcheck disable=SC2317,SC2329 # called by the trap
on_signal() {
  stopped=1
  [[ -z $child ]] || kill -s TERM "$child" 2>/dev/null
}
trap on_signal TERM INT HUP

while :; do
  setsid "${CLR_JAX:-clr-jax}" train "$@" & # setsid: Ctrl-C reaches it once, through this script
  child=$!
  [[ -z $stopped ]] || kill -s TERM "$child" 2>/dev/null
  while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break # else a signal interrupted the wait
  done
  [[ $code == 75 && -z $stopped ]] || exit "$code"
  echo "${0##*/}: preempted and saved; starting again" >&2
done
