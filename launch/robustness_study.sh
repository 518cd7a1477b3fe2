#!/usr/bin/env bash
# The robustness report's tables and figure 2, on CIFAR-10 with its networks (`document`, a GPU for
# days) or at the size of a CPU (default), whose results are in launch/README.md: 10,000 images of
# Fashion-MNIST, about two hours on two cores. Trains a contrastive encoder and a supervised network
# without and with Tikhonov regularization and fine-tunes the encoder, attacks all of them, and
# measures few labels and, at the size of a CPU, transfer. Run the same command to resume after an
# interruption.
#
#   launch/robustness_study.sh DIR [document]
set -euo pipefail
usage='usage: launch/robustness_study.sh DIR [document]'
[ $# -ge 1 ] && [ $# -le 2 ] && [ "${2:-document}" = document ] || { echo "$usage" >&2; exit 2; }
out=$1
if [ $# -eq 2 ]; then
  size='' weights=(0.1 1 10) supervised_weights=(0.1 1 10)
else
  size=fashion_ weights=(1 10 100) supervised_weights=(10)
fi

train() { # NAME ARGUMENT [FLAG ...]
  clr-jax train --config="robustness:$size$2" --workdir="$out/$1" --config.progress=False "${@:3}"
  runs+=("--workdir=$out/$1")
}

runs=()
train contrastive contrastive
for weight in "${weights[@]}"; do
  train "tikhonov_$weight" contrastive --config.plugins.tikhonov.weight="$weight"
done
train supervised supervised
for weight in "${supervised_weights[@]}"; do
  train "supervised_tikhonov_$weight" supervised --config.plugins.tikhonov.weight="$weight"
done
train finetuned finetuned --config.init_from="$out/contrastive"

fractions=--params.label_fraction=0.01,0.1,1.0
if [ -z "$size" ]; then
  clr-jax evaluate robustness "${runs[@]}" --out="$out/robustness.png"
  clr-jax evaluate finetune --workdir="$out/supervised" --features=untrained \
    --params.preset=robustness_supervised "$fractions"
  clr-jax evaluate few-label --workdir="$out/contrastive" --params.preset=robustness "$fractions" \
    --params.per_class= --params.balanced=False
  clr-jax evaluate finetune --workdir="$out/contrastive" --params.preset=robustness "$fractions"
  exit
fi
clr-jax evaluate robustness "${runs[@]}" --out="$out/robustness.png" --params.outer=15 \
  --params.inner=15 --params.attack=early_stop_l2,plb_l2,corruptions
contrastive=("--workdir=$out/contrastive" "--workdir=$out/tikhonov_10")
clr-jax evaluate few-label "${contrastive[@]}" --features=trained,untrained,pixels \
  --params.per_class=10 --params.baseline=small_supervised --params.draws=3
clr-jax evaluate finetune --workdir="$out/contrastive" "$fractions" --params.backbone_lr=0.02,0.1
clr-jax inspect few-label "${contrastive[@]}" --out="$out/few_label.png"
clr-jax train --config=quickstart --workdir="$out/digits" --config.num_epochs=5
on=(--params.train_split='train[:1000]' '--features=trained,untrained')
clr-jax evaluate transfer --workdir="$out/contrastive" --workdir="$out/supervised" \
  --params.target=digits,cifar10 "${on[@]}" --params.test_split=test
clr-jax evaluate transfer --workdir="$out/digits" --params.target=fashion_mnist,cifar10 "${on[@]}" \
  --params.test_split='test[:2000]'
