#!/usr/bin/env bash
# Build moonshine-tiny-50, Moonshine-tiny with half of the MACs of the whole network, for sherpa-onnx, with a model card.
# local/make_pretrained_corpus.sh makes the data first.
#
#     local/make_moonshine_tiny_50.sh --network MOONSHINE_TINY [--exp-dir EXP] [-- option of run_pretrained.sh ...]
#     local/make_moonshine_tiny_50.sh --plan true     # only say how long it takes
set -euo pipefail

network=                         # Hugging Face directory of Moonshine-tiny
exp_dir=exp/moonshine-tiny-50    # experiments, and the export
plan=false                       # only say how long it takes

# shellcheck source=utils/parse_options.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../../../utils/parse_options.sh"
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."

# minutes STEPS_FILE SECONDS: minutes of the training in a configuration file, at measured seconds of a step.
minutes() { awk -v each="$2" '$1 == "max_steps:" { printf "%d", $2 * each / 60 }' "conf/moonshine/$1.yaml"; }

if [ "$plan" = true ]; then
  pruning=$(minutes prune 4.1) tuning=$(minutes finetune 4.0)
  echo "On one thread, at measured seconds of a step with batches of 40 s (4.1 and 4.0):"
  echo "  texts to train on   some 30 minutes (2,562 recordings are recognised)"
  echo "  pruning             $pruning minutes"
  echo "  fine-tuning         $tuning minutes"
  echo "  tests and exports   some 15 minutes"
  echo "  in all              about $(((pruning + tuning + 45 + 59) / 60)) hours"
  exit
fi
[ -d "$network" ] || { echo "error: --network '$network' is not a directory; give Moonshine-tiny's" >&2 && exit 1; }
[ -f data/real/cuts/librispeech_cuts_test-8.jsonl.gz ] ||
  { echo "error: no data/real; run local/make_pretrained_corpus.sh first" >&2 && exit 1; }
exec ./run_pretrained.sh --stage 3 --pretrained "$network" --data-dir data/real --conf conf/moonshine --exp-dir "$exp_dir" \
  --train-parts "train-clean-5 an4-train" --dev-parts dev-3 --test-parts "test-8 an4-test" --method hj-mac \
  --target-macs 0.5 --exports onnx "$@"
