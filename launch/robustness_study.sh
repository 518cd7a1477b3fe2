#!/usr/bin/env bash
# The robustness report's comparison at the size of a CPU: tables and figures of launch/README.md.
# Trains a contrastive encoder without and with Tikhonov regularization and a supervised network on
# 10,000 images of Fashion-MNIST, attacks them, and measures few labels, fine-tuning and transfer.
# About two hours on two cores. Run the same command to resume after an interruption.
#
#   launch/robustness_study.sh DIR
set -euo pipefail
[ $# -eq 1 ] || { echo 'usage: launch/robustness_study.sh DIR' >&2; exit 2; }
out=$1

train() { # NAME ARGUMENT [FLAG ...]
  clr-jax train --config="robustness:$2" --workdir="$out/$1" --config.progress=False "${@:3}"
}

train contrastive fashion_contrastive
train supervised fashion_supervised
for weight in 1 10 100; do
  train "tikhonov_$weight" fashion_contrastive --config.plugins.tikhonov.weight="$weight"
done

runs=()
for name in contrastive tikhonov_1 tikhonov_10 tikhonov_100 supervised; do
  runs+=("--workdir=$out/$name")
done
clr-jax evaluate robustness "${runs[@]}" --out="$out/robustness.png" --params.outer=15 \
  --params.inner=15 --params.attack=early_stop_l2,plb_l2,corruptions
contrastive=("--workdir=$out/contrastive" "--workdir=$out/tikhonov_10")
clr-jax evaluate few-label "${contrastive[@]}" --features=trained,untrained,pixels \
  --params.per_class=10 --params.baseline=small_supervised --params.draws=3
clr-jax evaluate finetune --workdir="$out/contrastive" --params.label_fraction=0.01,0.1,1.0 \
  --params.backbone_lr=0.02,0.1
clr-jax inspect few-label "${contrastive[@]}" --out="$out/few_label.png"
clr-jax train --config=quickstart --workdir="$out/digits" --config.num_epochs=5
on=(--params.train_split='train[:1000]' '--features=trained,untrained')
clr-jax evaluate transfer --workdir="$out/contrastive" --workdir="$out/supervised" \
  --params.target=digits,cifar10 "${on[@]}" --params.test_split=test
clr-jax evaluate transfer --workdir="$out/digits" --params.target=fashion_mnist,cifar10 "${on[@]}" \
  --params.test_split='test[:2000]'
