#!/usr/bin/env bash
# The whole benchmark on the machine at hand: one JSON-lines file and one Markdown table.
#
#   launch/benchmark.sh DIR
#
# Writes DIR/results.jsonl, for each measurement a line {"name": ..., "report": what clr-jax bench
# --json printed}, and DIR/table.md, rebuilt from it at the end. Run the same command to resume after
# an interruption: measurements with a line are skipped. Failed ones (out of memory) do not stop the
# others; they are listed at the end, with output in DIR/logs and exit code 1.
#
# SogCLR's step (two views, LARS) on random images, which are in DIR too (600 MB with a GPU):
#   - with a GPU (nvidia-smi finds one): ResNet-18 and ResNet-50 at 32x32 with batches 64 to 4096,
#     and ResNet-50 at 224x224 with 64 and 256, in bfloat16 and float32;
#   - else: ResNet-18 at 32x32 with batch 64, and the quickstart.
# Each as the compiler sees it (clr-jax plan: kernels, work, memory and a lower bound of the time, for
# the kinds of GPU that it knows, else for the CPU); alone (compile time, samples/s, memory, MFU; from
# a profiler trace the shares of augmentation, convolutions and products, BatchNorm and optimizer, and
# of the time in which nothing runs); and, where PyTorch is installed, against the same step there
# (--peer). Then the bytes that 1 to 64 virtual CPU devices send.
#
# Environment: CLR_JAX, the program (default clr-jax); PYTHON, of the same installation (default
# python3); BATCHES at 32x32 (default '64 128 256 512 1024 2048 4096', on a CPU 64); PRECISIONS
# (default 'bfloat16 float32', on a CPU float32); PEER_COMPILE, modes of --peer_compile (default
# 'default reduce-overhead', on a CPU off); REPEATS and STEPS (default 5 of 25, on a CPU 3 of 3);
# JAX_COMPILATION_CACHE_DIR (default DIR/compiled).
#
# Run here on one CPU core with BATCHES=8 REPEATS=3 STEPS=2 (17 minutes on a busy machine), and with
# a stand-in for clr-jax (tests/processes/test_launch.py); not yet run on a GPU.
set -uo pipefail

(($# == 1)) || { echo "usage: ${0##*/} DIR" >&2; exit 2; }
out=$1
python=${PYTHON:-python3}
mkdir -p "$out/logs" || exit 1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}

target=cpu:1 # of clr-jax plan
if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus | grep -q '^GPU '; then
  gpu=1
  case "$(nvidia-smi --list-gpus)" in
    *H200*) target=h200 ;;
    *H100*) target=h100 ;;
    *A100*) target=a100 ;;
    *) target= ;;
  esac
  target=${target:+$target:$(nvidia-smi --list-gpus | grep -c '^GPU ')}
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu} # an error, not the CPU, if JAX lacks CUDA
  batches=${BATCHES:-64 128 256 512 1024 2048 4096}
  precisions=${PRECISIONS:-bfloat16 float32}
  modes=${PEER_COMPILE:-default reduce-overhead}
  times=(--repeats="${REPEATS:-5}" --steps="${STEPS:-25}")
else
  gpu=
  batches=${BATCHES:-64}
  precisions=${PRECISIONS:-float32}
  modes=${PEER_COMPILE:-off}
  times=(--repeats="${REPEATS:-3}" --steps="${STEPS:-3}")
fi
if ! "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
  echo "${0##*/}: $python has no PyTorch: without the comparison with it" >&2
  modes=
fi

failed=()

record() { # NAME COMMAND OPTION ...
  local name=$1 report
  shift
  if grep -qsF "{\"name\": \"$name\"," "$out/results.jsonl"; then return; fi
  echo "$name" >&2
  if report=$("${CLR_JAX:-clr-jax}" "$@" --json 2>"$out/logs/${name//[ \/]/_}.log"); then
    printf '{"name": "%s", "report": %s}\n' "$name" "$report" >>"$out/results.jsonl"
  else
    failed+=("$name")
  fi
}

both() { # NAME OPTION ...: planned, alone, and against PyTorch
  [[ -z $target ]] || record "$1 plan" plan --target="$target" "${@:2}"
  record "$1" bench "${times[@]}" "${@:2}"
  local mode
  for mode in $modes; do
    record "$1 peer $mode" bench --peer --peer_compile="$mode" "${times[@]}" "${@:2}"
  done
}

images() { # SIDE NUMBER: random ones
  local file=$out/images_$1.npz
  [[ -e $file ]] || "$python" - "$file" "$1" "$2" <<'END' || exit 1
import os, sys
import numpy as np

file, side, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
image = rng.integers(0, 256, [number, side, side, 3], np.uint8)
np.savez(file + '.part.npz', image=image, label=np.arange(number) % 10)
os.replace(file + '.part.npz', file)
END
}

sogclr() { # MODEL SIDE BATCH PRECISION
  local stem=cifar
  (($2 <= 64)) || stem=imagenet
  both "$1 $2 $3 $4" --config=sogclr:cifar10 --config.data.name="npz:$out/images_$2.npz" \
    --config.data.test_split= --config.data.mode=resident --config.model.name="$1" \
    --config.model.stem="$stem" --config.augment.size="$2" --config.batch_size="$3" \
    --config.precision="$4" --config.deterministic=False
}

models='resnet18'
images 32 50000
if [[ $gpu ]]; then
  models='resnet18 resnet50'
  images 224 2048
fi
for precision in $precisions; do
  for model in $models; do
    for batch in $batches; do sogclr "$model" 32 "$batch" "$precision"; done
  done
  if [[ $gpu ]]; then
    for batch in 64 256; do sogclr resnet50 224 "$batch" "$precision"; done
  fi
done
for method in simclr sogclr; do
  [[ $gpu ]] || both "quickstart $method" --config="quickstart:$method"
  record "collectives $method" bench --config="quickstart:$method" --collectives=8
done

"$python" - "$out/results.jsonl" >"$out/table.md" <<'END'
import json, sys

head = (
  'what,samples/s,min..max,ms a step,augmentation,products,BatchNorm,optimizer,idle,MiB,MFU,'
  'to PyTorch,ratio'
)
rows, peers, plans, scaling = {}, {}, {}, []
for line in open(sys.argv[1]):
  record = json.loads(line)
  name, report = record['name'], record['report']
  if ' peer ' in name:
    peers[name] = report
  elif name.endswith(' plan'):
    plans[name.removesuffix(' plan')] = report
  elif name.startswith('collectives'):
    scaling.append((name, report))
  else:
    rows[name] = report


def table(head, lines):
  for cells in (head, ['---'] * len(head), *lines):
    print('| ' + ' | '.join(cells) + ' |')
  print()


def own(report):
  speed, peak = report['samples_per_second'], report['memory']['peak_bytes']
  kinds = 'augmentation', 'convolutions, products', 'BatchNorm', 'optimizer, state'
  traced = ['-'] * (len(kinds) + 1)
  if shares := report['shares']:
    found = [*(shares['operations'][kind] for kind in kinds), shares['idle']]
    traced = ['-' if x is None else f'{x:.0%}' for x in found]
  return [
    f'{speed["median"]:.0f}',
    f'{speed["min"]:.0f}..{speed["max"]:.0f}',
    f'{1e3 * report["step_seconds"]:.2f}',
    *traced,
    '-' if peak is None else f'{peak / 2**20:.0f}',
    '-' if report['mfu'] is None else f'{report["mfu"]:.1%}',
  ]


lines = []
for name, report in rows.items():
  against = [(k, v) for k, v in peers.items() if k.startswith(f'{name} peer ')]
  speeds, ratios = [], []
  for _, v in against:
    ours, torch = (v['samples_per_second'][k]['median'] for k in ('clr_jax', 'torch'))
    ratio = v['ratio']
    speeds.append(f'{ours:.0f} : {torch:.0f} ({v["torch_compile"]})')
    ratios.append(f'{ratio["median"]:.2f} ({ratio["min"]:.2f}..{ratio["max"]:.2f})')
  lines.append([name, *own(report), ', '.join(speeds) or '-', ', '.join(ratios) or '-'])
for report in [*rows.values()][:1]:
  libraries = ', '.join(f'{k} {v}' for k, v in report['libraries'].items())
  device = f'{report["devices"]} x {report["device"]}'
  print(f'{device}; clr-jax {report["code_version"]}, {libraries}\n')
table(head.split(','), lines)
if plans:
  print('Planned (clr-jax plan), a device and step; the bound is no estimate\n')
  cells = []
  for name, report in plans.items():
    total, bound = report['total'], report['least_seconds'].get('bound')
    took = rows[name]['step_seconds'] if name in rows else None
    cells.append([
      name,
      report['target'],
      str(total['kernels']),
      f'{total["flops"] / 1e9:.1f}',
      f'{total["bytes"] / 2**20:.0f}',
      f'{report["memory"]["peak"] / 2**20:.0f}',
      *('-' if s is None else f'{1e3 * s:.2f}' for s in (bound, took)),
    ])
  head = 'what,target,kernels,GFLOP,MiB accessed,MiB of memory,ms at least,ms measured'
  table(head.split(','), cells)
for name, report in scaling:
  print(f'{name}: {report["per_device"]} images a device, KiB a step and a device\n')
  keys = ('constant', 'growing', 'ring')
  cells = [
    [str(r['devices']), str(r['batch_size']), *(f'{r[k] / 1024:.1f}' for k in keys)]
    for r in report['rows']
  ]
  table(['devices', 'batch', 'gradients, BatchNorm', 'embeddings', 'sent in a ring'], cells)
END
code=$?
cat "$out/table.md"
if ((${#failed[@]} > 0)); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
exit "$code"
