#!/usr/bin/env bash
# Trains on a Cloud TPU slice or pod, made as a queued resource.
#
#   launch/tpu_pod.sh create NAME v5litepod-16          # ask for it; waits until it is there
#   launch/tpu_pod.sh train NAME --config=CONFIG --workdir=gs://BUCKET/DIR [--config.KEY=VALUE ...]
#   launch/tpu_pod.sh delete NAME
#
# create   asks for a spot slice of that accelerator type and waits for the state ACTIVE.
# train    copies the current folder (a checkout of clr_jax) to all workers, installs it there with
#          JAX for TPUs, and runs `clr-jax train --distributed ...` on all workers at once; JAX finds
#          the others through the TPU's metadata. On SIGTERM to any worker the run saves and ends with
#          code 75, and this script starts the same command again. Cloud TPU sends SIGTERM before
#          maintenance, and waits up to 5 minutes, where the slice was made with
#          TPU_FLAGS='--spot --autocheckpoint-enabled'; without it maintenance comes without a word.
#          Code 75 of a worker reaches here through ssh; if the slice itself was taken away (ssh's
#          code 255), create another and call train again: the workdir in the bucket is the state.
# delete   gives the slice back. You pay until then.
#
# Environment: PROJECT and ZONE (default: gcloud's own), RUNTIME (default v2-alpha-tpuv5-lite),
# TPU_FLAGS (default --spot; empty for on-demand), POLL_SECONDS between two looks at the request
# (default 30), GCLOUD (default gcloud).
#
# Run here with a stand-in for gcloud only (tests/processes/test_launch.py); not yet run on a TPU.
set -uo pipefail

usage() {
  echo "usage: ${0##*/} create NAME TYPE | train NAME --config=FILE --workdir=gs://... | delete NAME" >&2
  exit 2
}
(($# >= 2)) || usage
action=$1 name=$2
shift 2

gcloud=${GCLOUD:-gcloud}
if ! command -v "$gcloud" >/dev/null; then
  echo "${0##*/}: there is no gcloud: install the Google Cloud CLI and log in" >&2
  exit 2
fi
where=()
[[ -z ${PROJECT:-} ]] || where+=("--project=$PROJECT")
[[ -z ${ZONE:-} ]] || where+=("--zone=$ZONE")
tpu() { "$gcloud" compute tpus "$@" ${where[@]+"${where[@]}"}; }

create() {
  local flags=()
  read -ra flags <<<"${TPU_FLAGS---spot}"
  tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$1" \
    --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" ${flags[@]+"${flags[@]}"} || exit
  local state=
  while [[ $state != ACTIVE ]]; do
    state=$(tpu queued-resources describe "$name" --format='value(state.state)') || exit
    echo "$name: $state"
    case $state in
      FAILED | SUSPENDED) exit 1 ;;
      ACTIVE) ;;
      *) sleep "${POLL_SECONDS:-30}" ;;
    esac
  done
}

on_workers() { tpu tpu-vm ssh "$name" --worker=all --command="$1"; }

train() {
  local archive command
  archive=$(mktemp --suffix=.tar.gz)
  # shellcheck disable=SC2064 # its name now
  trap "rm -f '$archive'" EXIT
  tar --exclude-vcs --exclude='.venv' -czf "$archive" . || exit
  tpu tpu-vm scp "$archive" "$name:clr_jax.tar.gz" --worker=all || exit
  on_workers "mkdir -p clr_jax && tar -xzf clr_jax.tar.gz -C clr_jax && \
    python3 -m venv --system-site-packages clr_jax_env && \
    clr_jax_env/bin/pip install --quiet --editable './clr_jax[tpu,gcs]'" || exit
  command="cd clr_jax && ../clr_jax_env/bin/clr-jax train --distributed$(printf ' %q' "$@")"
  while :; do
    on_workers "$command"
    local code=$?
    ((code == 75)) || exit "$code"
    echo "${0##*/}: preempted and saved; starting again" >&2
  done
}

case $action in
  create) (($# == 1)) || usage ;;
  train)
    if [[ " $*" != *" --workdir=gs://"* ]]; then
      echo "${0##*/}: all workers write one workdir: give --workdir=gs://BUCKET/DIR" >&2
      exit 2
    fi
    ;;
  delete)
    tpu queued-resources delete "$name" --force --quiet
    exit
    ;;
  *) usage ;;
esac
"$action" "$@"
