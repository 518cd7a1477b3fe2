#!/usr/bin/env bash
# Score distributions of MoCo for five momenta and with feature transformation, and TCL's responses
# for four pairs of weights, on 10,000 images of Fashion-MNIST: the figures of launch/README.md.
# Eleven trainings of 468 steps, an hour on two shared cores. Run the same command to resume after
# an interruption.
#
#   launch/score_study.sh DIR
set -euo pipefail
[ $# -eq 1 ] || { echo 'usage: launch/score_study.sh DIR' >&2; exit 2; }
out=$1

train() { # NAME ARGUMENT [FLAG ...]
  clr-jax train --config="score_study:$2" --workdir="$out/$1" --config.progress=False "${@:3}"
}
draw() { # PICTURE NAME [NAME ...]
  clr-jax inspect scores "${@:2}" --out="$out/$1.png"
}

momenta=()
for m in 0 0.5 0.9 0.99 0.999; do
  train "m_$m" moco --config.method.momentum="$m"
  momenta+=("--workdir=$out/m_$m")
done
draw momentum "${momenta[@]}"
clr-jax inspect gradients "${momenta[@]}" --out="$out/momentum_gradients.png" --params.surface=False

transformed=("--workdir=$out/m_0.99")
for kind in positive negative; do
  train "ft_$kind" moco --config.method.momentum=0.99 \
    --config.plugins.feature_transformation.$kind=batch
  transformed+=("--workdir=$out/ft_$kind")
done
draw transformation "${transformed[@]}"

# Side by side over training: two weights differ, so that nothing is stacked.
weights=()
for pair in 0,1 5000,1 50000,1 50000,3.25; do
  name="tcl_${pair/,/_}"
  train "$name" tcl --config.method.k1="${pair%,*}" --config.method.k2="${pair#*,}"
  weights+=("--workdir=$out/$name")
done
draw tcl "${weights[@]}"
