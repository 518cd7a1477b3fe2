#!/usr/bin/env bash
#SBATCH --job-name=clr_jax_sweep
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
# Trains the runs of a sweep in a SLURM array, with one task (a run on one GPU) for each line of a file.
#
#   clr-jax sweep --config=FILE --grid config.KEY=V1,V2 --seeds=3 --workdir=/shared/DIR --list > runs.txt
#   sbatch --array=1-$(wc -l < runs.txt) launch/slurm_sweep.sh runs.txt   # sbatch's options replace those above
#   clr-jax sweep ... --workdir=/shared/DIR --summary                     # afterwards: table, figure, CSV
#
# Task N runs line N. --workdir must be a folder that all nodes see. Signals and exit codes are those of
# launch/slurm.sh: a task that is preempted saves a checkpoint, ends with code 75 and is put into the queue
# again, where the same line resumes from the checkpoint; any other code ends the task with that code.
#
# Environment: CLR_JAX, the program in place of the line's clr-jax; JAX_COMPILATION_CACHE_DIR, a shared
# folder, so that the tasks do not compile the same programs again.
#
# Run here without SLURM only, with stand-ins for srun and scontrol (tests/processes/test_launch.py); not yet
# run on a cluster.
set -uo pipefail

if (($# != 1)) || [[ ! -f $1 ]]; then
  echo "usage: sbatch --array=1-LINES ${0##*/} FILE, the output of clr-jax sweep --list" >&2
  exit 2
fi
if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
  echo "${0##*/}: this is no task of a SLURM array; start it with sbatch --array=1-$(wc -l < "$1")" >&2
  exit 2
fi
line=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
if [[ $line != 'clr-jax train '* ]]; then
  echo "${0##*/}: line $SLURM_ARRAY_TASK_ID of $1 is not a command of clr-jax sweep --list: '$line'" >&2
  exit 2
fi
# The words of the line, which clr-jax sweep --list has quoted for a shell.
eval "set -- $line"

# The signals are for the process of the step; this script waits for what it ends with.
trap '' TERM
srun --ntasks=1 "${CLR_JAX:-clr-jax}" "${@:2}" &
step=$!
wait "$step"
code=$?
if [[ $code == 75 ]]; then
  echo "${0##*/}: preempted and saved; into the queue again" >&2
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" || exit 75
fi
exit "$code"
