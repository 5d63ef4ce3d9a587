#!/usr/bin/env bash
# What a GPU does, in less than eight minutes: bash benchmarks/on_a_gpu.sh [RESULTS]
#
# It needs Keras and JAX with a GPU, no TensorFlow. Into the folder RESULTS [gpu-results] goes a file
# for each part as soon as that is done, and results.md, a line each; parts that take longer than their
# limit, or for which no time is left, say so and are left out.
#
#   images a second through the training step (train_step.py): flowerkit and plain Keras, in bfloat16
#     and float32; where PyTorch and timm are installed, timm's network, eager and compiled
#   seconds from the command to a checked csv, a frozen and a whole phase: cold, and once more with
#     what JAX kept of the first
#
# Environment: BACKBONE [DenseNet121], SIZE [224], BATCH [128], IMAGES [2048], EPOCHS [3], the last two
# of train_step.py; DATA, a folder of data for the csv [drawn flowers]; WEIGHTS of it [none];
# BUDGET in seconds for all [470], of which the limits are parts; PYTHON [python].
set -uo pipefail
backbone=${BACKBONE:-DenseNet121} size=${SIZE:-224} batch=${BATCH:-128}
images=${IMAGES:-2048} epochs=${EPOCHS:-3} budget=${BUDGET:-470} python=${PYTHON:-python}
results=${1:-gpu-results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export KERAS_BACKEND=jax FLOWERKIT_CACHE=$work/cache MPLBACKEND=agg

say() { echo "$*" | tee -a "$results/results.md"; }

# part NAME LIMIT COMMAND...: run it within LIMIT seconds and what is left of all; its output is NAME.txt
part() {
  local name=$1 limit=$(($2 * budget / 470)) left=$((budget - SECONDS)) start status last
  shift 2
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    say "| $name | - | no time was left |"
    return 1
  fi
  start=$(date +%s.%N)
  timeout -k 5 "$limit" "$@" >"$results/$name.txt" 2>&1 </dev/null
  status=$?
  seconds=$(awk "BEGIN { printf \"%.1f\", $(date +%s.%N) - $start }")
  [ "$status" = 0 ] && return 0
  last=$(tail -n 1 "$results/$name.txt" | tr '|' ' ')
  [ "$status" -ge 124 ] && [ "$status" -le 137 ] && last="stopped after $limit s"
  say "| $name | $seconds | failed with $status: $last |"
  return 1
}

# step SIDE PRECISION LIMIT: a line of train_step.py
step() {
  part "$1-$2" "$3" "$python" benchmarks/train_step.py --backend jax --rounds 1 --sides "$1" \
    --precision "$2" --backbone "$backbone" --size "$size" --batch "$batch" --epochs "$epochs" \
    --data "$work/drawn" || return
  say "| $1-$2 | $seconds | $(awk -v side="$1" '$1 == side { print $2 }' "$results/$1-$2.txt") images/s |"
}

# to_csv NAME LIMIT: the command, and its csv checked by another
to_csv() {
  part "$1" "$2" "$python" -m flowerkit train --data "$data" --out "$work/$1" --backbone "$backbone" \
    --weights "${WEIGHTS:-none}" --freeze-epochs 2 --epochs "$epochs" --max-lr 1e-3 || return
  "$python" -m flowerkit check "$work/$1/submission.csv" --data "$data" >>"$results/$1.txt" 2>&1 ||
    { say "| $1 | $seconds | the csv is not valid |"; return 1; }
  say "| $1 | $seconds | $(grep -c 'first step' "$results/$1.txt") first steps, csv valid |"
}

{
  echo "# $backbone, $size px, batches of $batch ($(date -u +%Y-%m-%d))"
  echo
  "$python" -m flowerkit doctor 2>&1 | head -n 12 | sed 's/^/    /'
  echo
  echo "| part | seconds of the process | result |"
  echo "|---|---|---|"
} | tee "$results/results.md"

rest=$((images / 4 > 8 ? images / 4 : 8))
part draw 60 "$python" -m flowerkit draw "$work/drawn" --classes 5 --image-size "$size" \
  --train "$images" --val "$rest" --test "$rest" || exit 1
data=${DATA:-$work/drawn}

step ours bfloat16 110
step keras-fit bfloat16 110
to_csv csv-cold 150
to_csv csv-warm 60
step ours float32 90
step keras-fit float32 90
if "$python" -c 'import timm, torch' 2>/dev/null; then
  step timm bfloat16 60
  step timm-compiled bfloat16 150
else
  say "| timm | - | PyTorch and timm are not installed |"
fi
say ""
say "$SECONDS s in all; the output of each part is in $results"
