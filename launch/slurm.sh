#!/usr/bin/env bash
#SBATCH --job-name=clr_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
# Trains on GPUs of a SLURM cluster, with one process (task) for each GPU.
#
#   sbatch launch/slurm.sh --config=configs/quickstart.py --workdir=/shared/DIR [--config.KEY=VALUE ...]
#   sbatch --nodes=4 --time=8:00:00 launch/slurm.sh ...    # sbatch's options replace those above
#
# The number of tasks must be a power of two and divide batch_size, the global batch. --workdir must be
# a folder (or gs://...) that all nodes see. `clr-jax train --distributed` finds the other processes
# through SLURM's variables; JAX gives each task the GPU of its local number.
#   - SLURM sends SIGTERM 180 seconds before the time limit, and when it preempts the job: the run
#     saves a checkpoint and ends with code 75, and this script puts the job into the queue again
#     (scontrol requeue), where the same command resumes from the checkpoint.
#   - Any other code ends the job with that code: nothing is started again in vain.
# A failed node ends the step; SLURM requeues the job itself (--requeue).
#
# Environment: CLR_JAX, the program (default clr-jax); JAX_COMPILATION_CACHE_DIR, a shared folder, so that
# a job that starts again does not compile again.
#
# Run here without SLURM only, with stand-ins for srun and scontrol that set SLURM's variables
# (tests/processes/test_launch.py, and two real processes that train in test_multiprocess.py there);
# not yet run on a cluster.
set -uo pipefail

if (($# == 0)); then
  echo "usage: sbatch ${0##*/} --config=FILE --workdir=DIR [--config.KEY=VALUE ...]" >&2
  exit 2
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "${0##*/}: this is no SLURM job; start it with sbatch, or use launch/multi_gpu.sh" >&2
  exit 2
fi

# The signals are for the processes of the step; this script waits for what they end with.
trap '' TERM
# The others may still save when the first one ends.
srun --kill-on-bad-exit=0 --wait=300 "${CLR_JAX:-clr-jax}" train --distributed "$@" &
step=$!
wait "$step"
code=$?
if [[ $code == 75 ]]; then
  echo "${0##*/}: preempted and saved; into the queue again" >&2
  scontrol requeue "$SLURM_JOB_ID" || exit 75
fi
exit "$code"
