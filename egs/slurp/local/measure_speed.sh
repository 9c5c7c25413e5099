#!/usr/bin/env bash
# Measure the speed-up of half the multiply-accumulates at the size used in papers: wav2vec2-base with random weights
# and random units removed, extracted, and compared with the dense one. Nothing else should run.
#
#     local/measure_speed.sh --data-dir data/mini
set -euo pipefail

data_dir=data/mini            # directory with cuts and intents
exp_dir=exp/speed             # directory for the networks
part=train                    # part whose utterances the commands use
dev_part=devel
repeats=20                    # number of timing rounds
output=results/speed_wav2vec2_base.json

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
env_extras="hf export"
# shellcheck source=egs/slurp/path.sh
. ./path.sh

data=(--lang-dir "$data_dir/lang" --train-cuts "$data_dir/cuts/slurp_cuts_$part.jsonl.gz"
  --dev-cuts "$data_dir/cuts/slurp_cuts_$dev_part.jsonl.gz")
short=(trainer.amp=none trainer.valid_interval=0 trainer.num_threads=2 data.max_duration=10 data.num_workers=0
  trainer.optimiser.lr=0)
python local/make_fresh_checkpoint.py --output-dir "$exp_dir/wav2vec2-base"
python -m pruning.bin.train --config conf/dense.yaml "${short[@]}" trainer.max_steps=1 \
  pretrained="$exp_dir/wav2vec2-base" --exp-dir "$exp_dir/dense" "${data[@]}"
python -m pruning.bin.prune --config conf/prune.yaml --method random "${short[@]}" trainer.max_steps=2 \
  constraint.size=0 constraint.macs=0.5 constraint.ramp=one_shot constraint.ramp_share=0.5 \
  --teacher "$exp_dir/dense" --exp-dir "$exp_dir/random" "${data[@]}"
for rounding in 1 8; do
  python -m pruning.bin.extract --pruned "$exp_dir/random" --exp-dir "$exp_dir/half_$rounding" --round-to "$rounding"
done
python -m pruning.bin.benchmark --systems dense="$exp_dir/dense" half="$exp_dir/half_1" half-rounded="$exp_dir/half_8" \
  --backends pytorch onnx --threads 1 --batch 1 --seconds 10 --repeats "$repeats" --no-memory --output "$output" \
  --title "Speed of half the multiply-accumulates, wav2vec2-base, random structure"
