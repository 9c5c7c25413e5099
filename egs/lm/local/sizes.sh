#!/usr/bin/env bash
# Several sizes from one run: an incremental low-rank run that keeps a snapshot at each of several sizes, and for each
# size a separate run with the steps that the incremental one had made by then. The perplexities of all are in one
# table.
#
#     local/sizes.sh --teacher exp/small
set -euo pipefail

teacher=exp/small             # dense language model
exp_dir=exp/sizes             # directory for the runs
data_dir=data                 # directory with text and word pieces
vocab_size=2000               # number of word pieces
conf=conf/sizes.yaml          # configuration for both kinds of run
removed="0.25 0.4 0.5 0.6 0.7"  # share to remove for each size, ascending; the last ends the incremental run
args=                         # settings, override the configuration
num_threads=1                 # number of threads for measurements

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
# shellcheck source=egs/lm/path.sh
. ./path.sh

read -ra removed <<< "$removed"
data=(--lang-dir "$data_dir/lang_bpe_$vocab_size" --train-text "$data_dir/train.txt" --dev-text "$data_dir/dev.txt")
measure() {
  python -m pruning.bin.perplexity --exp-dir "$1" --lang-dir "$data_dir/lang_bpe_$vocab_size" \
    --text "$data_dir/test.txt" --vocabulary "$data_dir/words.txt" --num-threads "$num_threads"
}

last=$((${#removed[@]} - 1))
snapshots=$(IFS=,; echo "[${removed[*]::last}]")
# shellcheck disable=SC2086  # settings are words
python -m pruning.bin.prune --config "$conf" --teacher "$teacher" --exp-dir "$exp_dir/incremental" "${data[@]}" \
  $args "constraint.size=${removed[last]}" "snapshots=$snapshots"
python -m pruning.bin.extract --pruned "$exp_dir/incremental" --exp-dir "$exp_dir/incremental/sizes/last"
lms=() pairs=()
for share in "${removed[@]}"; do
  kept=$(python -c "print(f'{round(100 * (1 - $share), 6):g}')")
  one=$exp_dir/incremental/sizes/size-$kept settings=()
  if [ "$share" = "${removed[last]}" ]; then
    one=$exp_dir/incremental/sizes/last
  else
    settings=("trainer.max_steps=$(python -c "
from pruning.experiments.checkpoint import read_header
print(read_header('$exp_dir/incremental/snapshots/size-$kept.safetensors')['step'])")")
  fi
  own=$exp_dir/own-$kept
  # shellcheck disable=SC2086
  python -m pruning.bin.prune --config "$conf" --teacher "$teacher" --exp-dir "$own/pruned" "${data[@]}" $args \
    "constraint.size=$share" ${settings[@]+"${settings[@]}"}
  python -m pruning.bin.extract --pruned "$own/pruned" --exp-dir "$own/extracted"
  measure "$one"
  measure "$own/extracted"
  lms+=("$kept%-incremental=$one" "$kept%-own=$own/extracted")
  pairs+=("$kept%-incremental=$kept%-own")
done
python -m pruning.bin.lm_report --lms "dense=$teacher" "${lms[@]}" --against "${pairs[@]}" --output "$exp_dir/RESULTS.md" \
  --title "Several sizes from one run"
