#!/usr/bin/env bash
# Measure the speed-up of half the multiply-accumulates at the size used in papers: an encoder of d512 with random
# weights, pruned by a few batches of Taylor scores, extracted, and compared with the dense one. Nothing else should
# run.
#
#     local/measure_speed.sh --data-dir data/mini
set -euo pipefail

data_dir=data/mini            # directory with features and tokens
exp_dir=exp/speed             # directory for the networks
vocab_size=60                 # number of tokens
part=train-clean-mini         # part whose utterances give the scores
dev_part=dev-clean-mini
repeats=20                    # number of timing rounds
output=results/speed_d512.json

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
# shellcheck source=egs/librispeech/path.sh
. ./path.sh

cuts=$data_dir/fbank/librispeech_cuts_
data=(--lang-dir "$data_dir/lang_bpe_$vocab_size" --train-cuts "${cuts}$part.jsonl.gz"
  --dev-cuts "${cuts}$dev_part.jsonl.gz")
short=(trainer.amp=none trainer.valid_interval=0 trainer.num_threads=2 data.max_duration=10 data.num_workers=0
  trainer.optimiser.lr=0)
python -m pruning.bin.train --config conf/d512/teacher.yaml "${short[@]}" trainer.max_steps=1 \
  --exp-dir "$exp_dir/dense" "${data[@]}"
for rounding in 1 8; do
  python -m pruning.bin.prune --config conf/d512/prune.yaml --method taylor "${short[@]}" trainer.max_steps=11 \
    constraint.size=0 constraint.macs=0.5 constraint.ramp=one_shot constraint.ramp_share=0.9 \
    --teacher "$exp_dir/dense" --exp-dir "$exp_dir/scored" "${data[@]}"
  python -m pruning.bin.extract --pruned "$exp_dir/scored" --exp-dir "$exp_dir/half_$rounding" --round-to "$rounding"
done
python -m pruning.bin.benchmark --systems dense="$exp_dir/dense" half="$exp_dir/half_1" half-rounded="$exp_dir/half_8" \
  --backends pytorch onnx int8 --threads 1 --batch 1 --seconds 10 --repeats "$repeats" --output "$output" \
  --title "Speed of half the multiply-accumulates, d512, 12 layers"
